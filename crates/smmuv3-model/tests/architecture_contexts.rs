//! Finding the context descriptor: substreams, tables of one and two levels,
//! and every way in which that fails (IHI 0070, 5.2, 5.3, 7.3).
#![allow(missing_docs)]

mod plain;

use plain::*;
use smmuv3_model::{Access, Profile, Refusal, Smmu};
use smmuv3_spec::event::EventKind;

/// Substreams of stage 1: S1CDMax 63:59, S1Fmt 5:4, S1DSS 65:64. Each CD maps
/// VA 0x4000_0000 by one block.
fn substreams(max: u64, format: u64, dss: u64) -> Smmu {
    let word0 = 0b1011 | format << 4 | CD | max << 59;
    running(Profile::full(), [word0, dss, 0, 0, 0, 0, 0, 0])
}

/// A context whose block is at `block`, at `at`, with its root at `root`.
fn context(smmu: &mut Smmu, at: u64, root: u64, block: u64) {
    put_all(smmu, at, [WORD0, root, 0, 0, 0, 0, 0, 0]);
    put(smmu, root + 8, block | RW | 1);
}

fn of(smmu: &mut Smmu, substream: Option<u32>) -> Result<u64, Refusal> {
    let mut t = access(0x4000_0008, Access::Read);
    t.substream = substream;
    smmu.translate(t)
}

#[test]
fn a_linear_table() {
    let mut smmu = substreams(3, 0, 0);
    context(&mut smmu, CD + 7 * 64, ONE, 0x8000_0000);
    assert_eq!(of(&mut smmu, Some(7)), Ok(0x8000_0008));
    // SSV 11, SubstreamID 31:12.
    let bad = event(of(&mut smmu, Some(6)), EventKind::C_BAD_CD);
    assert_eq!(bad.0, [5 << 32 | 6 << 12 | 1 << 11 | 0x0a, 0, 0, 0]);
    let far = event(of(&mut smmu, Some(8)), EventKind::C_BAD_SUBSTREAMID);
    assert_eq!(far.0, [5 << 32 | 8 << 12 | 0x08, 0, 0, 0]);
    let none = event(of(&mut smmu, None), EventKind::F_STREAM_DISABLED);
    assert_eq!(none.0, [5 << 32 | 0x06, 0, 0, 0]);
    // Faults of a translation have it as well.
    put(&mut smmu, ONE + 8, 0);
    let fault = event(of(&mut smmu, Some(7)), EventKind::F_TRANSLATION);
    assert_eq!(fault.0[0], 5 << 32 | 7 << 12 | 1 << 11 | 0x10);
}

#[test]
fn leaves_of_4_kib() {
    // 2^8 CDs: 4 pointers to 64 each.
    let mut smmu = substreams(8, 1, 0);
    put(&mut smmu, CD + 3 * 8, (CD + 0x1000) | 1);
    context(&mut smmu, CD + 0x1000 + 63 * 64, ONE, 0x8000_0000);
    assert_eq!(of(&mut smmu, Some(255)), Ok(0x8000_0008));
    // V of the pointer is 0.
    let bad = event(of(&mut smmu, Some(128)), EventKind::C_BAD_SUBSTREAMID);
    assert_eq!(bad.0, [5 << 32 | 128 << 12 | 0x08, 0, 0, 0]);
    // Beyond the OAS of 48 bits.
    put(&mut smmu, CD + 3 * 8, 1 << 48 | 1);
    event(of(&mut smmu, Some(255)), EventKind::C_BAD_SUBSTREAMID);
    // No memory: the CD that was fetched.
    put(&mut smmu, CD + 3 * 8, 0x7000_0000 | 1);
    let fetch = event(of(&mut smmu, Some(255)), EventKind::F_CD_FETCH);
    let word0 = 5 << 32 | 255 << 12 | 1 << 11 | 0x09;
    assert_eq!(fetch.0, [word0, 0, 0, 0x7000_0fc0]);
}

#[test]
fn leaves_of_64_kib() {
    // 2^20 CDs: 1024 pointers to 1024 each.
    let mut smmu = substreams(20, 2, 0);
    // The level 1 table is aligned to its 8 KiB: CD is, at 0x8003_0000.
    put(&mut smmu, CD + 1023 * 8, 0x8050_0000 | 1);
    context(&mut smmu, 0x8050_0000 + 1023 * 64, ONE, 0x8000_0000);
    assert_eq!(of(&mut smmu, Some(0xf_ffff)), Ok(0x8000_0008));
}

#[test]
fn every_default_substream() {
    for dss in 0..4 {
        let mut smmu = substreams(3, 0, dss);
        context(&mut smmu, CD, ONE, 0x8000_0000);
        let (none, zero) = (of(&mut smmu, None), of(&mut smmu, Some(0)));
        match dss {
            // 3 is reserved and behaves as 0.
            0 | 3 => {
                event(none, EventKind::F_STREAM_DISABLED);
                assert_eq!(zero, Ok(0x8000_0008));
            }
            1 => {
                assert_eq!(none, Ok(0x4000_0008));
                assert_eq!(zero, Ok(0x8000_0008));
            }
            _ => {
                assert_eq!(none, Ok(0x8000_0008));
                event(zero, EventKind::F_STREAM_DISABLED);
            }
        }
    }
    // Bypassed, an address that is too large is a fault of stage 1.
    let mut smmu = substreams(3, 0, 1);
    let event = refused(&mut smmu, 1 << 48, EventKind::F_ADDR_SIZE);
    assert_eq!(event.0, [5 << 32 | 0x11, 0x2_08 << 32, 1 << 48, 0]);
}

