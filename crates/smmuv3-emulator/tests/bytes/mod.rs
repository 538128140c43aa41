//! Any bytes as what a host, its devices and the physical SMMU do to the
//! emulation: used by the fuzz target `emulator` and by the test that replays
//! its corpus.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | profile of the physical SMMU |
//! | 1 | its mode; bit 6: it stores to the registers, bit 7: begins with a bring-up |
//! | the rest | steps, see [`perform`] |
//!
//! Numbers are little-endian and taken modulo what there is; what is missing at
//! the end is 0.

use crate::machine::{DOORBELL, Machine, POOL, RAM};
use smmuv3_emulator::{Progress, Size};
use smmuv3_model::{Access, Mode, Policy, Profile, Transaction};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, reg};
use std::ops::Range;

/// Where the bring-up has its tables and queues.
pub const STREAM_TABLE: u64 = RAM.start;
pub const COMMANDS: u64 = RAM.start + 0x4000;
pub const EVENTS: u64 = RAM.start + 0x5000;
pub const REQUESTS: u64 = RAM.start + 0x6000;
/// Bits of the second byte.
pub const MESSAGES: u8 = 1 << 6;
pub const SET_UP: u8 = 1 << 7;

/// Registers that are written most.
pub const REGISTERS: [u32; 22] = [
    reg::CR0,
    reg::CR1,
    reg::CR2,
    reg::GBPA,
    reg::IRQ_CTRL,
    reg::GERRORN,
    reg::GERROR_IRQ_CFG0,
    reg::GERROR_IRQ_CFG1,
    reg::STRTAB_BASE,
    reg::STRTAB_BASE_CFG,
    reg::CMDQ_BASE,
    reg::CMDQ_PROD,
    reg::CMDQ_CONS,
    reg::EVENTQ_BASE,
    reg::EVENTQ_PROD,
    reg::EVENTQ_CONS,
    reg::EVENTQ_IRQ_CFG0,
    reg::PRIQ_BASE,
    reg::PRIQ_PROD,
    reg::PRIQ_CONS,
    reg::PRIQ_IRQ_CFG0,
    reg::PRIQ_IRQ_CFG2,
];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = self.0.len().min(N);
        let (now, later) = self.0.split_at(count);
        taken[..count].copy_from_slice(now);
        self.0 = later;
        taken
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// A register, or any offset.
    fn register(&mut self) -> u32 {
        let number = self.u8();
        let known = REGISTERS.get(usize::from(number));
        known
            .copied()
            .unwrap_or_else(|| u32::from_le_bytes(self.take()) & 0x3_ffff)
    }

    fn size(&mut self) -> Size {
        match self.u8() % 4 {
            0 => Size::Word,
            1 => Size::Double,
            2 => Size::Half,
            _ => Size::Byte,
        }
    }
}

/// The host's devices reach the host's memory, and the SMMU reads its tables.
struct HostsOwn;

impl Policy for HostsOwn {
    fn first_forbidden(&self, _: StreamId, range: Range<u64>, _: bool) -> Option<u64> {
        let inside = |whole: &Range<u64>| whole.start <= range.start && range.end <= whole.end;
        let fine = range.is_empty() || [RAM, DOORBELL].iter().any(inside);
        (!fine).then_some(range.start)
    }
    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let inside = POOL.start <= range.start && range.end <= POOL.end;
        (!inside).then_some(range.start)
    }
}

/// Does what the bytes say. Nothing may panic, take long, or let the host's
/// devices reach what is not the host's. Returns how many commands were
/// consumed.
pub fn run(bytes: &[u8]) -> u64 {
    let mut bytes = Bytes(bytes);
    let profiles = [
        Profile::qemu(),
        Profile::mmu600(),
        Profile::mmu700(),
        Profile::full(),
    ];
    let profile = profiles[usize::from(bytes.u8()) % profiles.len()];
    let mode = bytes.u8();
    let kind = match mode & 0x3f {
        // The two others take a hundred times as long: each store walks all.
        1 => Mode::Greedy { seed: 1 },
        2 => Mode::Random { seed: u64::MAX },
        _ => Mode::Plain,
    };
    let streams = [0, 1, 64, 255].map(StreamId);
    let mut machine = Machine::new(profile, kind, mode & MESSAGES != 0, &streams);
    if mode & SET_UP != 0 {
        set_up(&mut machine);
    }
    // A greedy model does much for each step.
    for _ in 0..200 {
        if bytes.0.is_empty() {
            break;
        }
        perform(&mut machine, &mut bytes);
    }
    check(&machine);
    machine.emulator.counts().commands
}

