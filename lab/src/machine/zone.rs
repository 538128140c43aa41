//! A piece of memory that tables and queues are taken from.

use super::memory::Machine;
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// Blocks of powers of two; what was given back is given out again first.
#[derive(Debug)]
pub struct Zone {
    range: Range<u64>,
    next: Cell<u64>,
    /// By log2 of the size.
    free: RefCell<[Vec<u64>; 64]>,
    used: Cell<u64>,
    peak: Cell<u64>,
}

impl Zone {
    /// All of `range` is free.
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        Self {
            next: Cell::new(range.start),
            range,
            free: RefCell::new(std::array::from_fn(|_| Vec::new())),
            used: Cell::new(0),
            peak: Cell::new(0),
        }
    }

    /// Bytes given out now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    /// Most bytes given out at a time.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.peak.get()
    }

    fn take(&self, bytes: u64) -> Option<u64> {
        let size = bytes.checked_next_power_of_two()?;
        let class = size.trailing_zeros() as usize;
        let again = self.free.borrow_mut().get_mut(class)?.pop();
        let at = match again {
            Some(at) => at,
            None => {
                let at = self.next.get().checked_next_multiple_of(size)?;
                let end = at.checked_add(size).filter(|end| *end <= self.range.end)?;
                self.next.set(end);
                at
            }
        };
        self.used.set(self.used.get() + size);
        self.peak.set(self.peak.get().max(self.used.get()));
        Some(at)
    }

    fn put(&self, at: u64, bytes: u64) {
        let size = bytes.next_power_of_two();
        let class = size.trailing_zeros() as usize;
        if let Some(list) = self.free.borrow_mut().get_mut(class) {
            list.push(at);
        }
        self.used.set(self.used.get().saturating_sub(size));
    }
}

/// A zone of a machine, as the code under test sees it.
#[derive(Clone, Copy)]
pub struct ZoneRef<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) zone: &'m Zone,
}

impl Memory for ZoneRef<'_> {
    fn load(&self, at: PhysAddr) -> u64 {
        self.machine.load(at.raw())
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.machine.store(at.raw(), value);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.store(at, new);
        Ok(found)
    }

    /// Stores are seen at once: what happens in between is the rig's to find out.
    fn publish(&self, _at: PhysAddr, _bytes: u64) {}

    fn refresh(&self, _at: PhysAddr, _bytes: u64) {}
}

impl Allocator for ZoneRef<'_> {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let at = self.zone.take(bytes)?;
        self.machine.clear(at, bytes);
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        self.zone.put(at.raw(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_given_out_again() {
        let zone = Zone::new(0x1000..0x4000);
        let (a, b) = (zone.take(0x1000), zone.take(64));
        assert_eq!((a, b, zone.used()), (Some(0x1000), Some(0x2000), 0x1040));
        zone.put(0x1000, 0x1000);
        assert_eq!(zone.take(0x1000), Some(0x1000));
        assert_eq!(zone.take(0x1000), Some(0x3000));
        assert_eq!(zone.take(0x1000), None);
        assert_eq!(zone.peak(), 0x2040);
    }
}
