//! Runs all commands from `CMDQ_CONS` to `CMDQ_PROD` (IHI 0070, 3.5.1, 4.1 and
//! 7.1). Each command is copied once, checked, rewritten and issued to the
//! physical SMMU.
//!
//! When the indices are inconsistent, the queue counts as empty, which 3.5.1
//! permits.

use crate::command_queue::COMMAND_BYTES;
use crate::command_queue::rewrite::{Action, rewrite_command, rewrite_tlbi_va};
use crate::command_queue::state::QueueState;
use crate::command_queue::sync::SinceSync;
use crate::interrupts::Interrupts;
use crate::output_queue::EventQueue;
use crate::output_queue::event_queue::EventWriter;
use crate::streams::updates::StreamUpdates;
use crate::{Counts, Failure, Ids, Physical, Platform, Window};
use smmuv3_spec::command::{Command, CommandError, Opcode};

/// Why the queue stops before `CMDQ_PROD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The call did as much work as one call may.
    Budget,
    /// The command at `CMDQ_CONS` is refused with this error.
    Refused(CommandError),
    /// The physical SMMU failed and aborts everything.
    Broken,
}

/// The commands of one call, and all parts of the emulated SMMU that they use.
pub(crate) struct CommandRun<'a, P: Platform, Y> {
    pub(crate) platform: &'a P,
    pub(crate) physical: &'a mut Y,
    pub(crate) ids: &'a Ids,
    pub(crate) window: &'a P::Window,
    pub(crate) queue: &'a mut QueueState,
    pub(crate) updates: &'a mut StreamUpdates,
    /// `updates` has streams left to update.
    pub(crate) streams_pending: &'a mut bool,
    pub(crate) events: &'a mut EventQueue<P::Window>,
    pub(crate) irq: &'a mut Interrupts,
    pub(crate) counts: &'a mut Counts,
    pub(crate) smmuen: bool,
    /// `CR2.RECINVSID`.
    pub(crate) record_bad_streams: bool,
    pub(crate) budget: u32,
}

impl<P: Platform, Y: Physical> CommandRun<'_, P, Y> {
    /// Runs all new commands, completes all CMD_SYNCs, and shows
    /// `CMDQ_CONS.RD`. When it ends with an error, no message is in flight that
    /// could overwrite the error.
    pub(crate) fn run(&mut self) -> Result<(), Stop> {
        let first = self.queue.cons;
        let result = self.process_and_show();
        let consumed = self.queue.cons.wrapping_sub(first) & self.queue.wrap_mask();
        self.counts.commands += u64::from(consumed);
        result
    }

    fn process_and_show(&mut self) -> Result<(), Stop> {
        let processed = self.process_commands();
        if processed == Err(Stop::Broken) {
            return processed;
        }
        // The error of a CMD_SYNC belongs to an earlier command, so it counts
        // first.
        let result = match self.complete_syncs() {
            Ok(()) => processed,
            error => error,
        };
        if result == Err(Stop::Broken) {
            return result;
        }
        self.show_consumed()?;
        if self.queue.message_in_flight && matches!(result, Err(Stop::Refused(_))) {
            self.wait_for_messages()?;
        }
        result
    }

    fn process_commands(&mut self) -> Result<(), Stop> {
        let mut left = self.queue.prod.wrapping_sub(self.queue.cons) & self.queue.wrap_mask();
        if left > self.queue.size() {
            self.counts.inconsistent += 1;
            return Ok(());
        }
        refresh_commands(self.window, self.queue, left.min(self.budget));
        while left > 0 {
            let Some(budget) = self.budget.checked_sub(1) else {
                return Err(Stop::Budget);
            };
            self.budget = budget;
            let at = u64::from(self.queue.cons & (self.queue.size() - 1)) * COMMAND_BYTES;
            let command = Command([self.window.load(at), self.window.load(at + 8)]);
            if self.window.aborted() {
                self.counts.fetch_aborts += 1;
                return Err(Stop::Refused(CommandError::ABT));
            }
            self.process_command(command)?;
            left -= 1;
        }
        Ok(())
    }

    /// Runs one command and consumes it, or returns why it cannot be consumed.
    fn process_command(&mut self, command: Command) -> Result<(), Stop> {
        match command.opcode() {
            Opcode::TLBI_NH_VA | Opcode::TLBI_NH_VAA => {
                let Some(new) = rewrite_tlbi_va(self.ids, self.physical.vmid(), command) else {
                    return Err(Stop::Refused(CommandError::ILL));
                };
                self.keep_sync_order()?;
                self.issue(new)?;
                self.queue.since_sync.add_tlbi();
            }
            Opcode::SYNC => self.defer_sync(command)?,
            _ => return self.process_command_slow(command),
        }
        self.advance_cons();
        Ok(())
    }

    #[inline]
    fn advance_cons(&mut self) {
        self.queue.cons = self.queue.after(self.queue.cons);
    }

    #[inline(never)]
    fn process_command_slow(&mut self, command: Command) -> Result<(), Stop> {
        match command.opcode() {
            Opcode::TLBI_NH_ALL | Opcode::TLBI_NH_ASID | Opcode::TLBI_NSNH_ALL => {
                self.queue.since_sync.add_tlbi();
            }
            _ => self.queue.since_sync = SinceSync::Other,
        }
        match rewrite_command(self.ids, self.physical, self.smmuen, command, self.counts) {
            Action::IssueRepeatable(new) => {
                self.keep_sync_order()?;
                self.issue(new)?;
                self.advance_cons();
            }
            Action::IssueOnce(new) => {
                self.complete_syncs()?;
                self.issue(new)?;
                self.advance_cons();
            }
            Action::UpdateStreams(first, last) => {
                self.complete_syncs()?;
                self.advance_cons();
                self.updates.invalidate(first, last);
                *self.streams_pending = true;
                return self.update_streams();
            }
            Action::UpdateDescriptor(stream) => {
                self.complete_syncs()?;
                self.advance_cons();
                self.updates.invalidate_descriptor(self.ids, stream);
                *self.streams_pending = true;
                return self.update_streams();
            }
            Action::Nothing => self.advance_cons(),
            Action::Illegal => return Err(Stop::Refused(CommandError::ILL)),
        }
        Ok(())
    }

    /// Delivers all events that the physical SMMU has recorded so far.
    #[cold]
    pub(crate) fn take_events(&mut self) {
        let mut writer = EventWriter {
            platform: self.platform,
            ids: self.ids,
            updates: &*self.updates,
            record_bad_streams: self.record_bad_streams,
            events: &mut *self.events,
            irq: &mut *self.irq,
            counts: &mut *self.counts,
        };
        let taken = self
            .physical
            .take_events(|stream, record| writer.write(stream, record));
        // Events count as work, so that one call reads the physical queue once
        // at most.
        self.budget = self.budget.saturating_sub(taken);
    }

    #[inline]
    pub(crate) fn issue(&mut self, command: Command) -> Result<(), Stop> {
        self.counts.issued += 1;
        match self.physical.issue(command) {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.stop_for(failure)),
        }
    }

    /// What a failure of the physical SMMU means for the command at
    /// `CMDQ_CONS`.
    #[cold]
    pub(crate) fn stop_for(&mut self, failure: Failure) -> Stop {
        stop_for_failure(failure, self.counts)
    }

    /// Gives streams the configuration that the owner's table has now.
    fn update_streams(&mut self) -> Result<(), Stop> {
        match update_streams(
            self.updates,
            self.ids,
            self.platform,
            self.physical,
            &mut self.budget,
            self.counts,
        ) {
            Ok(true) => {
                *self.streams_pending = false;
                Ok(())
            }
            Ok(false) => Err(Stop::Budget),
            Err(()) => Err(Stop::Broken),
        }
    }
}

