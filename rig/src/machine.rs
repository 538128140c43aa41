//! The machine that the code under test runs on: the model behind the seams,
//! with one deliberate mistake in between if asked for.

use crate::finding::Finding;
use crate::map::{OLD, OTHER, POOL, RAM, SPARE, STREAMS};
use crate::mutant::Mutant;
use smmuv3_model::{Mode, Policy, Profile, Smmu};
use smmuv3_spec::command::Command;
use smmuv3_spec::control::QueueBase;
use smmuv3_spec::{StreamId, reg};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

/// What each stream may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) streams: BTreeMap<u32, Vec<Range<u64>>>,
}

pub(crate) struct Machine {
    pub(crate) smmu: RefCell<Smmu>,
    pub(crate) live: RefCell<BTreeMap<u64, u64>>,
    pub(crate) time: Cell<u64>,
    pub(crate) mutant: Mutant,
    pub(crate) held: RefCell<Vec<(u64, u64)>>,
    /// First word of a command whose second is still to come.
    pub(crate) half: Cell<Option<(u64, u64)>>,
    pub(crate) finding: Cell<Option<Finding>>,
    /// What holds between operations, and during the one under way.
    pub(crate) allowed: RefCell<Allowed>,
    pub(crate) armed: Cell<bool>,
    /// The driver changes the stream table.
    pub(crate) in_driver: Cell<bool>,
}

struct Rules<'a> {
    allowed: &'a Allowed,
    live: &'a BTreeMap<u64, u64>,
}

impl Policy for Rules<'_> {
    fn first_forbidden(&self, stream: StreamId, range: Range<u64>, _write: bool) -> Option<u64> {
        let allowed = self.allowed.streams.get(&stream.0);
        let mut at = range.start;
        // Ranges are ascending and disjoint.
        for ok in allowed.into_iter().flatten() {
            if ok.start <= at && at < ok.end {
                at = ok.end;
            }
        }
        (at < range.end).then_some(at)
    }

    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let block = self.live.range(..=range.start).next_back();
        let covered = block.is_some_and(|(start, size)| start + size >= range.end);
        (!covered).then_some(range.start)
    }
}

impl Machine {
    pub(crate) fn new(profile: Profile, mode: Mode, mutant: Mutant) -> Self {
        let streams = (0..STREAMS).map(|n| StreamId(n * 5));
        Self {
            smmu: RefCell::new(Smmu::new(
                profile,
                [RAM, POOL, OTHER, SPARE, OLD],
                mode,
                streams,
            )),
            live: RefCell::default(),
            time: Cell::new(0),
            mutant,
            held: RefCell::default(),
            half: Cell::new(None),
            finding: Cell::new(None),
            allowed: RefCell::default(),
            armed: Cell::new(false),
            in_driver: Cell::new(false),
        }
    }

    pub(crate) fn find(&self, finding: Finding) {
        if self.finding.get().is_none() {
            self.finding.set(Some(finding));
        }
    }

    /// Asks the oracle.
    pub(crate) fn check(&self) {
        if !self.armed.get() || self.finding.get().is_some() {
            return;
        }
        let (allowed, live) = (self.allowed.borrow(), self.live.borrow());
        let rules = Rules {
            allowed: &allowed,
            live: &live,
        };
        let mut smmu = self.smmu.borrow_mut();
        if let Err(violation) = smmu.check(&rules) {
            self.find(Finding::Violation(violation));
        }
        if let Some(misuse) = smmu.take_misuse().first() {
            self.find(Finding::Misuse(*misuse));
        }
    }

    /// The ring of the command queue.
    pub(crate) fn commands(&self) -> Range<u64> {
        let base = QueueBase::from(self.smmu.borrow_mut().read64(reg::CMDQ_BASE));
        let at = base.addr_5() << 5;
        at..at + (Command::SIZE << base.log2size())
    }

    pub(crate) fn raw_store(&self, at: u64, value: u64) {
        let done = self.smmu.borrow_mut().store(at, value);
        assert!(done, "store outside memory at {at:#x}");
    }

    pub(crate) fn command_store(&self, at: u64, value: u64) {
        // The first word is stored first; a mutant may want both at once.
        if at.is_multiple_of(16) {
            self.half.set(Some((at, value)));
            return;
        }
        let Some((first, word)) = self.half.take() else {
            return self.raw_store(at, value);
        };
        let command = self.mutant.command(Command([word, value]));
        self.raw_store(first, command.0[0]);
        self.raw_store(at, command.0[1]);
    }
}
