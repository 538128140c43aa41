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
    let low = prop_oneof![2 => Just(3u64), 1 => 0..4u64];
    // Access flag and permissions mostly there.
    let flags =
        (any::<u64>(), any::<bool>()).prop_map(|(bits, good)| bits | if good { 0x4c0 } else { 0 });
    let pointer = (0..16u64, flags, low).prop_map(|(page, flags, low)| {
        RAM.start | page << 12 | flags & 0x7ff8_0000_0000_0fc0 | low
    });
    prop_oneof![8 => pointer, 1 => any::<u64>(), 1 => Just(0)]
}

/// Sizes, start levels, granules of stage 2 that go together, and any.
fn shape() -> impl Strategy<Value = u64> {
    let legal = prop::sample::select(vec![
        24 | 1 << 6,
        16 | 2 << 6,
        34,
        25 | 1 << 6 | 2 << 14,
        16 | 2 << 6 | 1 << 14,
        24 | 1 << 6 | 1 << 14,
    ]);
    prop_oneof![6 => legal, 1 => 0..0x1_0000u64]
}

/// An entry that often is legal.
fn entry() -> impl Strategy<Value = [u64; 8]> {
    let config = prop_oneof![1 => 0..8u64, 8 => Just(7), 4 => 5..7u64];
    let max = prop_oneof![8 => Just(0u64), 4 => 1..8u64, 1 => 0..32u64];
    let word0 = (config, 0..4u64, 0..8u64, max).prop_map(|(config, format, page, max)| {
        1 | config << 1 | format << 4 | RAM.start | page << 13 | max << 59
    });
    // S1DSS; PRIVCFG and INSTCFG.
    let word1 = (0..4u64, 0..16u64).prop_map(|(dss, cfg)| dss | cfg << 48);
    let word2 = (shape(), 2..8u64, 0..0x40u64)
        .prop_map(|(shape, ps, flags)| shape << 32 | ps << 48 | 1 << 51 | flags << 53);
    let word3 = (0..14u64).prop_map(|page| RAM.start | page << 12);
    let spoilt = prop_oneof![4 => Just(9usize), 1 => 0..8usize];
    (word0, word1, word2, word3, any::<u64>(), spoilt).prop_map(|(w0, w1, w2, w3, junk, spoilt)| {
        let mut words = [w0, w1, w2, w3, 0, 0, 0, 0];
        if let Some(word) = words.get_mut(spoilt) {
            *word = junk;
        }
        words
    })
}

/// A context descriptor that often is legal.
fn context() -> impl Strategy<Value = [u64; 8]> {
    // TxSZ, TG0 and TG1 of the same granule.
    let halves = prop_oneof![
        6 => prop::sample::select(vec![
            (25u64, 0u64, 2u64), (16, 0, 2), (34, 0, 2), (17, 2, 1), (28, 2, 1), (16, 1, 3), (22, 1, 3),
        ]),
        1 => (0..64u64, 0..4u64, 0..4u64),
    ];
    // IPS; EPD0, EPD1; AFFD to PAN, HD to A.
    let flags = any::<u64>().prop_map(|bits| bits & 0x7df8_4000_0000);
    (halves, 2..8u64, flags, 0..16u64, 0..16u64, 0..10u8).prop_map(
        |((size, tg0, tg1), ips, flags, zero, one, invalid)| {
            let valid = u64::from(invalid != 0) << 31;
            let sizes = size | tg0 << 6 | size << 16 | tg1 << 22;
            let word0 = sizes | valid | ips << 32 | 1 << 41 | flags;
            let (ttb0, ttb1) = (RAM.start | zero << 12, RAM.start | one << 12);
            [word0, ttb0, ttb1, flags, 0, 0, 0, 0]
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_tables_make_it_panic(
        profile in prop_oneof![
            9 => Just(Profile::full()),
            1 => prop::sample::select(Profile::ALL.to_vec()),
        ],
        wide in any::<bool>(),
        entry in entry(),
        contexts in prop::collection::vec(context(), 1..4),
        tables in prop::collection::vec(descriptor(), 32),
        accesses in prop::collection::vec(
            (any::<u64>(), 0..3usize, any::<bool>(), prop_oneof![3 => Just(None), 1 => prop::option::of(0..70u32)], any::<u16>()),
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
            // In every other page, so that walks go through the rest.
            for page in (0..16).step_by(2) {
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
            let places = [address, small.into(), address >> 34, address >> 26, !(address >> 26)];
            for address in places {
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
