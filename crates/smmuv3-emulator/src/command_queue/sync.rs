//! CMD_SYNC (IHI 0070, 4.7.3): complete once the physical SMMU is done with
//! everything before it.
//!
//! Several are completed by one wait. Those that wait their turn are remembered;
//! `CMDQ_CONS` stays at the first of them until then. Only invalidations that
//! can be repeated may follow one of them before it is complete, and the
//! physical SMMU is told to keep the order.
//!
//! Where the physical SMMU sends messages and the owner asked for one in its own
//! command queue, nobody waits: it writes `CMDQ_CONS` where the owner reads it
//! and then the owner's word. Everything that could overtake that waits for it.
//!
//! A CMD_SYNC also promises that the events of what was terminated before it, and
//! of the configuration before what it completes, are in the event queue. So once
//! the physical SMMU is done, what it recorded by then is handed to the owner, and
//! then the CMD_SYNC is complete; nobody leaves such a one to a message. One
//! exception: after nothing but TLBIs since the last CMD_SYNC, such events may come
//! later. That is what drivers send at every unmapping, and looking at
//! the physical queue costs an access to a register of the SMMU each time; an
//! event that is late then tells of an access that failed before the
//! unmapping, and where it stalled, the answer has it translated anew.

use crate::command_queue::run::{CommandRun, Stop};
use crate::command_queue::state::QueueState;
use crate::{Failure, Line, Msi, Physical, Platform, Window};
use portcullis_addr::Ipa;
use smmuv3_spec::command::{Command, CommandError, SIG_IRQ, SIG_NONE, SIG_SEV};
use smmuv3_spec::control::Gerror;
use smmuv3_spec::reg;

/// How many CMD_SYNCs are completed by one wait.
pub(crate) const MAX_DEFERRED: usize = 16;

/// What a wait for the physical SMMU takes of the work that one call does, so
/// that a call waits 32 times at most.
const WAIT_COST: u32 = 7;

/// How a CMD_SYNC tells that it is complete.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Signal {
    /// Not at all. Also by a wake-up event: `IDR0.SEV` is 0.
    #[default]
    None,
    /// By the wire. With `IDR0.MSI` only where there is no message.
    Wire,
    /// By a message to this address.
    Message(u64),
}

/// What was consumed since the last CMD_SYNC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinceSync {
    /// Nothing, so that a CMD_SYNC is there for what it promises of events.
    Nothing,
    /// Nothing but TLBIs.
    OnlyTlbi,
    /// Also something else.
    Other,
}

impl SinceSync {
    /// A TLBI was consumed.
    #[inline]
    pub(crate) fn add_tlbi(&mut self) {
        if *self == Self::Nothing {
            *self = Self::OnlyTlbi;
        }
    }
}

/// A CMD_SYNC that is not complete yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeferredSync {
    /// `CMDQ_CONS.RD` once it is.
    after: u32,
    data: u32,
    signal: Signal,
}

