//! Stage 1 alone, and what the stages have in common.
#![allow(missing_docs)]

mod plain;

use plain::*;
use smmuv3_model::{Access, Profile, Refusal, Transaction};
use smmuv3_spec::event::EventKind;
use smmuv3_spec::id::Idr5;

#[test]
fn every_config() {
    for config in 0..8 {
        let mut smmu = nested(NESTED, CONTEXT);
        // With stage 1 alone its addresses are physical.
        let mut entry = NESTED;
        entry[0] = 1 | config << 1 | (entry[0] & !0xf);
        if config == 5 {
            smmu = stage1(CONTEXT);
            entry[0] = 1 | config << 1 | CD;
        }
        put_all(&mut smmu, TABLE + 5 * 64, entry);
        let result = reads(&mut smmu, 0x40aa_0123);
        match config {
            0..=3 => assert_eq!(result, Err(Refusal::Silent), "{config}"),
            4 => assert_eq!(result, Ok(0x40aa_0123)),
            // The tables have nothing there, but at 0x123.
            5 => {
                event(result, EventKind::F_TRANSLATION);
                assert_eq!(reads(&mut smmu, 0x123), Ok(0x80aa_0123));
            }
            6 => assert_eq!(result, Ok(0x80aa_0123)),
            _ => {
                assert!(!event(result, EventKind::F_TRANSLATION).s2());
                assert_eq!(reads(&mut smmu, 0x123), Ok(0x80aa_0123));
            }
        }
    }
}

#[test]
fn pages_and_blocks_of_4_kib_tables() {
    let mut smmu = stage1(CONTEXT);
    assert_eq!(reads(&mut smmu, 0xfff), Ok(0x80aa_0fff));
    assert_eq!(reads(&mut smmu, 0x1000), Ok(0x80bb_0000));
    put(&mut smmu, ONE + 8, 0x8000_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 0x4012_3456), Ok(0x8012_3456));
    put(&mut smmu, ONE + 0x1008, 0x8060_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 0x20_1234), Ok(0x8060_1234));
    // Beyond T0SZ, and in the half that EPD1 disables.
    let far = refused(&mut smmu, 1 << 39, EventKind::F_TRANSLATION);
    assert_eq!(far.0, [5 << 32 | 0x10, 0x2_08 << 32, 1 << 39, 0]);
    refused(&mut smmu, 0xffff_ffff_ffff_0000, EventKind::F_TRANSLATION);
}

#[test]
fn four_levels() {
    // T0SZ 16.
    let mut smmu = stage1([WORD0 & !0x3f | 16, ONE + 0x4000, 0, 0, 0, 0, 0, 0]);
    put(&mut smmu, ONE + 0x4000 + 511 * 8, ONE | 3);
    assert_eq!(reads(&mut smmu, 511 << 39 | 0x1008), Ok(0x80bb_0008));
    // Level 0 knows no blocks without DS.
    put(&mut smmu, ONE + 0x4000, RW | 1);
    refused(&mut smmu, 0, EventKind::F_TRANSLATION);
}

