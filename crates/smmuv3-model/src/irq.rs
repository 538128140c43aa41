//! Interrupts, message-signalled and wired, and wake-up events (IHI 0070, 3.18,
//! 4.7.3, 7.5).

use crate::layout::gerror_bits;
use crate::smmu::Smmu;
use smmuv3_spec::command::{Command, SIG_IRQ, SIG_SEV};
use smmuv3_spec::control::{Gerror, IrqCtrl};
use std::ops::Range;

/// Interrupts that are kept for somebody to take. Older ones go: the interrupt
/// controller may merge them, too (3.18).
const KEPT: usize = 1024;

/// What an interrupt tells of (3.18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The event queue is no longer empty.
    EventQueue,
    /// The page request queue is no longer empty, or with
    /// `PRIQ_IRQ_CFG2.LO` the last request of a group arrived.
    PriQueue,
    /// A CMD_SYNC with `CS` of 1 completed.
    Sync,
    /// An error is active that was not before.
    GlobalError,
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// An edge on the source's own wire.
    Wired,
    /// A write of 32 bits.
    Msi {
        /// Where to; 4-byte aligned.
        address: u64,
        /// The 32 bits.
        data: u32,
    },
}

/// One interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interrupt {
    /// What it tells of.
    pub source: Source,
    /// How it is told.
    pub signal: Signal,
}

impl Smmu {
    /// Registers outside memory that take message-signalled interrupts, such as
    /// GITS_TRANSLATER. Writes elsewhere outside memory abort.
    pub fn add_doorbell(&mut self, range: Range<u64>) {
        self.doorbells.push(range);
    }

    /// The interrupts since the last call, oldest first; the last 1024 at
    /// most. Where the SMMU has MSIs, each source has both a wire and, where
    /// its address is not zero, a message.
    pub fn take_interrupts(&mut self) -> Vec<Interrupt> {
        std::mem::take(&mut self.interrupts).into()
    }

    fn push_interrupt(&mut self, source: Source, signal: Signal) {
        if self.interrupts.len() >= KEPT {
            self.interrupts.pop_front();
        }
        self.interrupts.push_back(Interrupt { source, signal });
        self.counts.interrupts += 1;
    }

    /// A source that has its own enable fires (6.3.16).
    pub(crate) fn raise(&mut self, source: Source) {
        let on = IrqCtrl::from(self.regs.irq_ctrl.acting);
        let r = &self.regs;
        let (on, config, aborted) = match source {
            Source::EventQueue => (
                on.eventq_irqen(),
                r.eventq_irq,
                Gerror::new().with_msi_eventq_abt_err(true),
            ),
            Source::PriQueue => (
                on.priq_irqen(),
                r.priq_irq,
                Gerror::new().with_msi_priq_abt_err(true),
            ),
            Source::GlobalError => (
                on.gerror_irqen(),
                r.gerror_irq,
                Gerror::new().with_msi_gerror_abt_err(true),
            ),
            // Its command says all (4.7.3).
            Source::Sync => return,
        };
        if on {
            self.push_interrupt(source, Signal::Wired);
            self.message(source, config.0, config.1, aborted);
        }
    }

    /// Sends a message, unless its address is zero.
    fn message(&mut self, source: Source, address: u64, data: u32, aborted: Gerror) {
        // The check for zero comes before the address is truncated to the OAS
        // (4.7.3).
        if !self.profile.idr0.msi() || address == 0 {
            return;
        }
        let address = address & ((1 << self.profile.output_bits()) - 1) & !3;
        let inside = |range: &Range<u64>| range.contains(&address);
        if self.device_store32(address, data) || self.doorbells.iter().any(inside) {
            self.push_interrupt(source, Signal::Msi { address, data });
        } else {
            self.activate(aborted);
        }
    }

    /// A CMD_SYNC is consumed: signals it as asked for.
    pub(crate) fn signal_completion(&mut self, command: &Command) {
        match command.cs() {
            SIG_IRQ => {
                self.push_interrupt(Source::Sync, Signal::Wired);
                let aborted = Gerror::new().with_msi_cmdq_abt_err(true);
                let (address, data) = (command.msi_address(), command.msi_data());
                self.message(Source::Sync, address, data, aborted);
            }
            SIG_SEV => self.wake(),
            _ => {}
        }
    }

    /// Sends the CPUs an event, where the SMMU can (4.1.2, 4.7.3).
    pub(crate) fn wake(&mut self) {
        if self.profile.idr0.sev() {
            self.counts.wakeups += 1;
        }
    }

    /// Activates the errors that are not active yet, of those that the SMMU
    /// has (7.5).
    pub(crate) fn activate(&mut self, errors: Gerror) {
        let active = u32::from(self.gerror_active());
        let new = u32::from(errors) & gerror_bits(&self.profile) & !active;
        self.regs.gerror ^= new;
        let new = Gerror::from(new);
        if new.sfm_err() {
            self.stop();
        }
        // Not of a message that could not tell of an error (7.5.1).
        if u32::from(new.with_msi_gerror_abt_err(false)) != 0 {
            self.raise(Source::GlobalError);
        }
    }
}
