//! Stage 1 behind stage 2: what each fetch can fault with, and what the records
//! say (IHI 0070, 3.12, 3.13.5, 7.3).
#![allow(missing_docs)]

mod plain;

use plain::*;
use smmuv3_model::{Access, Profile, Refusal, Transaction};
use smmuv3_spec::event::EventKind;

/// IPA of the stage 1 root, and of the CD.
const ROOT_IPA: u64 = ONE - 0x4000_0000;
const CD_IPA: u64 = CD - 0x4000_0000;
/// The 2 MiB block with the stage 1 tables is the first too: ONE is 1 MiB in.
const BLOCK: u64 = BLOCK_CD;

#[test]
fn both_stages_translate() {
    let mut smmu = nested(NESTED, CONTEXT);
    assert_eq!(reads(&mut smmu, 0x123), Ok(0x80aa_0123));
    assert_eq!(writes(&mut smmu, 0x1fff), Ok(0x80bb_0fff));
    assert_eq!(reads(&mut smmu, 0x1238), Ok(0x80bb_0238));
    smmu.ram_mut().settle(0x80aa_0008, 0x5eed);
    assert_eq!(smmu.dma_read(S, 8), Ok(0x5eed));
    assert_eq!(smmu.dma_write(S, 0x1010, 7), Ok(()));
    assert_eq!(smmu.load(0x80bb_0010), Some(7));
}

/// Splits the block with CD and stage 1 tables into pages, so that one of them
/// can be spoilt.
fn split() -> smmuv3_model::Smmu {
    let mut smmu = nested(NESTED, CONTEXT);
    let pages = TWO + 0x3000;
    for n in 0..512 {
        put(
            &mut smmu,
            pages + n * 8,
            (0x8000_0000 + n * 0x1000) | RW2 | 3,
        );
    }
    put(&mut smmu, BLOCK, pages | 3);
    smmu
}

/// The stage 2 descriptor of the page at this physical address.
fn page(at: u64) -> u64 {
    TWO + 0x3000 + ((at - 0x8000_0000) >> 12) * 8
}

#[test]
fn faults_of_stage_2_say_what_was_fetched() {
    // CD, levels 1, 2 and 3 of stage 1, the output: CLASS 105:104 is 0, 1, 2.
    // S2 103, RnW 99.
    let places = [
        (CD, 0, CD_IPA),
        (ONE, 1, ROOT_IPA),
        (ONE + 0x1000, 1, ROOT_IPA + 0x1000),
        (ONE + 0x2000, 1, ROOT_IPA + 0x2000),
    ];
    let spoilt = [
        (0u64, 0x10),
        (1 << 40 | RW2 | 3, 0x11),
        (RW2 & !AF | 3, 0x12),
        (2 << 6 | 0xf << 2 | AF | 3, 0x13),
    ];
    for (at, class, ipa) in places {
        for (descriptor, kind) in spoilt {
            let mut smmu = split();
            put(&mut smmu, page(at), descriptor);
            let result = smmu.translate(access(0x1238, Access::Read));
            let Err(Refusal::Event(event)) = result else {
                panic!("{result:?}")
            };
            // The index of the descriptor is below the page, so not in the
            // IPA (247:204). TTRnW 108 with F_PERMISSION of CLASS TTD.
            let ttrnw = u64::from(kind == 0x13 && class == 1) << 44;
            let word1 = (class << 8 | 0x88) << 32 | ttrnw;
            assert_eq!(event.0, [5 << 32 | kind, word1, 0x1238, ipa], "{at:#x}");
        }
    }
}

