//! Which record the owner gets for an event of the physical SMMU (IHI 0070,
//! 7.3).
//!
//! The owner's SMMU has stage 1 only. So the owner gets no record about stage 2
//! and never sees a physical address. Its record is built from an empty one; a
//! field that this table does not name is zero, which includes every
//! IMPLEMENTATION DEFINED `Reason` (7.3 lets software treat it as no more than
//! a hint):
//!
//! | physical event | the owner gets |
//! |---|---|
//! | C_BAD_STE, C_BAD_STREAMID | what its own stream table says: C_BAD_STREAMID where that has no entry (only with `CR2.RECINVSID`), F_STE_FETCH with the IPA where a fetch aborts, else C_BAD_STE |
//! | F_UUT, F_STREAM_DISABLED, F_TRANSL_FORBIDDEN, C_BAD_SUBSTREAMID, C_BAD_CD, E_PAGE_REQUEST | the same |
//! | F_BAD_ATS_TREQ | the same, less what was asked for (Span, permissions) |
//! | F_CD_FETCH | the same, `FetchAddr` 0: it is physical |
//! | F_WALK_EABT, stage 1 | the same, `FetchAddr` 0: it is physical |
//! | F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION, stage 1 | the same, with `STAG` where stalls are offered |
//! | F_TLB_CONFLICT, stage 1 | the same |
//! | any of these four and F_WALK_EABT, stage 2, class CD | F_CD_FETCH; `FetchAddr` is the IPA (its page), or 0 where the record has none |
//! | the same, class TT | F_WALK_EABT of stage 1; `FetchAddr` likewise |
//! | the same, class IN | nothing: the device saw an abort, as from any address where there is nothing |
//! | F_STE_FETCH, F_CFG_CONFLICT, F_VMS_FETCH | nothing: the physical stream table is ours |
//! | anything else | nothing |

use crate::streams::stream_table::{OwnerTable, TableWalk};
use crate::{Ids, Platform, StreamConfig, ste_config};
use smmuv3_spec::StreamId;
use smmuv3_spec::event::{Class, EventKind, EventRecord};

/// Who gets to know of an event of a stream of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerEvent {
    /// The record for the owner's queue, if any.
    pub record: Option<EventRecord>,
    /// The hypervisor, which owns stage 2 and the physical stream table, should
    /// report the physical record.
    pub for_hypervisor: bool,
}

impl OwnerEvent {
    const fn owners(record: EventRecord) -> Self {
        Self {
            record: Some(record),
            for_hypervisor: false,
        }
    }
}

/// What decides which records the owner gets.
#[derive(Clone, Copy, Debug)]
pub struct OwnerView<'a> {
    /// The owner's identification registers.
    pub ids: &'a Ids,
    /// `CR2.RECINVSID`.
    pub record_bad_streams: bool,
    /// The owner's stream table.
    pub table: &'a OwnerTable,
}

/// Translates `record`, a copy. `stream` is the owner's number of its stream.
pub fn translate_event(
    view: &OwnerView<'_>,
    platform: &impl Platform,
    stream: StreamId,
    record: &EventRecord,
) -> OwnerEvent {
    let base = header(stream, record, record.kind());
    match record.kind() {
        EventKind::C_BAD_STE | EventKind::C_BAD_STREAMID => OwnerEvent {
            record: bad_entry(view, platform, stream, record),
            for_hypervisor: false,
        },
        EventKind::C_BAD_CD | EventKind::F_CD_FETCH => OwnerEvent::owners(base),
        // This record has no substream (7.3.7).
        EventKind::F_STREAM_DISABLED => {
            OwnerEvent::owners(base.with_ssv(false).with_substream_bits(0))
        }
        // This record has a substream and no field SSV (7.3.9).
        EventKind::C_BAD_SUBSTREAMID => OwnerEvent::owners(
            base.with_ssv(false)
                .with_substream_bits(record.substream_bits()),
        ),
        EventKind::F_UUT => OwnerEvent::owners(access(base, record)),
        EventKind::F_TRANSL_FORBIDDEN => OwnerEvent::owners(
            base.with_input_address(record.input_address())
                .with_rnw(record.rnw()),
        ),
        EventKind::F_BAD_ATS_TREQ => {
            OwnerEvent::owners(base.with_input_address(record.input_address()))
        }
        EventKind::E_PAGE_REQUEST => OwnerEvent::owners(hint(base, record)),
        EventKind::F_WALK_EABT
        | EventKind::F_TRANSLATION
        | EventKind::F_ADDR_SIZE
        | EventKind::F_ACCESS
        | EventKind::F_PERMISSION
        | EventKind::F_TLB_CONFLICT => fault(view, stream, record),
        _ => OwnerEvent {
            record: None,
            for_hypervisor: concerns_hypervisor(record),
        },
    }
}