/// Tables of one level and queues, everything on (6.3.9, 6.3.24 to 6.3.33).
fn set_up(machine: &mut Machine) {
    for (offset, size, value) in [
        (reg::STRTAB_BASE, Size::Double, STREAM_TABLE),
        (reg::STRTAB_BASE_CFG, Size::Word, 8),
        (reg::CMDQ_BASE, Size::Double, COMMANDS | 6),
        (reg::CR0, Size::Word, 0b1000),
        (reg::EVENTQ_BASE, Size::Double, EVENTS | 4),
        (reg::CR0, Size::Word, 0b1100),
        (reg::PRIQ_BASE, Size::Double, REQUESTS | 4),
        (reg::CR0, Size::Word, 0b1110),
        (reg::IRQ_CTRL, Size::Word, 0b111),
        (reg::CR2, Size::Word, 0b110),
        (reg::CR0, Size::Word, 0b11111),
    ] {
        machine.write(offset, size, value);
    }
}

/// One step: one byte says what, the operands follow.
fn perform(machine: &mut Machine, bytes: &mut Bytes<'_>) {
    match bytes.u8() % 11 {
        0 => {
            let (offset, size) = (bytes.register(), bytes.size());
            machine.write(offset, size, bytes.u64());
        }
        // The CPU does something else although the write is not done.
        1 => {
            let (offset, size) = (bytes.register(), bytes.size());
            let _: Progress = machine.write_once(offset, size, bytes.u64());
        }
        2 | 3 => {
            let at = RAM.start + u64::from(bytes.u16()) * 8;
            machine.store(at, bytes.u64());
        }
        4 => {
            let words = [bytes.u64(), bytes.u64()];
            command(machine, words);
        }
        5 => {
            let stream = u32::from(bytes.u8());
            let kind = if stream & 2 == 0 {
                Access::Read
            } else {
                Access::Write
            };
            let access = Transaction::new(StreamId(stream), bytes.u64() & !7, kind);
            let _ = machine.dma(access, (stream & 2 != 0).then_some(0));
        }
        6 => {
            machine.drain();
        }
        7 => {
            let request = PageRequest([bytes.u64(), bytes.u64()]);
            machine.ask(request.with_stream(request.stream() & 0xff));
        }
        // A record as no sound SMMU would write it.
        8 => {
            let words = [bytes.u64(), bytes.u64(), bytes.u64(), bytes.u64()];
            machine.tell(&EventRecord(words));
        }
        9 => {
            let prod = machine.shown(reg::EVENTQ_PROD);
            machine.write(reg::EVENTQ_CONS, Size::Word, prod.into());
        }
        _ => check(machine),
    }
}

/// A command where the emulation reads the next one, if it reads any.
fn command(machine: &mut Machine, words: [u64; 2]) {
    let base = machine.shown(reg::CMDQ_BASE);
    let log2 = (base & 0x1f).min(16);
    let prod = machine.shown(reg::CMDQ_PROD);
    let slot = u64::from(prod) & ((1 << log2) - 1);
    let at = u64::from(base & !0x1f) + slot * 16;
    machine.store(at, words[0]);
    machine.store(at + 8, words[1]);
    let next = prod.wrapping_add(1) & ((2 << log2) - 1);
    machine.write(reg::CMDQ_PROD, Size::Word, next.into());
}

fn check(machine: &Machine) {
    let mut smmu = machine.hardware.0.smmu.borrow_mut();
    let checked = smmu.check(&HostsOwn);
    assert!(checked.is_ok(), "{checked:?}");
    smmu.take_misuse();
}
