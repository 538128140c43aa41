//! No bytes make a walk panic or run for ever: entries, context descriptors
//! and tables full of anything, with loops.
#![allow(missing_docs)]

use proptest::prelude::*;
use smmuv3_model::{Access, Mode, Profile, Smmu, Transaction};
use smmuv3_spec::{StreamId, reg};
use std::ops::Range;

const RAM: Range<u64> = 0x8000_0000..0x8001_0000;

/// Anything, or a pointer into memory with bits that make it a table, a page,
/// or a block of any granule; AP, AF, DBM and the limits at random.
fn descriptor() -> impl Strategy<Value = u64> {
    let pointer = (0..16u64, any::<u64>(), 0..4u64).prop_map(|(page, flags, low)| {
        RAM.start | page << 12 | flags & 0x7ff8_0000_0000_0fc0 | low
    });
    prop_oneof![8 => pointer, 1 => any::<u64>(), 1 => Just(0)]
}

/// An entry that often is legal.
fn entry() -> impl Strategy<Value = [u64; 8]> {
    let word0 = (
        0..8u64,
        0..4u64,
        0..16u64,
        prop_oneof![Just(0u64), 0..22u64],
    )
        .prop_map(|(config, format, page, max)| {
            1 | config << 1 | format << 4 | RAM.start | page << 12 | max << 59
        });
    let sizes = prop_oneof![Just(24u64), Just(16), 12..50u64];
    let word2 =
        (sizes, 0..4u64, 0..4u64, 0..8u64, any::<u8>()).prop_map(|(size, sl0, tg, ps, f)| {
            size << 32 | sl0 << 38 | tg << 46 | ps << 48 | 1 << 51 | u64::from(f & 0x7f) << 53
        });
    let word3 = (0..16u64).prop_map(|page| RAM.start | page << 12);
    (
        word0,
        any::<u64>(),
        word2,
        word3,
        any::<[u64; 4]>(),
        0..9usize,
    )
        .prop_map(|(w0, w1, w2, w3, rest, spoilt)| {
            let mut words = [w0, w1, w2, w3, 0, 0, 0, 0];
            if let Some(word) = words.get_mut(spoilt) {
                *word = rest[spoilt % 4];
            }
            words
        })
}

/// A context descriptor that often is legal.
fn context() -> impl Strategy<Value = [u64; 8]> {
    let size = || prop_oneof![Just(25u64), Just(16), 10..52u64];
    (
        size(),
        0..4u64,
        size(),
        0..4u64,
        0..8u64,
        any::<u64>(),
        0..16u64,
    )
        .prop_map(|(t0, g0, t1, g1, ips, flags, page)| {
            let low = t0 | g0 << 6 | t1 << 16 | g1 << 22 | 1 << 31 | ips << 32 | 1 << 41;
            let ttb = RAM.start | page << 12 | flags & 0x7;
            [low | flags & 0x7d78_4000_0000, ttb, ttb, flags, 0, 0, 0, 0]
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_tables_make_it_panic(
        profile in prop::sample::select(Profile::ALL.to_vec()),
        wide in any::<bool>(),
        entry in entry(),
        contexts in prop::collection::vec(context(), 1..4),
        tables in prop::collection::vec(descriptor(), 32),
        accesses in prop::collection::vec(
            (any::<u64>(), 0..3usize, any::<bool>(), prop::option::of(0..70u32), any::<u16>()),
            1..12,
        ),
    ) {
        let mut profile = profile;
        if wide {
            profile.idr5 = profile.idr5.with_oas(6).with_vax(1);
        }
        let stream = StreamId(1);
        let mut smmu = Smmu::new(profile, std::iter::once(RAM), Mode::Plain, [stream]);
        // Every page is made of the same descriptors: tables lead into tables.
        for at in RAM.step_by(8) {
            let word = tables[(at >> 3) as usize % tables.len()];
            smmu.ram_mut().settle(at, word);
        }
        for (n, context) in contexts.iter().enumerate() {
            for page in 0..16 {
                let at = RAM.start + page * 0x1000 + n as u64 * 64;
                for (word, value) in (0..).zip(context) {
                    smmu.ram_mut().settle(at + word * 8, *value);
                }
            }
        }
        let table = RAM.start + 0xf000;
        for (word, value) in (0..).zip(entry) {
            smmu.ram_mut().settle(table + 64 + word * 8, value);
        }
        smmu.write64(reg::STRTAB_BASE, table);
        smmu.write32(reg::STRTAB_BASE_CFG, 2);
        smmu.write64(reg::EVENTQ_BASE, (RAM.start + 0xe000) | 2);
        smmu.write32(reg::CR2, 0b10);
        smmu.write32(reg::CR0, 0b101);
        for _ in 0..4 {
            smmu.read32(reg::CR0ACK);
        }
        for (address, kind, privileged, substream, small) in accesses {
            for address in [address, small.into(), address >> 20, !u64::from(small)] {
                let t = Transaction {
                    stream,
                    substream,
                    address,
                    access: [Access::Read, Access::Write, Access::Execute][kind],
                    privileged,
                };
                let trace = smmu.trace(t);
                let result = smmu.translate(t);
                // The trace is the same walk.
                match &result {
                    Ok(at) => prop_assert_eq!(trace.outcome.clone(), format!("output {at:#x}")),
                    Err(_) => prop_assert!(!trace.outcome.starts_with("output")),
                }
                prop_assert!(trace.steps.len() < 200);
                let _ = trace.to_string();
                let _ = smmu.write(t, 0x1234_5678);
                smmu.write32(reg::EVENTQ_CONS, small.into());
            }
        }
        smmu.write32(reg::CR0, 0);
        let _ = smmu.take_completed();
    }
}
