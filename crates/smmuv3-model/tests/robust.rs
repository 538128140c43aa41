//! No bytes make the model panic: registers, memory and traffic at random.
#![allow(missing_docs)]

use proptest::prelude::*;
use smmuv3_model::{Access, Mode, Policy, Profile, Smmu, Transaction};
use smmuv3_spec::{StreamId, reg};
use std::ops::Range;

const RAM: Range<u64> = 0x8000_0000..0x8001_0000;

#[derive(Clone, Debug)]
enum Step {
    Write32(u32, u32),
    Write64(u32, u64),
    Read32(u32),
    Read64(u32),
    Store(u64, u64),
    Publish(u64, u64),
    Dma(u32, u64),
    Check,
}

struct Anything;

impl Policy for Anything {
    fn first_forbidden(&self, _: StreamId, range: Range<u64>, write: bool) -> Option<u64> {
        write.then_some(range.start)
    }
    fn first_foreign(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => prop::sample::select(vec![
            reg::CR0, reg::CR0ACK, reg::GBPA, reg::STRTAB_BASE, reg::STRTAB_BASE_CFG,
            reg::CMDQ_BASE, reg::CMDQ_PROD, reg::CMDQ_CONS, reg::EVENTQ_BASE, reg::EVENTQ_PROD,
            reg::EVENTQ_CONS, reg::GERRORN, reg::CR2, reg::IRQ_CTRL, reg::IRQ_CTRLACK,
        ]),
        1 => any::<u32>(),
    ]
}

/// Often an address in memory, often with small fields.
fn value() -> impl Strategy<Value = u64> {
    let inside = (RAM.start..RAM.end, 0..64u64).prop_map(|(at, low)| (at & !0xfff) | low);
    // A stage 2 that is legal, commands, and anything.
    let stage2 = (0..16u64).prop_map(|v| v | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51);
    prop_oneof![3 => inside, 2 => stage2, 2 => 0..0x80u64, 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let at = prop_oneof![8 => (RAM.start..RAM.end).prop_map(|at| at & !7), 1 => any::<u64>()];
    prop_oneof![
        3 => (offset(), value()).prop_map(|(o, v)| Step::Write32(o, v as u32)),
        2 => (offset(), value()).prop_map(|(o, v)| Step::Write64(o, v)),
        3 => offset().prop_map(Step::Read32),
        1 => offset().prop_map(Step::Read64),
        6 => (at.clone(), value()).prop_map(|(a, v)| Step::Store(a, v)),
        1 => (at, any::<u64>()).prop_map(|(a, b)| Step::Publish(a, b)),
        2 => (0..300u32, any::<u64>()).prop_map(|(s, a)| Step::Dma(s, a)),
        1 => Just(Step::Check),
    ]
}

proptest! {
    #[test]
    fn nothing_panics(
        profile in prop::sample::select(vec![
            Profile::qemu(), Profile::minimal(), Profile::full(),
        ]),
        mode in prop::sample::select(vec![
            Mode::Plain, Mode::Greedy { seed: 1 }, Mode::Random { seed: u64::MAX },
        ]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let streams = [0, 1, 64, 255, u32::MAX].map(StreamId);
        let mut smmu = Smmu::new(profile, std::iter::once(RAM), mode, streams);
        for step in steps {
            match step {
                Step::Write32(offset, value) => smmu.write32(offset, value),
                Step::Write64(offset, value) => smmu.write64(offset, value),
                Step::Read32(offset) => {
 let _ = smmu.read32(offset);
},
                Step::Read64(offset) => {
 let _ = smmu.read64(offset);
},
                Step::Store(at, value) => {
 let _ = smmu.store(at, value);
},
                Step::Publish(at, bytes) => smmu.publish(at, bytes),
                Step::Dma(stream, address) => {
                    let access = [Access::Read, Access::Write, Access::Execute];
                    let access = access[(address % 3) as usize];
                    let _ = smmu.translate(Transaction::new(StreamId(stream), address, access));
                }
                Step::Check => {
 let _ = smmu.check(&Anything);
},
            }
        }
    }
}
