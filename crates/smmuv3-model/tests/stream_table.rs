//! Where the entry of a stream is when the registers say something unusual
//! (IHI 0070, 6.3.24, 6.3.25).
#![allow(missing_docs)]

use smmuv3_model::{Access, Mode, Policy, Profile, Smmu, Transaction, Violation};
use smmuv3_spec::StreamId;

const RAM: u64 = 0x4000_0000;
const STRTAB_BASE: u32 = 0x80;
const STRTAB_BASE_CFG: u32 = 0x88;
const CR0: u32 = 0x20;
/// V, Config: bypass.
const BYPASS: u64 = 1 | 0b100 << 1;

/// Whether `stream` passes where each of `words` is in memory and the registers
/// say so. The SMMU has 16 bits of StreamID and two levels.
fn passes(base: u64, cfg: u32, words: &[(u64, u64)], stream: u32) -> bool {
    let banks = std::iter::once(RAM..RAM + 0x4000_0000);
    let mut smmu = Smmu::new(Profile::full(), banks, Mode::Plain, []);
    for (at, word) in words {
        assert!(smmu.ram_mut().settle(*at, *word));
    }
    smmu.write64(STRTAB_BASE, base);
    smmu.write32(STRTAB_BASE_CFG, cfg);
    smmu.write32(CR0, 1);
    let access = Transaction::new(StreamId(stream), 0x1234, Access::Read);
    smmu.translate(access) == Ok(0x1234)
}

/// FMT two levels, LOG2SIZE 10.
const TWO_LEVELS: u32 = 1 << 16 | 10;

/// Span of 6 bits at 0x4001_0000, for the first descriptor and the third.
const SPANS: [(u64, u64); 2] = [(RAM, 0x4001_0000 | 7), (RAM + 16, 0x4002_0000 | 7)];

#[test]
fn a_reserved_split_is_6() {
    let entries = [(0x4001_0000 + 63 * 64, BYPASS), (0x4002_0000 + 64, BYPASS)];
    let words = [SPANS, entries].concat();
    for split in (0..32).filter(|split| ![8, 10].contains(split)) {
        let cfg = TWO_LEVELS | split << 6;
        assert!(passes(RAM, cfg, &words, 63), "SPLIT {split}");
        assert!(passes(RAM, cfg, &words, 129), "SPLIT {split}");
        assert!(!passes(RAM, cfg, &words, 64), "SPLIT {split}");
    }
}

#[test]
fn a_span_may_not_exceed_what_a_reserved_split_means() {
    let entry = (0x4001_0000, BYPASS);
    // Span 8 is 7 bits: as much as SPLIT 6 has room for, and one more.
    for (span, split, good) in [(7, 11, true), (8, 11, false), (8, 31, false), (8, 8, true)] {
        let words = [(RAM, 0x4001_0000 | span), entry];
        assert_eq!(passes(RAM, TWO_LEVELS | split << 6, &words, 0), good);
    }
}

#[test]
fn splits_of_8_and_10_are_what_they_say() {
    let words = [(RAM + 8, 0x4001_0000 | 9), (0x4001_0000 + 3 * 64, BYPASS)];
    assert!(passes(RAM, TWO_LEVELS | 8 << 6, &words, 259));
    assert!(!passes(RAM, TWO_LEVELS | 10 << 6, &words, 259));
    let words = [(RAM, 0x4001_0000 | 11), (0x4001_0000 + 259 * 64, BYPASS)];
    assert!(passes(RAM, TWO_LEVELS | 10 << 6, &words, 259));
}

#[test]
fn a_linear_table_is_aligned_to_more_than_the_streams_need() {
    // 2^18 entries of 64 bytes are 16 MiB, although StreamIDs have 16 bits:
    // bits 23:6 of the base do not count.
    let words = [(RAM + 5 * 64, BYPASS)];
    assert!(passes(RAM, 18, &words, 5));
    assert!(passes(RAM + 0x80_0000, 18, &words, 5));
    assert!(!passes(RAM + 0x100_0000, 18, &words, 5));
    // Of 2^17 entries bit 23 is the lowest that counts.
    assert!(!passes(RAM + 0x80_0000, 17, &words, 5));
    assert!(passes(RAM + 0x40_0000, 17, &words, 5));
}

#[test]
fn a_first_level_is_aligned_to_more_than_the_streams_need() {
    let words = [SPANS.as_slice(), &[(0x4001_0000 + 5 * 64, BYPASS)]].concat();
    // 2^(18 - 6) descriptors of 8 bytes: 32 KiB, where 16 bits need 8.
    let cfg = 1 << 16 | 6 << 6;
    assert!(passes(RAM, cfg | 18, &words, 5));
    assert!(passes(RAM + 0x4000, cfg | 18, &words, 5));
    assert!(!passes(RAM + 0x4000, cfg | 17, &words, 5));
    assert!(passes(RAM + 0x2000, cfg | 17, &words, 5));
}

#[test]
fn tables_too_large_for_any_address_are_at_0() {
    for cfg in [58, 63, 63 | 1 << 16 | 6 << 6] {
        // There is no memory at 0.
        assert!(!passes(RAM, cfg, &[(RAM, BYPASS)], 0));
    }
}

/// Memory for tables ends at 0x4002_0000; no stream may reach anything.
struct Tables;

impl Policy for Tables {
    fn first_forbidden(&self, _: StreamId, range: std::ops::Range<u64>, _: bool) -> Option<u64> {
        Some(range.start)
    }

    fn first_foreign(&self, range: std::ops::Range<u64>) -> Option<u64> {
        (range.end > 0x4002_0000).then_some(range.start.max(0x4002_0000))
    }
}

/// 3.21.3: entries that are reachable may be prefetched, whoever uses them.
#[test]
fn a_descriptor_of_other_streams_must_not_lead_astray() {
    // The last array that fits, and the first that does not.
    for (descriptor, good) in [(0, true), (0x4001_f000 | 7, true), (0x4002_0000 | 7, false)] {
        let banks = std::iter::once(RAM..RAM + 0x4000_0000);
        let mode = Mode::Greedy { seed: 1 };
        let mut smmu = Smmu::new(Profile::full(), banks, mode, [StreamId(3)]);
        for (at, word) in [(RAM, 0x4001_0000 | 7), (RAM + 5 * 8, descriptor)] {
            assert!(smmu.ram_mut().settle(at, word));
        }
        smmu.write64(STRTAB_BASE, RAM);
        smmu.write32(STRTAB_BASE_CFG, TWO_LEVELS | 6 << 6);
        smmu.write32(CR0, 0b1_0001);
        while smmu.read32(0x24) & 1 == 0 {}
        let checked = smmu.check(&Tables);
        let astray = matches!(
            checked,
            Err(Violation::Entry {
                at: 0x4002_0000,
                ..
            })
        );
        assert_eq!((checked.is_ok(), astray), (good, !good), "{descriptor:#x}");
    }
}
