//! Handles the owner's writes to an ITS: its registers, and the commands that a
//! write of `GITS_CWRITER` adds.

use crate::command::{COMMAND_BYTES, Command};
use crate::emulator::{Budget, Common};
use crate::its::{EmulatedIts, Job};
use crate::platform::{Clock, Platform, Registers, Report, Share};
use crate::reg;
use crate::{CollectionId, DeviceId};
use portcullis_owner_memory::{Progress, Size, Window};

/// One call, and all state that it uses.
pub(crate) struct ItsCall<'a, P, R, T, C, W> {
    pub(crate) unit: &'a mut EmulatedIts<R, W>,
    pub(crate) common: &'a mut Common<T, C, W>,
    pub(crate) platform: &'a P,
    pub(crate) its: usize,
    pub(crate) budget: Budget,
}

impl<'a, P, R, T, C, W> ItsCall<'a, P, R, T, C, W>
where
    P: Platform<Window = W>,
    R: Registers,
    T: Share,
    C: Clock,
    W: Window,
{
    pub(crate) fn new(
        unit: &'a mut EmulatedIts<R, W>,
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
            return self.write_cwriter(value);
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
                Job::ReleaseAll(DeviceId(0))
            });
        }
        let progress = self.run_commands();
        if self.unit.enabled != enabled {
            // Another CPU's change was finished first.
            return Progress::Again;
        }
        if progress == Progress::Done && enabled {
            // The mappings of the tables take effect now, without a SYNC of the
            // owner.
            self.sync_all();
            self.wait();
        }
        if progress == Progress::Done {
            self.unit.show_control(self.platform, self.its);
        }
        progress
    }

    /// Handles a write of `GITS_CWRITER` of 32 or 64 bits. Retry only matters
    /// to an ITS that stalls at command errors.
    #[inline]
    fn write_cwriter(&mut self, value: u64) -> Progress {
        let offset = value & reg::QUEUE_OFFSET;
        if offset >= reg::cbaser_bytes(self.unit.cbaser) {
            self.unit.counts.ignored += 1;
            return Progress::Done;
        }
        self.unit.cwriter = offset;
        self.run_commands()
    }

    /// Runs jobs and commands, as far as the budget goes.
    #[inline]
    fn run_commands(&mut self) -> Progress {
        let read = self.unit.creadr;
        let progress = loop {
            if self.unit.physical.fault().is_some() {
                // The physical ITS failed, so no command runs any more. The
                // owner sees an ITS that makes no progress.
                self.unit.job = None;
                break Progress::Done;
            }
            if self.unit.job.is_some() {
                if !self.budget.spend(1) {
                    break Progress::Again;
                }
                self.run_job_step();
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
                QueueStop::AtJob => {}
                QueueStop::AtEnd => break Progress::Done,
                QueueStop::OutOfBudget => break Progress::Again,
            }
        };
        if progress == Progress::Done && !self.unit.enabled {
            self.finish_disable();
        }
        // If the physical ITS failed, it is not known which commands it has
        // consumed, so none of them is shown as consumed.
        if !self.wait() {
            self.unit.creadr = read;
        }
        self.unit.show_queue(self.platform, self.its);
        progress
    }

    /// Finishes the disabling of the ITS: no device is left. Any write of the
    /// owner may get here.
    #[cold]
    fn finish_disable(&mut self) {
        self.unit.clear_routes();
        if let Some(queue) = self.unit.queue.take() {
            self.platform.close(queue);
        }
        self.unit.show_control(self.platform, self.its);
    }

    /// Waits until the physical ITS has consumed all commands; `false` if it
    /// failed, which is reported once.
    #[inline(always)]
    pub(crate) fn wait(&mut self) -> bool {
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

    /// Sends a command to the physical ITS. (It is inlined because a command
    /// that is known at the call takes a third of the instructions, and a pair
    /// of commands has a goal of 800.)
    #[inline(always)]
    pub(crate) fn send_command(&mut self, command: Command) {
        let common = &*self.common;
        let physical = &mut self.unit.physical;
        physical.push(&common.share, &common.clock, command);
    }

    /// Runs the commands of the queue up to one that begins a job.
    #[inline(always)]
    fn execute_queue(&mut self) -> QueueStop {
        let mut counts = self.unit.counts;
        let mut at = self.unit.creadr;
        let paused = loop {
            if at == self.unit.cwriter {
                break QueueStop::AtEnd;
            }
            if !self.budget.spend(4) {
                break QueueStop::OutOfBudget;
            }
            let Some(words) = self.fetch(at) else {
                self.unit.stalled = true;
                break QueueStop::AtEnd;
            };
            let done = Command::decode(words).and_then(|command| self.execute(command));
            match done {
                Some(()) => counts.commands += 1,
                // The command is skipped, as by an ITS that does not stall at
                // command errors.
                None => counts.refused += 1,
            }
            if self.unit.job.is_some() {
                self.unit.in_command = true;
                break QueueStop::AtJob;
            }
            at = self.after(at);
        };
        self.unit.creadr = at;
        self.unit.counts = counts;
        paused
    }

    /// The offset of the command after the one at `at`.
    #[inline]
    fn after(&self, at: u64) -> u64 {
        let next = at + COMMAND_BYTES;
        let end = reg::cbaser_bytes(self.unit.cbaser);
        if next >= end { 0 } else { next }
    }

    /// Loads the command at `at`, each word once. `None` if the queue is not
    /// the owner's memory or cannot be read.
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

/// Why no further command runs.
enum QueueStop {
    /// The last command began a job.
    AtJob,
    /// There is no further command, or it cannot be read.
    AtEnd,
    /// The call has used up its budget.
    OutOfBudget,
}

/// `GITS_BASER1`.
const BASER_1: u32 = reg::BASER + 8;

/// The bits of the owner's `GITS_CBASER` that it can write.
const CBASER_WRITABLE: u64 =
    reg::VALID | reg::ITS_CACHEABILITY | reg::CBASER_ADDRESS | reg::SHAREABILITY | 0xff;
