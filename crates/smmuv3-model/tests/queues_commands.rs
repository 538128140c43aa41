//! Commands against literals from IHI 0070, chapter 4, and the command queue
//! against 3.5 and 7.1.
#![allow(missing_docs)]

mod interface;

use interface::{COMMANDS, IDR0, error_of, everything, minimal, put, running, submit};
use smmuv3_model::{Misuse, Profile, Smmu};
use smmuv3_spec::command::Command;
use smmuv3_spec::id::{Idr0, Idr1, Idr3, Idr5};

/// CMDQ_CONS.ERR: CERROR_ILL.
const ILL: u32 = 1;
const SID: u64 = 5 << 32;
const VMID: u64 = 9 << 32;
const ASID: u64 = 7 << 48;
/// SubstreamID 3, and SSV.
const SSID: u64 = 3 << 12;
const SSV: u64 = 1 << 11;
const VA: u64 = 0x1234_5000;

#[track_caller]
fn fine(smmu: &mut Smmu, command: [u64; 2]) {
    assert_eq!(error_of(smmu, command), 0, "{command:#x?}");
    assert_eq!(smmu.take_misuse(), [], "{command:#x?}");
}

#[track_caller]
fn illegal(smmu: &mut Smmu, command: [u64; 2]) {
    assert_eq!(error_of(smmu, command), ILL, "{command:#x?}");
    assert_eq!(smmu.take_misuse(), [Misuse::Command(Command(command))]);
}

fn with(idr0: u32) -> Profile {
    let mut profile = everything();
    profile.idr0 = Idr0::from(idr0);
    profile
}

#[test]
fn every_command_of_a_full_smmu() {
    let mut smmu = running(everything());
    for command in [
        [SID | 0x01, 0],
        [SID | SSID | SSV | 0x01, 0],
        [SID | SSID | SSV | 0x02, VA | 9 << 5 | 3],
        [SID | 0x03, 1],
        [SID | 0x04, 7],
        [0x04, 31],
        // Range 31 ignores the stream.
        [0xffff_ffff_0000_0004, 31],
        [SID | SSID | 0x05, 1],
        [SID | 0x06, 0],
        [VMID | 0x10, 0],
        [VMID | ASID | 0x11, 0],
        [VMID | ASID | 0x12, VA | 1],
        [VMID | 0x13, VA],
        [0x20, 0],
        [ASID | 0x21, 0],
        [ASID | 0x22, VA | 1],
        [0x23, VA],
        [VMID | 0x28, 0],
        [VMID | 0x2a, VA | 1],
        [0x30, 0],
        [SID | 0x40, 52],
        [SID | SSID | SSV | 1 << 9 | 0x40, VA | 3],
        [SID | SSID | SSV | 0x41, 2 << 12 | 0x1ff],
        [SID | 1 << 12 | 0x44, 0xffff],
        [SID | 0x45, 0],
        [0x46, 0],
        [1 << 12 | 0x46, 0],
        [2 << 12 | 0x46, 0],
    ] {
        fine(&mut smmu, command);
    }
    assert_eq!(smmu.counts().commands, 28);
    assert_eq!(smmu.counts().syncs, 3);
}

#[test]
fn opcodes_that_no_non_secure_queue_has() {
    let mut smmu = running(everything());
    // Reserved, VMS, EL3, Secure, DPT, implementation defined.
    for opcode in [
        0x00, 0x07, 0x08, 0x14, 0x18, 0x1a, 0x19, 0x24, 0x29, 0x2b, 0x31, 0x42, 0x43, 0x47, 0x50,
        0x53, 0x58, 0x5a, 0x60, 0x70, 0x73, 0x80, 0xff,
    ] {
        illegal(&mut smmu, [opcode, 0]);
    }
}

#[test]
fn commands_for_what_is_not_implemented() {
    let mut smmu = running(minimal());
    for command in [
        [SID | 0x05, 0],
        [SID | 0x06, 0],
        [0x10, 0],
        [0x11, 0],
        [0x12, 0],
        [0x13, 0],
        [0x20, 0],
        [0x21, 0],
        [0x22, 0],
        [0x23, 0],
        [SID | 0x40, 52],
        [SID | 0x41, 0],
    ] {
        illegal(&mut smmu, command);
    }
    // S2P 0, S1P 1: no stage 2.
    let mut smmu = running(with(IDR0 & !1));
    illegal(&mut smmu, [0x28, 0]);
    illegal(&mut smmu, [0x2a, 0]);
    fine(&mut smmu, [0x30, 0]);
    // STALL_MODEL 0b01 is terminate only; 0b10 stalls always.
    let mut smmu = running(with(IDR0 | 1 << 24));
    illegal(&mut smmu, [SID | 0x44, 0]);
    illegal(&mut smmu, [SID | 0x45, 0]);
    let mut smmu = running(with(IDR0 | 2 << 24));
    fine(&mut smmu, [SID | 0x45, 0]);
}

