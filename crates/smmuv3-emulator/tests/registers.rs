//! Registers, by the bits that IHI 0070 6.3 gives.

mod common;

use common::{Act, CONFIG, Machine, RAM, RAM_SIZE, features};
use smmuv3_driver::Features;
use smmuv3_emulator::{IdConfig, Ids, Size};
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5};

fn ids(change: impl FnOnce(&mut Features)) -> Ids {
    let mut features = features();
    change(&mut features);
    Ids::derive(&features, &CONFIG)
}

/// Bits of IDR0 (6.3.1).
const S1P: u32 = 1 << 1;
const AARCH64: u32 = 1 << 3;
const COHACC: u32 = 1 << 4;
const ATS: u32 = 1 << 10;
const NS1ATS: u32 = 1 << 11;
const ASID16: u32 = 1 << 12;
const MSI: u32 = 1 << 13;
const PRI: u32 = 1 << 16;
const CD2L: u32 = 1 << 19;
const TWO_LEVEL: u32 = 1 << 27;

#[test]
fn idr0_has_stage_1_and_what_the_owner_may_use() {
    let all = ids(|_| {});
    let expected = S1P | AARCH64 | COHACC | 0b10 << 6 | ATS | ASID16 | MSI | PRI | CD2L | TWO_LEVEL;
    assert_eq!(u32::from(all.idr0), expected);
    // Everything set but NS1ATS, STALL_MODEL and the reserved encodings.
    let full = ids(|f| f.idr0 = Idr0::from(0xfcdf_ffff & !NS1ATS & !(0b11 << 21)));
    assert_eq!(u32::from(full.idr0), expected | 1 << 26);
    let bare = ids(|f| f.idr0 = Idr0::from(0));
    assert_eq!(
        u32::from(bare.idr0),
        S1P | AARCH64 | COHACC | MSI | TWO_LEVEL
    );
}

#[test]
fn ats_needs_split_stage_ats_and_pri_needs_ats() {
    let no_split = ids(|f| f.idr0 = Idr0::from(u32::from(f.idr0) | NS1ATS));
    assert_eq!(u32::from(no_split.idr0) & (ATS | NS1ATS | PRI), 0);
    assert_eq!(u32::from(no_split.idr1) >> 11 & 31, 0, "PRIQS");
    let no_ats = ids(|f| f.idr0 = Idr0::from(u32::from(f.idr0) & !ATS));
    assert_eq!(u32::from(no_ats.idr0) & (ATS | PRI), 0);
    // Split-stage ATS is illegal where stage 2 must stall.
    let forced = ids(|f| f.idr0 = f.idr0.with_stall_model(0b10));
    assert_eq!(u32::from(forced.idr0) & (ATS | PRI), 0);
    assert_eq!(u32::from(forced.idr1) >> 11 & 31, 0, "PRIQS");
}

#[test]
fn stalls_are_offered_as_they_are() {
    for (model, offered) in [(0b00, 0b00), (0b01, 0b01), (0b10, 0b10), (0b11, 0b01)] {
        let ids = ids(|f| {
            f.idr0 = f.idr0.with_stall_model(model);
            f.idr5 = f.idr5.with_stall_max(7);
        });
        assert_eq!(u32::from(ids.idr0) >> 24 & 3, offered);
        let max = if offered == 0b01 { 0 } else { 7 };
        assert_eq!(u32::from(ids.idr5) >> 16, max);
    }
}

#[test]
fn sizes_are_bounded() {
    // SIDSIZE 32, SSIDSIZE 20, PRIQS, EVENTQS and CMDQS 19, overrides, ECMDQ
    // and the presets.
    let ids = ids(|f| {
        f.idr1 = Idr1::from(32 | 20 << 6 | 19 << 11 | 19 << 16 | 19 << 21 | 0x3f << 26);
    });
    let expected = 16 | 20 << 6 | 15 << 11 | 15 << 16 | 16 << 21 | 0b11 << 26;
    assert_eq!(u32::from(ids.idr1), expected);
    let wide = Ids::derive(
        &features(),
        &IdConfig {
            stream_bits: 20,
            ..CONFIG
        },
    );
    assert_eq!(u32::from(wide.idr1) & 0x3f, 16, "at most the physical one");
}