#[test]
fn faults_of_the_output() {
    let spoilt = [
        (0u64, 0x10),
        (1 << 40 | RW2 | 1, 0x11),
        (RW2 & !AF | 1, 0x12),
        (2 << 6 | 0xf << 2 | AF | 1, 0x13),
    ];
    for (descriptor, kind) in spoilt {
        let mut smmu = nested(NESTED, CONTEXT);
        put(&mut smmu, BLOCK_DATA, descriptor);
        let event = reads(&mut smmu, 0x1238).unwrap_err().event().unwrap();
        assert_eq!(event.0, [5 << 32 | kind, 0x2_88 << 32, 0x1238, 0x40bb_0000]);
        // Written, RnW is 0.
        if kind != 0x13 {
            let event = writes(&mut smmu, 0x1238).unwrap_err().event().unwrap();
            assert_eq!(event.0[1], 0x2_80 << 32);
        }
    }
}

#[test]
fn aborts_of_fetches() {
    // Stage 2's descriptor, for the CD: S2 1, CLASS CD; FetchAddr.
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, TWO + 8, 0x7000_0000 | 3);
    let event = refused(&mut smmu, 0, EventKind::F_WALK_EABT);
    assert_eq!(event.0, [5 << 32 | 0x0b, 0x0_88 << 32, 0, 0x7000_0000]);
    // For a stage 1 descriptor.
    let mut smmu = split();
    put(&mut smmu, ONE, 0x8000_0003);
    put(&mut smmu, TWO + 16, 0x7000_0000 | 3);
    let event = refused(&mut smmu, 0, EventKind::F_WALK_EABT);
    assert_eq!(event.0, [5 << 32 | 0x0b, 0x1_88 << 32, 0, 0x7000_0000]);
    // The stage 1 descriptor itself, behind a good stage 2: S2 0, CLASS TTD.
    let mut smmu = split();
    put(&mut smmu, page(ONE + 0x1000), 0x7000_0000 | RW2 | 3);
    let event = refused(&mut smmu, 0x20_0000, EventKind::F_WALK_EABT);
    assert_eq!(
        event.0,
        [5 << 32 | 0x0b, 0x1_08 << 32, 0x20_0000, 0x7000_0008]
    );
    // The CD behind a good stage 2: F_CD_FETCH.
    let mut smmu = split();
    put(&mut smmu, page(CD), 0x7000_0000 | RW2 | 3);
    let event = refused(&mut smmu, 0, EventKind::F_CD_FETCH);
    assert_eq!(event.0, [5 << 32 | 0x09, 0, 0, 0x7000_0000]);
}

#[test]
fn faults_of_stage_1_are_of_stage_1() {
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, ONE + 0x2008, 0x40bb_0000 | AF | 3);
    let event = refused(&mut smmu, 0x1000, EventKind::F_PERMISSION);
    assert_eq!(event.0, [5 << 32 | 0x13, 0x2_08 << 32, 0x1000, 0]);
    // Stage 1 is checked first: stage 2 would refuse as well.
    put(&mut smmu, BLOCK_DATA, 0);
    refused(&mut smmu, 0x1000, EventKind::F_PERMISSION);
}

#[test]
fn both_stages_have_to_allow_it() {
    // Stage 2 read-only, XN 0b10 (54:53).
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, ONE + 0x2000, 0x40aa_0000 | 3 << 6 | AF | 3);
    put(
        &mut smmu,
        BLOCK_DATA,
        2 << 53 | 0x80a0_0000 | 1 << 6 | 0xf << 2 | AF | 1,
    );
    assert!(reads(&mut smmu, 0).is_ok());
    assert!(!event(writes(&mut smmu, 0), EventKind::F_PERMISSION).s2());
    let execute = access(0, Access::Execute);
    assert!(event(smmu.translate(execute), EventKind::F_PERMISSION).s2());
    // XN 0b01: unprivileged only; 0b11: privileged only (XNX).
    let both = |xn: u64| {
        let mut smmu = nested(NESTED, CONTEXT);
        put(&mut smmu, ONE + 0x2000, 0x40aa_0000 | 3 << 6 | AF | 3);
        put(&mut smmu, BLOCK_DATA, xn << 53 | 0x80a0_0000 | RW2 | 1);
        let allowed = |t: Transaction| smmu.trace(t).outcome.starts_with("output");
        (allowed(execute), allowed(execute.privileged()))
    };
    assert_eq!(both(0), (true, true));
    assert_eq!(both(1), (true, false));
    assert_eq!(both(2), (false, false));
    assert_eq!(both(3), (false, true));
}

