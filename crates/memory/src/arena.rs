//! Ordinary memory that stands in for the machine's, for tests and models.

use crate::{Allocator, Memory};
use portcullis_addr::{Address, PhysAddr};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block of 64-bit words at a chosen physical address, with an allocator that
/// checks its callers: a double free, a free of another size and an access
/// outside the arena are panics, since in a test they are defects.
pub struct Arena {
    base: PhysAddr,
    words: Vec<AtomicU64>,
    live: Mutex<BTreeMap<u64, u64>>,
}

impl Arena {
    /// `bytes` of zeroed memory at `base`, both multiples of 8.
    #[must_use]
    pub fn new(base: PhysAddr, bytes: u64) -> Self {
        assert!(base.is_aligned(8) && bytes % 8 == 0);
        let words = usize::try_from(bytes / 8).expect("the arena fits the build machine");
        Self {
            base,
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            live: Mutex::new(BTreeMap::new()),
        }
    }

    /// Bytes allocated and not yet freed.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        self.live
            .lock()
            .expect("no panic under the lock")
            .values()
            .sum()
    }

    fn word(&self, at: PhysAddr) -> &AtomicU64 {
        assert!(at.is_aligned(8), "{at} is not a multiple of 8");
        at.raw()
            .checked_sub(self.base.raw())
            .and_then(|offset| self.words.get((offset / 8) as usize))
            .unwrap_or_else(|| panic!("{at} lies outside the arena"))
    }

    fn end(&self) -> u64 {
        self.base.raw() + self.words.len() as u64 * 8
    }
}

impl Memory for Arena {
    fn load(&self, at: PhysAddr) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.word(at)
            .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn publish(&self, _at: PhysAddr, _bytes: u64) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn refresh(&self, _at: PhysAddr, _bytes: u64) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

impl Allocator for Arena {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        assert!(bytes.is_power_of_two() && bytes >= 8);
        let mut live = self.live.lock().expect("no panic under the lock");
        let mut at = self.base.raw().checked_next_multiple_of(bytes)?;
        for (&start, &size) in live.iter() {
            if at.checked_add(bytes)? <= start {
                break;
            }
            if start + size > at {
                at = (start + size).checked_next_multiple_of(bytes)?;
            }
        }
        if at.checked_add(bytes)? > self.end() {
            return None;
        }
        live.insert(at, bytes);
        drop(live);
        for offset in (0..bytes).step_by(8) {
            self.store(PhysAddr::new(at + offset), 0);
        }
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let size = self
            .live
            .lock()
            .expect("no panic under the lock")
            .remove(&at.raw());
        assert_eq!(
            size,
            Some(bytes),
            "free of {at}, which was not given out so"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_aligned_zeroed_and_disjoint() {
        let arena = Arena::new(PhysAddr::new(0x1000), 0x4000);
        let a = arena.allocate(0x40).unwrap();
        let b = arena.allocate(0x1000).unwrap();
        assert_eq!(a, PhysAddr::new(0x1000));
        assert_eq!(b, PhysAddr::new(0x2000));
        arena.store(a, 7);
        arena.free(a, 0x40);
        let c = arena.allocate(0x1000).unwrap();
        assert_eq!(c, PhysAddr::new(0x1000));
        assert_eq!(arena.load(c), 0);
        assert_eq!(arena.bytes_in_use(), 0x2000);
        assert_eq!(arena.allocate(0x4000), None);
    }

    #[test]
    #[should_panic(expected = "not given out")]
    fn a_double_free_is_seen() {
        let arena = Arena::new(PhysAddr::new(0), 0x1000);
        let a = arena.allocate(8).unwrap();
        arena.free(a, 8);
        arena.free(a, 8);
    }
}
