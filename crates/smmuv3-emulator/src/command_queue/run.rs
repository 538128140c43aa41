//! The command queue (IHI 0070, 3.5.1, 4.1 and 7.1): from `CMDQ_CONS` to
//! `CMDQ_PROD`, each command copied once, checked, rewritten and passed on.
//!
//! Indices in an inconsistent state make the queue look empty, which 3.5.1
//! permits.

use crate::command_queue::COMMAND_BYTES;
use crate::command_queue::rewrite::{Action, rewrite_command, rewrite_tlbi_va};
use crate::command_queue::state::QueueState;
use crate::command_queue::sync::SinceSync;
use crate::interrupts::Interrupts;
use crate::output_queue::EventQueue;
use crate::output_queue::event_queue::EventWriter;
use crate::streams::updates::Shadow;
use crate::{Counts, Failure, Ids, Physical, Platform, Window};
use smmuv3_spec::command::{Command, CommandError, Opcode};

/// Why commands are not processed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The call did its share of work.
    Budget,
    /// The command at `CMDQ_CONS` cannot be consumed.
    Refused(CommandError),
    /// The physical SMMU does not work any more.
    Broken,
}

/// One call's processing.
pub(crate) struct CommandRun<'a, P: Platform, Y> {
    pub(crate) platform: &'a P,
    pub(crate) physical: &'a mut Y,
    pub(crate) ids: &'a Ids,
    pub(crate) window: &'a P::Window,
    pub(crate) queue: &'a mut QueueState,
    pub(crate) updates: &'a mut Shadow,
    /// The updates has work left.
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
    /// Processes what there is, completes what waits, and shows `CMDQ_CONS.RD`.
    /// After an error nothing is on its way that could overwrite it.
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
        // An error of what came before comes first.
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

    /// Consumes one command, unless it cannot be.
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

    /// Hands the owner every event that the physical SMMU recorded by now.
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
        // So that one call goes through a full queue once.
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

    /// Brings the physical streams up to date.
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
        // A command of the emulation's making was refused: what the owner asked
        // for is not done, and it must not believe so.
        Failure::Command(_) | Failure::Stream { .. } => {
            counts.refused += 1;
            Stop::Refused(CommandError::ILL)
        }
        Failure::Fenced(_) => Stop::Broken,
    }
}

/// Makes the owner's next `count` commands visible.
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

/// Works on the physical streams until nothing is left (`true`) or the budget
/// is spent. A stream that could not have what was wanted aborts and is passed
/// over; an error is a physical SMMU that does not work any more.
pub(crate) fn update_streams<P: Platform>(
    updates: &mut Shadow,
    ids: &Ids,
    platform: &P,
    physical: &mut impl Physical,
    budget: &mut u32,
    counts: &mut Counts,
) -> Result<bool, ()> {
    loop {
        match updates.step(ids, platform, physical, budget, counts) {
            Ok(done) => return Ok(done),
            Err(Failure::Fenced(_)) => return Err(()),
            Err(Failure::Command(_) | Failure::Stream { .. }) => {
                counts.refused += 1;
                // Whatever the failure, this ends.
                let Some(left) = budget.checked_sub(1) else {
                    return Ok(false);
                };
                *budget = left;
            }
        }
    }
}