/// What a failure of the physical SMMU means for the command at `CMDQ_CONS`.
#[cold]
pub(crate) fn stop_for_failure(failure: Failure, counts: &mut Counts) -> Stop {
    match failure {
        Failure::Command(CommandError::ATC_INV_SYNC) => Stop::Refused(CommandError::ATC_INV_SYNC),
        // The physical SMMU refused a command that the emulation built. The
        // owner's request is not done, and the owner has to learn of that.
        Failure::Command(_) | Failure::Stream { .. } => {
            counts.refused += 1;
            Stop::Refused(CommandError::ILL)
        }
        Failure::Fenced(_) => Stop::Broken,
    }
}

/// Makes sure that loads see the next `count` commands as the owner stored
/// them.
#[inline]
pub(crate) fn refresh_commands(window: &impl Window, queue: &QueueState, count: u32) {
    let first = queue.cons & (queue.size() - 1);
    let straight = count.min(queue.size() - first);
    window.refresh(
        u64::from(first) * COMMAND_BYTES,
        u64::from(straight) * COMMAND_BYTES,
    );
    if straight < count {
        window.refresh(0, u64::from(count - straight) * COMMAND_BYTES);
    }
}

/// Updates streams until all are up to date (`true`) or the budget is spent
/// (`false`). A stream that cannot be configured aborts and is skipped. The
/// error means that the physical SMMU failed.
pub(crate) fn update_streams<P: Platform>(
    updates: &mut StreamUpdates,
    ids: &Ids,
    platform: &P,
    physical: &mut impl Physical,
    budget: &mut u32,
    counts: &mut Counts,
) -> Result<bool, ()> {
    loop {
        match updates.run(ids, platform, physical, budget, counts) {
            Ok(done) => return Ok(done),
            Err(Failure::Fenced(_)) => return Err(()),
            Err(Failure::Command(_) | Failure::Stream { .. }) => {
                counts.refused += 1;
                // Each failure costs budget, so that the loop ends.
                let Some(left) = budget.checked_sub(1) else {
                    return Ok(false);
                };
                *budget = left;
            }
        }
    }
}