#[test]
fn protected_table_walks() {
    // S2PTW 182: Device memory (MemAttr[3:2] of bits 5:2 is 0) may not hold
    // CDs or stage 1 tables, but data.
    let device = |at: u64, ptw: u64| {
        let mut smmu = split();
        put(&mut smmu, page(at), at & !0xfff | 3 << 6 | AF | 3);
        let ste = TABLE + 5 * 64;
        put(&mut smmu, ste + 16, WORD2 | ptw << 54);
        reads(&mut smmu, 0)
    };
    assert!(device(CD, 0).is_ok());
    let cd = event(device(CD, 1), EventKind::F_PERMISSION);
    assert_eq!(cd.0[1], 0x0_88 << 32);
    let table = event(device(ONE + 0x1000, 1), EventKind::F_PERMISSION);
    assert_eq!(table.0[1], 1 << 44 | 0x1_88 << 32);
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 1 << 54);
    put(&mut smmu, BLOCK_DATA, 0x80a0_0000 | 3 << 6 | AF | 1);
    assert!(reads(&mut smmu, 0).is_ok());
}

#[test]
fn stage_2_sets_its_flags_for_every_fetch() {
    // S2HA 184, S2HD 183.
    let clear = |smmu: &mut smmuv3_model::Smmu| {
        for at in [CD, ONE, ONE + 0x1000, ONE + 0x2000] {
            put(smmu, page(at), at | RW2 & !AF & !(1 << 7) | 1 << 51 | 3);
        }
        put(
            smmu,
            BLOCK_DATA,
            0x80a0_0000 | RW2 & !AF & !(1 << 7) | 1 << 51 | 1,
        );
    };
    let mut smmu = split();
    clear(&mut smmu);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 3 << 55);
    assert_eq!(writes(&mut smmu, 0), Ok(0x80aa_0000));
    for at in [CD, ONE, ONE + 0x1000, ONE + 0x2000] {
        // Only read: accessed, not dirty.
        let want = at | RW2 & !(1 << 7) | 1 << 51 | 3;
        assert_eq!(smmu.load(page(at)), Some(want), "{at:#x}");
    }
    // The page was written: S2AP[1] too.
    let data = smmu.load(BLOCK_DATA).unwrap();
    assert_eq!(data, 0x80a0_0000 | RW2 | 1 << 51 | 1);
    // Without S2HD, S2AP[1] stays clear and the write faults.
    let mut smmu = split();
    clear(&mut smmu);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 1 << 56);
    assert!(event(writes(&mut smmu, 0), EventKind::F_PERMISSION).s2());
}

#[test]
fn flags_of_stage_2_alone() {
    // S2AFFD 181, S2HD 183, S2HA 184.
    let try_with = |bits: u64, page: u64| {
        let mut smmu = running(Profile::full(), STAGE2);
        put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | bits);
        put(&mut smmu, TWO + 8, page);
        let result = writes(&mut smmu, 0x4000_0000).map_err(|refusal| refusal.kind());
        (result, smmu.load(TWO + 8).unwrap())
    };
    let (old, clean) = (
        0x8000_0000 | RW2 & !AF | 1,
        0x8000_0000 | RW2 & !(1 << 7) | 1 << 51 | 1,
    );
    let ok = Ok(0x8000_0000);
    assert_eq!(try_with(0, old), (Err(Some(EventKind::F_ACCESS)), old));
    assert_eq!(try_with(1 << 53, old), (ok, old));
    assert_eq!(try_with(1 << 56, old), (ok, old | AF));
    assert_eq!(try_with(1 << 56 | 1 << 53, old), (ok, old | AF));
    assert_eq!(try_with(3 << 55, clean), (ok, clean | 1 << 7));
    assert_eq!(
        try_with(1 << 55, clean),
        (Err(Some(EventKind::F_PERMISSION)), clean)
    );
    assert_eq!(
        try_with(1 << 55, old),
        (Err(Some(EventKind::F_ACCESS)), old)
    );
}

