//! Any bytes as what is done to an SMMU: used by the fuzz target `model` and by
//! the test that replays its corpus.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | profile |
//! | 1 | mode, and with bit 7 queues and a stream table that are set up |
//! | 1 | number of words to put into memory first |
//! | 10 each | index of a word (16 bits), its value |
//! | the rest | steps, see [`Step::read`] |
//!
//! Numbers are little-endian and taken modulo what there is; what is missing at
//! the end is 0.

use smmuv3_model::{Access, Mode, Policy, Profile, Smmu, Transaction};
use smmuv3_spec::{StreamId, reg};
use std::ops::Range;

/// The machine's memory.
pub const RAM: Range<u64> = 0x8000_0000..0x8001_0000;
/// Where the set-up has its tables and queues.
pub const STREAM_TABLE: u64 = RAM.start;
/// 16 commands.
pub const COMMANDS: u64 = RAM.start + 0x2000;
/// 8 events.
pub const EVENTS: u64 = RAM.start + 0x3000;
/// Bit of the second byte.
pub const SET_UP: u8 = 1 << 7;

/// Registers that are written most.
pub const REGISTERS: [u32; 24] = [
    reg::CR0,
    reg::CR0ACK,
    reg::CR1,
    reg::CR2,
    reg::GBPA,
    reg::IRQ_CTRL,
    reg::IRQ_CTRLACK,
    reg::GERROR,
    reg::GERRORN,
    reg::GERROR_IRQ_CFG0,
    reg::STRTAB_BASE,
    reg::STRTAB_BASE_CFG,
    reg::CMDQ_BASE,
    reg::CMDQ_PROD,
    reg::CMDQ_CONS,
    reg::EVENTQ_BASE,
    reg::EVENTQ_PROD,
    reg::EVENTQ_CONS,
    reg::EVENTQ_IRQ_CFG0,
    reg::IDR0,
    reg::IDR1,
    reg::IDR3,
    reg::IDR5,
    reg::PRIQ_IRQ_CFG0,
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

    /// Index of a word in memory.
    fn word(&mut self) -> u64 {
        RAM.start + u64::from(self.u16()) * 8 % (RAM.end - RAM.start)
    }

    /// A register, or any offset.
    fn register(&mut self) -> u32 {
        let number = self.u8();
        let known = REGISTERS.get(usize::from(number));
        known.copied().unwrap_or_else(|| u32::from(self.u16()) * 4)
    }
}

enum Step {
    Write32(u32, u32),
    Write64(u32, u64),
    Read32(u32),
    Read64(u32),
    Store(u64, u64),
    Publish(u64, u64),
    Dma(u32, u64, Access),
    DmaWrite(u32, u64, u64),
    Check,
    /// A command, and the producer index moved past it.
    Command([u64; 2]),
}

impl Step {
    /// One byte says what, the operands follow.
    fn read(bytes: &mut Bytes<'_>) -> Self {
        match bytes.u8() % 12 {
            0 => Self::Write32(bytes.register(), u32::from_le_bytes(bytes.take())),
            1 => Self::Write64(bytes.register(), bytes.u64()),
            2 => Self::Read32(bytes.register()),
            3 => Self::Read64(bytes.register()),
            4 | 5 => Self::Store(bytes.word(), bytes.u64()),
            6 => Self::Store(bytes.u64(), bytes.u64()),
            7 => Self::Publish(bytes.word(), bytes.u64()),
            8 => {
                let access = [Access::Read, Access::Write, Access::Execute];
                let kind = usize::from(bytes.u8()) % access.len();
                Self::Dma(bytes.u8().into(), bytes.u64(), access[kind])
            }
            9 => Self::DmaWrite(bytes.u8().into(), bytes.u64(), bytes.u64()),
            10 => Self::Check,
            _ => Self::Command([bytes.u64(), bytes.u64()]),
        }
    }
}

/// Forbids writes, so that the oracle has something to look for.
struct NoWrites;

impl Policy for NoWrites {
    fn first_forbidden(&self, _: StreamId, range: Range<u64>, write: bool) -> Option<u64> {
        write.then_some(range.start)
    }
    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        (range.end > RAM.end).then_some(range.start)
    }
}

/// Does what the bytes say. Nothing may panic. Returns how many transactions
/// went through.
pub fn run(bytes: &[u8]) -> usize {
    let mut bytes = Bytes(bytes);
    let profiles = [Profile::qemu(), Profile::minimal(), Profile::full()];
    let profile = usize::from(bytes.u8()) % profiles.len();
    let mode = bytes.u8();
    let kind = match mode % 3 {
        0 => Mode::Plain,
        1 => Mode::Greedy { seed: 1 },
        _ => Mode::Random { seed: u64::MAX },
    };
    let streams = [0, 1, 7, 64, u32::MAX].map(StreamId);
    let mut smmu = Smmu::new(profiles[profile], [RAM], kind, streams);
    for _ in 0..bytes.u8() {
        let at = bytes.word();
        smmu.ram_mut().settle(at, bytes.u64());
    }
    if mode & SET_UP != 0 {
        set_up(&mut smmu);
    }
    let mut passed = 0;
    while !bytes.0.is_empty() {
        passed += usize::from(perform(&mut smmu, Step::read(&mut bytes)));
    }
    let _ = smmu.check(&NoWrites);
    let _ = smmu.take_misuse();
    passed
}

/// A linear table of 128 streams, both queues, everything on (IHI 0070,
/// 6.3.24 to 6.3.28 and 6.3.9).
fn set_up(smmu: &mut Smmu) {
    smmu.write64(reg::STRTAB_BASE, STREAM_TABLE);
    smmu.write32(reg::STRTAB_BASE_CFG, 7);
    smmu.write64(reg::CMDQ_BASE, COMMANDS | 4);
    smmu.write64(reg::EVENTQ_BASE, EVENTS | 3);
    smmu.write32(reg::CR0, 0b1101);
    for _ in 0..64 {
        if smmu.read32(reg::CR0ACK) == 0b1101 {
            break;
        }
    }
}

/// Returns whether it was a transaction that went through.
fn perform(smmu: &mut Smmu, step: Step) -> bool {
    match step {
        Step::Write32(offset, value) => smmu.write32(offset, value),
        Step::Write64(offset, value) => smmu.write64(offset, value),
        Step::Read32(offset) => {
            let _ = smmu.read32(offset);
        }
        Step::Read64(offset) => {
            let _ = smmu.read64(offset);
        }
        Step::Store(at, value) => {
            let _ = smmu.store(at, value);
        }
        Step::Publish(at, size) => smmu.publish(at, size),
        Step::Dma(stream, address, access) => {
            let transaction = Transaction::new(StreamId(stream), address, access);
            return smmu.translate(transaction).is_ok();
        }
        Step::DmaWrite(stream, address, value) => {
            let written = smmu.dma_write(StreamId(stream), address, value).is_ok();
            if written {
                let _ = smmu.dma_read(StreamId(stream), address);
            }
            return written;
        }
        Step::Check => {
            let _ = smmu.check(&NoWrites);
        }
        Step::Command(words) => {
            let prod = smmu.read32(reg::CMDQ_PROD);
            let at = COMMANDS + u64::from(prod & 15) * 16;
            let _ = smmu.store(at, words[0]);
            let _ = smmu.store(at + 8, words[1]);
            smmu.publish(at, 16);
            smmu.write32(reg::CMDQ_PROD, prod.wrapping_add(1) & 31);
            // A greedy model takes its time.
            for _ in 0..4 {
                let _ = smmu.read32(reg::CMDQ_CONS);
            }
        }
    }
    false
}