#[test]
fn idr3_has_nothing_of_stage_2() {
    let full = ids(|f| f.idr3 = Idr3::from(0xffff));
    // HAD, PPS, STT, RIL, BBML, E0PD, PTWNNC.
    let expected = 1 << 2 | 1 << 5 | 1 << 9 | 1 << 10 | 0b11 << 11 | 1 << 13 | 1 << 14;
    assert_eq!(u32::from(full.idr3), expected);
    let without_pri = ids(|f| {
        f.idr3 = Idr3::from(0xffff);
        f.idr0 = f.idr0.with_pri(false);
    });
    assert_eq!(u32::from(without_pri.idr3), expected & !(1 << 5));
}

#[test]
fn page_requests_need_somebody_to_drain_them() {
    let config = IdConfig {
        page_requests: false,
        ..CONFIG
    };
    let pri = 1 << 16;
    let with = Ids::derive(&features(), &CONFIG);
    let without = Ids::derive(&features(), &config);
    assert_eq!(u32::from(with.idr0) & pri, pri);
    assert_eq!(u32::from(without.idr0), u32::from(with.idr0) & !pri);
    assert_eq!(u32::from(without.idr1) >> 11 & 0x1f, 0, "PRIQS");
}

#[test]
fn output_size_fits_the_owner_s_addresses() {
    for (physical, bits, granules, oas) in [
        (5, 40, 0b111, 2),
        (5, 41, 0b111, 2),
        (5, 48, 0b111, 5),
        (2, 48, 0b111, 2),
        (6, 52, 0b111, 6),
        (6, 52, 0b011, 5),
        (7, 56, 0b111, 6),
        (5, 32, 0b111, 0),
        (5, 20, 0b111, 0),
        (5, 43, 0b111, 3),
        (5, 47, 0b111, 4),
        (5, 39, 0b111, 1),
    ] {
        let mut features = features();
        features.idr5 = Idr5::from(0xff80 | physical | granules << 4);
        let config = IdConfig {
            ipa_bits: bits,
            ..CONFIG
        };
        let ids = Ids::derive(&features, &config);
        let raw = u32::from(ids.idr5);
        assert_eq!(raw & 7, oas, "{physical} {bits}");
        assert_eq!(raw >> 4 & 7, granules);
        assert_eq!(raw >> 7 & 3, 0, "DS and D128");
        let vax = u32::from(granules & 0b100 != 0);
        assert_eq!(raw >> 10 & 3, vax);
    }
}

#[test]
fn versions_are_those_of_the_registers() {
    for (physical, offered) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2)] {
        let ids = ids(|f| f.aidr = Aidr::from(physical));
        assert_eq!(u32::from(ids.aidr), offered);
        assert_eq!(u32::from(ids.iidr), 0x4832_143b);
    }
}

#[test]
fn without_coherency_there_are_no_messages() {
    let config = IdConfig {
        coherent: false,
        ..CONFIG
    };
    let mut m = Machine::with(features(), &config);
    assert_eq!(m.reads(0x0) & (COHACC | MSI), 0);
    // Their registers are RES0 (6.3.21), but for PRIQ_IRQ_CFG2.LO.
    m.double(0x68, !0);
    m.word(0x70, !0);
    m.word(0x74, !0);
    m.word(0xdc, !0);
    assert_eq!((m.reads64(0x68), m.reads(0x70), m.reads(0x74)), (0, 0, 0));
    assert_eq!(m.reads(0xdc), 1 << 31);
    assert_eq!(m.smmu.counts().read_only, 3);
}

#[test]
fn reset_values() {
    let m = Machine::new();
    let shown = m.board.shown.borrow();
    for (offset, value) in shown.iter() {
        let expected = match offset {
            0x00 | 0x04 | 0x0c | 0x14 | 0x18 | 0x1c => continue,
            0x44 => 0x1000,
            _ => 0,
        };
        assert_eq!(*value, expected, "{offset:#x}");
    }
    assert_eq!(shown[&0x18], 0x4832_143b);
    assert_eq!(shown[&0x1c], 2);
}

/// What a register reads as after ones were written to it, after reset.
const WRITABLE: [(u32, u32); 26] = [
    (0x28, 0xfff),
    (0x2c, 0x2),
    (0x50, 0x7),
    // Errors that this SMMU has.
    (0x64, 0x1fd),
    // 40-bit addresses.
    (0x68, 0xffff_fffc),
    (0x6c, 0xff),
    (0x70, !0),
    (0x74, 0x3f),
    (0x80, 0xffff_ffc0),
    (0x84, 0x4000_00ff),
    (0x88, 0x3_07ff),
    (0x90, !0),
    (0x94, 0x4000_00ff),
    (0x98, 0xf_ffff),
    (0x9c, 0xf_ffff),
    (0xa0, !0),
    (0xa4, 0x4000_00ff),
    (0xb0, 0xffff_fffc),
    (0xb4, 0xff),
    (0xb8, !0),
    (0xbc, 0x3f),
    (0xc0, !0),
    (0xc4, 0x4000_00ff),
    (0xd8, !0),
    (0xdc, 0x8000_003f),
    (0x100a8, 0x800f_ffff),
];

