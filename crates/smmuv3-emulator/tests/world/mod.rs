//! An emulated SMMU on top of a modelled one, behind the real driver. The owner
//! sees 16 MiB of memory from IPA 0x4000_0000 on; it lies at 0x8000_0000.
#![allow(dead_code, reason = "every test file uses its own part of it")]

mod board;
mod hardware;

pub use board::{Board, Held, Side};
pub use hardware::{Hardware, hardware};

use board::phys;
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use smmuv3_driver::{Answer, Config, Granule, Smmu, Stage2};
use smmuv3_emulator::{
    AssignedStreams, ConfinedSmmu, Delivery, Emulator, IdConfig, PageDelivery, Progress, Size,
};
use smmuv3_model::{Access, Refusal, Transaction};
use smmuv3_spec::{StreamId, Vmid, reg};

/// Where the owner's memory begins, for the owner and on the bus.
pub const IPA: u64 = 0x4000_0000;
pub const PHYS: u64 = 0x8000_0000;
pub const SIZE: u64 = 16 << 20;
/// Stage 2 tables, then what the driver allocates from.
const TWO: u64 = PHYS + SIZE;
const POOL: u64 = TWO + 0x1_0000;
const POOL_END: u64 = PHYS + 2 * SIZE;

/// The owner's structures.
pub const STRTAB: u64 = IPA + 0x10_0000;
pub const EVENTQ: u64 = IPA + 0x20_0000;
pub const PRIQ: u64 = IPA + 0x21_0000;
pub const CMDQ: u64 = IPA + 0x22_0000;
pub const CD: u64 = IPA + 0x30_0000;
pub const ONE: u64 = IPA + 0x40_0000;

/// Access flag; AP[2:1] 0b01; a page or table.
const PAGE: u64 = 1 << 10 | 1 << 6 | 3;
/// Access flag; S2AP 0b11; MemAttr 0b1111; a block.
const BLOCK2: u64 = 1 << 10 | 3 << 6 | 0xf << 2 | 1;

/// V, Config 0b101, S1ContextPtr (5.2).
pub const STAGE1: [u64; 8] = [0b1011 | CD, 0, 0, 0, 0, 0, 0, 0];
/// V, Config 0b100; SHCFG (109:108) 0b01.
pub const BYPASS: [u64; 8] = [0b1001, 1 << 44, 0, 0, 0, 0, 0, 0];
/// V, Config 0b000.
pub const ABORT: [u64; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// T0SZ 25, TG0 4 KiB, EPD1, V, IPS 2, AA64, R, A, ASID 7; TTB0 (5.4).
pub const CONTEXT: [u64; 8] = [
    25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 7 << 48,
    ONE,
    0,
    0,
    0,
    0,
    0,
    0,
];
/// `CD.S`.
pub const STALL: u64 = 1 << 44;

pub const VMID: Vmid = Vmid(9);

/// IPAs of 40 bits from level 1, with 4 KiB pages.
pub const STAGE2: Stage2 = Stage2 {
    vmid: VMID,
    root: PhysAddr::new(TWO),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 2,
};

/// The owner's 256 streams are the physical ones from 0x1000 on; only the first
/// 64 are PCIe. The second run are 0x400 to 0x40f, at 0x2000.
pub const GIVEN: [AssignedStreams; 3] = [
    AssignedStreams {
        first: StreamId(0),
        physical: StreamId(0x1000),
        count: 64,
        pcie: true,
    },
    AssignedStreams {
        first: StreamId(64),
        physical: StreamId(0x1040),
        count: 192,
        pcie: false,
    },
    AssignedStreams {
        first: StreamId(0x400),
        physical: StreamId(0x2000),
        count: 16,
        pcie: false,
    },
];

/// A stream that is not PCIe, and one that is; both numbers.
pub const S: u32 = 65;
pub const PCIE: u32 = 5;

pub struct World<'a> {
    pub board: Board<'a>,
    pub smmu: Smmu<&'a Hardware, &'a Hardware, &'a Hardware>,
    pub emulator: Emulator<Held<'a>>,
    /// Calls that asked for another one.
    pub again: u32,
}

impl<'a> World<'a> {
    /// Out of reset; every stream of the owner's passes through stage 2.
    pub fn new(hw: &'a Hardware, side: &'a Side) -> Self {
        let config = Config {
            pri_log2: Some(4),
            ..Config::default()
        };
        let mut smmu = Smmu::new(hw, hw, hw, config).unwrap();
        for assigned in GIVEN {
            let last = StreamId(assigned.physical.0 + assigned.count - 1);
            smmu.attach_range(assigned.physical, last, &STAGE2).unwrap();
        }
        let ids = IdConfig {
            page_requests: true,
            ipa_bits: 40,
            stream_bits: 11,
            coherent: true,
        };
        let emulator = Emulator::new(smmu.features(), &ids);
        let board = Board { hw, side };
        emulator.show_registers(&board);
        Self {
            board,
            smmu,
            emulator,
            again: 0,
        }
    }

    /// The owner writes a register, until that is done.
    pub fn write(&mut self, offset: u32, size: Size, value: u64) {
        for _ in 0..100_000 {
            let mut confined = ConfinedSmmu {
                smmu: &mut self.smmu,
                stage2: STAGE2,
                streams: &GIVEN,
                device: None,
                report: (),
            };
            let progress = self
                .emulator
                .write(&self.board, &mut confined, offset, size, value);
            match progress {
                Progress::Done => return,
                Progress::Again => self.again += 1,
            }
        }
        panic!("a write that does not end");
    }

    pub fn write32(&mut self, offset: u32, value: u32) {
        self.write(offset, Size::Word, value.into());
    }

