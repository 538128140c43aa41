//! Transactions that wait for software (IHI 0070, 3.12.2, 4.7.1, 4.7.2, 5.5,
//! 7.2).
//!
//! `IDR5.STALL_MAX` promises how many there can be at most; nothing here holds
//! devices to it.

use crate::dma::{Done, Payload, Refusal, Transaction};
use crate::smmu::Smmu;
use smmuv3_spec::StreamId;
use smmuv3_spec::event::EventRecord;
use std::collections::BTreeMap;

/// A transaction that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    transaction: Transaction,
    payload: Payload,
    /// Software was told.
    recorded: bool,
}

/// A transaction that waited, and how it went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// What the device did.
    pub transaction: Transaction,
    /// Its last tag.
    pub stag: u16,
    /// What came of it.
    pub outcome: Result<Done, Refusal>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    waiting: BTreeMap<(StreamId, u16), Waiting>,
    completed: Vec<Completed>,
    next: u16,
}

impl Stalls {
    /// A tag that nobody has, whatever the stream.
    fn tag(&mut self) -> Option<u16> {
        let taken = |tag: u16| self.waiting.keys().any(|(_, other)| *other == tag);
        let free = (0..=u16::MAX).map(|n| self.next.wrapping_add(n));
        let tag = free.take(self.waiting.len() + 1).find(|tag| !taken(*tag))?;
        self.next = tag.wrapping_add(1);
        Some(tag)
    }
}

impl Smmu {
    /// Keeps a transaction. Without a free tag it aborts, which an SMMU may do
    /// instead of stalling (3.12).
    pub(crate) fn stall(
        &mut self,
        t: Transaction,
        payload: Payload,
        record: EventRecord,
    ) -> Refusal {
        let Some(stag) = self.stalled.tag() else {
            self.record(record);
            return Refusal::Event(record);
        };
        let record = record.with_stall(true).with_stag(stag);
        // Its record is not lost, and causes no overflow: without room it is
        // written later, by a retry (7.2, 7.4).
        let recorded = self.event_room();
        if recorded {
            self.record(record);
        }
        let waiting = Waiting {
            transaction: t,
            payload,
            recorded,
        };
        self.stalled.waiting.insert((t.stream, stag), waiting);
        Refusal::Stalled(record)
    }

    /// Retries what stalled without a record, once the queue has room. To be
    /// called when `EVENTQ_CONS` or `CR0` changed.
    pub(crate) fn retry_unrecorded(&mut self) {
        let all = self.stalled.waiting.iter();
        let unrecorded = all.filter(|(_, waiting)| !waiting.recorded);
        let keys: Vec<(StreamId, u16)> = unrecorded.map(|(key, _)| *key).collect();
        for (stream, stag) in keys {
            if self.event_room() {
                self.retry(stream, stag);
            }
        }
    }

    fn retry(&mut self, stream: StreamId, stag: u16) {
        let Some(waiting) = self.stalled.waiting.remove(&(stream, stag)) else {
            return;
        };
        let outcome = self.perform(waiting.transaction, waiting.payload);
        // As though it had just arrived, it may stall again, with a new tag.
        if !matches!(outcome, Err(Refusal::Stalled(_))) {
            self.finish(waiting, stag, outcome);
        }
    }

    fn finish(&mut self, waiting: Waiting, stag: u16, outcome: Result<Done, Refusal>) {
        self.stalled.completed.push(Completed {
            transaction: waiting.transaction,
            stag,
            outcome,
        });
    }

    /// CMD_RESUME (4.7.1): retries or ends the transaction with this stream
    /// and tag; `abort` says how it ends. Without such a transaction nothing
    /// happens.
    pub(crate) fn resume(&mut self, stream: StreamId, stag: u16, retry: bool, abort: bool) {
        if retry {
            self.retry(stream, stag);
        } else if let Some(waiting) = self.stalled.waiting.remove(&(stream, stag)) {
            let abort = abort || self.profile.idr0.term_model();
            let refusal = if abort {
                Refusal::Silent
            } else {
                Refusal::Ignored(None)
            };
            self.finish(waiting, stag, Err(refusal));
        }
    }

    /// CMD_STALL_TERM (4.7.2): every waiting transaction of the stream aborts.
    pub(crate) fn stall_term(&mut self, stream: StreamId) {
        self.abort_stalled(|other| other == stream);
    }

    /// Translation was switched off: whatever waits aborts (6.3.9.6).
    pub(crate) fn end_stalls_if_off(&mut self) {
        if !self.enabled().smmuen() {
            self.abort_stalled(|_| true);
        }
    }

    fn abort_stalled(&mut self, which: impl Fn(StreamId) -> bool) {
        let keys = self.stalled.waiting.keys();
        let keys: Vec<(StreamId, u16)> =
            keys.filter(|(stream, _)| which(*stream)).copied().collect();
        for key in keys {
            if let Some(waiting) = self.stalled.waiting.remove(&key) {
                self.finish(waiting, key.1, Err(Refusal::Silent));
            }
        }
    }

    /// Streams and tags of the transactions that wait.
    #[must_use]
    pub fn stalled(&self) -> Vec<(StreamId, u16)> {
        self.stalled.waiting.keys().copied().collect()
    }

    /// The transactions that had stalled and came to an end since the last
    /// call.
    pub fn take_completed(&mut self) -> Vec<Completed> {
        std::mem::take(&mut self.stalled.completed)
    }
}
