//! Each register against literals from its section of IHI 0070, 6.3.
#![allow(missing_docs)]

mod interface;

use interface::{COMMANDS, EVENTS, IDR0, IDR1, everything, fresh, minimal, running};
use smmuv3_model::{Misuse, Mode, Profile, Smmu};
use smmuv3_spec::id::{Idr0, Idr1};

fn plain(profile: Profile) -> Smmu {
    fresh(profile, Mode::Plain)
}

/// What a register holds after all ones were written to it.
#[track_caller]
fn ones32(profile: Profile, offset: u32) -> u32 {
    let mut smmu = plain(profile);
    smmu.write32(offset, u32::MAX);
    smmu.read32(offset)
}

#[track_caller]
fn ones64(profile: Profile, offset: u32) -> u64 {
    let mut smmu = plain(profile);
    smmu.write64(offset, u64::MAX);
    let whole = smmu.read64(offset);
    let mut halves = plain(profile);
    halves.write32(offset, u32::MAX);
    halves.write32(offset + 4, u32::MAX);
    let (low, high) = (halves.read32(offset), halves.read32(offset + 4));
    assert_eq!(u64::from(high) << 32 | u64::from(low), whole, "halves");
    whole
}

#[test]
fn identification_is_read_only() {
    let mut smmu = plain(everything());
    let before: Vec<u32> = (0..8).map(|n| smmu.read32(n * 4)).collect();
    assert_eq!(before[0], IDR0);
    assert_eq!(before[1], IDR1);
    assert_eq!((before[2], before[4]), (0, 0));
    assert_eq!(before[5], 0x75);
    for n in 0..8 {
        smmu.write32(n * 4, !before[n as usize]);
        assert_eq!(smmu.read32(n * 4), before[n as usize]);
    }
    assert_eq!(smmu.take_misuse(), []);
}

#[test]
fn cr0_has_the_bits_that_the_id_registers_say() {
    // SMMUEN 0, PRIQEN 1, EVENTQEN 2, CMDQEN 3, ATSCHK 4, VMW 8:6.
    assert_eq!(ones32(everything(), 0x20), 0x1df);
    assert_eq!(ones32(minimal(), 0x20), 0x00d);
    let mut one = minimal();
    one.idr0 = Idr0::from(u32::from(one.idr0) | 1 << 16);
    assert_eq!(ones32(one, 0x20), 0x00f, "PRI");
    one.idr0 = Idr0::from(u32::from(minimal().idr0) | 1 << 10);
    assert_eq!(ones32(one, 0x20), 0x01d, "ATS");
    one.idr0 = Idr0::from(u32::from(minimal().idr0) | 1 << 17);
    assert_eq!(ones32(one, 0x20), 0x1cd, "VMW");
    // What is not there is never acknowledged.
    let mut smmu = plain(minimal());
    smmu.write32(0x20, 0b10);
    assert_eq!((smmu.read32(0x20), smmu.read32(0x24)), (0, 0));
    assert_eq!(smmu.take_misuse(), []);
    // Bit 5, 9 and 31:10 are reserved.
    smmu.write32(0x20, 1 << 9);
    let (offset, value) = (0x20, 1 << 9);
    assert_eq!(smmu.take_misuse(), [Misuse::Reserved { offset, value }]);
}

#[test]
fn control_registers() {
    assert_eq!(ones32(everything(), 0x28), 0xfff, "CR1");
    // E2H with Hyp, RECINVSID, PTM with BTM only, REC_CFG_ATS with ATSRECERR.
    assert_eq!(ones32(everything(), 0x2c), 0b1011, "CR2");
    assert_eq!(ones32(minimal(), 0x2c), 0b0010, "CR2");
    let mut btm = minimal();
    btm.idr0 = Idr0::from(u32::from(btm.idr0) | 1 << 5);
    assert_eq!(ones32(btm, 0x2c), 0b0110, "CR2");
    assert_eq!(ones32(everything(), 0x48), 0, "AGBPA");
    assert_eq!(ones32(everything(), 0x24), 0, "CR0ACK");
    assert_eq!(ones32(everything(), 0x60), 0, "GERROR");
    assert_eq!(ones32(everything(), 0x54), 0, "IRQ_CTRLACK");
    assert_eq!(ones32(everything(), 0x50), 0b111, "IRQ_CTRL");
    assert_eq!(ones32(minimal(), 0x50), 0b101, "IRQ_CTRL");
    assert_eq!(ones32(everything(), 0x44), 0x1f_3f1f, "GBPA");
}

