//! The GIC as its users see it: CPUs by registers, devices by messages.

use crate::bus::{Access, Bus};
use crate::command::{CommandError, Refused};
use crate::inner::Inner;
use crate::profile::{Pace, Profile};
use crate::violation::Violation;
use std::sync::{Mutex, MutexGuard};

/// What happened so far, for tests that want to know that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands carried out or refused.
    pub commands: u64,
    /// SYNC among them.
    pub syncs: u64,
    /// Commands refused.
    pub refused: u64,
    /// LPIs made pending, by a message, a command or a register.
    pub delivered: u64,
}

/// Hardware that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Commands are not carried out any more.
    CommandsStop {
        /// By which ITS.
        its: usize,
    },
    /// The ITS stalls at the next command, once; after a retry it carries it out.
    StallNext {
        /// Of which ITS.
        its: usize,
    },
    /// `GITS_CTLR.Quiescent` stays 0.
    NeverQuiescent {
        /// Of which ITS.
        its: usize,
    },
    /// `GICR_CTLR.RWP` stays 1.
    WritePending {
        /// Of which redistributor.
        cpu: usize,
    },
    /// `GICR_SYNCR.Busy` stays 1.
    SyncBusy {
        /// Of which redistributor.
        cpu: usize,
    },
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An LPI is pending.
    Pending {
        /// At which redistributor.
        cpu: usize,
        /// Which.
        lpi: u32,
    },
    /// Nothing, silently.
    Ignored(Ignored),
}

/// Why nothing became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The ITS is disabled.
    Disabled,
    /// It is not translated.
    Untranslated(CommandError),
    /// No SYNC came since the event was mapped.
    Early,
    /// The redistributor has LPIs disabled, or no room for this one.
    Redistributor,
}

/// ITSs and the LPI side of redistributors.
///
/// Registers, messages and steps take `&self`, so that a driver's trait for
/// registers can be implemented for a reference to it.
pub struct Gic<B> {
    inner: Mutex<Inner<B>>,
}

