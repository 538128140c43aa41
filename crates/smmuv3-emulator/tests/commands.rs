//! Which commands reach the physical SMMU, and with which bits (IHI 0070,
//! chapter 4).

mod common;

use common::{Act, LOG2, Machine, STREAMS, VMID, features};
use smmuv3_driver::Features;
use smmuv3_emulator::Progress;

/// A stream of the owner's, and one that is not.
const MINE: u64 = 8;
const FOREIGN: u64 = 7;
const PHYSICAL: u64 = MINE + STREAMS as u64;
const TAG: u64 = (VMID as u64) << 32;

const ILL: u32 = 1;

fn consumed(m: &Machine) -> Option<u32> {
    match m.reads(0x60) ^ m.reads(0x64) {
        0 => None,
        1 => Some(m.reads(0x9c) >> 24),
        other => panic!("GERROR {other:#x}"),
    }
}

/// CMD_PREFETCH_CONFIG, which has no effect: before it, a command goes by the
/// short way where there is one.
const NOTHING: [u64; 2] = [0x01, 0];

/// What one command becomes, by either way: what was issued, or why it was
/// refused.
fn becomes_on(features: Features, command: [u64; 2]) -> Result<Vec<[u64; 2]>, u32> {
    let [alone, short] = [&[command][..], &[command, NOTHING]].map(|commands| {
        let mut m = Machine::with_commands(features);
        assert_eq!(m.submit(commands), Progress::Done);
        match consumed(&m) {
            None => {
                assert_eq!(m.reads(0x9c) as usize, commands.len());
                Ok(m.issued())
            }
            Some(error) => {
                assert_eq!(m.reads(0x9c) & 0xf_ffff, 0, "it names the command");
                assert_eq!(m.issued(), [[0; 2]; 0]);
                Err(error)
            }
        }
    });
    assert_eq!(alone, short, "{command:x?}");
    alone
}

fn becomes(command: [u64; 2]) -> Result<Vec<[u64; 2]>, u32> {
    becomes_on(features(), command)
}

fn change(change: impl FnOnce(&mut Features)) -> Features {
    let mut features = features();
    change(&mut features);
    features
}

#[test]
fn every_opcode_with_nothing_else() {
    for opcode in 0..=0xff_u64 {
        let expected = match opcode {
            // No stream 0: no effect.
            0x01..=0x06 | 0x40 | 0x41 | 0x44 | 0x45 | 0x46 => Ok(vec![]),
            0x10..=0x13 => Ok(vec![[opcode | TAG, 0]]),
            0x30 => Ok(vec![[0x10 | TAG, 0]]),
            _ => Err(ILL),
        };
        assert_eq!(becomes([opcode, 0]), expected, "{opcode:#x}");
    }
}

#[test]
fn every_opcode_with_every_other_bit() {
    // Neither reserved bits nor a foreign VMID nor SSec get through.
    for opcode in 0..=0xff_u64 {
        let expected = match opcode {
            0x10 | 0x30 => Ok(vec![[0x10 | TAG, 0]]),
            0x11 => Ok(vec![[0x11 | TAG | 0xffff << 48, 0]]),
            // NUM, SCALE (5 bits), Leaf, TTL, TG, address.
            0x12 => Ok(vec![[
                0x12 | TAG | 0xffff << 48 | 0x1f << 12 | 0x1f << 20,
                !0xfff | 0b1111 << 8 | 1,
            ]]),
            0x13 => Ok(vec![[
                0x13 | TAG | 0x1f << 12 | 0x1f << 20,
                !0xfff | 0b1111 << 8 | 1,
            ]]),
            _ => Err(ILL),
        };
        assert_eq!(becomes([!0xff | opcode, !0]), expected, "{opcode:#x}");
    }
}

