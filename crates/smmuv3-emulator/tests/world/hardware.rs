//! The modelled SMMU and its memory, as the driver reaches them.

use super::{BLOCK2, PHYS, POOL, POOL_END, TWO};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_driver::{Clock, Registers};
use smmuv3_model::{Mode, Profile};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// What the driver reaches.
pub struct Hardware {
    pub smmu: RefCell<smmuv3_model::Smmu>,
    live: RefCell<BTreeMap<u64, u64>>,
    time: Cell<u64>,
    /// The allocator has nothing left.
    pub starved: Cell<bool>,
}

impl Registers for Hardware {
    fn read32(&self, offset: u32) -> u32 {
        self.smmu.borrow_mut().read32(offset)
    }
    fn write32(&self, offset: u32, value: u32) {
        self.smmu.borrow_mut().write32(offset, value);
    }
    fn read64(&self, offset: u32) -> u64 {
        self.smmu.borrow_mut().read64(offset)
    }
    fn write64(&self, offset: u32, value: u64) {
        self.smmu.borrow_mut().write64(offset, value);
    }
}

impl Clock for Hardware {
    fn now_us(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }
    fn relax(&self) {
        self.time.set(self.time.get() + 1000);
    }
}

impl Memory for Hardware {
    fn load(&self, at: PhysAddr) -> u64 {
        self.smmu.borrow().load(at.raw()).expect("memory")
    }
    fn store(&self, at: PhysAddr, value: u64) {
        assert!(self.smmu.borrow_mut().store(at.raw(), value));
    }
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.store(at, new);
        Ok(found)
    }
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.smmu.borrow_mut().publish(at.raw(), bytes);
    }
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.smmu.borrow_mut().refresh(at.raw(), bytes);
    }
}

impl Allocator for Hardware {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        if self.starved.get() {
            return None;
        }
        let mut live = self.live.borrow_mut();
        let mut at = POOL.next_multiple_of(bytes);
        for (start, size) in live.iter() {
            if at + bytes <= *start {
                break;
            }
            at = at.max(start + size).next_multiple_of(bytes);
        }
        assert!(at + bytes <= POOL_END, "the pool is too small");
        live.insert(at, bytes);
        for word in (at..at + bytes).step_by(8) {
            self.smmu.borrow_mut().ram_mut().settle(word, 0);
        }
        Some(PhysAddr::new(at))
    }
    fn free(&self, at: PhysAddr, bytes: u64) {
        assert_eq!(self.live.borrow_mut().remove(&at.raw()), Some(bytes));
    }
}

pub fn hardware(profile: Profile) -> Hardware {
    let banks = std::iter::once(PHYS..POOL_END);
    let mut smmu = smmuv3_model::Smmu::new(profile, banks, Mode::Plain, []);
    // IPA 0x4000_0000 is entry 1 of level 1; blocks of 2 MiB below.
    let ram = smmu.ram_mut();
    ram.settle(TWO + 8, (TWO + 0x2000) | 3);
    for block in 0..8 {
        let at = PHYS + block * 0x20_0000;
        ram.settle(TWO + 0x2000 + block * 8, at | BLOCK2);
    }
    Hardware {
        smmu: RefCell::new(smmu),
        live: RefCell::default(),
        time: Cell::new(0),
        starved: Cell::new(false),
    }
}