    pub fn write64(&mut self, offset: u32, value: u64) {
        self.write(offset, Size::Double, value);
    }

    /// The owner stores to its memory.
    pub fn put(&self, ipa: u64, value: u64) {
        self.board.hw.store(phys(ipa), value);
        self.board.hw.publish(phys(ipa), 8);
    }

    pub fn put_all(&self, ipa: u64, words: &[u64]) {
        for (word, at) in words.iter().zip((ipa..).step_by(8)) {
            self.put(at, *word);
        }
    }

    pub fn get(&self, ipa: u64) -> u64 {
        self.board.hw.load(phys(ipa))
    }

    /// Stage 1 of VA 0 to 0x1fff: two pages, at IPA 0x40aa_0000 and 0x40bb_0000.
    pub fn stage1(&self, context: &[u64; 8]) {
        self.put_all(CD, context);
        self.put(ONE, (ONE + 0x1000) | 3);
        self.put(ONE + 0x1000, (ONE + 0x2000) | 3);
        self.put(ONE + 0x2000, 0x40aa_0000 | PAGE);
        self.put(ONE + 0x2008, 0x40bb_0000 | PAGE);
    }

    /// Event queue of 4 records, page request queue of 2, and command queue of
    /// 64; the interrupts of the first two. CR2.RECINVSID as asked for.
    pub fn queues(&mut self, recinvsid: bool) {
        self.write32(reg::CR2, if recinvsid { 2 } else { 0 });
        self.write64(reg::EVENTQ_BASE, EVENTQ | 2);
        self.write64(reg::PRIQ_BASE, PRIQ | 1);
        self.write64(reg::CMDQ_BASE, CMDQ | 6);
        self.write32(reg::IRQ_CTRL, 0b111);
    }

    /// A linear table of 2^`log2` entries, and everything on.
    pub fn linear(&mut self, log2: u32) {
        self.table(STRTAB, log2);
    }

    /// A table, and everything on.
    pub fn table(&mut self, base: u64, cfg: u32) {
        self.write64(reg::STRTAB_BASE, base);
        self.write32(reg::STRTAB_BASE_CFG, cfg);
        self.write32(reg::CR0, 0b1111);
        let pri = self.emulator.ids().idr0.pri();
        let on = if pri { 0b1111 } else { 0b1101 };
        assert_eq!(self.board.side.shown(reg::CR0ACK), on);
    }

    pub fn entry(&self, stream: u32, entry: &[u64; 8]) {
        self.put_all(STRTAB + u64::from(stream) * 64, entry);
    }

    /// The owner issues commands and waits for them.
    pub fn commands(&mut self, commands: &[[u64; 2]]) {
        let mut prod = self.board.side.shown(reg::CMDQ_PROD);
        for command in commands {
            self.put_all(CMDQ + u64::from(prod & 63) * 16, command);
            prod = (prod + 1) & 127;
        }
        self.write32(reg::CMDQ_PROD, prod);
        assert_eq!(self.board.side.shown(reg::CMDQ_CONS), prod);
    }

    /// CMD_CFGI_STE, with Leaf (64), and CMD_SYNC.
    pub fn changed(&mut self, stream: u32) {
        self.commands(&[[3 | u64::from(stream) << 32, 1], [0x46, 0]]);
    }

    /// A device does something; the owner's number of its stream.
    pub fn dma(&self, stream: u32, address: u64, access: Access) -> Result<u64, Refusal> {
        let access = Transaction::new(physical(stream), address, access);
        self.board.hw.smmu.borrow_mut().translate(access)
    }

    pub fn reads(&self, stream: u32, address: u64) -> Result<u64, Refusal> {
        self.dma(stream, address, Access::Read)
    }

    /// Hands over what the physical event queue holds; what became of each.
    pub fn events(&mut self) -> Vec<Delivery> {
        let Self {
            board,
            smmu,
            emulator,
            ..
        } = self;
        let mut all = Vec::new();
        smmu.take_events(64, |event| {
            let delivery = emulator.deliver_event(board, GIVEN.as_slice(), &event.0);
            all.push(delivery);
            if matches!(delivery, Delivery::Terminate { .. }) {
                Answer::Refuse
            } else {
                Answer::Later
            }
        });
        all
    }

    /// The same of page requests. Answers are issued.
    pub fn requests(&mut self) -> Vec<PageDelivery> {
        let Self {
            board,
            smmu,
            emulator,
            ..
        } = self;
        let mut all = Vec::new();
        smmu.drain_pri(64, |request| {
            all.push(emulator.deliver_page_request(board, GIVEN.as_slice(), &request));
            Answer::Later
        });
        for delivery in &all {
            if let PageDelivery::Respond(command) = delivery {
                smmu.issue(*command).unwrap();
            }
        }
        smmu.finish().unwrap();
        all
    }

    /// The records that the owner finds, which it consumes.
    pub fn told(&mut self) -> Vec<[u64; 4]> {
        let prod = self.board.side.shown(reg::EVENTQ_PROD);
        let mut cons = self.board.side.shown(reg::EVENTQ_CONS);
        let mut all = Vec::new();
        while (cons ^ prod) & 7 != 0 {
            let at = EVENTQ + u64::from(cons & 3) * 32;
            all.push([0, 8, 16, 24].map(|offset| self.get(at + offset)));
            cons = (cons + 1) & 7;
        }
        self.write32(reg::EVENTQ_CONS, cons | prod & 1 << 31);
        all
    }
}

/// The physical number of a stream of the owner's, worked out here; streams
/// that it was not assigned are left as they are.
pub fn physical(stream: u32) -> StreamId {
    StreamId(match stream {
        0..=0xff => stream + 0x1000,
        0x400..=0x40f => stream - 0x400 + 0x2000,
        other => other,
    })
}