#[test]
fn every_bit_of_every_command_alone() {
    // One bit more never makes an opcode appear, nor another VMID, nor another
    // stream than the physical number of the owner's.
    let mut m = Machine::enabled();
    let bits = (0..=0xff_u64).flat_map(|opcode| (8..128).map(move |bit| (opcode, bit)));
    for (opcode, bit) in bits {
        for more in [&[][..], &[NOTHING]] {
            let mut command = [opcode | MINE << 32, 0];
            if (0x10..=0x13).contains(&opcode) || opcode == 0x30 {
                command[0] = opcode;
            }
            command[bit / 64] ^= 1 << (bit % 64);
            assert_eq!(m.submit(&[&[command][..], more].concat()), Progress::Done);
            let issued = m.issued();
            if consumed(&m).is_some() {
                // Taken back.
                assert_eq!(issued, [[0; 2]; 0]);
                let cons = m.reads(0x9c) & 0xf_ffff;
                m.word(0x98, cons);
                m.word(0x64, m.reads(0x60));
                continue;
            }
            assert_eq!(m.reads(0x9c) & 0xf_ffff, m.reads(0x98));
            for new in issued {
                let number = new[0] & 0xff;
                match number {
                    0x10..=0x13 => {
                        assert_eq!(new[0] >> 32 & 0xffff, u64::from(VMID));
                        assert!(number == opcode || (opcode == 0x30 && number == 0x10));
                    }
                    0x05 | 0x06 | 0x40 | 0x41 | 0x44 | 0x45 => {
                        assert_eq!(number, opcode);
                        let stream = new[0] >> 32;
                        assert!((PHYSICAL..PHYSICAL + 8).contains(&stream) || stream == 0x120);
                    }
                    0x46 => assert_eq!(new, [0x46, 0], "the emulation's own"),
                    _ => panic!("{new:x?} from {command:x?}"),
                }
            }
        }
    }
}

#[test]
fn ssec_is_illegal_where_it_is_a_field() {
    for opcode in [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x44, 0x45] {
        assert_eq!(becomes([opcode | 1 << 10, 0]), Err(ILL), "{opcode:#x}");
        assert_eq!(
            becomes([opcode | 1 << 10 | FOREIGN << 32, 0]),
            Err(ILL),
            "an error comes before what is ignored (4.1.3)"
        );
    }
}

#[test]
fn invalidation_by_address() {
    let asid = 0x1234 << 48;
    assert_eq!(
        becomes([0x12 | asid | 0xbeef << 32, 0x7f_ffff_f000 | 1]),
        Ok(vec![[0x12 | asid | TAG, 0x7f_ffff_f000 | 1]])
    );
    assert_eq!(
        becomes([0x13 | asid | 0xbeef << 32, 0xffff_0000_0000_0000]),
        Ok(vec![[0x13 | TAG, 0xffff_0000_0000_0000]])
    );
    assert_eq!(
        becomes([0x11 | asid | 0xbeef << 32, 0]),
        Ok(vec![[0x11 | asid | TAG, 0]])
    );
    let narrow = change(|f| f.idr0 = f.idr0.with_asid16(false));
    for opcode in [0x11, 0x12] {
        assert_eq!(
            becomes_on(narrow, [opcode | asid, 0]),
            Ok(vec![[opcode | 0x34 << 48 | TAG, 0]])
        );
    }
}

#[test]
fn ranges_and_levels() {
    let with = |opcode: u64, tg: u64, ttl: u64, scale: u64, num: u64| {
        [
            opcode | num << 12 | scale << 20,
            0x10_0000 | ttl << 8 | tg << 10,
        ]
    };
    for opcode in [0x12, 0x13] {
        for tg in 0..4 {
            for ttl in 0..4 {
                for (scale, num) in [(0, 0), (0, 5), (3, 0), (31, 31)] {
                    let command = with(opcode, tg, ttl, scale, num);
                    // Level 1 of 16 KiB granules needs IDR5.DS.
                    let level = if tg == 2 && ttl == 1 { 0 } else { ttl };
                    let plain = vec![[opcode | TAG, 0x10_0000]];
                    let expected = if tg == 0 {
                        Ok(plain.clone())
                    } else if (level, scale, num) == (0, 0, 0) {
                        Err(ILL)
                    } else {
                        let mut c = with(opcode, tg, level, scale, num);
                        c[0] |= TAG;
                        Ok(vec![c])
                    };
                    assert_eq!(becomes(command), expected, "{tg} {ttl} {scale} {num}");
                    let without = change(|f| f.idr3 = f.idr3.with_ril(false));
                    assert_eq!(becomes_on(without, command), Ok(plain));
                }
            }
        }
        // Bit 25 is RES0 without DS, TTL128 without D128.
        assert_eq!(becomes([opcode | 1 << 25, 1 << 10]), Err(ILL));
        assert_eq!(becomes([opcode, 1 << 10 | 1 << 7]), Err(ILL));
    }
}

