//! The owner's command queue (IHI 0070, 3.5.1, 4.1 and 7.1).
//!
//! A write of `CMDQ_PROD` ends in [`write_cmdq_prod`](Emulator::write_cmdq_prod):
//!
//! 1. `fast.rs` runs the commands that drivers send most: invalidations by
//!    address, with one CMD_SYNC at the end.
//! 2. `run.rs` runs all other commands. `rewrite.rs` checks each and builds
//!    the command for the physical SMMU; `sync.rs` completes CMD_SYNCs.
//! 3. A command that is refused stops the queue with `GERROR.CMDQ_ERR`.
//!
//! A call does at most [`MAX_WORK`] units of work. When there is more, it
//! returns [`Progress::Again`], the owner's CPU does the same write again, and
//! that write continues.

pub(crate) mod fast;
pub(crate) mod rewrite;
pub(crate) mod run;
pub(crate) mod state;
pub(crate) mod sync;

use crate::queue_memory::open_queue;
use crate::registers::INDEX;
use crate::{Emulator, Failure, Physical, Platform, Progress, Window};
use run::{CommandRun, Stop, update_streams};
use smmuv3_spec::command::{Command, CommandError};
use smmuv3_spec::control::{CmdqCons, Gerror};
use smmuv3_spec::reg;
use sync::SinceSync;

/// Units of work that one call does at most. A command and a stream table entry
/// are one unit each.
pub(crate) const MAX_WORK: u32 = 256;

/// Size of a command in bytes.
pub(crate) const COMMAND_BYTES: u64 = Command::SIZE;

