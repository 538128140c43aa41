//! A GIC with memory, and software that gets each step right.
#![allow(dead_code, reason = "each test uses some of it")]

use gicv3_model::{Access, Gic, Profile, Ram, Violation};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use std::ops::Range;
use std::rc::Rc;

/// All memory.
pub const MEMORY: Range<u64> = 0x8000_0000..0x8100_0000;
pub const QUEUE: u64 = 0x8000_0000;
pub const DEVICES: u64 = 0x8010_0000;
pub const COLLECTIONS: u64 = 0x8020_0000;
pub const CONFIG: u64 = 0x8030_0000;
pub const PENDING: u64 = 0x8040_0000;
pub const LEVEL2: u64 = 0x8050_0000;
pub const ITT: u64 = 0x8060_0000;

const VALID: u64 = 1 << 63;

pub struct Bench {
    pub ram: Rc<Ram>,
    pub gic: Gic<Rc<Ram>>,
    pub profile: Profile,
}

impl Bench {
    /// A GIC out of reset.
    pub fn reset(profile: Profile, seed: u64) -> Self {
        let ram = Rc::new(Ram::new([MEMORY], profile.coherent));
        Self {
            gic: Gic::new(Rc::clone(&ram), profile.clone(), seed),
            ram,
            profile,
        }
    }

    /// A GIC that is set up, with a mapped collection for each redistributor.
    pub fn new(profile: Profile, seed: u64) -> Self {
        let bench = Self::reset(profile, seed);
        for cpu in 0..bench.profile.cpus {
            bench.enable_lpis(cpu);
        }
        bench.enable();
        for cpu in 0..bench.profile.cpus {
            bench.run(&[mapc(cpu as u16, bench.profile.rdbase(cpu)), bench.sync(cpu)]);
        }
        bench
    }

    pub fn put(&self, at: u64, value: u64) {
        self.ram.store(PhysAddr::new(at), value);
        self.ram.publish(PhysAddr::new(at), 8);
    }

    pub fn get(&self, at: u64) -> u64 {
        self.ram.refresh(PhysAddr::new(at), 8);
        self.ram.load(PhysAddr::new(at))
    }

    pub fn enable_lpis(&self, cpu: usize) {
        let bits = u64::from(self.profile.id_bits.min(16) - 1);
        self.gic.rd_write(cpu, 0x70, 8, CONFIG | bits);
        let pending = PENDING + 0x1_0000 * cpu as u64;
        self.gic.rd_write(cpu, 0x78, 8, pending | 1 << 62);
        self.gic.rd_write(cpu, 0, 4, 1);
        self.wait(|| self.gic.rd_read(cpu, 0, 4) & 8 == 0);
    }

    /// Flat tables, but for indirect ones where one page is too little.
    pub fn enable(&self) {
        self.gic.its_write(0, 0x80, 8, VALID | QUEUE | 15);
        self.gic.its_write(0, 0x88, 8, 0);
        for (n, table) in (0u32..).zip(&self.profile.tables) {
            use gicv3_model::TableKind::{Collection, Device, Vpe};
            let (at, size) = match table.kind {
                Device => (DEVICES, 7),
                Collection => (COLLECTIONS, 0),
                Vpe => continue,
            };
            self.gic
                .its_write(0, 0x100 + n * 8, 8, VALID | at | 0x200 | size);
        }
        self.gic.its_write(0, 0, 4, 1);
    }

    /// Commands, until they are consumed.
    pub fn run(&self, commands: &[[u64; 4]]) {
        for command in commands {
            self.send(*command);
            self.wait(|| {
                let reader = self.gic.its_read(0, 0x90, 8);
                reader & 1 == 1 || reader == self.gic.its_read(0, 0x88, 8)
            });
        }
    }

    pub fn send(&self, command: [u64; 4]) {
        let writer = self.gic.its_read(0, 0x88, 8);
        for (n, word) in (0..).zip(command) {
            self.put(QUEUE + writer + n * 8, word);
        }
        self.gic.its_write(0, 0x88, 8, (writer + 32) % 0x1_0000);
    }

    pub fn sync(&self, cpu: usize) -> [u64; 4] {
        [0x05, 0, self.profile.rdbase(cpu), 0]
    }

    /// The configuration byte of an LPI.
    pub fn configure(&self, lpi: u32, config: u8) {
        let at = CONFIG + u64::from(lpi - 8192);
        let shift = at % 8 * 8;
        let word = self.get(at & !7) & !(0xff << shift) | u64::from(config) << shift;
        self.put(at & !7, word);
    }

    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if done() {
                return;
            }
            self.gic.step();
        }
        panic!("not done");
    }

    /// A device whose event 0 is an LPI of CPU 0's.
    pub fn map(&self, device: u32, lpi: u32) {
        self.run(&[
            mapd(device, 5, ITT + u64::from(device) * 0x1000),
            mapti(device, 0, lpi, 0),
            inv(device, 0),
            self.sync(0),
        ]);
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.gic.take_violations()
    }

    pub fn writes(&self) -> Vec<Access> {
        let all = self.gic.take_accesses();
        all.into_iter().filter(|access| access.write).collect()
    }
}

pub fn mapd(device: u32, bits: u64, itt: u64) -> [u64; 4] {
    [u64::from(device) << 32 | 0x08, bits - 1, VALID | itt, 0]
}

pub fn unmapd(device: u32) -> [u64; 4] {
    [u64::from(device) << 32 | 0x08, 0, 0, 0]
}

pub fn mapc(collection: u16, rdbase: u64) -> [u64; 4] {
    [0x09, 0, VALID | rdbase | u64::from(collection), 0]
}

pub fn mapti(device: u32, event: u32, lpi: u32, collection: u16) -> [u64; 4] {
    let ids = u64::from(lpi) << 32 | u64::from(event);
    [u64::from(device) << 32 | 0x0a, ids, collection.into(), 0]
}

pub fn movi(device: u32, event: u32, collection: u16) -> [u64; 4] {
    [
        u64::from(device) << 32 | 0x01,
        event.into(),
        collection.into(),
        0,
    ]
}

pub fn inv(device: u32, event: u32) -> [u64; 4] {
    [u64::from(device) << 32 | 0x0c, event.into(), 0, 0]
}

pub fn discard(device: u32, event: u32) -> [u64; 4] {
    [u64::from(device) << 32 | 0x0f, event.into(), 0, 0]
}
