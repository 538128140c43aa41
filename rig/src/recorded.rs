//! The events that an SMMU recorded and the driver has not read yet.

use smmuv3_driver::Drained;
use smmuv3_spec::event::EventRecord;
use std::collections::VecDeque;

#[derive(Default)]
pub(crate) struct Recorded {
    /// What the record must be, where that is known.
    records: VecDeque<Option<EventRecord>>,
    lost: bool,
    /// What the driver saw when it read EVENTQ_PROD last: how many records
    /// there were, and whether some had been lost.
    seen: (usize, bool),
    /// How many were recorded, since the queue started.
    added: u64,
    /// How many of them the driver has read.
    taken: u64,
    /// How many there were before the last CMD_SYNC that is complete.
    due: u64,
}

impl Recorded {
    pub(crate) fn note(&mut self, record: EventRecord, kept: bool, lost: bool) {
        if kept {
            self.records.push_back(Some(record));
            self.added += 1;
        }
        self.lost |= lost;
    }

    /// Some more were recorded, nobody knows what.
    pub(crate) fn flood(&mut self, kept: u64, lost: bool) {
        self.records.extend((0..kept).map(|_| None));
        self.added += kept;
        self.lost |= lost;
    }

    /// A CMD_SYNC is complete. Of what was recorded with it nobody knows whether
    /// that was before.
    pub(crate) fn synced(&mut self) {
        self.due = self.added;
    }

    /// Whether something was recorded before the last CMD_SYNC that is complete,
    /// and is still to be read.
    pub(crate) fn owed(&self) -> bool {
        self.taken < self.due
    }

    /// The driver reads EVENTQ_PROD.
    pub(crate) fn look(&mut self) {
        self.seen = (self.records.len(), self.lost);
    }

    /// The queue starts anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Compares what was read with what there was, and forgets it. The number
    /// of the first event that differs.
    pub(crate) fn check(&mut self, read: &[EventRecord], drained: Drained) -> Result<(), usize> {
        self.taken += read.len() as u64;
        for (number, record) in read.iter().enumerate() {
            match self.records.pop_front() {
                Some(None) => {}
                Some(Some(noted)) if noted == *record => {}
                _ => return Err(number),
            }
        }
        let (count, lost) = self.seen;
        // What was lost since shows the next time, and so do later records.
        self.lost &= !lost;
        let fine = drained.events as usize == read.len()
            && drained.more == (count > read.len())
            && drained.overflowed == lost
            && !drained.inconsistent;
        if fine { Ok(()) } else { Err(read.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Order, loss and what came too late to be seen.
    #[test]
    fn events_are_compared_in_order() {
        let event = |n| EventRecord([n, 0, 0, 0]);
        let drained = |events, overflowed, more| Drained {
            events,
            overflowed,
            more,
            ..Drained::default()
        };
        let mut recorded = Recorded::default();
        for n in 1..=3 {
            recorded.note(event(n), true, false);
        }
        recorded.look();
        recorded.note(event(4), true, false);
        recorded.note(event(5), false, true);
        let read = [event(1), event(2), event(3)];
        assert_eq!(recorded.check(&read, drained(3, false, false)), Ok(()));
        recorded.look();
        assert_eq!(recorded.check(&[event(4)], drained(1, true, false)), Ok(()));
        recorded.note(event(6), true, false);
        recorded.look();
        let other = [event(7)];
        assert_eq!(recorded.check(&other, drained(1, false, false)), Err(0));
    }

    /// What came before a CMD_SYNC is owed until it was read, and no more.
    #[test]
    fn what_came_before_a_sync_is_owed() {
        let mut recorded = Recorded::default();
        let event = EventRecord([1, 0, 0, 0]);
        let drained = |more| Drained {
            events: 1,
            more,
            ..Drained::default()
        };
        recorded.synced();
        recorded.note(event, true, false);
        recorded.flood(1, true);
        assert!(!recorded.owed());
        recorded.synced();
        recorded.flood(1, false);
        recorded.look();
        assert!(recorded.owed());
        let _ = recorded.check(&[event], drained(true));
        assert!(recorded.owed());
        let _ = recorded.check(&[event], drained(true));
        assert!(!recorded.owed());
    }
}