impl<W: Window> Emulator<W> {
    /// Handles a write of `CMDQ_PROD`: notes and shows the index, then runs the
    /// new commands.
    #[inline]
    pub(crate) fn write_cmdq_prod<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        value: u32,
    ) -> Progress {
        self.counts.writes += 1;
        self.queue.prod = value & INDEX;
        platform.show(reg::CMDQ_PROD, self.queue.prod);
        if !self.queue_ready {
            return self.resume(platform, physical);
        }
        match self.run_fast(platform, physical) {
            Ok(progress) => progress,
            Err(left) => self.run_slow(platform, physical, left),
        }
    }

    /// Runs the commands that [`run_fast`](Self::run_fast) left, with `left`
    /// units of work.
    #[inline(never)]
    fn run_slow<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        left: u32,
    ) -> Progress {
        if left < MAX_WORK {
            self.queue.since_sync.add_tlbi();
        }
        self.run_commands(platform, physical, left)
    }

    /// Continues the work that earlier calls left: first the changes of
    /// streams, then `CR0ACK` and `GBPA.Update`, then the commands.
    #[inline(never)]
    pub(crate) fn resume<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
    ) -> Progress {
        let mut budget = MAX_WORK;
        if self.physical_failed {
            self.acknowledge_control(platform);
            return Progress::Done;
        }
        if self.streams_pending {
            match update_streams(
                &mut self.updates,
                &self.ids,
                platform,
                physical,
                &mut budget,
                &mut self.counts,
            ) {
                Ok(true) => self.streams_pending = false,
                Ok(false) => {
                    self.counts.again += 1;
                    return Progress::Again;
                }
                Err(()) => {
                    self.enter_service_failure(platform);
                    return Progress::Done;
                }
            }
        }
        self.acknowledge_control(platform);
        if !self.regs.cr0ack.cmdqen() || self.irq.active().cmdq_err() {
            return Progress::Done;
        }
        if self.command_window.is_none() {
            // The memory is looked up again after each acknowledgement, because
            // it may belong to the owner by now.
            self.command_window = self.hold_command_queue(platform);
        }
        self.queue_ready = self.command_window.is_some();
        if self.queue_ready {
            self.run_commands(platform, physical, budget)
        } else {
            if (self.queue.prod ^ self.queue.cons) & self.queue.wrap_mask() != 0 {
                self.counts.fetch_aborts += 1;
                self.refuse_command(platform, CommandError::ABT);
            }
            Progress::Done
        }
    }

    /// Runs the commands up to `CMDQ_PROD`. The caller has checked
    /// `queue_ready`.
    #[inline(never)]
    fn run_commands<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        budget: u32,
    ) -> Progress {
        let Some(window) = &self.command_window else {
            return Progress::Done;
        };
        let result = CommandRun {
            platform,
            physical,
            ids: &self.ids,
            window,
            queue: &mut self.queue,
            updates: &mut self.updates,
            streams_pending: &mut self.streams_pending,
            events: &mut self.events,
            irq: &mut self.irq,
            counts: &mut self.counts,
            smmuen: self.regs.cr0ack.smmuen(),
            record_bad_streams: self.regs.cr2().recinvsid(),
            budget,
        }
        .run();
        match result {
            Ok(()) => {
                self.queue_ready = self.queue.since_sync == SinceSync::Nothing;
                Progress::Done
            }
            Err(stop) => self.handle_stop(platform, stop),
        }
    }

    #[cold]
    pub(crate) fn handle_stop<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        stop: Stop,
    ) -> Progress {
        match stop {
            Stop::Budget => {
                self.queue_ready =
                    !self.streams_pending && self.queue.since_sync == SinceSync::Nothing;
                self.counts.again += 1;
                Progress::Again
            }
            Stop::Refused(error) => {
                if error == CommandError::ILL {
                    self.counts.illegal_commands += 1;
                }
                self.refuse_command(platform, error);
                Progress::Done
            }
            Stop::Broken => {
                self.enter_service_failure(platform);
                Progress::Done
            }
        }
    }

    /// Stops the queue at the command that `CMDQ_CONS` names. The owner must
    /// see the reason before the error (7.1).
    fn refuse_command<P: Platform<Window = W>>(&mut self, platform: &P, error: CommandError) {
        self.queue_ready = false;
        self.queue.last_error = error;
        let cons = CmdqCons::new()
            .with_rd(self.queue.cons)
            .with_err(error.0 & 0x7f);
        platform.show(reg::CMDQ_CONS, cons.into());
        self.raise_error(platform, Gerror::new().with_cmdq_err(true));
    }

    /// The value of `CMDQ_CONS` while the queue is off or stopped. The reason
    /// stays as long as the error is active, whatever happens to `CMDQEN`
    /// meanwhile (6.3.28).
    pub(crate) fn cmdq_cons_value(&self) -> u32 {
        let cons = CmdqCons::new().with_rd(self.queue.cons);
        if self.irq.active().cmdq_err() {
            cons.with_err(self.queue.last_error.0 & 0x7f).into()
        } else {
            cons.into()
        }
    }

    pub(crate) fn open_command_queue<P: Platform<Window = W>>(&mut self, platform: &P) {
        let queue = &mut self.queue;
        queue.resize(self.regs.cmdq_base.log2size().min(self.ids.idr1.cmdqs()));
        queue.cons &= queue.wrap_mask();
        queue.shown_cons = queue.cons;
        queue.completed_cons = queue.cons;
        queue.unreported_error = None;
        platform.show(reg::CMDQ_CONS, self.cmdq_cons_value());
        self.command_window = self.hold_command_queue(platform);
        if self.command_window.is_none() {
            self.counts.bad_queues += 1;
        }
    }

    fn hold_command_queue<P: Platform<Window = W>>(&self, platform: &P) -> Option<W> {
        let log2 = self.queue.size().ilog2();
        open_queue(platform, self.regs.cmdq_base, log2, COMMAND_BYTES)
    }

    /// Closes the queue. Commands that were consumed stay issued. While the
    /// physical SMMU may still write to the queue, its memory is not released.
    pub(crate) fn close_command_queue<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
    ) {
        let Some(window) = self.command_window.take() else {
            return;
        };
        if self.queue.message_in_flight {
            if let Err(Failure::Fenced(_)) = physical.finish() {
                self.counts.unreleased_queues += 1;
                self.enter_service_failure(platform);
                return;
            }
            self.queue.message_in_flight = false;
        }
        platform.close(window);
    }
}