#[test]
fn a_default_substream_behind_a_bad_pointer() {
    let mut smmu = substreams(8, 1, 2);
    let bad = event(of(&mut smmu, None), EventKind::C_BAD_SUBSTREAMID);
    assert_eq!(bad.0, [5 << 32 | 0x08, 0, 0, 0]);
}

#[test]
fn substreams_where_there_are_none() {
    for entry in [
        // Bypass, stage 2, stage 1 without substreams.
        [9, 0, 0, 0, 0, 0, 0, 0],
        STAGE2,
        STAGE1,
    ] {
        let mut smmu = running(Profile::full(), entry);
        let bad = event(of(&mut smmu, Some(1)), EventKind::C_BAD_SUBSTREAMID);
        assert_eq!(bad.0, [5 << 32 | 1 << 12 | 0x08, 0, 0, 0]);
    }
    // An entry that aborts does so first; one that is not valid as well.
    let mut smmu = running(Profile::full(), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(of(&mut smmu, Some(1)), Err(Refusal::Silent));
    let mut smmu = running(Profile::full(), [0; 8]);
    let bad = event(of(&mut smmu, Some(1)), EventKind::C_BAD_STE);
    assert_eq!(bad.0, [5 << 32 | 1 << 12 | 1 << 11 | 0x04, 0, 0, 0]);
}

#[test]
fn a_cd_that_is_no_memory() {
    let mut smmu = running(Profile::full(), [0b1011 | 0x7000_0040, 0, 0, 0, 0, 0, 0, 0]);
    let fetch = refused(&mut smmu, 0, EventKind::F_CD_FETCH);
    assert_eq!(fetch.0, [5 << 32 | 0x09, 0, 0, 0x7000_0040]);
    // The first level, too.
    let mut smmu = substreams(8, 1, 0);
    put(
        &mut smmu,
        TABLE + 5 * 64,
        0b1011 | 1 << 4 | 0x7000_0000 | 8 << 59,
    );
    let fetch = event(of(&mut smmu, Some(64)), EventKind::F_CD_FETCH);
    assert_eq!(fetch.0[3], 0x7000_0008);
}

#[test]
fn two_levels_behind_stage_2() {
    let mut entry = NESTED;
    entry[0] |= 1 << 4 | 8 << 59;
    let mut smmu = nested(entry, CONTEXT);
    // The pointer is an IPA.
    put(&mut smmu, CD + 8, (CD - 0x4000_0000 + 0x1000) | 1);
    put_all(
        &mut smmu,
        CD + 0x1000,
        [WORD0, ONE - 0x4000_0000, 0, 0, 0, 0, 0, 0],
    );
    let t = access(0x18, Access::Read).with_substream(64);
    assert_eq!(smmu.translate(t), Ok(0x80aa_0018));
    // CLASS CD and S2, with the IPA of the CD.
    put(&mut smmu, CD + 8, 0x5000_0000 | 1);
    let fault = event(smmu.translate(t), EventKind::F_TRANSLATION);
    let word0 = 5 << 32 | 64 << 12 | 1 << 11 | 0x10;
    assert_eq!(fault.0, [word0, 0x0_88 << 32, 0x18, 0x5000_0000]);
    // Beyond the IAS.
    put(&mut smmu, CD + 8, 1 << 48 | 1);
    event(smmu.translate(t), EventKind::C_BAD_SUBSTREAMID);
}

#[test]
fn stage_1_bypassed_by_substream_still_has_stage_2() {
    let mut entry = NESTED;
    entry[0] |= 3 << 59;
    entry[1] = 1;
    let mut smmu = nested(entry, CONTEXT);
    assert_eq!(reads(&mut smmu, 0x40aa_0010), Ok(0x80aa_0010));
    let event = refused(&mut smmu, 1 << 48, EventKind::F_ADDR_SIZE);
    assert!(!event.s2());
    assert!(refused(&mut smmu, 1 << 40, EventKind::F_TRANSLATION).s2());
}

#[test]
fn entries_that_stage_1_makes_illegal() {
    let bad = |change: fn(&mut [u64; 8])| {
        let mut entry = NESTED;
        change(&mut entry);
        let mut smmu = nested(entry, CONTEXT);
        matches!(reads(&mut smmu, 0), Err(Refusal::Event(e)) if e.kind().0 == 0x04)
    };
    assert!(!bad(|_| {}));
    assert!(bad(|w| w[0] |= 21 << 59), "S1CDMax");
    assert!(bad(|w| w[0] |= 1 << 48), "S1ContextPtr");
    assert!(bad(|w| w[2] &= !(1 << 51)), "S2AA64");
    assert!(!bad(|w| w[1] |= 3 << 30), "STRW is ignored");
    let with = |ats: bool, config: u64, eats: u64, s2s: u64| {
        let mut profile = Profile::full();
        profile.idr0.set_ats(ats);
        let word0 = 1 | config << 1 | (CD - 0x4000_0000);
        let entry = [word0, eats << 28, WORD2 | s2s << 57, TWO, 0, 0, 0, 0];
        let mut smmu = running(profile, entry);
        matches!(reads(&mut smmu, 0), Err(Refusal::Event(e)) if e.kind().0 == 0x04)
    };
    // EATS 93:92 is ignored without ATS.
    assert!(!with(false, 7, 1, 1));
    let ats = |config, eats, s2s| with(true, config, eats, s2s);
    // Full ATS not with S2S; split stage only nested and without S2S.
    assert!(ats(6, 1, 1) && ats(7, 1, 1) && !ats(6, 1, 0) && !ats(5, 1, 1));
    assert!(ats(6, 2, 0) && ats(5, 2, 0) && ats(7, 2, 1) && !ats(7, 2, 0));
    assert!(!ats(4, 2, 1) && !ats(6, 3, 1));
}
