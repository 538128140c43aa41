//! What of an owner's stream table entry is taken, bit by bit (IHI 0070, 5.2).
//! Bits are those of the whole structure.
#![allow(missing_docs)]

use smmuv3_emulator::{Ids, RangeConfig, StreamConfig, gbpa_config, ste_config};
use smmuv3_spec::control::Gbpa;
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};
use smmuv3_spec::ste::Ste;

/// Stage 1 alone with everything that goes with it: S1P (1), TTF 0b10 (3:2),
/// ATS (10), CD2L (19), stall model 0 (25:24), two levels (28:27);
/// SIDSIZE 16 (5:0), SSIDSIZE 20 (10:6), both overrides (26, 27); OAS 40 bits.
fn able() -> Ids {
    Ids {
        idr0: Idr0::from(1 << 1 | 0b10 << 2 | 1 << 10 | 1 << 19 | 1 << 27),
        idr1: Idr1::from(16 | 20 << 6 | 0b11 << 26),
        idr3: Idr3::new(),
        idr5: Idr5::from(2 | 1 << 4),
        iidr: Iidr::new(),
        aidr: Aidr::from(2),
        coherent: true,
    }
}

/// As little as there can be: S1P, no stalls (0b01).
fn plain() -> Ids {
    Ids {
        idr0: Idr0::from(1 << 1 | 0b10 << 2 | 1 << 24),
        idr1: Idr1::from(16),
        ..able()
    }
}

/// V (0), Config 0b101 (3:1), S1ContextPtr 0x4080_0000, S1CDMax 1 (63:59).
const STAGE1: [u64; 8] = [0b1011 | 0x4080_0000 | 1 << 59, 0, 0, 0, 0, 0, 0, 0];
/// V, Config 0b100.
const BYPASS: [u64; 8] = [0b1001, 0, 0, 0, 0, 0, 0, 0];

fn flip(entry: [u64; 8], bit: usize) -> [u64; 8] {
    let mut entry = entry;
    entry[bit / 64] ^= 1 << (bit % 64);
    entry
}

/// What a single bit does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Effect {
    /// It is in the result as well.
    Taken,
    /// The result is as without it.
    Dropped,
    Illegal,
    /// Config says something else.
    Other,
}
use Effect::{Dropped, Illegal, Other, Taken};

/// The table of the text for an entry of stage 1, on [`able`].
fn of_stage1(bit: usize) -> Effect {
    match bit {
        // V; Config[1]: stage 2.
        0 | 2 => Illegal,
        1 | 3 => Other,
        4..=5 => Taken,
        // The table of 2 CDs is aligned to 128 bytes.
        6 => Dropped,
        7..=39 => Taken,
        // Beyond the output size.
        40..=55 => Illegal,
        56..=58 => Dropped,
        // S1CDMax 0, 3, 5, 9, 17.
        59..=63 => Taken,
        // S1DSS, S1CIR, S1COR.
        64..=69 => Taken,
        // S1CSH 0b01 is reserved.
        70 => Dropped,
        71 => Taken,
        // S2HWU, DRE, CONT, DCP, PPAR, MEV, SW_RESERVED, S1PIE, S2FWB, S1MPAM.
        72..=90 => Dropped,
        // S1STALLD, EATS 0b01.
        91 | 92 => Taken,
        // EATS 0b10.
        93 => Illegal,
        // STRW; MemAttr without MTCFG.
        94..=99 => Dropped,
        // MTCFG, ALLOCCFG.
        100..=104 => Taken,
        105..=107 => Dropped,
        // SHCFG.
        108 | 109 => Taken,
        // NSCFG; PRIVCFG 0b01.
        110..=112 => Dropped,
        113 => Taken,
        114 => Dropped,
        115 => Taken,
        // IMPLEMENTATION DEFINED, and all of stage 2.
        _ => Dropped,
    }
}