#[test]
fn tables_and_queues() {
    // ADDR 55:6 up to OAS (48 bits; 40 in the minimal one), RA 62.
    assert_eq!(ones64(everything(), 0x80), 0x4000_ffff_ffff_ffc0);
    assert_eq!(ones64(minimal(), 0x80), 0x4000_00ff_ffff_ffc0);
    // LOG2SIZE 5:0, SPLIT 10:6, FMT 17:16.
    assert_eq!(ones32(everything(), 0x88), 0x3_07ff);
    assert_eq!(ones32(minimal(), 0x88), 0x3f);
    for offset in [0x90, 0xa0, 0xc0] {
        assert_eq!(ones64(everything(), offset), 0x4000_ffff_ffff_ffff);
    }
    assert_eq!(ones64(minimal(), 0xc0), 0, "no PRI");
    assert_eq!(ones32(everything(), 0x98), 0xf_ffff);
    // RD above the wrap bit is RAZ: one entry has bit 0 only.
    assert_eq!(ones32(everything(), 0x9c), 0x7f00_0001);
    for offset in [0x1_00a8, 0x1_00ac, 0x1_00c8, 0x1_00cc] {
        assert_eq!(ones32(everything(), offset), 0x800f_ffff, "{offset:#x}");
    }
    assert_eq!(ones32(minimal(), 0x1_00c8), 0, "no PRI");
    // Preset bases are fixed.
    let mut preset = everything();
    preset.idr1 = Idr1::from(IDR1 | 1 << 29 | 1 << 30);
    for offset in [0x80, 0x90, 0xa0, 0xc0] {
        assert_eq!(ones64(preset, offset), 0);
    }
    assert_eq!(ones32(preset, 0x88), 0);
}

#[test]
fn interrupt_configuration_needs_msi() {
    for offset in [0x68, 0xb0, 0xd0] {
        // ADDR 55:2.
        assert_eq!(ones64(everything(), offset), 0x0000_ffff_ffff_fffc);
        assert_eq!(ones64(minimal(), offset), 0);
    }
    for offset in [0x70, 0xb8, 0xd8] {
        assert_eq!(ones32(everything(), offset), u32::MAX);
        assert_eq!(ones32(minimal(), offset), 0);
    }
    for (offset, bits) in [(0x74, 0x3f), (0xbc, 0x3f), (0xdc, 0x8000_003f)] {
        assert_eq!(ones32(everything(), offset), bits, "{offset:#x}");
        assert_eq!(ones32(minimal(), offset), 0);
    }
    let mut without = everything();
    without.idr0 = Idr0::from(IDR0 & !(1 << 16));
    assert_eq!(ones32(without, 0xdc), 0, "no PRI");
}

#[test]
fn what_is_not_there_is_zero() {
    let mut smmu = plain(everything());
    // S2PII, GATOS, VATOS_SEL, MPAM, Secure, implementation defined.
    for offset in [
        0x30, 0x100, 0x108, 0x118, 0x180, 0x138, 0x8000, 0xe00, 0xfd0,
    ] {
        smmu.write32(offset, u32::MAX);
        assert_eq!(smmu.read32(offset), 0, "{offset:#x}");
    }
    let all = u64::from(u32::MAX);
    let reserved = |offset| Misuse::Reserved { offset, value: all };
    assert_eq!(smmu.take_misuse(), [reserved(0x30), reserved(0x138)]);
}

#[test]
fn page_0_and_page_1_do_not_alias() {
    let mut smmu = plain(everything());
    for offset in [0xa8, 0xac, 0xc8, 0xcc] {
        smmu.write32(offset, 1);
        assert_eq!(smmu.read32(0x1_0000 + offset), 0);
        let alias = Misuse::Alias { offset };
        assert_eq!(smmu.take_misuse(), [alias]);
        smmu.write32(0x1_0000 + offset, 1);
        assert_eq!(smmu.read32(offset), 0);
        assert_eq!(smmu.take_misuse(), [alias]);
        assert_eq!(smmu.read32(0x1_0000 + offset), 1);
    }
    smmu.write32(0x1_0020, 1);
    assert_eq!(smmu.read32(0x20), 0);
    let offset = 0x1_0020;
    assert_eq!(smmu.take_misuse(), [Misuse::Alias { offset }]);
}