/// A record of `kind` with the fields that all records have.
fn header(stream: StreamId, record: &EventRecord, kind: EventKind) -> EventRecord {
    let base = EventRecord::default()
        .with_kind_bits(kind.0)
        .with_stream_bits(stream.0);
    match record.substream() {
        Some(substream) => base.with_ssv(true).with_substream_bits(substream.0),
        // Without SSV, the substream is UNKNOWN.
        None => base,
    }
}

/// Adds the address and the kind of access of the transaction.
fn access(base: EventRecord, record: &EventRecord) -> EventRecord {
    base.with_input_address(record.input_address())
        .with_pnu(record.pnu())
        .with_ind(record.ind())
        .with_rnw(record.rnw())
}

fn hint(base: EventRecord, record: &EventRecord) -> EventRecord {
    base.with_input_address(record.input_address() & !0xfff)
        .with_span(record.span())
        .with_unprivileged_execute(record.unprivileged_execute())
        .with_unprivileged_write(record.unprivileged_write())
        .with_unprivileged_read(record.unprivileged_read())
        .with_privileged_execute(record.privileged_execute())
        .with_privileged_write(record.privileged_write())
        .with_privileged_read(record.privileged_read())
}

/// The record for a physical entry that is invalid or missing. The owner's own
/// table says why. The owner may have changed the table since; an SMMU may read
/// it that late.
fn bad_entry(
    view: &OwnerView<'_>,
    platform: &impl Platform,
    stream: StreamId,
    record: &EventRecord,
) -> Option<EventRecord> {
    match view.table.find(platform, stream) {
        // An entry that aborts records no event, even if the configuration
        // cache has not seen it yet.
        TableWalk::Entry(entry) => (ste_config(view.ids, &entry) != StreamConfig::Abort)
            .then(|| header(stream, record, EventKind::C_BAD_STE)),
        TableWalk::Unreachable(at) => {
            Some(header(stream, record, EventKind::F_STE_FETCH).with_fetch_address(at.raw()))
        }
        TableWalk::NoEntry => view
            .record_bad_streams
            .then(|| header(stream, record, EventKind::C_BAD_STREAMID)),
    }
}

/// The record for a fault of stage 1 or 2.
fn fault(view: &OwnerView<'_>, stream: StreamId, record: &EventRecord) -> OwnerEvent {
    let kind = record.kind();
    if !record.s2() {
        let base = access(header(stream, record, kind), record);
        if kind == EventKind::F_TLB_CONFLICT {
            return OwnerEvent::owners(base);
        }
        let mut told = base.with_class_bits(record.class_bits());
        if is_stalled(record) && offers_stalls(view.ids) {
            told = told.with_stall(true).with_stag(record.stag());
        }
        return OwnerEvent::owners(told);
    }
    let ipa = if kind.has_ipa() { record.ipa() } else { 0 };
    let told = match record.class() {
        // Which access the record of a TLB conflict names is up to the
        // implementation.
        _ if kind == EventKind::F_TLB_CONFLICT => None,
        Class::CD => Some(header(stream, record, EventKind::F_CD_FETCH).with_fetch_address(ipa)),
        Class::TTD => Some(
            access(header(stream, record, EventKind::F_WALK_EABT), record)
                .with_class_bits(Class::TTD.0)
                .with_fetch_address(ipa),
        ),
        _ => None,
    };
    OwnerEvent {
        record: told,
        for_hypervisor: concerns_hypervisor(record),
    }
}

/// Whether `record` is about stage 2 or the physical stream table. The
/// hypervisor owns these and reports the record.
#[must_use]
pub fn concerns_hypervisor(record: &EventRecord) -> bool {
    match record.kind() {
        EventKind::F_STE_FETCH | EventKind::F_CFG_CONFLICT | EventKind::F_VMS_FETCH => true,
        EventKind::F_TLB_CONFLICT => record.s2(),
        kind => kind.is_translation_fault() && record.s2(),
    }
}

/// Whether the transaction of `record` stalls and waits for an answer.
#[must_use]
pub fn is_stalled(record: &EventRecord) -> bool {
    record.kind().can_stall() && record.stall()
}

/// Whether the owner's SMMU has stalls (`IDR0.STALL_MODEL`, 6.3.1).
#[must_use]
pub fn offers_stalls(ids: &Ids) -> bool {
    matches!(ids.idr0.stall_model(), 0b00 | 0b10)
}
