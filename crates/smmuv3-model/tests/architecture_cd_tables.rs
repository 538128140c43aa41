//! What an entry says about stage 1, and which CD a transaction uses, against
//! numbers worked out by hand from IHI 0070, 5.2 and 5.3.
#![allow(missing_docs)]

use smmuv3_model::{CdFormat, CdPlace, CdTable, Choice, DefaultSubstream, Profile};
use smmuv3_spec::ste::Ste;

/// V, Config 0b101, S1ContextPtr, and what else is given of words 0 and 1.
fn table(word0: u64, word1: u64, profile: &Profile) -> Option<CdTable> {
    CdTable::of(&Ste([0b1011 | word0, word1, 0x9, 0, 0, 0, 0, 0]), profile)
}

#[test]
fn cd_tables_of_one_and_two_levels() {
    let full = Profile::full();
    // S1CDMax 63:59, S1Fmt 5:4: 32 CDs of 64 bytes; the pointer is aligned.
    let linear = table(5 << 59 | 0x8000_0c40, 0, &full).unwrap();
    assert_eq!((linear.format, linear.max), (CdFormat::Linear, 5));
    assert_eq!(linear.place(31), CdPlace::At(0x8000_07c0 | 0x800));
    // 10 bits of which 6 are the leaf's: 16 pointers, 128 bytes.
    let two = table(10 << 59 | 0b01 << 4 | 0x8000_00c0, 0, &full).unwrap();
    assert_eq!(two.place(0x3ff), CdPlace::Behind(0x8000_0080 + 15 * 8));
    assert_eq!(two.behind(0x9000_0001, 0x3ff, 48), Some(0x9000_0fc0));
    assert_eq!(two.behind(0x9000_0000, 0x3ff, 48), None);
    assert_eq!(two.behind(1 << 48 | 1, 0x3ff, 48), None);
    let wide = table(20 << 59 | 0b10 << 4 | 0x8000_2000, 0, &full).unwrap();
    assert_eq!(
        wide.place(0xf_ffff),
        CdPlace::Behind(0x8000_2000 + 1023 * 8)
    );
    assert_eq!(wide.behind(0x9000_f001, 0xf_ffff, 48), Some(0x9000_ffc0));
    // Without substreams the format is ignored.
    assert_eq!(table(0b01 << 4, 0, &full).unwrap().format, CdFormat::Linear);
    assert_eq!(
        table(3 << 59 | 0b11 << 4, 0, &full).unwrap().format,
        CdFormat::Linear
    );
}

#[test]
fn entries_whose_stage_1_is_not_legal() {
    let full = Profile::full();
    assert_eq!(table(21 << 59, 0, &full), None, "S1CDMax above SSIDSIZE");
    assert_eq!(table(0, 0b01 << 30, &full), None, "STRW");
    assert_eq!(table(1 << 48, 0, &full), None, "S1ContextPtr");
    let with = |f: fn(&mut Profile)| {
        let mut profile = Profile::full();
        f(&mut profile);
        profile
    };
    let one_level = with(|p| p.idr0.set_cd2l(false));
    assert_eq!(table(5 << 59 | 0b01 << 4, 0, &one_level), None, "CD2L");
    assert!(table(5 << 59, 0, &one_level).is_some());
    let no_stall = with(|p| p.idr0.set_stall_model(1));
    assert_eq!(table(0, 1 << 27, &no_stall), None, "S1STALLD");
    let no_el2 = with(|p| p.idr0.set_hyp(false));
    assert!(
        !table(0, 0b11 << 30, &no_el2).unwrap().el2,
        "STRW is ignored"
    );
    let none = with(|p| p.idr1.set_ssidsize(0));
    assert_eq!(
        table(21 << 59, 0, &none).unwrap().max,
        0,
        "S1CDMax is ignored"
    );
}

#[test]
fn which_cd_a_substream_uses() {
    let full = Profile::full();
    let dss = |bits: u64| table(3 << 59, bits, &full).unwrap();
    assert_eq!(
        table(0x8000_0040, 0, &full).unwrap().choose(None),
        Choice::Index(0)
    );
    assert_eq!(
        table(0x8000_0040, 0, &full).unwrap().choose(Some(0)),
        Choice::BadSubstream
    );
    for bits in 0..4 {
        assert_eq!(dss(bits).choose(Some(7)), Choice::Index(7));
        assert_eq!(dss(bits).choose(Some(8)), Choice::BadSubstream);
    }
    let none: Vec<Choice> = (0..4).map(|bits| dss(bits).choose(None)).collect();
    assert_eq!(
        none,
        [
            Choice::Disabled,
            Choice::Bypass,
            Choice::Index(0),
            Choice::Disabled
        ]
    );
    let zero: Vec<Choice> = (0..4).map(|bits| dss(bits).choose(Some(0))).collect();
    assert_eq!(
        zero,
        [
            Choice::Index(0),
            Choice::Index(0),
            Choice::Disabled,
            Choice::Index(0)
        ]
    );
    assert_eq!(dss(2).default, DefaultSubstream::Zero);
}
