//! Interrupts of the emulated SMMU (IHI 0070, 3.18; 6.3.16 to 6.3.36). Where
//! the owner configured an address, an interrupt is a message to the owner's
//! memory; else it is the wire.

use crate::{Counts, Line, Platform};
use portcullis_addr::Ipa;
use smmuv3_spec::control::{Gerror, IrqCtrl};
use smmuv3_spec::reg;

/// The registers of one source: `SMMU_*_IRQ_CFG0` to `CFG2`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IrqConfig {
    /// Address of the message; 0 means no message.
    pub(crate) address: u64,
    /// Data of the message.
    pub(crate) data: u32,
    /// Stored only, since the CPU stores the message with the attributes of the
    /// memory.
    pub(crate) attributes: u32,
}

/// What an interrupt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Events,
    Pages,
    Errors,
}

/// Interrupt and global error registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interrupts {
    pub(crate) control: IrqCtrl,
    pub(crate) events: IrqConfig,
    pub(crate) pages: IrqConfig,
    pub(crate) errors: IrqConfig,
    /// `SMMU_GERROR`.
    pub(crate) gerror: Gerror,
    /// `SMMU_GERRORN`.
    pub(crate) gerrorn: Gerror,
}

impl Interrupts {
    pub(crate) fn of(&self, source: Source) -> &IrqConfig {
        match source {
            Source::Events => &self.events,
            Source::Pages => &self.pages,
            Source::Errors => &self.errors,
        }
    }

    pub(crate) fn config(&mut self, source: Source) -> &mut IrqConfig {
        match source {
            Source::Events => &mut self.events,
            Source::Pages => &mut self.pages,
            Source::Errors => &mut self.errors,
        }
    }

    pub(crate) fn enabled(&self, source: Source) -> bool {
        match source {
            Source::Events => self.control.eventq_irqen(),
            Source::Pages => self.control.priq_irqen(),
            Source::Errors => self.control.gerror_irqen(),
        }
    }

    /// Signals an interrupt of `source`, if it is enabled. The caller has shown
    /// the index or error register before.
    pub(crate) fn signal<P: Platform>(
        &mut self,
        platform: &P,
        source: Source,
        counts: &mut Counts,
    ) {
        if !self.enabled(source) {
            return;
        }
        let (line, abort) = match source {
            Source::Events => (Line::Event, Gerror::new().with_msi_eventq_abt_err(true)),
            Source::Pages => (Line::Pri, Gerror::new().with_msi_priq_abt_err(true)),
            Source::Errors => (Line::Error, Gerror::new().with_msi_gerror_abt_err(true)),
        };
        let config = *self.config(source);
        if config.address == 0 {
            platform.raise(line);
            counts.interrupts += 1;
        } else if platform
            .store32(Ipa::new(config.address), config.data)
            .is_ok()
        {
            counts.interrupts += 1;
        } else {
            counts.aborted_messages += 1;
            if source == Source::Errors {
                // An interrupt for this error would abort too.
                self.activate(platform, abort, counts);
            } else {
                self.error(platform, abort, counts);
            }
        }
    }

    /// Makes those of `bits` active that are not, and signals the error
    /// interrupt.
    pub(crate) fn error<P: Platform>(&mut self, platform: &P, bits: Gerror, counts: &mut Counts) {
        if self.activate(platform, bits, counts) {
            self.signal(platform, Source::Errors, counts);
        }
    }

    /// The global errors that are active. An active error is neither toggled
    /// nor signalled again before it is acknowledged (6.3.19).
    pub(crate) fn active(&self) -> Gerror {
        Gerror::from(u32::from(self.gerror) ^ u32::from(self.gerrorn))
    }

    fn activate<P: Platform>(&mut self, platform: &P, bits: Gerror, counts: &mut Counts) -> bool {
        let new = u32::from(bits) & !u32::from(self.active());
        if new == 0 {
            return false;
        }
        self.gerror = Gerror::from(u32::from(self.gerror) ^ new);
        platform.show(reg::GERROR, self.gerror.into());
        counts.errors += 1;
        true
    }
}