#[test]
fn a_secure_stream_is_not_this_queues() {
    let mut smmu = running(everything());
    for opcode in [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x40, 0x41, 0x44, 0x45] {
        illegal(&mut smmu, [SID | 1 << 10 | opcode, 0]);
    }
}

#[test]
fn reserved_encodings() {
    let mut smmu = running(everything());
    illegal(&mut smmu, [3 << 12 | 0x46, 0]);
    illegal(&mut smmu, [SID | 0x41, 3 << 12]);
    // TG without NUM, SCALE and TTL.
    for opcode in [0x12, 0x13, 0x22, 0x23, 0x2a] {
        illegal(&mut smmu, [opcode, 1 << 10]);
        // TTL 1 of 16 KiB tables is no level without 52 bits.
        illegal(&mut smmu, [opcode, 2 << 10 | 1 << 8]);
        fine(&mut smmu, [opcode, 1 << 10 | 3 << 8]);
        fine(&mut smmu, [1 << 12 | opcode, 1 << 10]);
        fine(&mut smmu, [1 << 20 | opcode, 3 << 10]);
    }
    // Without range invalidation these fields are reserved; with SCALE 32 they
    // need DS.
    let mut old = everything();
    old.idr3 = Idr3::from(0);
    let mut smmu = running(old);
    assert_eq!(error_of(&mut smmu, [0x2a, 1 << 10]), 0);
    let reserved = |low, high| [Misuse::ReservedField(Command([low, high]))];
    assert_eq!(smmu.take_misuse(), reserved(0x2a, 1 << 10));
    let mut smmu = running(everything());
    illegal(&mut smmu, [1 << 25 | 0x2a, 1 << 10]);
    let mut large = everything();
    large.idr5 = Idr5::from(0x75 | 1 << 7);
    let mut smmu = running(large);
    fine(&mut smmu, [1 << 25 | 0x2a, 1 << 10]);
    fine(&mut smmu, [0x2a, 2 << 10 | 1 << 8]);
}

#[test]
fn reserved_fields_are_reported() {
    let mut smmu = running(everything());
    for command in [
        [SID | 0x03, 2],
        [SID | 1 << 11 | 0x03, 0],
        [SID | 0x04, 0x20],
        [VMID | ASID | 0x10, 0],
        [VMID | 0x30, 0],
        [VMID | 0x2a, 1 << 52],
        [VMID | 0x2a, 1 << 8],
        [1 << 12 | VMID | 0x2a, 0],
        [SID | 0x46, 1],
        [1 << 14 | 0x46, 0],
        [SID | 0x45, 1],
        [SID | 1 << 14 | 0x44, 0],
        [SID | 0x41, 1 << 9],
    ] {
        assert_eq!(error_of(&mut smmu, command), 0);
        let expected = [Misuse::ReservedField(Command(command))];
        assert_eq!(smmu.take_misuse(), expected, "{command:#x?}");
    }
    let mut first = everything();
    first.aidr = smmuv3_spec::id::Aidr::from(0);
    let mut smmu = running(first);
    let stride = [SID | 0x02, 1 << 5];
    assert_eq!(error_of(&mut smmu, stride), 0);
    let expected = [Misuse::ReservedField(Command(stride))];
    assert_eq!(smmu.take_misuse(), expected);
}

#[test]
fn parameters_out_of_range_are_reported() {
    let mut small = everything();
    // 8 bits of VMID (18) and ASID (12).
    small.idr0 = Idr0::from(IDR0 & !(1 << 18) & !(1 << 12));
    let mut smmu = running(small);
    for command in [
        // 16 bits of stream, 8 of substream.
        [1 << 48 | 0x03, 0],
        [1 << 48 | 0x40, 52],
        [SID | 0x100_000 | 0x05, 0],
        [SID | SSV | 0x100_000 | 0x01, 0],
        [0x100 << 32 | 0x28, 0],
        [0x100 << 48 | 0x11, 0],
        [SID | 0x40, 53],
    ] {
        assert_eq!(error_of(&mut smmu, command), 0);
        let expected = [Misuse::OutOfRange(Command(command))];
        assert_eq!(smmu.take_misuse(), expected, "{command:#x?}");
    }
    // A substream where there are none.
    let mut none = everything();
    none.idr1 = Idr1::from(interface::IDR1 & !(0x1f << 6));
    let mut smmu = running(none);
    let command = [SID | SSV | 0x40, 52];
    assert_eq!(error_of(&mut smmu, command), 0);
    let expected = [Misuse::OutOfRange(Command(command))];
    assert_eq!(smmu.take_misuse(), expected);
}