#[test]
fn every_other_offset_keeps_its_value() {
    let mut m = Machine::new();
    let before = m.board.shown.borrow().clone();
    let more = [0x20, 0x44, 0xd0, 0xd4, 0x100ac, 0x100c8, 0x100cc];
    for offset in (0..0x2_0100).step_by(4) {
        if more.contains(&offset) || WRITABLE.iter().any(|(o, _)| *o == offset) {
            continue;
        }
        m.word(offset, !0);
    }
    let after = m.board.shown.borrow().clone();
    assert_eq!(before, after);
    assert_eq!(m.smmu.counts().writes, 0);
    let ignored = 0x2_0100 / 4 - more.len() as u64 - WRITABLE.len() as u64;
    assert_eq!(m.smmu.counts().read_only, ignored);
}

#[test]
fn writable_bits() {
    for (offset, value) in WRITABLE {
        let mut m = Machine::new();
        m.word(offset, !0);
        assert_eq!(m.reads(offset), value, "{offset:#x}");
        m.word(offset, 0);
        assert_eq!(m.reads(offset), 0, "{offset:#x}");
        assert_eq!(m.smmu.counts().writes, 2);
    }
    for offset in [0xd0, 0x100ac, 0x100c8, 0x100cc] {
        let mut m = Machine::new();
        m.word(offset, !0);
        assert_ne!(m.reads(offset), 0, "{offset:#x}");
    }
}

#[test]
fn pri_registers_exist_only_with_pri() {
    let mut features = features();
    features.idr0 = features.idr0.with_pri(false);
    let mut m = Machine::with(features, &CONFIG);
    for offset in [0xc0, 0xc4, 0xd0, 0xd4, 0xd8, 0xdc, 0x100c8, 0x100cc] {
        m.word(offset, !0);
        assert_eq!(m.reads(offset), 0, "{offset:#x}");
    }
    m.double(0xc0, !0);
    assert_eq!(m.reads64(0xc0), 0);
    m.word(0x50, !0);
    assert_eq!(m.reads(0x50), 0b101);
    assert_eq!(m.reads(0x54), 0b101);
    m.word(0x64, !0);
    assert_eq!(m.reads(0x64), 0x1b5);
}

#[test]
fn other_sizes_and_alignments_are_ignored() {
    let mut m = Machine::new();
    let before = m.board.shown.borrow().clone();
    let mut illegal = 0;
    for offset in (0..0x140).chain(0x1_00a0..0x1_00d0) {
        for size in [Size::Byte, Size::Half] {
            m.write(offset, size, !0).ok();
            illegal += 1;
        }
        if offset % 4 != 0 {
            m.write(offset, Size::Word, !0).ok();
            illegal += 1;
        }
        let wide = [0x68, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0].contains(&offset);
        if !wide {
            m.write(offset, Size::Double, !0).ok();
            illegal += 1;
        }
    }
    assert_eq!(m.smmu.counts().illegal_accesses, illegal);
    assert_eq!(m.board.shown.borrow().clone(), before);
    assert_eq!(m.take(), []);
}

trait Ignore {
    fn ok(self);
}

impl Ignore for smmuv3_emulator::Progress {
    fn ok(self) {
        assert_eq!(self, Self::Done);
    }
}

#[test]
fn far_offsets_are_ignored() {
    let mut m = Machine::new();
    for offset in [
        0x2_0000,
        0x2_0020,
        0x9_0020,
        u32::MAX - 7,
        u32::MAX - 3,
        u32::MAX,
    ] {
        for size in [Size::Byte, Size::Half, Size::Word, Size::Double] {
            m.write(offset, size, !0).ok();
        }
    }
    assert_eq!(m.take(), []);
}

