//! One case: what memory and registers hold, and what happens then.

use crate::layout;
use std::collections::BTreeMap;

/// What the SMMU is set up with, and what it is then put through.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// `STRTAB_BASE`.
    pub table: u64,
    /// `STRTAB_BASE_CFG`.
    pub table_config: u32,
    /// `CR2`.
    pub cr2: u32,
    /// log2 of the records that the event queue holds.
    pub event_log2: u32,
    /// log2 of the commands that the command queue holds.
    pub command_log2: u32,
    /// Records are taken from the event queue after every step. Else it fills.
    pub drain: bool,
    /// Where the event queue starts, wrap bit included.
    pub event_start: u32,
    /// Where the command queue starts, wrap bit included.
    pub command_start: u32,
    /// Memory other than zero before the first step, by address.
    pub words: BTreeMap<u64, u64>,
    /// Addresses of the entries of streams, for those that read a report.
    pub entries: BTreeMap<u32, u64>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One thing that happens. Compared after each.
#[derive(Clone, Debug)]
pub enum Step {
    /// A device reads or writes 32 bits.
    Access(Access),
    /// The CPU stores these words.
    Store(Vec<(u64, u64)>),
    /// The CPU puts commands into the queue and publishes them.
    Commands(Vec<[u64; 2]>),
    /// The CPU acknowledges all global errors.
    Acknowledge,
}

/// An access of 4 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Index in [`DEVICES`](crate::machine::DEVICES).
    pub device: usize,
    /// What the device puts on the bus.
    pub address: u64,
    /// The value that is written; `None` reads.
    pub write: Option<u32>,
    /// Where it would land if all went well, as far as the case's author knows:
    /// looked at after a write that did not get through.
    pub lands: Option<u64>,
}

impl Case {
    /// Whether `STRTAB_BASE_CFG` says two-level.
    #[must_use]
    pub fn two_level(&self) -> bool {
        self.table_config >> 16 & 0b11 == 1
    }

    /// Whether some entry enables stage 2 with `S2AA64` clear, at any time: QEMU
    /// ends itself on meeting one.
    #[must_use]
    pub fn ends_qemu(&self) -> bool {
        (0..=self.steps.len()).any(|step| {
            let memory = self.memory_before(step);
            let word = |at| memory.get(&at).copied().unwrap_or(0);
            self.entries
                .values()
                .any(|at| word(*at) & 0b1101 == 0b1101 && word(at + 16) >> 51 & 1 == 0)
        })
    }

    /// All words that memory holds at some time, with what they hold last
    /// before step `at`.
    #[must_use]
    pub fn memory_before(&self, at: usize) -> BTreeMap<u64, u64> {
        let mut words = self.words.clone();
        for step in &self.steps[..at.min(self.steps.len())] {
            if let Step::Store(stores) = step {
                words.extend(stores.iter().copied());
            }
        }
        words
    }
}

/// What can be seen after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// After a read: what the device got, 0 if nothing. After a write: what
    /// memory holds where it went or should have gone.
    pub data: Option<u32>,
    /// The records that were added to the event queue.
    pub events: Vec<[u64; 4]>,
    /// `EVENTQ_PROD`.
    pub produced: u32,
    /// `CMDQ_CONS`, with the error code.
    pub consumed: u32,
    /// Active global errors: `GERROR` exclusive-or `GERRORN`.
    pub errors: u32,
}

/// Where the records between two values of `EVENTQ_PROD` are.
#[must_use]
pub fn new_records(before: u32, after: u32, log2: u32) -> Vec<u64> {
    let mask = (2u32 << log2) - 1;
    let count = (after & mask).wrapping_sub(before & mask) & mask;
    (0..count.min(1 << log2))
        .map(|n| layout::EVENTQ + u64::from((before.wrapping_add(n)) & (mask >> 1)) * 32)
        .collect()
}
