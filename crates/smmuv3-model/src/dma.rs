//! A transaction, from the device's access to its outcome (IHI 0070, 3.4, 3.12,
//! 6.3.14, 7.2, 7.3).

use crate::smmu::Smmu;
use crate::stage2::{Access, LeafEntry, Meaning, Regime};
use crate::stream::{Place, Plan};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{Cr2, Gbpa};
use smmuv3_spec::event::{Class, EventKind, EventRecord};
use smmuv3_spec::ste::Ste;

/// What a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The device.
    pub stream: StreamId,
    /// The address it puts on the bus.
    pub address: u64,
    /// What it does there.
    pub access: Access,
    /// Whether it says that it is privileged.
    pub privileged: bool,
}

impl Transaction {
    /// An unprivileged access.
    #[must_use]
    pub fn new(stream: StreamId, address: u64, access: Access) -> Self {
        Self {
            stream,
            address,
            access,
            privileged: false,
        }
    }
}

/// Why a transaction did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Aborted without an event: global abort, an entry that aborts, events
    /// that are configured away.
    #[error("aborted")]
    Silent,
    /// Aborted, with the event that says why. The record went to the queue if
    /// that was enabled and not full.
    #[error("{}", .0.kind())]
    Event(EventRecord),
    /// The output address is no memory.
    #[error("{0:#x} is no memory")]
    External(u64),
    /// The stream uses stage 1, which is not modelled.
    #[error("stage 1 is not modelled")]
    NotModelled,
}

/// A fault of a stage 2 walk.
struct Fault {
    kind: EventKind,
    fetch: Option<u64>,
}

