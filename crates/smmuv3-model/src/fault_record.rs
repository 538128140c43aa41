//! Event records: which fields each kind has (IHI 0070, 7.3).

use crate::dma::Transaction;
use crate::smmu::Smmu;
use crate::stage2::Access;
use crate::walk::{Fault, Request};
use smmuv3_spec::event::{Class, EventKind, EventRecord};

/// A record with the stream and substream of a transaction (7.3).
pub(crate) fn bare(t: &Transaction, kind: EventKind) -> EventRecord {
    let record = EventRecord::default()
        .with_kind_bits(kind.0)
        .with_stream_bits(t.stream.0);
    match t.substream {
        Some(substream) => record.with_ssv(true).with_substream_bits(substream),
        None => record,
    }
}

/// F_STE_FETCH, F_CD_FETCH (7.3.4, 7.3.10).
pub(crate) fn fetch(t: &Transaction, kind: EventKind, at: u64) -> EventRecord {
    bare(t, kind).with_fetch_address(at)
}

/// C_BAD_SUBSTREAMID (7.3.9): the number always counts, SSV does not exist.
pub(crate) fn bad_substream(t: &Transaction) -> EventRecord {
    bare(t, EventKind::C_BAD_SUBSTREAMID).with_ssv(false)
}

/// F_STREAM_DISABLED (7.3.7): only the stream.
pub(crate) fn disabled(t: &Transaction) -> EventRecord {
    EventRecord::default()
        .with_kind_bits(EventKind::F_STREAM_DISABLED.0)
        .with_stream_bits(t.stream.0)
}

/// A fault of a translation (7.3.12 to 7.3.16).
pub(crate) fn translation(t: &Transaction, request: Request, fault: &Fault) -> EventRecord {
    let record = access(t, fault.kind, request)
        .with_class_bits(fault.class.0)
        .with_s2(fault.stage2);
    match fault.fetch {
        // Of a walk that aborted, the descriptor is recorded in place of the
        // IPA (7.3.12).
        Some(at) => record.with_fetch_address(at),
        // Stage 1 has no IPA to record: it is 0.
        None => {
            let reads = fault.kind == EventKind::F_PERMISSION && fault.class == Class::TTD;
            record.with_ipa(fault.ipa).with_ttrnw(reads && fault.read)
        }
    }
}

/// What was accessed, and how. `InD` is 0 for a write.
fn access(t: &Transaction, kind: EventKind, request: Request) -> EventRecord {
    bare(t, kind)
        .with_rnw(request.access != Access::Write)
        .with_ind(request.access == Access::Execute)
        .with_pnu(request.privileged)
        .with_input_address(t.address)
}

/// What a device may do in the near future (7.3.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHint {
    /// Who, and the first address; its kind of access does not count.
    pub transaction: Transaction,
    /// Pages of 4 KiB.
    pub pages: u8,
    /// Privileged: reads, writes, executes.
    pub privileged: (bool, bool, bool),
    /// Unprivileged: reads, writes, executes.
    pub unprivileged: (bool, bool, bool),
}

/// Events whose cause the architecture leaves to the implementation: a test
/// says when they happen.
impl Smmu {
    /// The device makes a transaction of a kind that does not exist: F_UUT
    /// (7.3.2), with the incoming attributes.
    pub fn unsupported(&mut self, t: Transaction, reason: u16) -> EventRecord {
        let record = access(&t, EventKind::F_UUT, incoming(&t)).with_reason(reason);
        self.record(record);
        record
    }

    /// Two TLB entries match a transaction: F_TLB_CONFLICT (7.3.17); of stage 2
    /// if an IPA is given.
    pub fn tlb_conflict(&mut self, t: Transaction, ipa: Option<u64>, reason: u16) -> EventRecord {
        let record = access(&t, EventKind::F_TLB_CONFLICT, incoming(&t))
            .with_reason(reason)
            .with_class_bits(Class::IN.0)
            .with_s2(ipa.is_some())
            .with_ipa(ipa.unwrap_or(0));
        self.record(record);
        record
    }

    /// Two cached entries match a stream: F_CFG_CONFLICT (7.3.18).
    pub fn config_conflict(&mut self, t: Transaction, reason: u16) -> EventRecord {
        let record = bare(&t, EventKind::F_CFG_CONFLICT).with_reason(reason);
        self.record(record);
        record
    }

    /// A device says which pages it will want: E_PAGE_REQUEST (7.3.19).
    pub fn page_hint(&mut self, hint: PageHint) -> EventRecord {
        let t = hint.transaction;
        let record = bare(&t, EventKind::E_PAGE_REQUEST)
            .with_input_address(t.address & !0xfff)
            .with_span(hint.pages)
            .with_privileged_read(hint.privileged.0)
            .with_privileged_write(hint.privileged.1)
            .with_privileged_execute(hint.privileged.2)
            .with_unprivileged_read(hint.unprivileged.0)
            .with_unprivileged_write(hint.unprivileged.1)
            .with_unprivileged_execute(hint.unprivileged.2);
        self.record(record);
        record
    }
}

fn incoming(t: &Transaction) -> Request {
    Request {
        access: t.access,
        privileged: t.privileged,
        class: Class::IN,
    }
}
