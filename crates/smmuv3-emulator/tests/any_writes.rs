//! An owner that writes anything anywhere: nothing panics, each call is bounded,
//! and what reaches the physical SMMU is the owner's.

mod common;

use common::{Act, Machine, RAM, RAM_SIZE, STREAMS, VMID, features};
use smmuv3_driver::Error;
use smmuv3_emulator::{Counts, Failure, Size};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::CommandError;

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

const REGISTERS: [u32; 34] = [
    0x20, 0x20, 0x20, 0x28, 0x2c, 0x44, 0x50, 0x64, 0x64, 0x68, 0x6c, 0x70, 0x74, 0x80, 0x84, 0x88,
    0x90, 0x94, 0x98, 0x98, 0x98, 0x98, 0x9c, 0xa0, 0xb0, 0xb8, 0xc0, 0xd0, 0xd8, 0xdc, 0x100a8,
    0x100ac, 0x100c8, 0x100cc,
];

fn address(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => RAM + RAM_SIZE - 64,
        2 => RAM - 16,
        _ => RAM + (random.below(4) << 18),
    }
}

fn value(random: &mut Random, offset: u32, m: &Machine) -> u64 {
    match offset {
        0x20 => random.pick(&[0, 8, 9, 15, 13, 31]),
        0x44 => random.next() | 1 << 31,
        0x64 => u64::from(m.reads(0x60)) ^ random.pick(&[0, 0, 0, 1, 0x100]),
        0x88 => random.below(12) | random.pick(&[6, 8, 10]) << 6 | random.below(2) << 16,
        0x90 | 0xa0 | 0xc0 => address(random) | random.pick(&[0, 1, 4, 9, 16, 19]),
        0x68 | 0x80 | 0xb0 | 0xd0 => address(random),
        0x98 => {
            let most = random.pick(&[3, 3, 30, 400]);
            u64::from(m.reads(0x9c)) + random.below(most)
        }
        _ => random.next(),
    }
}

fn command(random: &mut Random, at: u64) -> [u64; 2] {
    let opcode = random.pick(&[
        0x01, 0x03, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x12, 0x12, 0x13, 0x30, 0x40, 0x41,
        0x44, 0x45, 0x46, 0x46, 0x46, 0x46, 0x20, 0xff,
    ]);
    let rest = random.pick(&[0, 8 << 32, 9 << 32, 0x20 << 32, random.0 & !0xff]);
    let second = match opcode {
        // In the command itself, as Linux does it, or anywhere.
        0x46 if random.below(2) == 0 => at,
        0x46 => address(random),
        _ => random.pick(&[0, 1, 31, random.0]),
    };
    let cs = if opcode == 0x46 {
        random.below(3) << 12
    } else {
        0
    };
    [
        opcode | (rest & !(0x3000 * u64::from(opcode == 0x46))) | cs,
        second,
    ]
}

fn owned(m: &Machine, issued: [u64; 2]) -> bool {
    let stream = (issued[0] >> 32) as u32;
    let number = stream.wrapping_sub(STREAMS);
    let mine = m
        .physical
        .streams
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&number));
    match issued[0] & 0xff {
        0x10..=0x13 => stream & 0xffff == u32::from(VMID),
        0x05 | 0x06 | 0x40 | 0x41 | 0x44 | 0x45 => mine,
        0x46 => issued == [0x46, 0],
        _ => false,
    }
}

fn run(seed: u64, messages: bool, steps: u32) -> Counts {
    let mut random = Random(seed);
    let mut features = features();
    features.idr0 = features.idr0.with_msi(messages);
    let mut m = Machine::with_commands(features);
    m.physical.streams = vec![(8, 15), (0x20, 0x20), (0x100, 0x7ff)];
    m.physical
        .streams
        .truncate(2 + usize::from(seed.is_multiple_of(2)));
    for at in (RAM..RAM + RAM_SIZE).step_by(16) {
        let [a, b] = command(&mut random, at);
        m.board.write64(at, a);
        m.board.write64(at + 8, b);
    }
    for step in 0..steps {
        let offset = match random.below(20) {
            0 => random.below(0x2_0200) as u32,
            1 => random.next() as u32,
            _ => random.pick(&REGISTERS),
        };
        let size = match random.below(12) {
            0 => Size::Byte,
            1 => Size::Half,
            2..5 => Size::Double,
            _ => Size::Word,
        };
        if random.below(50) == 0 {
            let failure = match random.below(100) {
                0 => Failure::Fenced(Error::Fenced),
                1..40 => Failure::Command(CommandError::ATC_INV_SYNC),
                _ => Failure::Stream {
                    stream: StreamId(8),
                    error: Error::BadRange,
                },
            };
            match random.below(3) {
                0 => m.physical.finishes.push(failure),
                1 => m.physical.sets.push(failure),
                _ => m
                    .physical
                    .issues
                    .extend(matches!(failure, Failure::Fenced(_)).then_some(failure)),
            }
        }
        let value = value(&mut random, offset, &m);
        let _ = m.write(offset, size, value);
        let acts = m.take();
        let mut work = 0;
        for act in &acts {
            match act {
                Act::Issue([0x46, 0]) => {}
                Act::Issue(command) => {
                    assert!(owned(&m, *command), "{command:x?}");
                    work += 1;
                }
                Act::Set(..) | Act::SetRange(..) => work += 1,
                Act::Store(at, _) => assert!((RAM..RAM + RAM_SIZE).contains(at)),
                Act::Signal(list) => {
                    assert!(messages);
                    assert_eq!(list.len(), 2);
                }
                _ => {}
            }
        }
        assert!(work <= 256, "{work} at step {step}");
        assert!(acts.len() <= 4 * 256, "{}", acts.len());
        assert!(m.board.held.get() <= 3 + m.smmu.counts().unreleased_queues as u32);
        assert!(m.board.largest.get() <= 1 << 20);
        if m.reads(0x60) & 0x100 != 0 && step % 64 == 0 {
            // Service failure mode is for good.
            break;
        }
    }
    *m.smmu.counts()
}

#[test]
fn an_owner_that_writes_anything() {
    let all: Vec<_> = (1..60)
        .map(|seed| run(seed * 0x9e37_79b9, seed.is_multiple_of(3), 3_000))
        .collect();
    // Nearly all of it was met.
    let met = |c: &Counts| {
        [
            c.guarded,
            c.again,
            c.commands,
            c.syncs,
            c.illegal_commands,
            c.fetch_aborts,
            c.failed_syncs,
            c.foreign_streams,
            c.no_effect,
            c.inconsistent,
            c.bad_queues,
            c.aborted_messages,
            c.interrupts,
            c.entries_read,
            c.streams_refused,
        ]
    };
    for i in 0..15 {
        let times: u64 = all.iter().map(|c| met(c)[i]).sum();
        assert!(times > 20, "{i}: {times}");
    }
}