impl Smmu {
    /// Translates an access by a walk of what the SMMU can see for certain,
    /// past every cache. Records the event of a fault.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn translate(&mut self, access: Transaction) -> Result<u64, Refusal> {
        let result = self.attempt(&access);
        if let Err(Refusal::Event(record)) = result {
            self.record(record);
        }
        result
    }

    /// Reads the 8 bytes at an aligned address, as a device.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn dma_read(&mut self, stream: StreamId, address: u64) -> Result<u64, Refusal> {
        let at = self.translate(Transaction::new(stream, address, Access::Read))?;
        self.ram.device_load(at).ok_or(Refusal::External(at))
    }

    /// Writes the 8 bytes at an aligned address, as a device.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn dma_write(&mut self, stream: StreamId, address: u64, value: u64) -> Result<(), Refusal> {
        let at = self.translate(Transaction::new(stream, address, Access::Write))?;
        if !self.device_store(at, value) {
            return Err(Refusal::External(at));
        }
        Ok(())
    }

    fn attempt(&self, access: &Transaction) -> Result<u64, Refusal> {
        if !self.enabled().smmuen() {
            let large = access.address >> self.profile.output_bits() != 0;
            if Gbpa::from(self.regs.gbpa.acting).abort() || large {
                return Err(Refusal::Silent);
            }
            return Ok(access.address);
        }
        let event = EventRecord::default().with_stream_bits(access.stream.0);
        let at = match self.place(access.stream) {
            Place::Outside => return Err(self.bad_stream(event)),
            Place::At(at) => at,
            Place::Behind { at, .. } => {
                let (word, _) = self.ram.views(at).ok_or_else(|| fetch_failed(event, at))?;
                match self.behind(word, access.stream) {
                    Some(at) => at,
                    None => return Err(self.bad_stream(event)),
                }
            }
        };
        let mut ste = Ste::default();
        for (word, offset) in ste.0.iter_mut().zip((0..).step_by(8)) {
            let views = self.ram.views(at + offset);
            *word = views.ok_or_else(|| fetch_failed(event, at))?.0;
        }
        match Plan::of(&ste, &self.profile) {
            Plan::Abort => Err(Refusal::Silent),
            Plan::Bad => Err(Refusal::Event(kind(event, EventKind::C_BAD_STE))),
            Plan::NotModelled | Plan::Stage1 { .. } | Plan::Nested { .. } => {
                Err(Refusal::NotModelled)
            }
            Plan::Bypass if access.address >> self.profile.output_bits() != 0 => {
                let event = translation_event(event, EventKind::F_ADDR_SIZE, access);
                Err(Refusal::Event(event))
            }
            Plan::Bypass => Ok(access.address),
            Plan::Stage2(regime) => self.stage2(&ste, &regime, event, access),
        }
    }

    /// C_BAD_STREAMID, where it is recorded at all (6.3.12, RECINVSID).
    fn bad_stream(&self, event: EventRecord) -> Refusal {
        if Cr2::from(self.regs.cr2).recinvsid() {
            Refusal::Event(kind(event, EventKind::C_BAD_STREAMID))
        } else {
            Refusal::Silent
        }
    }

    fn stage2(
        &self,
        ste: &Ste,
        regime: &Regime,
        event: EventRecord,
        access: &Transaction,
    ) -> Result<u64, Refusal> {
        // With stage 1 bypassed, an address beyond the IAS is its fault (3.4).
        if access.address >> self.profile.input_bits() != 0 {
            let event = translation_event(event, EventKind::F_ADDR_SIZE, access);
            return Err(Refusal::Event(event));
        }
        self.walk(regime, access).map_err(|fault| {
            let mut event = translation_event(event, fault.kind, access).with_s2(true);
            match fault.fetch {
                // Of a walk that aborted, the descriptor is recorded in place
                // of the IPA (7.3.12).
                Some(at) => event = event.with_fetch_address(at),
                None => event = event.with_ipa(access.address & !0xfff),
            }
            if ste.s2r() || fault.fetch.is_some() {
                Refusal::Event(event)
            } else {
                Refusal::Silent
            }
        })
    }

    /// The table walk of stage 2 (DDI 0487, D8.2), with the priority of faults
    /// that it gives: translation, address size, access flag, permission.
    fn walk(&self, regime: &Regime, access: &Transaction) -> Result<u64, Fault> {
        let fault = |kind| Fault { kind, fetch: None };
        let leaf = self.leaf(regime, access.address)?;
        if !leaf.accessed {
            return Err(fault(EventKind::F_ACCESS));
        }
        if !leaf.allows(access.access, access.privileged) {
            return Err(fault(EventKind::F_PERMISSION));
        }
        Ok(leaf.output | access.address & (leaf.size - 1))
    }

    fn leaf(&self, regime: &Regime, address: u64) -> Result<LeafEntry, Fault> {
        let fault = |kind| Fault { kind, fetch: None };
        if address >> regime.input_bits != 0 {
            return Err(fault(EventKind::F_TRANSLATION));
        }
        let mut table = regime.root;
        for level in regime.start..4 {
            let index = (address >> regime.shift(level)) % regime.entries(level);
            let at = table + index * 8;
            let (descriptor, _) = self.ram.views(at).ok_or(Fault {
                kind: EventKind::F_WALK_EABT,
                fetch: Some(at),
            })?;
            match regime.meaning(descriptor, level) {
                Meaning::Invalid => break,
                Meaning::AddressSize => return Err(fault(EventKind::F_ADDR_SIZE)),
                Meaning::Leaf(leaf) => return Ok(leaf),
                Meaning::Table(next) => table = next,
            }
        }
        Err(fault(EventKind::F_TRANSLATION))
    }

    /// What a walk of what the SMMU sees for certain gives, if anything.
    pub(crate) fn peek(&self, regime: &Regime, address: u64) -> Option<LeafEntry> {
        self.leaf(regime, address).ok()
    }
}

fn kind(event: EventRecord, kind: EventKind) -> EventRecord {
    event.with_kind_bits(kind.0)
}

fn fetch_failed(event: EventRecord, at: u64) -> Refusal {
    Refusal::Event(kind(event, EventKind::F_STE_FETCH).with_fetch_address(at))
}

/// What every fault of a translation records (7.3.12 to 7.3.16). `InD` is 0 for
/// a write.
fn translation_event(event: EventRecord, fault: EventKind, access: &Transaction) -> EventRecord {
    kind(event, fault)
        .with_class_bits(Class::IN.0)
        .with_rnw(access.access != Access::Write)
        .with_ind(access.access == Access::Execute)
        .with_pnu(access.privileged)
        .with_input_address(access.address)
}