impl<B: Bus> Gic<B> {
    /// A GIC out of reset, as `profile` says. A seed makes a run repeatable.
    pub fn new(bus: B, profile: Profile, seed: u64) -> Self {
        let mut inner = Inner::new(bus, profile, seed);
        for unit in &mut inner.units {
            for (baser, table) in unit.baser.iter_mut().zip(&inner.profile.tables) {
                *baser = table.kind.bits() << 56 | u64::from(table.entry_bytes - 1) << 48;
                *baser |= u64::from(inner.profile.page_sizes.trailing_zeros()) << 8;
            }
        }
        for rd in &mut inner.rds {
            // Asleep (`GICR_WAKER`).
            rd.waker = 0b110;
        }
        Self {
            inner: Mutex::new(inner),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<B>> {
        self.inner.lock().unwrap_or_else(|lock| lock.into_inner())
    }

    /// What the GIC says it is.
    pub fn profile(&self) -> Profile {
        self.inner().profile.clone()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// A CPU reads a register of an ITS, of 4 or 8 bytes. `offset` counts from
    /// the control frame on.
    pub fn its_read(&self, its: usize, offset: u32, bytes: u32) -> u64 {
        self.inner().its_read(its, offset, bytes)
    }

    /// A CPU writes one.
    pub fn its_write(&self, its: usize, offset: u32, bytes: u32, value: u64) {
        self.inner().its_write(its, offset, bytes, value);
    }

    /// A CPU reads a register of a redistributor. `offset` counts from the RD
    /// frame on.
    pub fn rd_read(&self, cpu: usize, offset: u32, bytes: u32) -> u64 {
        self.inner().rd_read(cpu, offset, bytes)
    }

    /// A CPU writes one.
    pub fn rd_write(&self, cpu: usize, offset: u32, bytes: u32, value: u64) {
        self.inner().rd_write(cpu, offset, bytes, value);
    }

    /// A device writes `event` to `GITS_TRANSLATER` with its DeviceID.
    pub fn message(&self, its: usize, device: u32, event: u32) -> Message {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let unit = &inner.units[its];
        if !unit.enabled {
            return Message::Ignored(Ignored::Disabled);
        }
        let of = (device, event);
        // As it was, or as it will be.
        let stale = unit.stale.iter().find(|stale| stale.event == of).copied();
        if let Some(stale) = stale
            && inner.draw.once_in(2)
        {
            return if inner.set_pending(stale.cpu, stale.lpi) {
                Message::Pending {
                    cpu: stale.cpu,
                    lpi: stale.lpi,
                }
            } else {
                Message::Ignored(Ignored::Redistributor)
            };
        }
        match inner.translate(its, of) {
            Err(error) => Message::Ignored(Ignored::Untranslated(error)),
            Ok(_) if inner.units[its].young.contains_key(&of) && inner.draw.once_in(2) => {
                Message::Ignored(Ignored::Early)
            }
            Ok((event, cpu)) => {
                if inner.set_pending(cpu, event.lpi) {
                    Message::Pending {
                        cpu,
                        lpi: event.lpi,
                    }
                } else {
                    Message::Ignored(Ignored::Redistributor)
                }
            }
        }
    }

    /// Something that the GIC may do at any time: a command, a step towards being
    /// quiescent, an entry read or written back.
    pub fn step(&self) {
        let mut inner = self.inner();
        for its in 0..inner.units.len() {
            if inner.profile.pace != Pace::AtOnce && inner.draw.once_in(2) {
                inner.run_command(its);
                inner.poll_quiescing(its);
            }
            inner.stir(its);
        }
        for cpu in 0..inner.rds.len() {
            if inner.profile.pace != Pace::AtOnce && inner.draw.once_in(2) {
                inner.poll_writing(cpu);
                inner.poll_busy(cpu);
            }
            inner.stir_lpis(cpu);
        }
    }

    /// Steps until no command is left that can be carried out and no update is
    /// under way, 20,000 times at most.
    pub fn settle(&self) {
        for _ in 0..20_000 {
            let busy = {
                let inner = self.inner();
                let commands = (0..inner.units.len()).any(|its| inner.has_command(its));
                let units = inner.units.iter().any(|unit| unit.quiescing.is_some());
                let rds = inner.rds.iter().any(|rd| rd.writing.or(rd.busy).is_some());
                commands || units || rds
            };
            if !busy {
                return;
            }
            self.step();
        }
    }

    /// The CPU takes the interrupt of the highest priority: of the LPIs that are
    /// pending and, as far as the redistributor knows, enabled.
    pub fn acknowledge(&self, cpu: usize) -> Option<u32> {
        let mut inner = self.inner();
        let lpi = inner.highest(cpu)?;
        inner.clear_pending(cpu, lpi);
        Some(lpi)
    }

    /// The LPIs that are pending at a redistributor, and whether it takes them
    /// for enabled, with their priority.
    pub fn pending(&self, cpu: usize) -> Vec<(u32, Option<u8>)> {
        let mut inner = self.inner();
        let all: Vec<_> = inner.rds[cpu].pending.iter().copied().collect();
        let mut look = |lpi| {
            let config = inner.config(cpu, lpi);
            (config & 1 == 1).then_some(config & 0xfc)
        };
        all.into_iter().map(|lpi| (lpi, look(lpi))).collect()
    }

    /// What an event is mapped to: LPI, ICID, and the redistributor that the
    /// collection has. Not a lookup of the hardware's.
    pub fn mapping(
        &self,
        its: usize,
        device: u32,
        event: u32,
    ) -> Option<(u32, u16, Option<usize>)> {
        let inner = self.inner();
        let unit = &inner.units[its];
        let event = unit.events.get(&(device, event))?;
        let cpu = unit.collections.get(&event.collection).copied();
        Some((event.lpi, event.collection, cpu))
    }

    /// Every event that is mapped at an ITS: DeviceID, EventID, and LPI.
    pub fn mapped(&self, its: usize) -> Vec<(u32, u32, u32)> {
        let inner = self.inner();
        let events = inner.units[its].events.iter();
        events
            .map(|(&(device, event), mapped)| (device, event, mapped.lpi))
            .collect()
    }

    /// Breaks something.
    pub fn inject(&self, fault: Fault) {
        self.inner().faults.push(fault);
    }

    /// All is whole again.
    pub fn mend(&self) {
        self.inner().faults.clear();
    }

    /// What software did since the last call that it must not.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.inner().violations)
    }

    /// What the GIC read and wrote since the last call.
    pub fn take_accesses(&self) -> Vec<Access> {
        std::mem::take(&mut self.inner().accesses)
    }

    /// Commands that were not carried out since the last call.
    pub fn take_refused(&self) -> Vec<Refused> {
        std::mem::take(&mut self.inner().refused)
    }
}
