//! The owner's writes to an ITS: registers, and the commands that follow.

use crate::command::{COMMAND_BYTES, Command};
use crate::emulator::{Budget, Common};
use crate::platform::{Clock, Platform, Registers, Report, Share};
use crate::reg;
use crate::unit::{Job, Unit};
use crate::{CollectionId, DeviceId};
use portcullis_owner_memory::{Progress, Size, Window};

/// One call, with everything that it works on.
pub(crate) struct Work<'a, P, R, T, C, W> {
    pub(crate) unit: &'a mut Unit<R, W>,
    pub(crate) common: &'a mut Common<T, C, W>,
    pub(crate) platform: &'a P,
    pub(crate) its: usize,
    pub(crate) budget: Budget,
}

impl<'a, P, R, T, C, W> Work<'a, P, R, T, C, W>
where
    P: Platform<Window = W>,
    R: Registers,
    T: Share,
    C: Clock,
    W: Window,
{
    pub(crate) fn new(
        unit: &'a mut Unit<R, W>,
        common: &'a mut Common<T, C, W>,
        platform: &'a P,
        its: usize,
    ) -> Self {
        Self {
            unit,
            common,
            platform,
            its,
            budget: Budget::new(),
        }
    }

    /// A write to a register.
    #[inline]
    pub(crate) fn write(&mut self, offset: u32, size: Size, value: u64) -> Progress {
        if offset == reg::CWRITER && size != Size::Byte && size != Size::Half {
            return self.produce(value);
        }
        self.write_register(offset, size, value)
    }

    #[cold]
    fn write_register(&mut self, offset: u32, size: Size, value: u64) -> Progress {
        if offset == reg::CTLR && size == Size::Word {
            return self.enable(value & u64::from(reg::CTLR_ENABLED) != 0);
        }
        let register = offset & !7;
        let now = match register {
            reg::CBASER => self.unit.cbaser,
            reg::BASER => self.unit.device_table.value(),
            BASER_1 => self.unit.collection_table.value(),
            _ => {
                self.unit.counts.ignored += 1;
                return Progress::Done;
            }
        };
        let new = match (offset & 7, size) {
            (0, Size::Double) => value,
            (0, Size::Word) => now & !0xffff_ffff | value & 0xffff_ffff,
            (4, Size::Word) => now & 0xffff_ffff | value << 32,
            _ => {
                self.unit.counts.ignored += 1;
                return Progress::Done;
            }
        };
        // Both are UNPREDICTABLE while the ITS is enabled or not quiescent (IHI
        // 0069, GITS_CBASER, GITS_BASER<n>).
        if self.unit.enabled || self.unit.job.is_some() {
            self.unit.counts.ignored += 1;
            return Progress::Done;
        }
        match register {
            reg::CBASER => {
                self.unit.cbaser = new & CBASER_WRITABLE;
                self.unit.creadr = 0;
                if self.unit.cwriter >= reg::cbaser_bytes(self.unit.cbaser) {
                    // No command would ever be the last (UNPREDICTABLE, IHI 0069,
                    // GITS_CWRITER).
                    self.unit.cwriter = 0;
                }
                self.unit.stalled = false;
                self.unit.show_queue(self.platform, self.its);
            }
            reg::BASER => self.unit.device_table.write(new),
            _ => self.unit.collection_table.write(new),
        }
        self.unit.show_tables(self.platform, self.its);
        Progress::Done
    }

    /// A write of `GITS_CTLR.Enabled`. Enabling reads the owner's tables,
    /// disabling leaves the physical ITS with none of its devices; neither is
    /// done before the owner's write is.
    fn enable(&mut self, enabled: bool) -> Progress {
        if self.unit.job.is_none() && self.unit.enabled != enabled {
            self.unit.enabled = enabled;
            self.unit.in_command = false;
            self.unit.job = Some(if enabled {
                Job::RestoreCollections(CollectionId(0))
            } else {
                Job::Clear(DeviceId(0))
            });
        }
        let progress = self.process();
        if self.unit.enabled != enabled {
            // Another CPU's change was finished first.
            return Progress::Again;
        }
        if progress == Progress::Done && enabled {
            // What the tables had is in force from now on, without a SYNC of the
            // owner's.
            self.sync_all();
            self.complete();
        }
        if progress == Progress::Done {
            self.unit.show_control(self.platform, self.its);
        }
        progress
    }

    /// A write of `GITS_CWRITER`, of 32 or 64 bits: Retry only matters to an ITS
    /// that stalls at errors of its own.
    #[inline]
    fn produce(&mut self, value: u64) -> Progress {
        let offset = value & reg::QUEUE_OFFSET;
        if offset >= reg::cbaser_bytes(self.unit.cbaser) {
            self.unit.counts.ignored += 1;
            return Progress::Done;
        }
        self.unit.cwriter = offset;
        self.process()
    }

    /// Carries out what there is to do, as far as the budget goes.
    #[inline]
    fn process(&mut self) -> Progress {
        let read = self.unit.creadr;
        let progress = loop {
            if self.unit.physical.fault().is_some() {
                // Nothing is done any more. The owner sees an ITS that does not
                // go on.
                self.unit.job = None;
                break Progress::Done;
            }
            if self.unit.job.is_some() {
                if !self.budget.spend(1) {
                    break Progress::Again;
                }
                self.step();
                continue;
            }
            if self.unit.in_command {
                self.unit.in_command = false;
                self.unit.creadr = self.after(self.unit.creadr);
            }
            if !self.unit.enabled || self.unit.stalled {
                break Progress::Done;
            }
            match self.execute_queue() {
                Paused::AtJob => {}
                Paused::AtEnd => break Progress::Done,
                Paused::OutOfBudget => break Progress::Again,
            }
        };
        if progress == Progress::Done && !self.unit.enabled {
            self.end();
        }
        // Commands that an ITS which failed may have consumed or not are not shown as
        // consumed.
        if !self.complete() {
            self.unit.creadr = read;
        }
        self.unit.show_queue(self.platform, self.its);
        progress
    }

    /// The ITS is disabled and no device is left, whichever write of the owner's it
    /// was that came to the end of that.
    #[cold]
    fn end(&mut self) {
        self.unit.clear_routes();
        if let Some(queue) = self.unit.queue.take() {
            self.platform.close(queue);
        }
        self.unit.show_control(self.platform, self.its);
    }

    /// Waits for the physical ITS; `false` when it failed, which is reported
    /// once.
    #[inline(always)]
    pub(crate) fn complete(&mut self) -> bool {
        let common = &mut *self.common;
        let physical = &mut self.unit.physical;
        match physical.complete(&common.share, &common.clock) {
            Ok(()) => true,
            Err(fault) => {
                if !self.unit.failure_reported {
                    self.unit.failure_reported = true;
                    let its = self.its;
                    common.report = Some(Report::Failed { its, fault });
                }
                false
            }
        }
    }

    /// Tells the physical ITS something. (Inlined: a command that is known where it
    /// is told takes a third of the instructions, and a pair of commands has a goal
    /// of 800.)
    #[inline(always)]
    pub(crate) fn tell(&mut self, command: Command) {
        let common = &*self.common;
        let physical = &mut self.unit.physical;
        physical.push(&common.share, &common.clock, command);
    }

    /// Carries out the commands of the queue up to one that takes longer.
    #[inline(always)]
    fn execute_queue(&mut self) -> Paused {
        let mut counts = self.unit.counts;
        let mut at = self.unit.creadr;
        let paused = loop {
            if at == self.unit.cwriter {
                break Paused::AtEnd;
            }
            if !self.budget.spend(4) {
                break Paused::OutOfBudget;
            }
            let Some(words) = self.fetch(at) else {
                self.unit.stalled = true;
                break Paused::AtEnd;
            };
            let done = Command::decode(words).and_then(|command| self.execute(command));
            match done {
                Some(()) => counts.commands += 1,
                // As an ITS that does not stall at command errors: skipped.
                None => counts.refused += 1,
            }
            if self.unit.job.is_some() {
                self.unit.in_command = true;
                break Paused::AtJob;
            }
            at = self.after(at);
        };
        self.unit.creadr = at;
        self.unit.counts = counts;
        paused
    }

    /// Where the command behind the one at `at` is.
    #[inline]
    fn after(&self, at: u64) -> u64 {
        let next = at + COMMAND_BYTES;
        let end = reg::cbaser_bytes(self.unit.cbaser);
        if next >= end { 0 } else { next }
    }

    /// The command at `at`, each word loaded once. `None` where the queue is not
    /// memory of the owner's, or cannot be read.
    #[inline]
    fn fetch(&mut self, at: u64) -> Option<[u64; 4]> {
        if self.unit.queue.is_none() {
            let range = self.unit.queue_range()?;
            self.unit.queue = self.platform.open(range).ok();
        }
        let queue = self.unit.queue.as_ref()?;
        queue.refresh(at, COMMAND_BYTES);
        let words = queue.load_words(at);
        (!queue.aborted()).then_some(words)
    }
}

/// Why no further command is carried out.
enum Paused {
    /// The last one has begun a job.
    AtJob,
    /// There is none, or it cannot be read.
    AtEnd,
    /// The call has done enough.
    OutOfBudget,
}

/// `GITS_BASER1`.
const BASER_1: u32 = reg::BASER + 8;

/// The bits of the owner's `GITS_CBASER` that it can write.
const CBASER_WRITABLE: u64 =
    reg::VALID | reg::ITS_CACHEABILITY | reg::CBASER_ADDRESS | reg::SHAREABILITY | 0xff;
