//! The seams of the code under test, on the model.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::POOL;
use crate::mutant::Mutant;
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_driver::{Clock, Registers};
use smmuv3_spec::control::QueueBase;
use smmuv3_spec::reg;

impl Memory for Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        let held = self.held.borrow();
        if let Some((_, value)) = held.iter().rfind(|(a, _)| *a == at.raw()) {
            return *value;
        }
        let value = self.smmu.borrow().load(at.raw());
        value.unwrap_or_else(|| panic!("load outside memory at {at}"))
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let at = at.raw();
        if self.commands().contains(&at) {
            self.command_store(at, value);
        } else if self.mutant == Mutant::EntryValidFirst
            && self.in_driver.get()
            && !at.is_multiple_of(64)
        {
            self.held.borrow_mut().push((at, value));
        } else {
            self.raw_store(at, value);
            let held = std::mem::take(&mut *self.held.borrow_mut());
            for (at, value) in held {
                self.raw_store(at, value);
            }
        }
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
        let queue = self.commands().contains(&at.raw());
        if queue || !self.mutant.skips_publish(bytes) {
            self.smmu.borrow_mut().publish(at.raw(), bytes);
        }
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.smmu.borrow_mut().refresh(at.raw(), bytes);
    }
}

impl Allocator for Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let mut live = self.live.borrow_mut();
        let mut at = POOL.start.next_multiple_of(bytes);
        for (start, size) in live.iter() {
            if at + bytes <= *start {
                break;
            }
            at = at.max(start + size).next_multiple_of(bytes);
        }
        if at + bytes > POOL.end {
            return None;
        }
        live.insert(at, bytes);
        for word in (at..at + bytes).step_by(8) {
            self.smmu.borrow_mut().ram_mut().settle(word, 0);
        }
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let size = self.live.borrow_mut().remove(&at.raw());
        assert_eq!(size, Some(bytes), "free of {at}");
        // No observer may hold a pointer to it any more.
        let held = self.smmu.borrow().holds_table_in(at.raw(), bytes);
        if let Some(violation) = held.filter(|_| self.armed.get()) {
            self.find(Finding::Violation(violation));
        }
    }
}

impl Registers for Machine {
    fn read32(&self, offset: u32) -> u32 {
        let mut smmu = self.smmu.borrow_mut();
        let value = smmu.read32(offset);
        match (self.mutant, offset) {
            (Mutant::NoWait, reg::CMDQ_CONS) => smmu.read32(reg::CMDQ_PROD),
            (Mutant::NoFenceWait, reg::CR0ACK) => smmu.read32(reg::CR0),
            (Mutant::NoGbpa, reg::GBPA) => 1 << 20,
            _ => value,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut value = value;
        match (self.mutant, offset) {
            (Mutant::NoGbpa, reg::GBPA) => return,
            (Mutant::NoWrap, reg::CMDQ_PROD) => {
                let log2 =
                    QueueBase::from(self.smmu.borrow_mut().read64(reg::CMDQ_BASE)).log2size();
                value &= (1 << log2) - 1;
            }
            _ => {}
        }
        self.smmu.borrow_mut().write32(offset, value);
        if offset == reg::CMDQ_PROD {
            // What was cached since the last CMD_SYNC still is.
            self.check();
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        self.smmu.borrow_mut().read64(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.smmu.borrow_mut().write64(offset, value);
    }
}

impl Clock for Machine {
    fn now_us(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }

    fn relax(&self) {
        self.time.set(self.time.get() + 1000);
    }
}