#[test]
fn halves_of_wide_registers_are_written_apart() {
    for offset in [0x68, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0] {
        let mut m = Machine::new();
        m.double(offset, 0x4000_0012_3456_7880);
        let whole = m.reads64(offset);
        assert_eq!(whole & 0xff_ffff_ff80, 0x12_3456_7880, "{offset:#x}");
        m.word(offset + 4, 0);
        assert_eq!(m.reads64(offset), whole & 0xffff_ffff);
        m.word(offset, 0);
        assert_eq!(m.reads64(offset), 0);
        m.word(offset + 4, 0x12);
        m.word(offset, 0x3456_7880);
        assert_eq!(m.reads64(offset), whole & 0xff_ffff_ffff);
    }
}

#[test]
fn configuration_is_fixed_while_enabled() {
    let guarded: [(u32, &[u32]); 4] = [
        // SMMUEN, PRIQEN, EVENTQEN, CMDQEN.
        (1, &[0x80, 0x84, 0x88, 0x2c]),
        (2, &[0xc0, 0xc4, 0x100c8]),
        (4, &[0xa0, 0xa4, 0x100a8]),
        (8, &[0x90, 0x94, 0x9c]),
    ];
    for (enable, registers) in guarded {
        let mut m = Machine::new();
        m.until_done(0x20, enable);
        for offset in registers {
            let before = m.reads(*offset);
            m.word(*offset, !0);
            assert_eq!(m.reads(*offset), before, "{offset:#x}");
        }
        assert_eq!(m.smmu.counts().guarded, registers.len() as u64);
        m.until_done(0x20, 0);
        for offset in registers {
            m.word(*offset, !0);
            assert_ne!(m.reads(*offset), 0, "{offset:#x}");
        }
    }
}

#[test]
fn cr1_guards_tables_and_queues_apart() {
    let mut m = Machine::new();
    m.until_done(0x20, 1);
    m.word(0x28, !0);
    assert_eq!(m.reads(0x28), 0x3f);
    m.until_done(0x20, 4);
    m.word(0x28, 0);
    assert_eq!(m.reads(0x28), 0x3f);
    m.word(0x28, 0xfc0);
    assert_eq!(m.reads(0x28), 0xfff);
    m.until_done(0x20, 5);
    m.word(0x28, 0);
    assert_eq!(m.reads(0x28), 0xfff);
    assert_eq!(m.smmu.counts().guarded, 1);
}

#[test]
fn messages_are_fixed_while_their_interrupt_is_enabled() {
    for (enable, cfg0) in [(1, 0x68), (4, 0xb0), (2, 0xd0)] {
        let mut m = Machine::new();
        m.word(0x50, enable);
        assert_eq!((m.reads(0x50), m.reads(0x54)), (enable, enable));
        for offset in [cfg0, cfg0 + 4, cfg0 + 8, cfg0 + 12] {
            m.word(offset, 0x20);
            assert_eq!(m.reads(offset), 0, "{offset:#x}");
        }
        m.word(0x50, 0);
        m.double(cfg0, 0x80);
        m.word(cfg0 + 8, 5);
        m.word(cfg0 + 12, 6);
        assert_eq!(m.reads64(cfg0), 0x80);
        assert_eq!((m.reads(cfg0 + 8), m.reads(cfg0 + 12)), (5, 6));
    }
}

#[test]
fn output_queue_consumers_belong_to_the_owner() {
    let mut m = Machine::new();
    m.until_done(0x20, 0b110);
    for offset in [0x100ac, 0x100cc] {
        m.word(offset, 0x8000_0003);
        assert_eq!(m.reads(offset), 0x8000_0003);
    }
}

#[test]
fn largest_queues_hold_one_mebibyte() {
    let mut m = Machine::new();
    // LOG2SIZE is capped, and lower address bits ignored (6.3.26).
    for (base, enable) in [(0x90, 8), (0xa0, 4), (0xc0, 2)] {
        m.double(base, (RAM + 0xffe0) | 31);
        m.until_done(0x20, enable);
        assert_eq!(m.board.held.get(), 1, "{base:#x}");
        assert_eq!(m.reads64(base), (RAM + 0xffe0) | 31);
        m.until_done(0x20, 0);
        assert_eq!(m.board.held.get(), 0);
        assert!(m.take().contains(&Act::Close(RAM)));
    }
    assert_eq!(m.board.largest.get(), 1 << 20);
    assert_eq!(m.smmu.counts().bad_queues, 0);
    // The end of memory.
    m.double(0x90, (RAM + RAM_SIZE) | 4);
    m.until_done(0x20, 8);
    assert_eq!(m.smmu.counts().bad_queues, 1);
}
