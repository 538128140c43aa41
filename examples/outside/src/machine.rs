//! What the crates ask of their caller, for a machine that is a model.

use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_driver::{Clock, Registers};
use smmuv3_model::{Mode, Policy, Profile, Smmu};
use smmuv3_spec::StreamId;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// RAM: the first half is for tables and queues, the second for the device.
const RAM: Range<u64> = 0x8000_0000..0x8080_0000;
/// Where the second half begins.
pub const DATA: u64 = 0x8040_0000;

/// Memory and a clock, around an SMMU.
pub struct Machine {
    model: RefCell<Smmu>,
    /// Next address that was not allocated.
    next: Cell<u64>,
    time: Cell<u64>,
}

impl Machine {
    /// A machine whose SMMU remembers whatever it may, for `stream`.
    pub fn new(stream: StreamId) -> Self {
        let mode = Mode::Greedy { seed: 1 };
        Self {
            model: RefCell::new(Smmu::new(Profile::mmu600(), [RAM], mode, [stream])),
            next: Cell::new(RAM.start),
            time: Cell::new(0),
        }
    }

    /// Gives the SMMU to `with`.
    pub fn smmu<T>(&self, with: impl FnOnce(&mut Smmu) -> T) -> T {
        with(&mut self.model.borrow_mut())
    }
}

impl Memory for Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        self.smmu(|smmu| smmu.load(at.raw())).expect("RAM")
    }

    fn store(&self, at: PhysAddr, value: u64) {
        assert!(self.smmu(|smmu| smmu.store(at.raw(), value)), "RAM");
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
        self.smmu(|smmu| smmu.publish(at.raw(), bytes));
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.smmu(|smmu| smmu.refresh(at.raw(), bytes));
    }
}

/// Gives out one piece after the other, and takes none back.
impl Allocator for Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let at = self.next.get().checked_next_multiple_of(bytes)?;
        let end = at.checked_add(bytes).filter(|end| *end <= DATA)?;
        self.next.set(end);
        Some(PhysAddr::new(at))
    }

    fn free(&self, _at: PhysAddr, _bytes: u64) {}
}

impl Registers for Machine {
    fn read32(&self, offset: u32) -> u32 {
        self.smmu(|smmu| smmu.read32(offset))
    }

    fn write32(&self, offset: u32, value: u32) {
        self.smmu(|smmu| smmu.write32(offset, value));
    }

    fn read64(&self, offset: u32) -> u64 {
        self.smmu(|smmu| smmu.read64(offset))
    }

    fn write64(&self, offset: u32, value: u64) {
        self.smmu(|smmu| smmu.write64(offset, value));
    }
}

impl Clock for Machine {
    fn now_us(&self) -> u64 {
        self.time.get()
    }

    fn relax(&self) {
        self.time.set(self.time.get() + 1);
    }
}

/// The pages of `DATA` that the device may touch.
pub struct Rules(pub Range<u64>);

impl Policy for Rules {
    fn first_forbidden(&self, _stream: StreamId, range: Range<u64>, _write: bool) -> Option<u64> {
        if range.start < self.0.start || range.start >= self.0.end {
            return Some(range.start);
        }
        (range.end > self.0.end).then_some(self.0.end)
    }

    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let tables = RAM.start..DATA;
        let inside = tables.contains(&range.start) && range.end <= tables.end;
        (!inside).then_some(range.start)
    }
}
