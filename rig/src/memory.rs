//! Memory as the code under test sees it.

use crate::finding::Finding;
use crate::machine::{Machine, Unit};
use crate::map::{CPU_POOL, POOL};
use crate::mutant::Mutant;
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::Command;
use std::ops::Range;

impl Machine {
    /// A CPU's store, seen by every observer.
    pub(crate) fn raw_store(&self, at: u64, value: u64) {
        let Some(first) = self.units.first() else {
            return;
        };
        if !first.smmu.borrow_mut().store(at, value) {
            return self.find(Finding::Memory(at));
        }
        self.seen_by_others(0, at);
        self.seam();
    }

    /// The same of 32 bits; nobody stores to the other half at the same time.
    pub(crate) fn raw_store32(&self, at: u64, value: u32) {
        let word = self.ram.borrow().load(at & !7).unwrap_or(0);
        let shift = 8 * (at & 4);
        let word = word & !(0xffff_ffff << shift) | u64::from(value) << shift;
        self.raw_store(at & !7, word);
    }

    /// Tells every observer but one of a store.
    pub(crate) fn seen_by_others(&self, unit: usize, at: u64) {
        for (index, other) in self.units.iter().enumerate() {
            if index != unit {
                other.smmu.borrow_mut().saw_store(at);
            }
        }
        self.cpu.smmu.borrow_mut().saw_store(at);
    }

    /// A store by the host itself.
    pub(crate) fn store_of_host(&self, at: u64, value: u64) {
        self.meddle(at);
        self.store_of_driver(at, value);
    }

    /// The same to rings and requests, as a driver does it.
    pub(crate) fn store_of_driver(&self, at: u64, value: u64) {
        if let Some(first) = self.units.first() {
            first.smmu.borrow_mut().store(at, value);
            self.seen_by_others(0, at);
        }
    }

    fn unit_with_command(&self, at: u64) -> Option<&Unit> {
        let mut units = self.units.iter();
        units.find(|unit| unit.ring.borrow().contains(&at))
    }

    fn command_store(&self, unit: &Unit, at: u64, value: u64) {
        // The first word is stored first; a mutant may want both at once.
        if at.is_multiple_of(16) {
            unit.half.set(Some((at, value)));
            return;
        }
        let Some((first, word)) = unit.half.take() else {
            return self.raw_store(at, value);
        };
        let mut command = self.mutant.command(Command([word, value]));
        if unit.flips.take() {
            // To an opcode that there is not.
            command.0[0] |= 0x80;
        }
        if self.nested {
            let index = self
                .units
                .iter()
                .position(|other| std::ptr::eq(other, unit));
            self.look_at_command(index.unwrap_or(0), command);
        }
        self.raw_store(first, command.0[0]);
        self.raw_store(at, command.0[1]);
    }

    fn allocate_in(&self, pool: Range<u64>, bytes: u64) -> Option<PhysAddr> {
        match self.starve.get() {
            Some(0) => {
                self.starved.set(true);
                return None;
            }
            left => self.starve.set(left.map(|left| left - 1)),
        }
        let mut live = self.live.borrow_mut();
        let mut at = pool.start.next_multiple_of(bytes);
        for (start, size) in live.range(pool.clone()) {
            if at + bytes <= *start {
                break;
            }
            at = at.max(start + size).next_multiple_of(bytes);
        }
        if at + bytes > pool.end {
            return None;
        }
        live.insert(at, bytes);
        let mut ram = self.ram.borrow_mut();
        for word in (at..at + bytes).step_by(8) {
            ram.settle(word, 0);
        }
        Some(PhysAddr::new(at))
    }

    fn free_block(&self, at: u64, bytes: u64) {
        if self.live.borrow_mut().remove(&at) != Some(bytes) {
            return self.find(Finding::Memory(at));
        }
        if !self.armed.get() {
            return;
        }
        // No observer may hold a pointer to it any more.
        for (index, unit) in self.units.iter().enumerate() {
            if let Some(violation) = unit.smmu.borrow().holds_table_in(at, bytes) {
                self.find(Finding::Violation(index, violation));
            }
        }
        if let Some(violation) = self.cpu.smmu.borrow().holds_table_in(at, bytes) {
            self.find(Finding::Cpu(violation));
        }
    }
}

impl Memory for Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        let held = self.held.borrow();
        if let Some((_, value)) = held.iter().rfind(|(a, _)| *a == at.raw()) {
            return *value;
        }
        let value = self.ram.borrow().load(at.raw());
        value.unwrap_or_else(|| {
            self.find(Finding::Memory(at.raw()));
            0
        })
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let at = at.raw();
        if let Some(unit) = self.unit_with_command(at) {
            self.command_store(unit, at, value);
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
        let queue = self.unit_with_command(at.raw()).is_some();
        if (queue || !self.mutant.skips_publish(bytes))
            && let Some(first) = self.units.first()
        {
            // What is published to one is published to all.
            first.smmu.borrow_mut().publish(at.raw(), bytes);
        }
        self.seam();
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        if self.mutant != Mutant::NoRefresh
            && let Some(first) = self.units.first()
        {
            first.smmu.borrow_mut().refresh(at.raw(), bytes);
        }
    }
}

impl Allocator for Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.allocate_in(POOL, bytes)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        self.free_block(at.raw(), bytes);
    }
}

/// Memory of the machine, with pages from a pool of its own.
#[derive(Clone)]
pub(crate) struct PoolMemory<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) pool: Range<u64>,
}

impl Memory for PoolMemory<'_> {
    fn load(&self, at: PhysAddr) -> u64 {
        self.machine.costs();
        self.machine.load(at)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.machine.costs();
        self.machine.store(at, value);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.machine.costs();
        self.machine.compare_exchange(at, current, new)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.machine.publish(at, bytes);
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.machine.refresh(at, bytes);
    }
}

impl Allocator for PoolMemory<'_> {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let block = self.machine.allocate_in(self.pool.clone(), bytes);
        if block.is_none() {
            // It is small enough to run out without anybody's doing.
            self.machine.starved.set(true);
        }
        block
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        self.machine.free_block(at.raw(), bytes);
    }
}

/// Where tables are that only CPUs walk. They are coherent.
#[derive(Clone, Copy)]
pub(crate) struct CpuMemory<'m>(pub(crate) &'m Machine);

impl Memory for CpuMemory<'_> {
    fn load(&self, at: PhysAddr) -> u64 {
        self.0.load(at)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.0.raw_store(at.raw(), value);
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
        if let Some(first) = self.0.units.first() {
            first.smmu.borrow_mut().publish(at.raw(), bytes);
        }
        self.0.seam();
    }

    fn refresh(&self, _at: PhysAddr, _bytes: u64) {}
}

impl Allocator for CpuMemory<'_> {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.0.allocate_in(CPU_POOL, bytes)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        self.0.free_block(at.raw(), bytes);
    }
}
