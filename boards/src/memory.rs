//! The hypervisor's memory on a board: tables and queues, which the SMMU model reads.

use crate::space::BITS;
use portcullis_addr::{PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use smmuv3_model::Ram;
use std::cell::{Cell, RefCell};

/// Where the SMMUs' own tables and queues lie: behind the memory of every board, at the
/// end of what an SMMU of [`BITS`] reads, so that a board with many streams needs no
/// larger pool than another.
const OWN: u64 = (1 << BITS) - OWN_BYTES;
/// Bytes of them: a stream table of 32 bits has at most 128 MiB of first level.
const OWN_BYTES: u64 = 256 << 20;

/// Memory that is handed out from start to end and never taken back.
pub(crate) struct Pool {
    ram: RefCell<Ram>,
    next: Cell<u64>,
    end: Cell<u64>,
}

impl Pool {
    /// The pool at `at`.
    pub(crate) fn new(at: Range<PhysAddr>, coherent: bool) -> Self {
        let banks = [at.start().raw()..at.end().raw(), OWN..OWN + OWN_BYTES];
        Self {
            ram: RefCell::new(Ram::new(banks, coherent)),
            next: Cell::new(at.start().raw()),
            end: Cell::new(at.end().raw()),
        }
    }

    /// From here on, memory is what the SMMUs have for themselves.
    pub(crate) fn turn_to_smmus(&self) {
        self.next.set(OWN);
        self.end.set(OWN + OWN_BYTES);
    }

    /// What an SMMU model is attached to.
    pub(crate) fn ram(&self) -> Ram {
        self.ram.borrow().clone()
    }
}

impl Memory for Pool {
    fn load(&self, at: PhysAddr) -> u64 {
        let word = self.ram.borrow().load(at.raw());
        word.unwrap_or_else(|| panic!("{at} lies outside the pool"))
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let stored = self.ram.borrow_mut().settle(at.raw(), value);
        assert!(stored, "{at} lies outside the pool");
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.store(at, new);
        Ok(found)
    }

    /// A store is seen at once: orders of stores are the rig's to try.
    fn publish(&self, _at: PhysAddr, _bytes: u64) {}

    fn refresh(&self, _at: PhysAddr, _bytes: u64) {}
}

impl Allocator for Pool {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let at = self.next.get().checked_next_multiple_of(bytes)?;
        let next = at.checked_add(bytes)?;
        if next > self.end.get() {
            return None;
        }
        // Memory of the model starts as zeros, and none is handed out twice.
        self.next.set(next);
        Some(PhysAddr::new(at))
    }

    fn free(&self, _at: PhysAddr, _bytes: u64) {}
}
