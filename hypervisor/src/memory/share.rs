//! Shares of the pool: what one user takes, another does not miss.

use super::Shared;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_addr::{PAGE_SIZE, PhysAddr};
use portcullis_memory::{Allocator, Memory};

/// A share of the pool, so that what its user maps cannot take the memory of
/// anything else.
#[derive(Debug)]
pub struct Limit {
    left: AtomicU64,
    limit: AtomicU64,
    most: AtomicU64,
}

impl Limit {
    const fn new() -> Self {
        Self {
            left: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            most: AtomicU64::new(0),
        }
    }

    /// Lets its user take up to `bytes`, which the pool has beside what
    /// everything else takes from it.
    pub fn set(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that its user may take.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes that are taken, and the most that ever were.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        let limit = self.limit.load(Ordering::Relaxed);
        let used = limit - self.left.load(Ordering::Relaxed).min(limit);
        (used, self.most.load(Ordering::Relaxed))
    }
}

/// The share for the tables of the host's mappings in paravirt mode.
pub static DMA_TABLES: Limit = Limit::new();

/// The share for the interrupt translation tables of the host's devices.
pub static ITS_TABLES: Limit = Limit::new();

/// Memory as [`Shared`], up to a limit.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    shared: Shared,
    limit: &'static Limit,
}

impl Tables {
    /// Memory of the share `limit`, for a device that sees the caches or not.
    #[must_use]
    pub fn new(limit: &'static Limit, coherent: bool) -> Self {
        Self {
            shared: Shared::new(coherent),
            limit,
        }
    }
}

impl Memory for Tables {
    #[inline(always)]
    fn load_words<const N: usize>(&self, at: PhysAddr) -> [u64; N] {
        self.shared.load_words(at)
    }

    #[inline(always)]
    fn store_words<const N: usize>(&self, at: PhysAddr, words: [u64; N]) {
        self.shared.store_words(at, words);
    }

    #[inline]
    fn is_clear(&self, at: PhysAddr, count: u64) -> bool {
        self.shared.is_clear(at, count)
    }

    #[inline]
    fn store_run(&self, at: PhysAddr, count: u64, first: u64, step: u64) {
        self.shared.store_run(at, count, first, step);
    }

    #[inline]
    fn load(&self, at: PhysAddr) -> u64 {
        self.shared.load(at)
    }

    #[inline]
    fn store(&self, at: PhysAddr, value: u64) {
        self.shared.store(at, value);
    }

    #[inline]
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.shared.compare_exchange(at, current, new)
    }

    #[inline]
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.shared.publish(at, bytes);
    }

    #[inline]
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.shared.refresh(at, bytes);
    }
}

impl Allocator for Tables {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        // What is taken is counted in pages, as the pool gives it.
        let cost = bytes.next_multiple_of(PAGE_SIZE);
        let take = |left: u64| left.checked_sub(cost);
        let order = Ordering::Relaxed;
        let limit = self.limit;
        let before = limit.left.fetch_update(order, order, take).ok()?;
        let at = self.shared.allocate(bytes);
        if at.is_none() {
            limit.left.fetch_add(cost, order);
        } else {
            let used = limit.limit.load(order) - (before - cost);
            limit.most.fetch_max(used, order);
        }
        at
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        self.shared.free(at, bytes);
        let cost = bytes.next_multiple_of(PAGE_SIZE);
        self.limit.left.fetch_add(cost, Ordering::Relaxed);
    }
}
