//! Carrying the owner's streams over in steps: what is set, in which order, and
//! that nothing is lost.
#![allow(missing_docs)]

mod common;

use common::{Act, CONFIG, Machine, RAM, features};
use smmuv3_driver::Error;
use smmuv3_emulator::{Counts, Failure, Ids, Physical, RangeConfig, StreamConfig, StreamUpdates};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{Gbpa, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::Ste;
use std::collections::BTreeMap;

const TABLE: u64 = RAM + 0x10_0000;
const LEAF: u64 = RAM + 0x20_0000;
/// V, Config 0b101, S1ContextPtr; V, Config 0b100; V, Config 0b000.
const STAGE1: u64 = 0b1011 | 0x4000_0000;
const BYPASS: u64 = 0b1001;
const ABORT: u64 = 1;

struct Side {
    machine: Machine,
    updates: StreamUpdates,
    counts: Counts,
    ids: Ids,
    /// What each stream has.
    has: BTreeMap<u32, StreamConfig>,
}

impl Side {
    fn new(streams: &[(u32, u32)]) -> Self {
        let mut machine = Machine::new();
        machine.physical.streams = streams.to_vec();
        Self {
            machine,
            updates: StreamUpdates::new(),
            counts: Counts::default(),
            ids: Ids::derive(&features(), &CONFIG),
            has: BTreeMap::new(),
        }
    }

    fn entry(&self, stream: u32, word: u64) {
        self.machine
            .board
            .write64(TABLE + u64::from(stream) * 64, word);
    }

    fn linear(&mut self, log2: u32) {
        self.updates
            .enable(StrtabBase::from(TABLE), StrtabBaseCfg::from(log2));
    }

    fn two_levels(&mut self) {
        let cfg = StrtabBaseCfg::from(1 << 16 | 6 << 6 | 16);
        self.updates.enable(StrtabBase::from(TABLE), cfg);
    }

    /// One step; what is left of the budget.
    fn try_step(&mut self, budget: u32) -> Result<(bool, u32), Failure> {
        let mut left = budget;
        let stride = self.machine.physical.stride;
        let result = self.updates.run(
            &self.ids,
            &self.machine.board,
            &mut self.machine.physical,
            &mut left,
            &mut self.counts,
        );
        for act in self.machine.board.log.borrow().iter() {
            match act {
                Act::Set(stream, wanted) => {
                    self.has.insert(*stream, *wanted);
                }
                Act::SetRange(first, last, same) => {
                    let end = (*last).min(first.saturating_add(stride - 1));
                    for stream in *first..=end {
                        if self.machine.physical.stream(StreamId(stream)).is_some() {
                            self.has.insert(stream, same.for_one_stream());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok((result?, left))
    }

    fn step(&mut self, budget: u32) -> bool {
        self.try_step(budget).unwrap().0
    }

    /// Steps of this budget until nothing is left; how many.
    fn finish(&mut self, budget: u32) -> u32 {
        for steps in 1..10_000 {
            if self.step(budget) {
                return steps;
            }
        }
        panic!("never done");
    }

    fn take(&self) -> Vec<Act> {
        self.machine.take()
    }
}

fn stage1(stream: u32) -> StreamConfig {
    let _ = stream;
    StreamConfig::Stage1(Ste([STAGE1, 0, 0, 0, 0, 0, 0, 0]))
}

fn bypass() -> RangeConfig {
    RangeConfig::Bypass(Ste([BYPASS, 0, 0, 0, 0, 0, 0, 0]))
}

#[test]
fn nothing_is_left_at_first() {
    let mut side = Side::new(&[(8, 15)]);
    assert!(side.updates.is_done());
    assert!(side.step(0));
    side.updates.invalidate(StreamId(0), StreamId(u32::MAX));
    assert!(side.step(0));
    assert!(side.take().is_empty());
    assert!(side.updates.table(&side.ids).is_none());
}

/// Neighbours with the same go together; only the owner's streams are touched.
#[test]
fn runs_of_streams() {
    let mut side = Side::new(&[(8, 15), (0x20, 0x20)]);
    for (stream, word) in [
        (7, STAGE1),
        (8, BYPASS),
        (9, BYPASS),
        (10, STAGE1),
        (11, STAGE1),
        (12, ABORT),
        (13, 0),
        (14, 0),
        (15, 0),
        (16, STAGE1),
    ] {
        side.entry(stream, word);
    }
    side.linear(5);
    assert_eq!(side.try_step(256).unwrap(), (true, 256 - 8 - 1 - 8));
    assert_eq!(
        side.take(),
        [
            Act::SetRange(8, 9, bypass()),
            Act::Set(10, stage1(10)),
            Act::Set(11, stage1(11)),
            Act::Set(12, StreamConfig::Abort),
            Act::SetRange(13, 15, RangeConfig::Invalid),
            // Beyond the table.
            Act::SetRange(0x20, 0x20, RangeConfig::Invalid),
        ]
    );
    assert_eq!(side.counts.entries_read, 8);
}

/// Whatever the budget, every stream ends with what it should have, and each
/// has until then what it had.
#[test]
fn any_budget_leads_to_the_same() {
    for budget in [1, 2, 3, 7, 256] {
        for stride in [1, 3, u32::MAX] {
            let mut side = Side::new(&[(8, 40), (64, 70), (0x200, 0x2ff)]);
            side.machine.physical.stride = stride;
            for stream in 0..128 {
                let word = [STAGE1, BYPASS, BYPASS, 0, 0, ABORT][stream as usize % 6];
                side.entry(stream, word);
            }
            side.linear(7);
            let steps = side.finish(budget);
            assert!(budget < 256 || steps < 100);
            for stream in (8..=40).chain(64..=70).chain(0x200..=0x2ff) {
                let expected = match stream % 6 {
                    _ if stream > 127 => StreamConfig::Invalid,
                    0 => stage1(stream),
                    1 | 2 => bypass().for_one_stream(),
                    3 | 4 => StreamConfig::Invalid,
                    _ => StreamConfig::Abort,
                };
                assert_eq!(side.has.get(&stream), Some(&expected), "{stream}");
            }
            assert_eq!(side.has.len(), 33 + 7 + 256);
        }
    }
}

/// A change that is announced while earlier work is unfinished is carried over
/// too, also behind the place where that is.
#[test]
fn nothing_announced_is_lost() {
    let mut side = Side::new(&[(0, 63)]);
    for stream in 0..64 {
        side.entry(stream, STAGE1);
    }
    side.linear(6);
    assert!(!side.step(20));
    assert_eq!(side.has.len(), 20);
    side.entry(3, ABORT);
    side.entry(60, ABORT);
    side.updates.invalidate(StreamId(3), StreamId(3));
    side.finish(5);
    assert_eq!(side.has[&3], StreamConfig::Abort);
    assert_eq!(side.has[&60], StreamConfig::Abort);
    assert_eq!(side.has[&2], stage1(2));
    assert_eq!(side.has.len(), 64);
    // One stream alone takes 1.
    side.take();
    side.updates.invalidate(StreamId(9), StreamId(9));
    assert_eq!(side.try_step(1).unwrap(), (true, 0));
    assert_eq!(side.take(), [Act::Set(9, stage1(9))]);
    // Somebody else's takes nothing.
    side.updates.invalidate(StreamId(64), StreamId(64));
    assert_eq!(side.try_step(0).unwrap(), (true, 0));
    assert!(side.take().is_empty());
}

#[test]
fn disabling_takes_the_place_of_everything() {
    let mut side = Side::new(&[(0, 63), (0x1_0000, 0x1_ffff)]);
    for stream in 0..64 {
        side.entry(stream, STAGE1);
    }
    side.linear(6);
    assert!(!side.step(10));
    side.updates.disable(Gbpa::from(1 << 20));
    side.take();
    side.finish(1);
    assert_eq!(
        side.take(),
        [
            Act::SetRange(0, 63, RangeConfig::Abort),
            Act::SetRange(0x1_0000, 0x1_ffff, RangeConfig::Abort)
        ]
    );
    // The table does not count.
    side.updates.invalidate(StreamId(0), StreamId(63));
    assert!(side.updates.is_done());
    // Off again with something else before that is done.
    side.updates.disable(Gbpa::from(1 << 20));
    side.updates.disable(Gbpa::from(0));
    side.finish(256);
    assert_eq!(side.has[&5], bypass().for_one_stream());
    assert!(
        side.has
            .values()
            .all(|wanted| *wanted == bypass().for_one_stream())
    );
}

/// Descriptors without entries cost one each, whatever they stand for, and
/// those that lead outside of memory count as such.
#[test]
fn empty_leaves_are_skipped() {
    let mut side = Side::new(&[(0, 0xffff)]);
    side.machine.board.write64(TABLE + 8, LEAF | 1);
    side.machine.board.write64(LEAF, STAGE1);
    side.machine.board.write64(TABLE + 24, 0x10_0000_0000 | 7);
    side.two_levels();
    let steps = side.finish(256);
    assert!(steps < 20, "{steps}");
    assert_eq!(side.has[&64], stage1(64));
    assert!(
        side.has
            .iter()
            .all(|(stream, wanted)| *stream == 64 || *wanted == StreamConfig::Invalid)
    );
    assert_eq!(side.has.len(), 0x1_0000);
    // A descriptor that changed: all of its streams, and no other.
    side.machine.board.write64(TABLE + 8, LEAF | 7);
    side.machine.board.write64(LEAF + 63 * 64, BYPASS);
    side.take();
    side.updates.invalidate_descriptor(&side.ids, StreamId(70));
    side.finish(256);
    assert_eq!(
        side.take(),
        [
            Act::Set(64, stage1(64)),
            Act::SetRange(65, 126, RangeConfig::Invalid),
            Act::Set(127, bypass().for_one_stream()),
        ]
    );
}

/// A stream that cannot have what it should is passed over.
#[test]
fn failures() {
    let refused = |stream| Failure::Stream {
        stream: StreamId(stream),
        error: Error::NoMemory { bytes: 4096 },
    };
    let mut side = Side::new(&[(8, 15)]);
    side.entry(8, STAGE1);
    side.linear(5);
    side.machine.physical.sets = vec![refused(8), refused(11)];
    assert!(side.step(256));
    assert_eq!(
        side.take(),
        [
            Act::Set(8, stage1(8)),
            Act::SetRange(9, 15, RangeConfig::Invalid),
            Act::SetRange(12, 15, RangeConfig::Invalid),
        ]
    );
    assert_eq!(side.counts.streams_refused, 2);
    // A fenced SMMU ends it, and the same is left.
    side.updates.invalidate(StreamId(8), StreamId(15));
    let fenced = Failure::Fenced(Error::Fenced);
    side.machine.physical.sets = vec![fenced];
    assert_eq!(side.try_step(256), Err(fenced));
    assert!(!side.updates.is_done());
    side.take();
    assert!(side.step(256));
    assert_eq!(side.take()[0], Act::Set(8, stage1(8)));
}
