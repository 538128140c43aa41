//! The events that an SMMU recorded and the driver has not read yet.

use smmuv3_driver::Drained;
use smmuv3_spec::event::EventRecord;
use std::collections::VecDeque;

#[derive(Default)]
pub(crate) struct Recorded {
    records: VecDeque<EventRecord>,
    lost: bool,
}

impl Recorded {
    pub(crate) fn note(&mut self, record: EventRecord, kept: bool, lost: bool) {
        if kept {
            self.records.push_back(record);
        }
        self.lost |= lost;
    }

    /// The queue starts anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Compares what was read with what there was, and forgets it. The number
    /// of the first event that differs.
    pub(crate) fn check(&mut self, read: &[EventRecord], drained: Drained) -> Result<(), usize> {
        for (number, record) in read.iter().enumerate() {
            if self.records.pop_front() != Some(*record) {
                return Err(number);
            }
        }
        let lost = std::mem::take(&mut self.lost);
        let fine = drained.events as usize == read.len()
            && drained.more != self.records.is_empty()
            && drained.overflowed == lost
            && !drained.inconsistent;
        if fine { Ok(()) } else { Err(read.len()) }
    }
}