#[test]
fn tables_of_16_kib() {
    // TG0 0b10 (7:6), T0SZ 17: level 1 with 11 bits from 36 on, 2 from 25, 3
    // from 14.
    let mut smmu = stage1([
        WORD0 & !0xff | 17 | 2 << 6,
        ONE + 0x1_0000,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    put(&mut smmu, ONE + 0x1_0000 + 2047 * 8, (ONE + 0x1_4000) | 3);
    put(&mut smmu, ONE + 0x1_4000 + 3 * 8, (ONE + 0x1_8000) | 3);
    put(&mut smmu, ONE + 0x1_8000 + 8, 0x80c0_4000 | RW | 3);
    let address = 2047 << 36 | 3 << 25 | 1 << 14 | 0x3ff8;
    assert_eq!(reads(&mut smmu, address), Ok(0x80c0_7ff8));
    // A block of 32 MiB; level 1 has none.
    put(&mut smmu, ONE + 0x1_4000, 0x8200_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 2047 << 36 | 0x1ff_fff0), Ok(0x83ff_fff0));
    put(&mut smmu, ONE + 0x1_0000, RW | 1);
    refused(&mut smmu, 0, EventKind::F_TRANSLATION);
}

#[test]
fn tables_of_64_kib() {
    // TG0 0b01, T0SZ 16: level 1 with 6 bits from 42, 2 from 29, 3 from 16.
    let mut smmu = stage1([
        WORD0 & !0xff | 16 | 1 << 6,
        ONE + 0x1_0000,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    put(&mut smmu, ONE + 0x1_0000 + 63 * 8, (ONE + 0x2_0000) | 3);
    put(&mut smmu, ONE + 0x2_0000 + 5 * 8, (ONE + 0x3_0000) | 3);
    put(&mut smmu, ONE + 0x3_0000 + 2 * 8, 0x80d0_0000 | RW | 3);
    let address = 63 << 42 | 5 << 29 | 2 << 16 | 0xfff8;
    assert_eq!(reads(&mut smmu, address), Ok(0x80d0_fff8));
    put(&mut smmu, ONE + 0x2_0000, 0x8000_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 63 << 42 | 0x1fff_fff8), Ok(0x9fff_fff8));
}

#[test]
fn bits_15_to_12_are_ignored_without_52_bits() {
    let mut smmu = stage1([WORD0 & !0xff | 22 | 1 << 6, ONE, 0, 0, 0, 0, 0, 0]);
    put(&mut smmu, ONE, 0xf000 | 0x8000_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 0x1234), Ok(0x8000_1234));
}

#[test]
fn addresses_of_52_bits() {
    let mut profile = Profile::full();
    profile.idr5 = Idr5::new().with_oas(6).with_gran64k(true).with_vax(1);
    let mut smmu = running(profile, STAGE1);
    // T0SZ 12: level 1 has 10 bits from 42. IPS 6. Descriptors hold bits 51
    // to 48 in 15 to 12.
    let word0 = WORD0 & !0xff & !(7 << 32) | 12 | 1 << 6 | 6 << 32;
    put_all(&mut smmu, CD, [word0, ONE, 0, 0, 0, 0, 0, 0]);
    put(&mut smmu, ONE + 1023 * 8, (ONE + 0x1_0000) | 3);
    put(&mut smmu, ONE + 0x1_0000, 0xa << 12 | 0x2000_0000 | RW | 1);
    assert_eq!(
        reads(&mut smmu, 1023 << 42 | 0x1234),
        Ok(0xa_0000_2000_1234)
    );
    // A block of 4 TiB at level 1.
    put(&mut smmu, ONE, 0x5 << 12 | 0x400_0000_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 0x3ff_ffff_fff8), Ok(0x5_07ff_ffff_fff8));
    // Without IPS 6, bits above 48 do not fit.
    put_all(&mut smmu, CD, [word0 - (1 << 32), ONE, 0, 0, 0, 0, 0, 0]);
    refused(&mut smmu, 0, EventKind::F_ADDR_SIZE);
}

#[test]
fn the_upper_half() {
    // EPD1 0, T1SZ 25 (21:16), TG1 0b10 (23:22); TTB1 in word 2.
    let word0 = WORD0 & !(1 << 30) | 25 << 16 | 2 << 22;
    let mut smmu = stage1([word0, ONE, ONE + 0x4000, 0, 0, 0, 0, 0]);
    put(&mut smmu, ONE + 0x4000 + 511 * 8, 0x8000_0000 | RW | 1);
    assert_eq!(reads(&mut smmu, 0xffff_ffff_ffff_fff8), Ok(0xbfff_fff8));
    assert_eq!(reads(&mut smmu, 0), Ok(0x80aa_0000));
    refused(&mut smmu, 0xffff_ff7f_ffff_f000, EventKind::F_TRANSLATION);
}