#[test]
fn widths_and_alignment() {
    let mut smmu = plain(everything());
    smmu.read32(0x22);
    smmu.write32(0x21, 1);
    smmu.read32(0x2_0000);
    smmu.write32(u32::MAX - 3, 1);
    // 64 bits over two registers of 32, and across one of 64.
    smmu.read64(0x20);
    smmu.write64(0x20, 0xd);
    smmu.write64(0x84, 0);
    smmu.read64(0x98);
    let of = |offset, bytes| Misuse::Access { offset, bytes };
    let expected = [
        of(0x22, 4),
        of(0x21, 4),
        of(0x2_0000, 4),
        of(u32::MAX - 3, 4),
        of(0x20, 8),
        of(0x20, 8),
        of(0x84, 8),
        of(0x98, 8),
    ];
    assert_eq!(smmu.take_misuse(), expected);
    assert_eq!(smmu.read32(0x20), 0);
}

/// Whether a write of `value` is refused as long as CR0 is `cr0`.
#[track_caller]
fn guarded(cr0: u32, offset: u32, value: u32) -> bool {
    let mut smmu = plain(everything());
    smmu.write32(0x20, cr0);
    let before = smmu.read32(offset);
    smmu.write32(offset, value);
    let refused = smmu.read32(offset) == before;
    // The upper half of a 64-bit register is reported as part of the whole.
    let value = u64::from(value);
    let (offset, value) = match offset {
        0x84 | 0x94 => (offset - 4, value << 32),
        _ => (offset, value),
    };
    let expected: &[Misuse] = if refused {
        &[Misuse::Guarded { offset, value }]
    } else {
        &[]
    };
    assert_eq!(smmu.take_misuse(), expected, "{offset:#x}");
    refused
}

#[test]
fn what_guards_what() {
    let (smmuen, priqen, eventqen, cmdqen) = (1, 2, 4, 8);
    let all = smmuen | priqen | eventqen | cmdqen;
    let cases = [
        (0x28, 0xc00, smmuen),
        (0x28, 0x030, priqen | eventqen | cmdqen),
        (0x2c, 0x002, smmuen),
        (0x80, 0x1000, smmuen),
        (0x84, 0x1, smmuen),
        (0x88, 0x8, smmuen),
        (0x90, 0x1008, cmdqen),
        (0x94, 0x1, cmdqen),
        (0x9c, 0x1, cmdqen),
        (0xa0, 0x1008, eventqen),
        (0x1_00a8, 0x1, eventqen),
        (0xc0, 0x1008, priqen),
        (0x1_00c8, 0x1, priqen),
    ];
    for (offset, value, by) in cases {
        for bit in [smmuen, priqen, eventqen, cmdqen] {
            assert_eq!(
                guarded(bit, offset, value),
                by & bit != 0,
                "{offset:#x} {bit}"
            );
        }
        assert!(!guarded(all & !by, offset, value), "{offset:#x}");
    }
    // A write that changes nothing of what is guarded is none.
    let mut smmu = plain(everything());
    smmu.write32(0x28, 0xc00);
    smmu.write32(0x20, 1);
    smmu.write32(0x28, 0xc30);
    assert_eq!((smmu.read32(0x28), smmu.take_misuse().len()), (0xc30, 0));
}

#[test]
fn interrupt_enables_guard_their_configuration() {
    for (bit, registers) in [
        (1, [0x68, 0x70, 0x74]),
        (2, [0xd0, 0xd8, 0xdc]),
        (4, [0xb0, 0xb8, 0xbc]),
    ] {
        for offset in registers {
            let mut smmu = plain(everything());
            smmu.write32(0x50, 7 & !bit);
            smmu.write32(offset, 4);
            assert_eq!((smmu.read32(offset), smmu.take_misuse().len()), (4, 0));
            smmu.write32(0x50, 7);
            smmu.write32(offset, 8);
            let value = 8;
            let guarded = Misuse::Guarded { offset, value };
            assert_eq!(smmu.read32(offset), 4);
            assert_eq!(smmu.take_misuse(), [guarded]);
        }
    }
}