impl<P: Platform, Y: Physical> CommandRun<'_, P, Y> {
    /// Takes a CMD_SYNC at `CMDQ_CONS`.
    #[inline]
    pub(crate) fn defer_sync(&mut self, command: Command) -> Result<(), Stop> {
        let signal = match command.cs() {
            SIG_NONE | SIG_SEV => Signal::None,
            SIG_IRQ if self.ids.idr0.msi() && command.msi_address() != 0 => {
                Signal::Message(command.msi_address() & self.queue.address_mask)
            }
            SIG_IRQ => Signal::Wire,
            _ => return Err(Stop::Refused(CommandError::ILL)),
        };
        if self.queue.deferred_count == MAX_DEFERRED {
            self.complete_syncs()?;
        }
        let after = self.queue.after(self.queue.cons);
        if let Some(slot) = self.queue.deferred.get_mut(self.queue.deferred_count) {
            *slot = DeferredSync {
                after,
                data: command.msi_data(),
                signal,
            };
            self.queue.deferred_count += 1;
        }
        self.queue.events_first |= self.queue.since_sync != SinceSync::OnlyTlbi;
        self.queue.since_sync = SinceSync::Nothing;
        Ok(())
    }

    /// Keeps what follows behind the CMD_SYNCs that wait.
    #[inline]
    pub(crate) fn keep_sync_order(&mut self) -> Result<(), Stop> {
        if self.queue.deferred_count != self.queue.ordered_count {
            self.queue.ordered_count = self.queue.deferred_count;
            self.issue(Command::sync(SIG_NONE))?;
        }
        Ok(())
    }

    /// Completes every CMD_SYNC that waits. On an error the first of them is
    /// the command that `CMDQ_CONS` names, and none was signalled.
    #[inline]
    pub(crate) fn complete_syncs(&mut self) -> Result<(), Stop> {
        let waiting = core::mem::take(&mut self.queue.deferred_count);
        self.queue.ordered_count = 0;
        let Some(last) = waiting.checked_sub(1) else {
            return Ok(());
        };
        let last = self.queue.deferred.get(last).copied().unwrap_or_default();
        let events_first = core::mem::take(&mut self.queue.events_first);
        if waiting == 1
            && self.queue.physical_msi
            && !events_first
            && self.complete_by_message(last)?
        {
            return Ok(());
        }
        if let Err(error) = self.wait() {
            let first = self.queue.deferred.first().copied().unwrap_or_default();
            self.queue.cons = self.queue.before(first.after);
            return Err(error);
        }
        if events_first {
            self.take_events();
        }
        self.show_cons(last.after);
        for i in 0..waiting {
            let sync = self.queue.deferred.get(i).copied().unwrap_or_default();
            self.signal_sync(sync);
        }
        Ok(())
    }

    #[inline]
    fn signal_sync(&mut self, sync: DeferredSync) {
        self.counts.syncs += 1;
        match sync.signal {
            Signal::None => {}
            Signal::Wire => {
                self.platform.raise(Line::Sync);
                self.counts.interrupts += 1;
            }
            Signal::Message(address) => {
                // Linux polls a word of the command itself.
                if let Some(offset) = self.offset_in_queue(address) {
                    // CMDQ_CONS first (3.18).
                    self.window.publish(offset, 0);
                    self.window.store32(offset, sync.data);
                    self.window.publish(offset, 4);
                    if self.window.aborted() {
                        message_aborted(self.platform, self.irq, self.counts);
                    }
                } else if self.platform.store32(Ipa::new(address), sync.data).is_err() {
                    message_aborted(self.platform, self.irq, self.counts);
                }
            }
        }
    }

    /// The offset of 32 bits of the command queue; addresses are multiples of
    /// 4.
    #[inline]
    fn offset_in_queue(&self, address: u64) -> Option<u64> {
        let range = self.window.range();
        let offset = address.wrapping_sub(range.start().raw());
        (offset < range.size()).then_some(offset)
    }

    /// Leaves a CMD_SYNC to the physical SMMU. `false`: nothing was done.
    fn complete_by_message(&mut self, sync: DeferredSync) -> Result<bool, Stop> {
        let Signal::Message(address) = sync.signal else {
            return Ok(false);
        };
        let Some(offset) = self.offset_in_queue(address) else {
            return Ok(false);
        };
        let handed = complete_by_message(
            self.platform,
            self.physical,
            self.window,
            self.queue,
            SyncWord {
                after: sync.after,
                offset,
                data: sync.data,
            },
        );
        match handed {
            Ok(done) => {
                self.counts.syncs += u64::from(done);
                self.counts.signalled += u64::from(done);
                Ok(done)
            }
            Err(failure) => {
                self.queue.cons = self.queue.before(sync.after);
                Err(self.stop_for(failure))
            }
        }
    }

    /// Waits for everything that was issued. An error of an earlier wait that
    /// no CMD_SYNC reported yet counts as one of this.
    pub(crate) fn wait(&mut self) -> Result<(), Stop> {
        let result = self.physical.finish();
        // A device that is slow to answer CMD_ATC_INV makes each wait long.
        self.budget = self.budget.saturating_sub(WAIT_COST);
        if let Err(failure @ Failure::Fenced(_)) = result {
            return Err(self.stop_for(failure));
        }
        self.queue.message_in_flight = false;
        self.queue.completed_cons = self.queue.cons;
        let owed = self.queue.unreported_error.take();
        match (owed, result) {
            (None, Ok(())) => Ok(()),
            (Some(error), _) => {
                self.counts.failed_syncs += 1;
                Err(Stop::Refused(error))
            }
            (None, Err(failure)) => {
                self.counts.failed_syncs += 1;
                Err(self.stop_for(failure))
            }
        }
    }

    /// Shows `CMDQ_CONS`; nothing may be in flight that could overtake it.
    #[inline]
    fn show_cons(&mut self, cons: u32) {
        if self.queue.shown_cons != cons {
            self.queue.shown_cons = cons;
            self.platform.show(reg::CMDQ_CONS, cons);
        }
    }

    /// Shows what was consumed, at the end of a run. With an error that no
    /// CMD_SYNC stands for, the next one reports it.
    #[inline]
    pub(crate) fn show_consumed(&mut self) -> Result<(), Stop> {
        if self.queue.shown_cons == self.queue.cons {
            return Ok(());
        }
        self.wait_for_messages()?;
        self.show_cons(self.queue.cons);
        Ok(())
    }

    /// Waits until no message of the physical SMMU's is on its way.
    pub(crate) fn wait_for_messages(&mut self) -> Result<(), Stop> {
        if !self.queue.message_in_flight {
            self.physical.kick();
            return Ok(());
        }
        match self.wait() {
            Err(Stop::Refused(error)) => {
                self.queue.unreported_error = Some(error);
                // Also when this follows a CMD_SYNC: the short way tells of no
                // error.
                self.queue.since_sync = SinceSync::Other;
                Ok(())
            }
            other => other,
        }
    }
}

