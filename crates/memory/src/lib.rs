#![doc = include_str!("../README.md")]
//!
//! # Why one word at a time
//!
//! 64 bits, naturally aligned, are the unit in which the architecture promises that
//! no observer sees half of an access (IHI 0070, 3.21.3; DDI 0487, B2.2). At EL2 the
//! calls compile to single instructions. On the build machine an implementation
//! may look at each store as it happens, which is how a model can act between
//! any two of them.
#![cfg_attr(not(any(test, feature = "arena")), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "arena"))]
mod arena;

#[cfg(any(test, feature = "arena"))]
pub use arena::Arena;

use portcullis_addr::PhysAddr;

/// Access to memory shared with hardware.
///
/// Addresses are multiples of 8 inside memory that an [`Allocator`] of the same
/// owner gave out; an implementation may treat any other address as a defect of
/// the caller, but must not let it reach foreign memory.
pub trait Memory {
    /// Reads 64 bits in one access.
    fn load(&self, at: PhysAddr) -> u64;

    /// Writes 64 bits in one access. Other observers may see it at any time
    /// from now on, and in any order with other stores until
    /// [`publish`](Self::publish).
    fn store(&self, at: PhysAddr, value: u64);

    /// Reads `N` words of 64 bits from `at` on, each in one access, in any order.
    /// All of them are inside one allocation.
    #[inline]
    fn load_words<const N: usize>(&self, at: PhysAddr) -> [u64; N]
    where
        Self: Sized,
    {
        core::array::from_fn(|n| self.load(word(at, n as u64)))
    }

    /// Writes words of 64 bits from `at` on, each in one access, in any order.
    /// All of them are inside one allocation.
    #[inline]
    fn store_words<const N: usize>(&self, at: PhysAddr, words: [u64; N])
    where
        Self: Sized,
    {
        for (n, value) in (0u64..).zip(words) {
            self.store(word(at, n), value);
        }
    }

    /// Whether `count` words of 64 bits from `at` on are all 0, each read in one
    /// access. All of them are inside one allocation.
    #[inline]
    fn is_clear(&self, at: PhysAddr, count: u64) -> bool {
        (0..count).all(|n| self.load(word(at, n)) == 0)
    }

    /// Writes `count` words of 64 bits from `at` on, each in one access: `first`,
    /// and each of the others `step` more than the one before. All of them are
    /// inside one allocation.
    #[inline]
    fn store_run(&self, at: PhysAddr, count: u64, first: u64, step: u64) {
        for n in 0..count {
            self.store(word(at, n), first.wrapping_add(n.wrapping_mul(step)));
        }
    }

    /// Replaces `current` by `new` in one step.
    ///
    /// # Errors
    /// The value found, when it was not `current`; memory is then unchanged.
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64>;

    /// Makes every earlier store to `at .. at + bytes` visible to every
    /// observer of this memory, a walker without cache coherency included, and
    /// orders all earlier stores (wherever they went) before all later ones.
    ///
    /// `bytes == 0` is the barrier alone.
    fn publish(&self, at: PhysAddr, bytes: u64);

    /// Makes what hardware wrote to `at .. at + bytes` before now visible to
    /// later loads, and orders earlier loads before later ones.
    fn refresh(&self, at: PhysAddr, bytes: u64);
}

/// The `n`th word from `at` on.
#[inline]
fn word(at: PhysAddr, n: u64) -> PhysAddr {
    PhysAddr::new(at.raw().wrapping_add(n.wrapping_mul(8)))
}

/// Gives out memory for tables and queues.
pub trait Allocator {
    /// `bytes` of zeroed, published memory, aligned to `bytes`, which is a
    /// power of two of at least 8. `None` when there is none left.
    fn allocate(&self, bytes: u64) -> Option<PhysAddr>;

    /// Takes back what [`allocate`](Self::allocate) gave for the same `bytes`.
    /// No observer may hold a pointer to it any more, in a cache or on a walk.
    fn free(&self, at: PhysAddr, bytes: u64);
}

impl<T: Memory + ?Sized> Memory for &T {
    #[inline]
    fn load(&self, at: PhysAddr) -> u64 {
        (**self).load(at)
    }

    #[inline]
    fn store(&self, at: PhysAddr, value: u64) {
        (**self).store(at, value);
    }

    #[inline]
    fn is_clear(&self, at: PhysAddr, count: u64) -> bool {
        (**self).is_clear(at, count)
    }

    #[inline]
    fn store_run(&self, at: PhysAddr, count: u64, first: u64, step: u64) {
        (**self).store_run(at, count, first, step);
    }

    #[inline]
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        (**self).compare_exchange(at, current, new)
    }

    #[inline]
    fn publish(&self, at: PhysAddr, bytes: u64) {
        (**self).publish(at, bytes);
    }

    #[inline]
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        (**self).refresh(at, bytes);
    }
}

impl<T: Allocator + ?Sized> Allocator for &T {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        (**self).allocate(bytes)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        (**self).free(at, bytes);
    }
}
