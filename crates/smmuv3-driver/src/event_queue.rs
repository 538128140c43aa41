//! The event queue and global errors (IHI 0070, 7.2 to 7.5).

use crate::command_queue::Ring;
use crate::smmu::Hardware;
use crate::{Clock, Registers};
use core::fmt;
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use smmuv3_spec::command::CommandError;
use smmuv3_spec::control::{Gerror, OutputIndex};
use smmuv3_spec::event::{EventKind, EventRecord};
use smmuv3_spec::reg;

/// One event: a copy of its record, which the SMMU can no longer change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub EventRecord);

/// Writes the event as logfmt fields, as far as its kind defines them.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.0;
        let kind = record.kind();
        write!(f, "stream={}", record.stream())?;
        if let Some(substream) = record.substream() {
            write!(f, " substream={substream}")?;
        }
        write!(f, " type={kind}")?;
        if kind.is_translation_fault() {
            write!(f, " stage={}", if record.s2() { 2 } else { 1 })?;
        }
        if kind.has_input_address() {
            write!(f, " address={:#x}", record.input_address())?;
        }
        if kind.has_ipa() && record.s2() {
            write!(f, " ipa={:#x}", record.ipa())?;
        }
        if kind.has_fetch_address() {
            write!(f, " fetch={:#x}", record.fetch_address())?;
        }
        if kind.has_access() {
            f.write_str(match (record.rnw(), record.ind()) {
                (false, _) => " access=write",
                (true, false) => " access=read",
                (true, true) => " access=execute",
            })?;
            if record.pnu() {
                f.write_str(" privileged=yes")?;
            }
        }
        if kind.is_translation_fault() {
            write!(f, " class={}", record.class())?;
        }
        if kind.can_stall() && record.stall() {
            write!(f, " stall=yes stag={:#x}", record.stag())?;
        }
        if matches!(
            kind,
            EventKind::F_UUT | EventKind::F_STE_FETCH | EventKind::F_CD_FETCH
        ) {
            write!(f, " reason={:#x}", record.reason())?;
        }
        Ok(())
    }
}

/// The result of one call of `drain_events` or `drain_pri`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Drained {
    /// Number of records that were passed on.
    pub events: u32,
    /// The queue overflowed since the last call, and records were lost.
    pub overflowed: bool,
    /// The producer's index was inconsistent, so the records in the queue were
    /// dropped.
    pub inconsistent: bool,
    /// The limit was reached, and records are left.
    pub more: bool,
}

/// The consumer's side of the event queue.
pub(crate) struct EventQueue {
    pub(crate) base: PhysAddr,
    pub(crate) ring: Ring,
    cons: u32,
    /// The overflow flag last acknowledged.
    acknowledged: bool,
}

impl EventQueue {
    pub(crate) fn new(base: PhysAddr, log2: u8) -> Self {
        Self {
            base,
            ring: Ring::new(log2),
            cons: 0,
            acknowledged: false,
        }
    }

    pub(crate) fn drain<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        limit: u32,
        mut handle: impl FnMut(Event),
    ) -> Drained {
        let mut drained = Drained::default();
        let prod = OutputIndex::from(hw.regs.read32(reg::EVENTQ_PROD));
        let end = prod.index() & self.ring.mask();
        drained.overflowed = prod.overflow() != self.acknowledged;
        let mut waiting = self.ring.distance(self.cons, end);
        if waiting > self.ring.entries() {
            drained.inconsistent = true;
            self.cons = end;
            waiting = 0;
        }
        if waiting == 0 && !drained.overflowed && !drained.inconsistent {
            return drained;
        }
        drained.more = waiting > limit;
        for _ in 0..waiting.min(limit) {
            let offset = self.ring.slot(self.cons) * EventRecord::SIZE;
            let at = PhysAddr::new(self.base.raw() + offset);
            hw.mem.refresh(at, EventRecord::SIZE);
            let mut record = EventRecord::default();
            for (word, offset) in record.0.iter_mut().zip((0..).step_by(8)) {
                *word = hw.mem.load(PhysAddr::new(at.raw() + offset));
            }
            handle(Event(record));
            self.cons = self.ring.next(self.cons);
            drained.events += 1;
        }
        // The records must have been read before the SMMU may overwrite them.
        hw.mem.refresh(self.base, 0);
        hw.mem.publish(self.base, 0);
        // The overflow is acknowledged with the first consumption after it
        // (7.4); otherwise a second overflow could not be noticed.
        self.acknowledged = prod.overflow();
        let cons = OutputIndex::new()
            .with_index(self.cons)
            .with_overflow(self.acknowledged);
        hw.regs.write32(reg::EVENTQ_CONS, cons.into());
        drained
    }
}

/// The global errors that were active, now acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalErrors {
    /// The errors (IHI 0070, 6.3.19).
    pub active: Gerror,
    /// Why the command queue stopped, if `active.cmdq_err()`.
    pub command: CommandError,
}

/// Writes the errors as logfmt fields.
impl fmt::Display for GlobalErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gerror={:#x} errors=", u32::from(self.active))?;
        let mut separator = "";
        for (name, on) in [
            ("CMDQ_ERR", self.active.cmdq_err()),
            ("EVENTQ_ABT_ERR", self.active.eventq_abt_err()),
            ("PRIQ_ABT_ERR", self.active.priq_abt_err()),
            ("MSI_CMDQ_ABT_ERR", self.active.msi_cmdq_abt_err()),
            ("MSI_EVENTQ_ABT_ERR", self.active.msi_eventq_abt_err()),
            ("MSI_PRIQ_ABT_ERR", self.active.msi_priq_abt_err()),
            ("MSI_GERROR_ABT_ERR", self.active.msi_gerror_abt_err()),
            ("SFM_ERR", self.active.sfm_err()),
            ("CMDQP_ERR", self.active.cmdqp_err()),
            ("DPT_ERR", self.active.dpt_err()),
        ] {
            if on {
                write!(f, "{separator}{name}")?;
                separator = "+";
            }
        }
        if self.active.cmdq_err() {
            write!(f, " command={}", self.command)?;
        }
        Ok(())
    }
}