/// A CMD_SYNC that is told by a word of the command queue.
pub(crate) struct SyncWord {
    /// `CMDQ_CONS.RD` once it is complete.
    pub(crate) after: u32,
    /// Where in the queue, in bytes.
    pub(crate) offset: u64,
    pub(crate) data: u32,
}

/// Leaves a CMD_SYNC to the physical SMMU. `false`: nothing was done, and it is
/// to be waited for.
///
/// # Errors
/// As [`Physical::signal`].
#[inline]
pub(crate) fn complete_by_message<P: Platform>(
    platform: &P,
    physical: &mut impl Physical,
    window: &P::Window,
    queue: &mut QueueState,
    sync: SyncWord,
) -> Result<bool, Failure> {
    // That is the CMD_SYNC's to report. What may fail without it, an ATC
    // invalidation, is no TLBI, so that its CMD_SYNC asks for events and does not
    // come here.
    if queue.unreported_error.is_some() {
        return Ok(false);
    }
    // With so much of the queue not known to be complete, somebody may wait for
    // room: CMDQ_CONS must not be late then.
    let outstanding = sync.after.wrapping_sub(queue.completed_cons) & queue.wrap_mask();
    if outstanding > queue.size() / 2 {
        return Ok(false);
    }
    let word = window.physical(sync.offset);
    let (Some(word), Some(cons)) = (word, platform.shown_at(reg::CMDQ_CONS)) else {
        return Ok(false);
    };
    let messages = [
        Msi {
            address: cons,
            data: sync.after,
        },
        Msi {
            address: word,
            data: sync.data,
        },
    ];
    let handed = physical.signal(&messages)?;
    if handed {
        queue.message_in_flight = true;
        queue.shown_cons = sync.after;
    }
    Ok(handed)
}

/// The message of a CMD_SYNC could not be stored (7.2).
#[cold]
pub(crate) fn message_aborted<P: Platform>(
    platform: &P,
    irq: &mut crate::Interrupts,
    counts: &mut crate::Counts,
) {
    counts.aborted_messages += 1;
    let error = Gerror::new().with_msi_cmdq_abt_err(true);
    irq.error(platform, error, counts);
}
