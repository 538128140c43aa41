//! The fast path of the command queue, in as few instructions as possible. It
//! takes what a driver sends thousands of times a second: invalidations by
//! address, and one CMD_SYNC at the end whose completion the driver polls in
//! the queue. All other commands go to [`run`](crate::command_queue::run). So
//! does a CMD_SYNC that has to wait for events, see
//! [`sync`](crate::command_queue::sync).

use crate::command_queue::rewrite::rewrite_tlbi_va_fast;
use crate::command_queue::run::{Stop, refresh_commands, stop_for_failure};
use crate::command_queue::sync::{SyncWord, complete_by_message, message_aborted};
use crate::command_queue::{COMMAND_BYTES, MAX_WORK};
use crate::{Emulator, Failure, Physical, Platform, Progress, Window};
use smmuv3_spec::command::{Command, CommandError, Opcode, SIG_IRQ};
use smmuv3_spec::reg;

impl<W: Window> Emulator<W> {
    /// Runs commands up to the first that the fast path does not take. The
    /// caller has checked `queue_ready`.
    ///
    /// # Errors
    /// The units of work that are left for the slow path, when a command is
    /// left that the fast path does not take.
    #[inline]
    pub(crate) fn run_fast<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
    ) -> Result<Progress, u32> {
        let Some(window) = self.command_window.as_ref() else {
            return Err(MAX_WORK);
        };
        let queue = &mut self.queue;
        // An unreported error belongs to a command after the last CMD_SYNC, and
        // after such a command the queue is not ready.
        debug_assert!(queue.unreported_error.is_none(), "an error is not told of");
        let (wrap, entries) = (queue.wrap_mask(), queue.size() - 1);
        let left = queue.prod.wrapping_sub(queue.cons) & wrap;
        // This also excludes indices that contradict each other, and a CMD_SYNC
        // that comes alone.
        if !(2..=queue.size().min(MAX_WORK)).contains(&left) {
            return Err(MAX_WORK);
        }
        refresh_commands(window, queue, left);
        let end = queue.prod & wrap;
        let start = queue.cons;
        let mut cons = start;
        let vmid = physical.vmid();
        let failed = loop {
            let at = u64::from(cons & entries) * COMMAND_BYTES;
            let command = Command([window.load(at), window.load(at + 8)]);
            let next = (cons + 1) & wrap;
            if let Some(new) = rewrite_tlbi_va_fast(&self.ids, vmid, command) {
                if let Err(failure) = physical.issue(new) {
                    break Some(failure);
                }
                cons = next;
                if cons == end {
                    break None;
                }
                continue;
            }
            let word = command
                .msi_address()
                .wrapping_sub(window.range().start().raw());
            let polled = next == end
                && command.opcode_bits() == Opcode::SYNC.0
                && command.cs() == SIG_IRQ
                && word < window.range().size()
                && command.msi_address() != 0
                && self.ids.idr0.msi();
            if !polled {
                break None;
            }
            if window.aborted() {
                return Ok(self.abort_fast(platform, physical, start));
            }
            let data = command.msi_data();
            let sync = SyncWord {
                after: next,
                offset: word,
                data,
            };
            if queue.physical_msi {
                match complete_by_message(platform, physical, window, queue, sync) {
                    Ok(true) => {
                        let issued = u64::from(cons.wrapping_sub(start) & wrap);
                        queue.cons = next;
                        self.counts.issued += issued;
                        self.counts.commands += issued + 1;
                        self.counts.syncs += 1;
                        self.counts.signalled += 1;
                        return Ok(Progress::Done);
                    }
                    Ok(false) => {}
                    Err(failure) => break Some(failure),
                }
            }
            if let Err(failure) = physical.finish() {
                break Some(failure);
            }
            let issued = u64::from(cons.wrapping_sub(start) & wrap);
            queue.message_in_flight = false;
            queue.cons = next;
            queue.shown_cons = next;
            queue.completed_cons = next;
            platform.show(reg::CMDQ_CONS, next);
            // CMDQ_CONS must be visible before the word (3.18).
            window.publish(word, 0);
            window.store32(word, data);
            window.publish(word, 4);
            self.counts.issued += issued;
            self.counts.commands += issued + 1;
            self.counts.syncs += 1;
            if window.aborted() {
                message_aborted(platform, &mut self.irq, &mut self.counts);
            }
            return Ok(Progress::Done);
        };
        if window.aborted() {
            return Ok(self.abort_fast(platform, physical, start));
        }
        let issued = cons.wrapping_sub(start) & wrap;
        queue.cons = cons;
        self.counts.issued += u64::from(issued);
        self.counts.commands += u64::from(issued);
        match failed {
            // There were at most MAX_WORK commands.
            None => Err(MAX_WORK.saturating_sub(issued)),
            Some(failure) => Ok(self.fail_fast(platform, physical, failure)),
        }
    }

    /// Stops the queue because the physical SMMU failed at the command at
    /// `CMDQ_CONS`.
    #[cold]
    fn fail_fast<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        failure: Failure,
    ) -> Progress {
        let stop = stop_for_failure(failure, &mut self.counts);
        if stop != Stop::Broken {
            self.counts.failed_syncs += 1;
        }
        self.stop_fast(platform, physical, stop)
    }

    /// Stops the queue because a command from `start` on could not be fetched.
    /// The commands that were issued may have been wrong. All of them were
    /// invalidations, which do no harm, and run again when the owner has
    /// repaired the queue.
    #[cold]
    fn abort_fast<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        start: u32,
    ) -> Progress {
        self.counts.fetch_aborts += 1;
        self.queue.cons = start;
        self.stop_fast(platform, physical, Stop::Refused(CommandError::ABT))
    }

    /// Stops the queue at `CMDQ_CONS`.
    fn stop_fast<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        stop: Stop,
    ) -> Progress {
        self.queue.since_sync.add_tlbi();
        let mut stop = stop;
        if stop != Stop::Broken {
            // A message that arrives later would overwrite the reason.
            if core::mem::take(&mut self.queue.message_in_flight)
                && matches!(physical.finish(), Err(Failure::Fenced(_)))
            {
                stop = Stop::Broken;
            }
        }
        self.handle_stop(platform, stop)
    }
}
