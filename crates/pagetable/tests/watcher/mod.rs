//! Memory that looks at the tables after every single store.

use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Arena, Memory};
use portcullis_pagetable::Geometry;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// What an address translates to: output and attribute bits.
pub type To = Option<(u64, u64)>;

/// What one probed address may show while an operation runs.
pub struct Probe {
    pub address: u64,
    pub old: To,
    pub new: To,
    pub may_fault: bool,
}

/// Memory that walks the tables after every store, as hardware would.
pub struct Watcher {
    pub arena: Arena,
    pub live: RefCell<BTreeMap<u64, u64>>,
    /// Allocations that are left.
    pub left: Cell<u64>,
    pub tables: Cell<Option<(Geometry, u64, u64)>>,
    pub probes: RefCell<Vec<Probe>>,
    /// Words that were stored and not published since.
    dirty: RefCell<BTreeSet<u64>>,
}

impl Watcher {
    pub fn new(bytes: u64, left: u64) -> Self {
        Self {
            arena: Arena::new(PhysAddr::new(0x80_0000_0000), bytes),
            live: RefCell::default(),
            left: Cell::new(left),
            tables: Cell::new(None),
            probes: RefCell::default(),
            dirty: RefCell::default(),
        }
    }

    /// A walk written for this test alone; DDI 0487, D8.3.1.
    pub fn walk(&self, address: u64) -> To {
        let (geometry, root, mask) = self.tables.get()?;
        let page = geometry.granule().shift();
        let mut level = geometry.start_level();
        let mut table = root;
        let mut rest = address;
        loop {
            let shift = page + u32::from(3 - level) * (page - 3);
            let at = table + (rest >> shift) * 8;
            let (start, bytes) = self
                .live
                .borrow()
                .range(..=at)
                .next_back()
                .map(|(&start, &bytes)| (start, bytes))
                .expect("the walker left the tables");
            assert!(at < start + bytes, "the walker is in freed memory");
            rest &= (1 << shift) - 1;
            let published = !self.dirty.borrow().contains(&at);
            assert!(
                published || !self.probes.borrow().is_empty(),
                "{at:#x} was stored and never published"
            );
            let descriptor = self.arena.load(PhysAddr::new(at));
            if descriptor & 1 == 0 {
                return None;
            }
            let out = descriptor & 0x0000_ffff_ffff_f000 & !((1 << page) - 1);
            if level == 3 {
                assert_eq!(descriptor & 3, 3, "a reserved descriptor");
                return Some((out + rest, descriptor & mask));
            }
            if descriptor & 2 == 0 {
                assert_eq!(out & ((1 << shift) - 1), 0, "a block that is not aligned");
                return Some((out + rest, descriptor & mask));
            }
            table = out;
            level += 1;
        }
    }
}

impl Memory for &Watcher {
    fn load(&self, at: PhysAddr) -> u64 {
        self.arena.load(at)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let old = self.arena.load(at);
        self.arena.store(at, value);
        // Hardware ignores bits 58:55 of a block or page (Tables D8-51, D8-52).
        if (old ^ value) & !(0xf << 55) != 0 {
            self.dirty.borrow_mut().insert(at.raw());
        }
        // Outputs lie below the arena, so this is a table that gets linked.
        let target = value & 0x0000_ffff_ffff_f000;
        if value & 3 == 3
            && let Some(bytes) = self.live.borrow().get(&target)
        {
            let unpublished = self
                .dirty
                .borrow()
                .range(target..target + bytes)
                .next()
                .copied();
            assert_eq!(unpublished, None, "linked before all of it was published");
        }
        for probe in self.probes.borrow().iter() {
            let seen = self.walk(probe.address);
            let good = seen == probe.old || seen == probe.new || seen.is_none() && probe.may_fault;
            assert!(
                good,
                "{:#x} is {seen:x?} after a store of {value:#x} to {at}; before {:x?}, after {:x?}",
                probe.address, probe.old, probe.new
            );
        }
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        let mut dirty = self.dirty.borrow_mut();
        dirty.retain(|&word| word < at.raw() || word >= at.raw() + bytes);
        self.arena.publish(at, bytes);
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.arena.refresh(at, bytes);
    }
}

impl Allocator for &Watcher {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        if self.left.get() == 0 {
            return None;
        }
        self.left.set(self.left.get() - 1);
        let at = self.arena.allocate(bytes)?;
        self.live.borrow_mut().insert(at.raw(), bytes);
        Some(at)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        self.left.set(self.left.get() + 1);
        self.live.borrow_mut().remove(&at.raw());
        let gone = at.raw()..at.raw() + bytes;
        self.dirty.borrow_mut().retain(|word| !gone.contains(word));
        self.arena.free(at, bytes);
    }
}