#[test]
fn faults_of_each_level() {
    use EventKind as E;
    for level in 1..4 {
        let at = ONE + (level - 1) * 0x1000;
        let try_with = |word: u64| {
            let mut smmu = stage1(CONTEXT);
            put(&mut smmu, at, word);
            refused_any(&mut smmu)
        };
        let (kind, words) = try_with(0);
        assert_eq!(kind, E::F_TRANSLATION);
        // Stream 5; CLASS IN (105:104), RnW (99); InputAddr; no IPA.
        assert_eq!(words, [5 << 32 | 0x10, 0x2_08 << 32, 0x238, 0]);
        let leaf = if level == 3 { 3 } else { 1 };
        let address_size = try_with(1 << 40 | RW | leaf);
        assert_eq!(address_size.0, E::F_ADDR_SIZE);
        let next = if level == 3 { RW | 3 } else { 3 };
        let (kind, words) = try_with(0x7000_0000 | next);
        if level == 3 {
            assert_eq!(kind.0, 0xff, "an output that is no memory is no fault");
        } else {
            // CLASS TTD; FetchAddr: the descriptor that could not be read.
            assert_eq!(kind, E::F_WALK_EABT);
            assert_eq!(words, [5 << 32 | 0x0b, 0x1_08 << 32, 0x238, 0x7000_0000]);
        }
        if level > 1 {
            assert_eq!(try_with(RW & !AF | leaf).0, E::F_ACCESS);
            assert_eq!(try_with(AF | leaf).0, E::F_PERMISSION);
        }
    }
}

