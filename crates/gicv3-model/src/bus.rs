//! How the GIC reaches memory, and what it did there.

use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Memory as the GIC sees it, in naturally aligned words of 64 bits.
pub trait Bus {
    /// The word at `at`; `None` where there is no memory.
    fn read(&self, at: u64) -> Option<u64>;

    /// Stores a word; `false` where there is no memory.
    fn write(&self, at: u64, value: u64) -> bool;
}

impl<T: Bus + ?Sized> Bus for &T {
    fn read(&self, at: u64) -> Option<u64> {
        (**self).read(at)
    }

    fn write(&self, at: u64, value: u64) -> bool {
        (**self).write(at, value)
    }
}

impl<T: Bus + ?Sized> Bus for Rc<T> {
    fn read(&self, at: u64) -> Option<u64> {
        (**self).read(at)
    }

    fn write(&self, at: u64, value: u64) -> bool {
        (**self).write(at, value)
    }
}

impl<T: Bus + ?Sized> Bus for Arc<T> {
    fn read(&self, at: u64) -> Option<u64> {
        (**self).read(at)
    }

    fn write(&self, at: u64, value: u64) -> bool {
        (**self).write(at, value)
    }
}

/// A [`Memory`] whose banks are known, as the GIC's bus. Coherent: what a CPU
/// stored is seen at once.
pub struct MemoryBus<M> {
    memory: M,
    banks: Vec<Range<u64>>,
}

impl<M: Memory> MemoryBus<M> {
    /// `memory`, which is there in `banks` and nowhere else.
    pub fn new(memory: M, banks: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self {
            memory,
            banks: banks.into_iter().collect(),
        }
    }

    fn has(&self, at: u64) -> bool {
        let whole = |bank: &Range<u64>| bank.contains(&at) && bank.end - at >= 8;
        at.is_multiple_of(8) && self.banks.iter().any(whole)
    }
}

impl<M: Memory> Bus for MemoryBus<M> {
    fn read(&self, at: u64) -> Option<u64> {
        self.has(at).then(|| self.memory.load(PhysAddr::new(at)))
    }

    fn write(&self, at: u64, value: u64) -> bool {
        let there = self.has(at);
        if there {
            self.memory.store(PhysAddr::new(at), value);
        }
        there
    }
}

/// One access, or a run of them, that the GIC made as a bus master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The first byte.
    pub at: u64,
    /// How many.
    pub bytes: u64,
    /// A write.
    pub write: bool,
    /// What for.
    pub what: &'static str,
}

impl Access {
    /// Whether all of it lies in one of `ranges`.
    #[must_use]
    pub fn is_within(&self, ranges: &[Range<u64>]) -> bool {
        let end = self.at.checked_add(self.bytes);
        let inside =
            |range: &Range<u64>| range.start <= self.at && end.is_some_and(|end| end <= range.end);
        ranges.iter().any(inside)
    }
}