#[test]
fn context_descriptors() {
    let id = 0x1234 << 12;
    assert_eq!(
        becomes([0x05 | id | MINE << 32, 1]),
        Ok(vec![[0x05 | id | PHYSICAL << 32, 1]])
    );
    assert_eq!(
        becomes([0x06 | MINE << 32, !0]),
        Ok(vec![[0x06 | PHYSICAL << 32, 0]])
    );
    for opcode in [0x05, 0x06] {
        assert_eq!(becomes([opcode | FOREIGN << 32, 0]), Ok(vec![]));
        assert_eq!(becomes([opcode | 0xffff_ffff << 32, 0]), Ok(vec![]));
    }
    // Out of range of SSIDSIZE: no effect.
    let none = change(|f| f.idr1 = f.idr1.with_ssidsize(0));
    assert_eq!(
        becomes_on(none, [0x05 | 1 << 12 | MINE << 32, 0]),
        Ok(vec![])
    );
    assert_eq!(
        becomes_on(none, [0x05 | MINE << 32, 0]),
        Ok(vec![[0x05 | PHYSICAL << 32, 0]])
    );
}

/// With SMMUEN: ATS commands are IGNORED otherwise.
fn translating(features: Features) -> Machine {
    let mut m = Machine::with_commands(features);
    m.until_done(0x20, 0x9);
    m.take();
    m
}

fn ats(features: Features, command: [u64; 2]) -> Result<Vec<[u64; 2]>, u32> {
    let mut m = translating(features);
    assert_eq!(m.submit(&[command]), Progress::Done);
    match consumed(&m) {
        None => Ok(m.issued()),
        Some(error) => Err(error),
    }
}

#[test]
fn ats_invalidations() {
    let f = features();
    let id = 0x1234 << 12 | 1 << 11;
    assert_eq!(
        ats(f, [0x40 | 1 << 9 | id | MINE << 32, 0x1000 | 52]),
        Ok(vec![[0x40 | 1 << 9 | id | PHYSICAL << 32, 0x1000 | 52]])
    );
    // Without a substream neither it nor Global counts.
    assert_eq!(
        ats(f, [0x40 | 1 << 9 | 0x1234 << 12 | MINE << 32, 0]),
        Ok(vec![[0x40 | PHYSICAL << 32, 0]])
    );
    assert_eq!(ats(f, [0x40 | FOREIGN << 32, 53]), Err(ILL));
    assert_eq!(ats(f, [0x40 | MINE << 32, 63]), Err(ILL));
    assert_eq!(ats(f, [0x40 | FOREIGN << 32, 0]), Ok(vec![]));
    assert_eq!(becomes([0x40 | MINE << 32, 0]), Ok(vec![]), "SMMUEN is 0");
    assert_eq!(becomes([0x40 | MINE << 32, 53]), Err(ILL));
    let none = change(|f| f.idr1 = f.idr1.with_ssidsize(0));
    assert_eq!(
        ats(none, [0x40 | id | MINE << 32, 0]),
        Ok(vec![[0x40 | PHYSICAL << 32, 0]])
    );
    for off in [
        change(|f| f.idr0 = f.idr0.with_ats(false)),
        change(|f| f.idr0 = f.idr0.with_ns1ats(true)),
    ] {
        assert_eq!(ats(off, [0x40 | MINE << 32, 0]), Err(ILL));
        assert_eq!(ats(off, [0x41 | MINE << 32, 0]), Err(ILL));
    }
}

#[test]
fn page_responses() {
    let f = features();
    let id = 0x1234 << 12 | 1 << 11;
    for resp in 0..3 {
        assert_eq!(
            ats(
                f,
                [0x41 | id | MINE << 32, 0xffff_ffff_ffff_cfff | resp << 12]
            ),
            Ok(vec![[0x41 | id | PHYSICAL << 32, 0x1ff | resp << 12]])
        );
    }
    assert_eq!(ats(f, [0x41 | MINE << 32, 3 << 12]), Err(ILL));
    assert_eq!(becomes([0x41 | MINE << 32, 3 << 12]), Err(ILL));
    assert_eq!(becomes([0x41 | MINE << 32, 0]), Ok(vec![]));
    let none = change(|f| f.idr0 = f.idr0.with_pri(false));
    assert_eq!(ats(none, [0x41 | MINE << 32, 0]), Err(ILL));
}