fn refused_any(smmu: &mut smmuv3_model::Smmu) -> (EventKind, [u64; 4]) {
    match reads(smmu, 0x238) {
        Err(Refusal::Event(event)) => (event.kind(), event.0),
        Ok(0x7000_0238) => (EventKind(0xff), [0; 4]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_root_may_be_no_memory() {
    let mut smmu = stage1([WORD0, 0x7000_0000, 0, 0, 0, 0, 0, 0]);
    let event = refused(&mut smmu, 0x4000_0000, EventKind::F_WALK_EABT);
    assert_eq!(event.0[3], 0x7000_0008);
}

#[test]
fn who_may_do_what() {
    use Access::{Execute, Read, Write};
    // AP[2:1], UXN 54, PXN 53: what an unprivileged and a privileged device
    // may do, as read, write, execute.
    let cases = [
        (0, "--x", "rwx"),
        (1 << 6, "rwx", "rw-"),
        (2 << 6, "--x", "r-x"),
        (3 << 6, "r-x", "r-x"),
        (1 << 6 | 1 << 54, "rw-", "rw-"),
        (3 << 6 | 1 << 54, "r--", "r-x"),
        (3 << 6 | 1 << 53, "r-x", "r--"),
    ];
    for (bits, unprivileged, privileged) in cases {
        for (who, want) in [(false, unprivileged), (true, privileged)] {
            let mut smmu = stage1(CONTEXT);
            put(&mut smmu, ONE + 0x2000, 0x80aa_0000 | bits | AF | 3);
            let mut got = String::new();
            for (kind, letter) in [(Read, 'r'), (Write, 'w'), (Execute, 'x')] {
                let t = Transaction {
                    privileged: who,
                    ..access(0, kind)
                };
                let result = smmu.translate(t);
                got.push(if result.is_ok() { letter } else { '-' });
                if let Err(refusal) = result {
                    // PnU 97, InD 98, RnW 99.
                    let pnu = u64::from(who) << 33;
                    let ind = u64::from(kind == Execute) << 34;
                    let rnw = u64::from(kind != Write) << 35;
                    let want = [5 << 32 | 0x13, 2 << 40 | pnu | ind | rnw, 0, 0];
                    assert_eq!(refusal.event().unwrap().0, want);
                }
            }
            assert_eq!(got, want, "{bits:#x} {who}");
        }
    }
}

#[test]
fn hierarchical_limits_count_unless_disabled() {
    // APTable[1] 62 at level 1.
    let mut smmu = stage1(CONTEXT);
    put(&mut smmu, ONE, 1 << 62 | (ONE + 0x1000) | 3);
    assert!(reads(&mut smmu, 0).is_ok());
    event(writes(&mut smmu, 0), EventKind::F_PERMISSION);
    // HAD0 65.
    put(&mut smmu, CD + 8, ONE | 1 << 1);
    assert!(writes(&mut smmu, 0).is_ok());
}

#[test]
fn the_entry_overrides_what_the_device_says() {
    // Privileged only, PXN.
    let page = 0x80aa_0000 | AF | 1 << 53 | 3;
    // PRIVCFG 113:112, INSTCFG 115:114 of the entry: bits 49:48, 51:50.
    let try_with = |word1: u64, t: Transaction, profile: Profile| {
        let mut smmu = running(profile, [0b1011 | CD, word1, 0, 0, 0, 0, 0, 0]);
        put_all(&mut smmu, CD, CONTEXT);
        put(&mut smmu, ONE, (ONE + 0x1000) | 3);
        put(&mut smmu, ONE + 0x1000, (ONE + 0x2000) | 3);
        put(&mut smmu, ONE + 0x2000, page);
        smmu.translate(t)
    };
    let full = Profile::full();
    let read = access(0, Access::Read);
    assert!(try_with(0, read, full).is_err());
    assert!(try_with(3 << 48, read, full).is_ok());
    assert!(try_with(2 << 48, read.privileged(), full).is_err());
    assert!(try_with(1 << 48, read.privileged(), full).is_ok());
    assert!(try_with(3 << 50, read.privileged(), full).is_err());
    let fetch = access(0, Access::Execute).privileged();
    assert!(try_with(0, fetch, full).is_err());
    assert!(try_with(2 << 50, fetch, full).is_ok());
    // Writes are data whatever INSTCFG says.
    assert!(try_with(3 << 50, access(0, Access::Write).privileged(), full).is_ok());
    // The record has what the entry made of it (7.3): PnU and InD.
    let refusal = try_with(3 << 48 | 3 << 50, read, full).unwrap_err();
    assert_eq!(refusal.event().unwrap().0[1], 0x2_0e << 32);
    // Without ATTR_PERMS_OVR the fields are reserved.
    let mut plain = full;
    plain.idr1.set_attr_perms_ovr(false);
    assert!(try_with(3 << 48, read, plain).is_err());
}

#[test]
fn hints_of_contiguity_change_nothing_in_a_walk() {
    let mut smmu = stage1(CONTEXT);
    // Only two of the sixteen pages exist, and they differ.
    put(&mut smmu, ONE + 0x2000, 1 << 52 | 0x80aa_0000 | RW | 3);
    put(&mut smmu, ONE + 0x2008, 1 << 52 | 0x80bb_0000 | RW | 3);
    assert_eq!(reads(&mut smmu, 0x10), Ok(0x80aa_0010));
    assert_eq!(reads(&mut smmu, 0x1010), Ok(0x80bb_0010));
    refused(&mut smmu, 0x2000, EventKind::F_TRANSLATION);
}

#[test]
fn access_flags() {
    let clear = 0x80aa_0000 | RW & !AF | 3;
    let try_with = |word0: u64| {
        let mut smmu = stage1([word0, ONE, 0, 0, 0, 0, 0, 0]);
        put(&mut smmu, ONE + 0x2000, clear);
        let result = reads(&mut smmu, 0);
        (result, smmu.load(ONE + 0x2000).unwrap())
    };
    let (result, word) = try_with(WORD0);
    event(result, EventKind::F_ACCESS);
    assert_eq!(word, clear);
    // AFFD 35: it does not count. HA 43: it is set, and AFFD is ignored.
    assert_eq!(try_with(WORD0 | 1 << 35), (Ok(0x80aa_0000), clear));
    assert_eq!(try_with(WORD0 | 1 << 43), (Ok(0x80aa_0000), clear | AF));
    assert_eq!(
        try_with(WORD0 | 1 << 43 | 1 << 35),
        (Ok(0x80aa_0000), clear | AF)
    );
    // HD 42 without HA is neither.
    event(try_with(WORD0 | 1 << 42).0, EventKind::F_ACCESS);
}

#[test]
fn dirty_state() {
    // AP[2:1] 0b11, DBM 51.
    let clean = 1 << 51 | 0x80aa_0000 | 3 << 6 | AF | 3;
    let try_with = |flags: u64, page: u64, t: Transaction| {
        let mut smmu = stage1([WORD0 | flags, ONE, 0, 0, 0, 0, 0, 0]);
        put(&mut smmu, ONE + 0x2000, page);
        let result = smmu.translate(t);
        (result, smmu.load(ONE + 0x2000).unwrap())
    };
    let both = 3 << 42;
    let (write, read) = (access(0, Access::Write), access(0, Access::Read));
    assert_eq!(
        try_with(both, clean, write),
        (Ok(0x80aa_0000), clean & !(1 << 7))
    );
    assert_eq!(try_with(both, clean, read), (Ok(0x80aa_0000), clean));
    // Access flag and dirty state at once.
    let new = clean & !AF;
    assert_eq!(
        try_with(both, new, write),
        (Ok(0x80aa_0000), clean & !(1 << 7))
    );
    // HA alone, HD alone, or no DBM: read-only.
    event(try_with(1 << 42, clean, write).0, EventKind::F_PERMISSION);
    event(try_with(1 << 43, clean, write).0, EventKind::F_PERMISSION);
    let (result, word) = try_with(both, clean & !(1 << 51), write);
    event(result, EventKind::F_PERMISSION);
    assert_eq!(word, clean & !(1 << 51));
}

#[test]
fn an_update_never_overwrites_what_was_stored_meanwhile() {
    let mut smmu = stage1([WORD0 | 1 << 43, ONE, 0, 0, 0, 0, 0, 0]);
    let old = 0x80aa_0000 | RW & !AF | 3;
    put(&mut smmu, ONE + 0x2000, old);
    // Not yet visible: the walk sees the old page, its update the new one.
    assert!(smmu.store(ONE + 0x2000, 0x80cc_0000 | RW & !AF | 3));
    assert_eq!(reads(&mut smmu, 0), Ok(0x80cc_0000));
    assert_eq!(smmu.load(ONE + 0x2000), Some(0x80cc_0000 | RW | 3));
}

#[test]
fn unprivileged_accesses_can_be_shut_out() {
    // E0PD0 66.
    let mut smmu = stage1([WORD0, ONE | 1 << 2, 0, 0, 0, 0, 0, 0]);
    refused(&mut smmu, 0, EventKind::F_TRANSLATION);
    put(&mut smmu, ONE + 0x2000, 0x80aa_0000 | AF | 3);
    let t = access(0, Access::Read).privileged();
    assert_eq!(smmu.translate(t), Ok(0x80aa_0000));
}

#[test]
fn el2_is_always_privileged() {
    // STRW 0b10 (95:94); E2H 0 in CR2.
    let mut smmu = stage1(CONTEXT);
    put(&mut smmu, TABLE + 5 * 64 + 8, 0b10 << 30);
    // AP[1] 0: privileged only elsewhere.
    put(&mut smmu, ONE + 0x2000, 0x80aa_0000 | AF | 3);
    assert_eq!(writes(&mut smmu, 0), Ok(0x80aa_0000));
    smmu.write32(smmuv3_spec::reg::CR0, 0b1100);
    smmu.write32(smmuv3_spec::reg::CR2, 0b11);
    smmu.write32(smmuv3_spec::reg::CR0, 0b1101);
    event(writes(&mut smmu, 0), EventKind::F_PERMISSION);
}

#[test]
fn big_endian_tables() {
    let mut profile = Profile::full();
    profile.idr0.set_ttendian(0);
    let mut smmu = running(profile, STAGE1);
    // ENDI 15, HA 43.
    put_all(
        &mut smmu,
        CD,
        [WORD0 | 1 << 15 | 1 << 43, ONE, 0, 0, 0, 0, 0, 0],
    );
    let block: u64 = 0x8000_0000 | RW & !AF | 1;
    put(&mut smmu, ONE + 8, block.swap_bytes());
    assert_eq!(reads(&mut smmu, 0x4000_1234), Ok(0x8000_1234));
    assert_eq!(smmu.load(ONE + 8), Some((block | AF).swap_bytes()));
}