#[test]
fn ranges_start_at_their_level() {
    let mut smmu = running(everything());
    // TG, TTL, first bit that may be set.
    for (tg, ttl, bit) in [
        (1u64, 1u64, 30),
        (1, 2, 21),
        (1, 3, 12),
        (2, 2, 25),
        (2, 3, 14),
        (3, 1, 42),
        (3, 2, 29),
        (3, 3, 16),
    ] {
        let hint = tg << 10 | ttl << 8;
        fine(&mut smmu, [0x2a, 1 << bit | hint]);
        if bit > 12 {
            let command = [0x2a, 1 << (bit - 1) | hint];
            assert_eq!(error_of(&mut smmu, command), 0);
            let expected = [Misuse::Misaligned(Command(command))];
            assert_eq!(smmu.take_misuse(), expected, "{tg} {ttl}");
        }
    }
}

#[test]
fn the_queue_stops_at_an_error_and_goes_on() {
    let mut smmu = running(everything());
    submit(&mut smmu, &[[0x30, 0], [0xff, 0], [0x46, 0], [0x46, 0]]);
    assert_eq!(smmu.read32(0x9c), 1 << 24 | 1);
    assert_eq!(smmu.read32(0x60), 1);
    // While it is active, commands can be taken back as far as CONS.
    smmu.write32(0x98, 2);
    assert_eq!(smmu.read32(0x98), 2);
    smmu.write32(0x98, 0);
    let overrun = |prod, cons| Misuse::Overrun { prod, cons };
    let illegal = Misuse::Command(Command([0xff, 0]));
    assert_eq!(smmu.take_misuse(), [illegal, overrun(0, 1)]);
    put(&mut smmu, COMMANDS + 16, 0x46);
    smmu.write32(0x64, 1);
    assert_eq!(smmu.read32(0x9c), 2);
    // Without one they cannot, and no more than 16 fit.
    smmu.write32(0x98, 1);
    smmu.write32(0x98, 19);
    assert_eq!(smmu.take_misuse(), [overrun(1, 2), overrun(19, 2)]);
    smmu.write32(0x98, 2);
    assert_eq!(smmu.take_misuse(), []);
}

#[test]
fn commands_that_cannot_be_fetched() {
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b0111);
    // The ring is the last 128 bytes of memory and 128 behind it.
    smmu.write64(0x90, 0x80ff_ff80 | 4);
    smmu.write32(0x20, 0b1111);
    for word in 0..16 {
        put(
            &mut smmu,
            0x80ff_ff00 + word * 8,
            0x30 * u64::from(word % 2 == 0),
        );
    }
    smmu.write32(0x98, 1);
    assert_eq!(smmu.read32(0x9c), 1, "aligned down to 0x80ff_ff00");
    smmu.write32(0x20, 0b0111);
    smmu.write64(0x90, 0x7000_0000 | 4);
    smmu.write32(0x9c, 0);
    smmu.write32(0x20, 0b1111);
    assert_eq!(smmu.read32(0x9c), 2 << 24);
    assert_eq!(smmu.read32(0x60) ^ smmu.read32(0x64), 1);
}

#[test]
fn a_queue_of_one_entry() {
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b0111);
    smmu.write64(0x90, COMMANDS);
    smmu.write32(0x20, 0b1111);
    put(&mut smmu, COMMANDS, 0x30);
    for wrap in [1, 0, 1] {
        smmu.write32(0x98, wrap);
        assert_eq!(smmu.read32(0x9c), wrap);
    }
    assert_eq!(smmu.counts().commands, 3);
    assert_eq!(smmu.take_misuse(), []);
}

#[test]
fn nothing_is_fetched_while_disabled() {
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b0111);
    submit(&mut smmu, &[[0x30, 0]]);
    assert_eq!(smmu.read32(0x9c), 0);
    smmu.write32(0x20, 0b1111);
    assert_eq!(smmu.read32(0x9c), 1);
}