fn check(
    ids: &Ids,
    base: [u64; 8],
    wrap: fn(Ste) -> StreamConfig,
    effect: impl Fn(usize) -> Effect,
) {
    assert_eq!(ste_config(ids, &Ste(base)), wrap(Ste(base)));
    for bit in 0..512 {
        let entry = flip(base, bit);
        let found = ste_config(ids, &Ste(entry));
        match effect(bit) {
            Taken => assert_eq!(found, wrap(Ste(entry)), "bit {bit}"),
            Dropped => assert_eq!(found, wrap(Ste(base)), "bit {bit}"),
            Illegal => assert_eq!(found, StreamConfig::Invalid, "bit {bit}"),
            Other => {}
        }
    }
}

#[test]
fn every_bit_of_stage_1() {
    check(&able(), STAGE1, StreamConfig::Stage1, of_stage1);
}

/// Without substreams, ATS, stalls and overrides.
#[test]
fn every_bit_of_a_plain_stage_1() {
    let base = [STAGE1[0] & !(0x1f << 59), 0, 0, 0, 0, 0, 0, 0];
    check(&plain(), base, StreamConfig::Stage1, |bit| match bit {
        // One CD.
        6 => Taken,
        // S1Fmt, S1CDMax, S1DSS.
        4..=5 | 59..=65 => Dropped,
        // S1STALLD where stalls are not optional.
        91 => Illegal,
        92..=93 | 100..=115 => Dropped,
        other => of_stage1(other),
    });
}

#[test]
fn every_bit_of_bypass() {
    check(&able(), BYPASS, StreamConfig::Bypass, |bit| match bit {
        0 | 2 => Illegal,
        1 | 3 => Other,
        100..=104 | 108..=109 | 113 | 115 => Taken,
        _ => Dropped,
    });
    check(&plain(), BYPASS, StreamConfig::Bypass, |bit| match bit {
        0 | 2 => Illegal,
        1 | 3 => Other,
        _ => Dropped,
    });
}