#[test]
fn stalls() {
    let to = |action: u64| [0x44 | action << 12 | MINE << 32, !0xffff | 0xabcd];
    let expect = |action: u64| Ok(vec![[0x44 | action << 12 | PHYSICAL << 32, 0xabcd]]);
    assert_eq!(becomes(to(0b00)), expect(0b00));
    assert_eq!(becomes(to(0b10)), expect(0b10));
    // Ab is IGNORED with a retry.
    assert_eq!(becomes(to(0b01)), expect(0b01));
    assert_eq!(becomes(to(0b11)), expect(0b01));
    let abort = change(|f| f.idr0 = f.idr0.with_term_model(true));
    assert_eq!(becomes_on(abort, to(0b00)), expect(0b10));
    assert_eq!(
        becomes([0x45 | MINE << 32, !0]),
        Ok(vec![[0x45 | PHYSICAL << 32, 0]])
    );
    for opcode in [0x44, 0x45] {
        assert_eq!(becomes([opcode | FOREIGN << 32, 0]), Ok(vec![]));
        let forced = change(|f| f.idr0 = f.idr0.with_stall_model(0b10));
        assert_eq!(
            becomes_on(forced, [opcode | MINE << 32, 0]).unwrap().len(),
            1
        );
        let never = change(|f| f.idr0 = f.idr0.with_stall_model(0b01));
        assert_eq!(becomes_on(never, [opcode | MINE << 32, 0]), Err(ILL));
        assert_eq!(becomes_on(never, [opcode | FOREIGN << 32, 0]), Err(ILL));
    }
}

#[test]
fn streams_are_looked_at_again() {
    let set = |m: &Machine| -> Vec<(u32, u32)> {
        m.take()
            .into_iter()
            .filter_map(|act| match act {
                Act::Set(stream, _) => Some((stream, stream)),
                Act::SetRange(first, last, _) => Some((first, last)),
                _ => None,
            })
            .collect()
    };
    for (command, expected) in [
        ([0x03 | MINE << 32, 1], vec![(8, 8)]),
        ([0x03 | FOREIGN << 32, 1], vec![]),
        // 2^(Range + 1) streams, aligned; only the owner's.
        ([0x04 | 11 << 32, 0], vec![(10, 11)]),
        ([0x04 | 11 << 32, 2], vec![(8, 15)]),
        ([0x04, 3], vec![(8, 15)]),
        ([0x04, 5], vec![(8, 15), (0x20, 0x20)]),
        ([0x04 | 0xffff_ffff << 32, 30], vec![]),
        ([0x04 | 0xffff_ffff << 32, 31], vec![(8, 15), (0x20, 0x20)]),
    ] {
        let mut m = translating(features());
        assert_eq!(m.submit(&[command]), Progress::Done);
        assert_eq!(set(&m), expected, "{command:x?}");
        // Nothing while the table does not count.
        let mut m = Machine::enabled();
        assert_eq!(m.submit(&[command]), Progress::Done);
        assert_eq!(set(&m), []);
        assert_eq!(m.reads(0x9c), 1);
    }
}

#[test]
fn each_command_is_loaded_once() {
    let mut m = Machine::enabled();
    let all: Vec<_> = (0..20).map(|i| [0x12, i << 12]).collect();
    assert_eq!(m.submit(&all), Progress::Done);
    let loads = m.board.loads.borrow();
    assert_eq!(loads.len(), 40);
    assert!(loads.values().all(|times| *times == 1));
}

#[test]
fn the_queue_wraps() {
    let mut m = Machine::enabled();
    let size = 1u64 << LOG2;
    for round in 0..5 {
        let all: Vec<_> = (0..size)
            .map(|i| [0x12, (round * size + i) << 12])
            .collect();
        assert_eq!(m.submit(&all), Progress::Done, "a full queue");
        let new: Vec<_> = all.iter().map(|c| [c[0] | TAG, c[1]]).collect();
        assert_eq!(m.issued(), new);
        assert_eq!(m.reads(0x9c), m.reads(0x98));
        // Somewhere else next time.
        assert_eq!(m.submit(&[[0x30, 0]; 7]), Progress::Done);
        m.take();
    }
}

#[test]
fn indices_that_contradict_each_other_do_nothing() {
    let size = 1u32 << LOG2;
    let mut m = Machine::enabled();
    m.until_done(0x20, 0);
    m.word(0x9c, 5);
    m.word(0x98, 4);
    m.until_done(0x20, 8);
    assert_eq!(m.smmu.counts().inconsistent, 1);
    assert_eq!(m.reads(0x9c), 5);
    m.word(0x98, 3);
    assert_eq!(m.smmu.counts().inconsistent, 2);
    // Full is not inconsistent.
    m.word(0x98, 5 + size);
    assert_eq!(m.smmu.counts().illegal_commands, 1, "opcode 0");
    assert_eq!(m.smmu.counts().inconsistent, 2);
}

#[test]
fn bits_above_the_index_do_not_count() {
    let mut m = Machine::enabled();
    m.put(&[[0x12, 0]]);
    m.word(0x98, 0xfff0_0000 | 0xf_ffc0 | 1);
    assert_eq!(m.reads(0x98), 0xf_ffc1);
    assert_eq!(m.issued().len(), 1);
    assert_eq!(m.reads(0x9c), 1);
}