#[test]
fn updating_stage_1_is_a_write_for_stage_2() {
    // HA 43; the leaf table's page is read-only at stage 2.
    let mut smmu = split();
    put(&mut smmu, CD, WORD0 | 1 << 43);
    put(&mut smmu, ONE + 0x2000, 0x40aa_0000 | RW & !AF | 3);
    put(
        &mut smmu,
        page(ONE + 0x2000),
        (ONE + 0x2000) | RW2 & !(1 << 7) | 3,
    );
    let refusal = event(reads(&mut smmu, 0), EventKind::F_PERMISSION);
    // CLASS TTD, S2, RnW of the transaction; TTRnW 0: a write caused it.
    assert_eq!(
        refusal.0,
        [5 << 32 | 0x13, 0x1_88 << 32, 0, ROOT_IPA + 0x2000]
    );
    assert_eq!(smmu.load(ONE + 0x2000), Some(0x40aa_0000 | RW & !AF | 3));
    // With S2HA, S2HD and DBM the table's page becomes dirty, and it works.
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 3 << 55);
    put(
        &mut smmu,
        page(ONE + 0x2000),
        (ONE + 0x2000) | RW2 & !(1 << 7) | 1 << 51 | 3,
    );
    assert_eq!(reads(&mut smmu, 0), Ok(0x80aa_0000));
    assert_eq!(smmu.load(ONE + 0x2000), Some(0x40aa_0000 | RW | 3));
    let dirty = (ONE + 0x2000) | RW2 | 1 << 51 | 3;
    assert_eq!(smmu.load(page(ONE + 0x2000)), Some(dirty));
}

#[test]
fn records_of_stage_2_follow_the_entry() {
    // S2R 186 clear: silent. But an abort of a fetch is always recorded.
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 & !(1 << 58));
    put(&mut smmu, BLOCK_DATA, 0);
    assert_eq!(reads(&mut smmu, 0), Err(Refusal::Silent));
    put(&mut smmu, TWO + 8, 0x7000_0000 | 3);
    refused(&mut smmu, 0, EventKind::F_WALK_EABT);
}

#[test]
fn an_output_beyond_what_stage_2_takes() {
    // IPS 5 (48 bits) with a stage 2 of 40: the page is no fault of stage 1.
    let mut smmu = nested(
        NESTED,
        [WORD0 & !(7 << 32) | 5 << 32, ONE, 0, 0, 0, 0, 0, 0],
    );
    put(&mut smmu, ONE + 0x2000, 1 << 40 | RW | 3);
    let event = refused(&mut smmu, 0, EventKind::F_TRANSLATION);
    assert_eq!(event.0, [5 << 32 | 0x10, 0x2_88 << 32, 0, 1 << 40]);
}

#[test]
fn granules_may_differ() {
    // Stage 2 with 16 KiB (S2TG 2, 175:174), 40 bits from level 2 (SL0 1).
    let mut entry = NESTED;
    entry[2] |= 2 << 46;
    entry[3] = 0x8040_0000;
    let mut smmu = nested(entry, CONTEXT);
    // Level 2 has 32 MiB blocks: IPA 0x4000_0000 is entry 32.
    put(&mut smmu, 0x8040_0000 + 32 * 8, 0x8000_0000 | RW2 | 1);
    assert_eq!(reads(&mut smmu, 0x1238), Ok(0x80bb_0238));
}

#[test]
fn an_mmu_600_does_the_same() {
    let mut smmu = running(Profile::mmu600(), NESTED);
    put_all(&mut smmu, CD, [WORD0, ROOT_IPA, 0, 0, 0, 0, 0, 0]);
    put(&mut smmu, TWO + 8, 0x8000_0000 | RW2 | 1);
    put(&mut smmu, ONE, 0x4000_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 0x1234_5678), Ok(0x9234_5678));
}
