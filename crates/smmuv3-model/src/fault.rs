//! What hardware does when it is broken, slow or switched off.

use crate::cache::Caches;
use crate::smmu::{Lagging, Registers, Smmu};
use crate::stall::Stalls;
use smmuv3_spec::command::CommandError;
use smmuv3_spec::control::{CmdqCons, Cr0, Gerror};
use smmuv3_spec::event::{Class, EventKind, EventRecord};
use smmuv3_spec::reg;

/// A register with an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// `CR0ACK` (6.3.10).
    Cr0,
    /// `IRQ_CTRLACK` (6.3.18).
    IrqCtrl,
    /// `GBPA.Update` (6.3.14.1).
    Gbpa,
}

/// Something that goes wrong in hardware, each allowed by the architecture or
/// left to the implementation by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next command fails, with `CERROR_ILL` (a flipped bit) or
    /// `CERROR_ABT` (an external abort of the fetch; 7.1).
    CommandError(CommandError),
    /// No command is consumed for this many reads of `CMDQ_CONS`, or ever.
    /// 4.1.2 says "in a timely manner" and nothing more.
    CommandStuck {
        /// Reads; `None`: until power is lost.
        polls: Option<u32>,
    },
    /// The next change of the register takes this many reads of its
    /// acknowledgement, or is never acknowledged. 6.3.9 says "finite time".
    AckStuck {
        /// The register.
        register: Acknowledgement,
        /// Reads; `None`: until power is lost.
        polls: Option<u32>,
    },
    /// These bits of `GERROR` become active (6.3.19), as far as the SMMU has
    /// them: bit 0 stops the command queue with `CERROR_ABT`, bit 8 is service
    /// failure mode, in which nothing works until power is lost (12.3).
    Gerror(u32),
    /// This many faults of devices are recorded at once, at random among the
    /// streams and the kinds that a device can provoke (7.3).
    EventFlood(u32),
    /// Power is lost and comes back: registers and caches as after reset, all
    /// that was under way forgotten, memory kept (3.11). What endpoints hold in
    /// their own caches stays: they may have power of their own.
    PowerLoss,
}

/// Injected faults that still have to happen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) command: Option<CommandError>,
    polls: u32,
}

impl Faults {
    /// One poll: whether command processing stays where it is.
    pub(crate) fn stuck(&mut self) -> bool {
        let stuck = self.is_stuck();
        if stuck && self.polls != u32::MAX {
            self.polls -= 1;
        }
        stuck
    }

    /// Whether command processing has stopped.
    pub(crate) fn is_stuck(&self) -> bool {
        self.polls != 0
    }
}

impl Smmu {
    /// Makes something go wrong.
    pub fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::CommandError(error) => {
                // The field has 7 bits (6.3.28).
                let error = CommandError(error.0 & 0x7f);
                self.faults.command = Some(error).filter(|error| *error != CommandError::NONE);
            }
            Fault::CommandStuck { polls } => self.faults.polls = polls.unwrap_or(u32::MAX),
            Fault::AckStuck { register, polls } => {
                let lagging = match register {
                    Acknowledgement::Cr0 => &mut self.regs.cr0,
                    Acknowledgement::IrqCtrl => &mut self.regs.irq_ctrl,
                    Acknowledgement::Gbpa => &mut self.regs.gbpa,
                };
                lagging.stuck = polls.unwrap_or(Lagging::NEVER);
            }
            Fault::Gerror(bits) => {
                let errors = Gerror::from(bits);
                if errors.cmdq_err() && !self.gerror_active().cmdq_err() {
                    let cons = CmdqCons::from(self.regs.cmdq_cons);
                    self.regs.cmdq_cons = cons.with_err(CommandError::ABT.0).into();
                }
                self.activate(errors);
            }
            Fault::EventFlood(count) => {
                for _ in 0..count {
                    let record = self.any_event();
                    self.record(record);
                }
            }
            Fault::PowerLoss => self.lose_power(),
        }
    }

    /// A fault that some device could have provoked.
    fn any_event(&mut self) -> EventRecord {
        const KINDS: [EventKind; 6] = [
            EventKind::C_BAD_STE,
            EventKind::F_STREAM_DISABLED,
            EventKind::F_TRANSLATION,
            EventKind::F_ADDR_SIZE,
            EventKind::F_ACCESS,
            EventKind::F_PERMISSION,
        ];
        let kind = KINDS[self.draw(6) as usize];
        let streams = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        let stream = if streams == 0 {
            0
        } else {
            let nth = self.draw(streams) as usize;
            self.streams.get(nth).map_or(0, |stream| stream.0)
        };
        let page = u64::from(self.draw(1 << 20)) << 12;
        let event = EventRecord::default()
            .with_kind_bits(kind.0)
            .with_stream_bits(stream);
        if kind.is_translation_fault() {
            event
                .with_class_bits(Class::IN.0)
                .with_s2(true)
                .with_rnw(self.draw(2) == 0)
                .with_input_address(page)
                .with_ipa(page)
        } else {
            event
        }
    }

    /// Gives every register field that reset leaves UNKNOWN a random value
    /// (6.3). To be called out of reset; software that relies on zero fails
    /// then.
    pub fn scramble(&mut self) {
        let before = Cr0::from(self.regs.cr0.written);
        if u32::from(before) != 0 || self.regs.irq_ctrl.written != 0 {
            return;
        }
        const UNKNOWN: [u32; 22] = [
            reg::CR1,
            reg::CR2,
            reg::STRTAB_BASE,
            reg::STRTAB_BASE + 4,
            reg::STRTAB_BASE_CFG,
            reg::CMDQ_BASE,
            reg::CMDQ_BASE + 4,
            reg::CMDQ_PROD,
            reg::CMDQ_CONS,
            reg::EVENTQ_BASE,
            reg::EVENTQ_BASE + 4,
            reg::EVENTQ_PROD,
            reg::EVENTQ_CONS,
            reg::PRIQ_BASE,
            reg::PRIQ_BASE + 4,
            reg::PRIQ_PROD,
            reg::PRIQ_CONS,
            reg::GERROR_IRQ_CFG0,
            reg::GERROR_IRQ_CFG1,
            reg::EVENTQ_IRQ_CFG0,
            reg::PRIQ_IRQ_CFG0,
            reg::PRIQ_IRQ_CFG2,
        ];
        // These are no writes of software.
        let misuse = self.misuse.len();
        for offset in UNKNOWN {
            let value = self.draw(u32::MAX);
            self.write32(offset, value);
        }
        self.misuse.truncate(misuse);
    }

    fn lose_power(&mut self) {
        self.regs = Registers::reset(&self.profile);
        self.caches = Caches::default();
        self.faults = Faults::default();
        self.stalled = Stalls::default();
        for atc in self.atcs.values_mut() {
            atc.forget_invalidations();
        }
    }
}