/// Config 0b0xx aborts whatever else is there; V of 0 is invalid.
#[test]
fn aborts_ask_nothing_else() {
    for config in 0..4 {
        let mut entry = [u64::MAX; 8];
        entry[0] = entry[0] & !0xe | config << 1;
        assert_eq!(ste_config(&able(), &Ste(entry)), StreamConfig::Abort);
        entry[0] &= !1;
        assert_eq!(ste_config(&able(), &Ste(entry)), StreamConfig::Invalid);
    }
    for config in [0b110, 0b111] {
        let entry = Ste([1 | config << 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ste_config(&able(), &entry), StreamConfig::Invalid);
    }
}

/// One field of an entry of stage 1 with this value, and what it becomes;
/// `None`: illegal.
#[track_caller]
fn field(ids: &Ids, base: [u64; 8], high: usize, low: usize, value: u64, becomes: Option<u64>) {
    let mask = u64::MAX >> (63 - (high - low));
    let with = |value: u64| {
        let mut entry = base;
        let word = &mut entry[low / 64];
        *word = *word & !(mask << (low % 64)) | value << (low % 64);
        entry
    };
    let expected = becomes.map_or(StreamConfig::Invalid, |value| {
        StreamConfig::Stage1(Ste(with(value)))
    });
    assert_eq!(ste_config(ids, &Ste(with(value))), expected);
}

#[test]
fn reserved_encodings_behave_as_the_text_says() {
    let ids = able();
    field(&ids, STAGE1, 5, 4, 3, Some(0));
    field(&ids, STAGE1, 65, 64, 3, Some(0));
    field(&ids, STAGE1, 71, 70, 1, Some(0));
    field(&ids, STAGE1, 71, 70, 3, Some(3));
    field(&ids, STAGE1, 93, 92, 3, Some(0));
    for (value, becomes) in [(1, 0), (2, 2), (3, 3)] {
        field(&ids, STAGE1, 113, 112, value, Some(becomes));
        field(&ids, STAGE1, 115, 114, value, Some(becomes));
    }
    // MemAttr counts with MTCFG (100).
    let with = flip(STAGE1, 100);
    for value in 0..16 {
        let becomes = if matches!(value, 4 | 8 | 12) {
            0
        } else {
            value
        };
        field(&ids, with, 99, 96, value, Some(becomes));
    }
}

#[test]
fn substreams() {
    let ids = able();
    for (value, becomes) in [(20, Some(20)), (21, None), (31, None)] {
        // Aligned to every table: 2^26 bytes.
        let base = [
            STAGE1[0] & !0xff_ffff_fff0 | 0x4000_0000,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        field(&ids, base, 63, 59, value, becomes);
    }
    // Two levels that the SMMU does not have (CD2L, 19); 0b11 is 0b00.
    let flat = Ids {
        idr0: Idr0::from(u32::from(ids.idr0) & !(1 << 19)),
        ..ids
    };
    for (value, becomes) in [(0, Some(0)), (1, None), (2, None), (3, Some(0))] {
        field(&flat, STAGE1, 5, 4, value, becomes);
    }
    // Without substreams the format does not count.
    let one = [STAGE1[0] & !(0x1f << 59), 0, 0, 0, 0, 0, 0, 0];
    field(&flat, one, 5, 4, 2, Some(0));
    field(&ids, one, 65, 64, 2, Some(0));
}

/// The lowest bit of S1ContextPtr that counts, by format and S1CDMax (5.2).
#[test]
fn tables_are_aligned_to_their_size() {
    for (fmt, cdmax, lowest) in [
        (0, 0, 6),
        (0, 1, 7),
        (0, 10, 16),
        // [S1CDMax - 4:6] are RES0 above 9.
        (1, 6, 6),
        (1, 9, 6),
        (1, 10, 7),
        (1, 20, 17),
        // [S1CDMax - 8:6] above 13.
        (2, 10, 6),
        (2, 13, 6),
        (2, 14, 7),
        (2, 20, 13),
    ] {
        let pointer = 0xff_ffff_ffc0_u64;
        let entry = Ste([
            0b1011 | fmt << 4 | pointer | cdmax << 59,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        let StreamConfig::Stage1(taken) = ste_config(&able(), &entry) else {
            panic!("{fmt} {cdmax}")
        };
        let expected = pointer & (u64::MAX << lowest);
        assert_eq!(taken.s1contextptr(), expected, "{fmt} {cdmax}");
    }
}

/// S1STALLD (91) by stall model (25:24), ATS off, S1P off.
#[test]
fn what_is_not_offered() {
    let ids = able();
    for (model, becomes) in [(0, Some(1)), (1, None), (2, None)] {
        let idr0 = Idr0::from(u32::from(ids.idr0) | model << 24);
        let ids = Ids { idr0, ..ids };
        field(&ids, STAGE1, 91, 91, 1, becomes);
        field(&ids, STAGE1, 91, 91, 0, Some(0));
    }
    let no_ats = Ids {
        idr0: Idr0::from(u32::from(ids.idr0) & !(1 << 10)),
        ..ids
    };
    for value in 0..4 {
        field(&no_ats, STAGE1, 93, 92, value, Some(0));
    }
    let none = Ids {
        idr0: Idr0::from(u32::from(ids.idr0) & !(1 << 1)),
        ..ids
    };
    assert_eq!(ste_config(&none, &Ste(STAGE1)), StreamConfig::Invalid);
    // With EL2 worlds (HYP, 9), only EL1 is the owner's.
    let hyp = Ids {
        idr0: Idr0::from(u32::from(ids.idr0) | 1 << 9),
        ..ids
    };
    for value in 1..4 {
        field(&hyp, STAGE1, 95, 94, value, None);
    }
}

/// GBPA: MemAttr (3:0), MTCFG (4), ALLOCCFG (11:8), SHCFG (13:12), PRIVCFG
/// (17:16), INSTCFG (19:18), ABORT (20).
#[test]
fn gbpa_becomes_an_entry() {
    let all = Gbpa::from(0xb | 1 << 4 | 0xd << 8 | 2 << 12 | 3 << 16 | 2 << 18);
    let mut entry = BYPASS;
    entry[1] = 0xb << 32 | 1 << 36 | 0xd << 37 | 2 << 44 | 3 << 48 | 2 << 50;
    assert_eq!(gbpa_config(&able(), all), RangeConfig::Bypass(Ste(entry)));
    assert_eq!(gbpa_config(&plain(), all), RangeConfig::Bypass(Ste(BYPASS)));
    let abort = Gbpa::from(u32::from(all) | 1 << 20);
    assert_eq!(gbpa_config(&able(), abort), RangeConfig::Abort);
}