#[test]
fn updates_are_acknowledged_late_and_not_hurried() {
    let mut late = 0;
    for seed in 0..40 {
        let mut smmu = fresh(everything(), Mode::Greedy { seed });
        smmu.write32(0x20, 0b1000);
        assert_eq!(smmu.read32(0x20), 0b1000);
        // Not yet enabled, and guarded all the same.
        smmu.write32(0x9c, 1);
        assert_eq!(smmu.take_misuse().len(), 1);
        let mut polls = 1;
        while smmu.read32(0x24) != 0b1000 {
            polls += 1;
            // Back again before it was acknowledged.
            smmu.write32(0x20, 0);
            let (offset, value) = (0x20, 0);
            assert_eq!(smmu.take_misuse(), [Misuse::Guarded { offset, value }]);
        }
        late += u32::from(polls > 1);
        smmu.write32(0x50, 1);
        while smmu.read32(0x54) != 1 {}
        smmu.write32(0x44, 0x8010_0000);
        smmu.write32(0x44, 0x8000_0000);
        assert_eq!(smmu.take_misuse().len(), 1);
        assert_eq!(smmu.read32(0x44) & 0x7fff_ffff, 0x10_0000);
        while smmu.read32(0x44) >> 31 != 0 {}
    }
    assert!(late > 10, "{late}");
}

#[test]
fn dormant_says_that_nothing_is_cached() {
    let mut smmu = plain(everything());
    assert_eq!(smmu.read32(0x40), 1);
    let mut without = plain(minimal());
    assert_eq!(without.read32(0x40), 0);
    let mut greedy = interface::running_as(everything(), Mode::Greedy { seed: 1 });
    assert_eq!(greedy.read32(0x40), 0);
    greedy.write32(0x20, 0b1110);
    while greedy.read32(0x24) != 0b1110 {}
    assert_eq!(greedy.read32(0x40), 0, "entries are still cached");
    smmu.write32(0x20, 1);
    assert_eq!(smmu.read32(0x40), 0);
}

#[test]
fn acknowledging_what_is_not_there_activates_it() {
    let mut smmu = running(everything());
    smmu.write32(0x64, 1);
    assert_eq!(smmu.take_misuse(), [Misuse::Acknowledge { bits: 1 }]);
    // CMDQ_ERR is active now and stops the queue.
    interface::submit(&mut smmu, &[[0x46, 0]]);
    assert_eq!(smmu.read32(0x9c), 0);
    smmu.write32(0x64, 0);
    assert_eq!(smmu.take_misuse(), []);
    assert_eq!(smmu.read32(0x9c), 1);
    // SFM 8, MSI_* 7:4, PRIQ 3, EVENTQ 2, CMDQ 0.
    assert_eq!(ones32(everything(), 0x64), 0x1fd);
    assert_eq!(ones32(minimal(), 0x64), 0x105);
}

#[test]
fn queue_sizes_are_capped() {
    let mut smmu = plain(everything());
    for (offset, log2) in [(0x90, 11), (0xa0, 12), (0xc0, 13)] {
        smmu.write64(offset, 0x8000_0000 | u64::from(log2));
        assert_eq!(smmu.take_misuse(), [Misuse::QueueSize { log2 }]);
        assert_eq!(smmu.read64(offset) & 0x1f, u64::from(log2), "reads back");
    }
    // 2^10 commands: the wrap bit is bit 10, and bit 11 is nothing.
    smmu.write32(0x9c, 0xfff);
    assert_eq!(smmu.read32(0x9c), 0x7ff);
}

#[test]
fn indices_must_fit_when_a_queue_is_enabled() {
    let mut smmu = plain(everything());
    smmu.write64(0x90, COMMANDS | 4);
    smmu.write64(0xa0, EVENTS | 4);
    // 17 of 16.
    smmu.write32(0x98, 17);
    smmu.write32(0x1_00a8, 17);
    smmu.write32(0x20, 0b1100);
    let of = |offset| Misuse::Index {
        offset,
        prod: 17,
        cons: 0,
    };
    assert_eq!(smmu.take_misuse(), [of(0x90), of(0xa0)]);
}

#[test]
fn addresses_beyond_the_reach_are_reported() {
    let mut smmu = plain(minimal());
    let value = 1 << 40;
    smmu.write64(0x80, value);
    let offset = 0x80;
    assert_eq!(smmu.take_misuse(), [Misuse::Reserved { offset, value }]);
    assert_eq!(smmu.read64(0x80), 0);
}
