//! CMD_SYNC (IHI 0070, 4.7.3). It is complete when the physical SMMU has
//! finished all commands before it.
//!
//! One wait completes several CMD_SYNCs. Those that are not complete are
//! deferred, and `CMDQ_CONS` stays at the first of them. After a deferred
//! CMD_SYNC, only invalidations that may run twice are issued, and an ordering
//! CMD_SYNC keeps them behind it.
//!
//! A CMD_SYNC may be completed by a message. The physical SMMU must be able to
//! store messages, and the owner must have asked for a message to its own
//! command queue. Then EL2 does not wait: the physical SMMU itself stores
//! `CMDQ_CONS`, where the owner reads it, and then the owner's word. Before EL2
//! changes anything that the message could overwrite, it waits for the message.
//!
//! A CMD_SYNC also promises that two kinds of events are in the event queue:
//! events of transactions that were terminated before it, and events of the
//! configuration before the commands that it completes. So EL2 waits for the
//! physical SMMU, delivers the events that it has recorded, and completes the
//! CMD_SYNC then. Such a CMD_SYNC is never completed by a message.
//!
//! There is one exception. After nothing but TLBIs since the last CMD_SYNC, the
//! events may come later. Drivers send this at every unmapping, and reading the
//! physical queue costs an access to a register of the SMMU each time. A late
//! event then reports an access that failed before the unmapping. If the access
//! is_stalled, its answer makes the SMMU translate it again.

use crate::command_queue::run::{CommandRun, Stop};
use crate::command_queue::state::QueueState;
use crate::{Failure, Line, Msi, Physical, Platform, Window};
use portcullis_addr::Ipa;
use smmuv3_spec::command::{Command, CommandError, SIG_IRQ, SIG_NONE, SIG_SEV};
use smmuv3_spec::control::Gerror;
use smmuv3_spec::reg;

/// How many CMD_SYNCs one wait completes at most.
pub(crate) const MAX_DEFERRED: usize = 16;

/// How much of a call's budget a wait for the physical SMMU costs. So a call
/// waits 32 times at most.
const WAIT_COST: u32 = 7;

/// How the owner learns that a CMD_SYNC is complete.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Signal {
    /// The owner reads `CMDQ_CONS`. A wake-up event (SIG_SEV) is handled the
    /// same way, since `IDR0.SEV` is 0.
    #[default]
    None,
    /// By the wired interrupt. With `IDR0.MSI`, this happens only when the
    /// command has no message address.
    Wire,
    /// By a message to this address.
    Message(u64),
}

/// What kind of commands were consumed after the last CMD_SYNC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinceSync {
    /// No command. A CMD_SYNC that comes now is sent for the sake of its
    /// events.
    Nothing,
    /// Only TLBIs.
    OnlyTlbi,
    /// At least one command that is no TLBI.
    Other,
}

impl SinceSync {
    /// Notes that a TLBI was consumed.
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
    /// The value of `CMDQ_CONS.RD` when it is complete.
    after: u32,
    data: u32,
    signal: Signal,
}

impl<P: Platform, Y: Physical> CommandRun<'_, P, Y> {
    /// Takes the CMD_SYNC at `CMDQ_CONS` and defers it.
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

    /// Issues an ordering CMD_SYNC, so that later commands run after the
    /// deferred CMD_SYNCs.
    #[inline]
    pub(crate) fn keep_sync_order(&mut self) -> Result<(), Stop> {
        if self.queue.deferred_count != self.queue.ordered_count {
            self.queue.ordered_count = self.queue.deferred_count;
            self.issue(Command::sync(SIG_NONE))?;
        }
        Ok(())
    }

    /// Completes all deferred CMD_SYNCs. On an error none of them was
    /// signalled, and `CMDQ_CONS` names the first.
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
                // Linux polls a word of the CMD_SYNC itself.
                if let Some(offset) = self.offset_in_queue(address) {
                    // CMDQ_CONS must be visible before the word (3.18).
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

    /// The offset of `address` in the command queue, if it lies there.
    /// Addresses are multiples of 4.
    #[inline]
    fn offset_in_queue(&self, address: u64) -> Option<u64> {
        let range = self.window.range();
        let offset = address.wrapping_sub(range.start().raw());
        (offset < range.size()).then_some(offset)
    }

    /// Lets the physical SMMU complete `sync` by a message. `false` means that
    /// nothing was done.
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

    /// Waits until all issued commands are complete. An error of an earlier
    /// wait that no CMD_SYNC has reported is returned here.
    pub(crate) fn wait(&mut self) -> Result<(), Stop> {
        let result = self.physical.finish();
        // A device that answers CMD_ATC_INV slowly makes each wait long.
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

    /// Shows `CMDQ_CONS`. The caller has made sure that no message is in flight
    /// that could overtake it.
    #[inline]
    fn show_cons(&mut self, cons: u32) {
        if self.queue.shown_cons != cons {
            self.queue.shown_cons = cons;
            self.platform.show(reg::CMDQ_CONS, cons);
        }
    }

    /// Shows at the end of a run which commands were consumed. An error that
    /// belongs to no CMD_SYNC is kept for the next one.
    #[inline]
    pub(crate) fn show_consumed(&mut self) -> Result<(), Stop> {
        if self.queue.shown_cons == self.queue.cons {
            return Ok(());
        }
        self.wait_for_messages()?;
        self.show_cons(self.queue.cons);
        Ok(())
    }

    /// Waits until no message of the physical SMMU is in flight.
    pub(crate) fn wait_for_messages(&mut self) -> Result<(), Stop> {
        if !self.queue.message_in_flight {
            self.physical.kick();
            return Ok(());
        }
        match self.wait() {
            Err(Stop::Refused(error)) => {
                self.queue.unreported_error = Some(error);
                // The fast path reports no error, so it must not be taken next,
                // even right after a CMD_SYNC.
                self.queue.since_sync = SinceSync::Other;
                Ok(())
            }
            other => other,
        }
    }
}

/// A CMD_SYNC whose completion is a word stored to the command queue.
pub(crate) struct SyncWord {
    /// The value of `CMDQ_CONS.RD` when it is complete.
    pub(crate) after: u32,
    /// The offset of the word in the queue, in bytes.
    pub(crate) offset: u64,
    pub(crate) data: u32,
}

/// Lets the physical SMMU complete a CMD_SYNC by a message. `false` means that
/// nothing was done and that the caller has to wait.
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
    // The CMD_SYNC has to report this error. Only an ATC invalidation can fail
    // without a fence. It is no TLBI, so its CMD_SYNC waits for events and does
    // not come here.
    if queue.unreported_error.is_some() {
        return Ok(false);
    }
    // When more than half of the queue is not known to be complete, the owner
    // may be waiting for room, and `CMDQ_CONS` must not be late.
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

/// Reports that the message of a CMD_SYNC could not be stored (7.2).
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
