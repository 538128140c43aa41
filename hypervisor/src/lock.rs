//! Locks that are handed over in the order in which they were asked for, and waited
//! for with a bound.
//!
//! EL2 runs with interrupts masked, so a CPU that waits does nothing else. In order,
//! none waits longer than all the others hold the lock once; what each does while
//! it holds one is bounded, by the waits for hardware in it at most. A wait longer
//! than [`BOUND_US`] means that the holder has failed, or is the waiting CPU itself:
//! then EL2 has failed, and does what it does then.

use crate::sysreg::now_us;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// An SMMU has a second to complete a command, and a fence some 200 ms more
/// (`smmuv3-driver`). A CPU that is served last waits for 31 others.
const BOUND_US: u64 = 60_000_000;

/// Turns of a wait between two looks at the time.
const TURNS: u32 = 1024;

/// A value that one CPU at a time has.
pub struct Mutex<T> {
    /// The number of the next CPU to come.
    next: AtomicU32,
    /// The number whose turn it is.
    serving: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard, of which there is one at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

/// The value of a [`Mutex`], until this is dropped.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    number: u32,
}

impl<T> Mutex<T> {
    /// One that is free.
    pub const fn new(value: T) -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for this CPU's turn.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.serving.load(Ordering::Acquire) != number {
            self.wait(number);
        }
        MutexGuard {
            mutex: self,
            number,
        }
    }

    /// The value, if no CPU has it or waits for it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // Acquire: pairs with the release of the guard before.
        let number = self.serving.load(Ordering::Acquire);
        // When no number is given out beyond it, its turn it is, and stays until a
        // guard with that number is dropped.
        self.next
            .compare_exchange(
                number,
                number.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .ok()?;
        Some(MutexGuard {
            mutex: self,
            number,
        })
    }

    #[cold]
    #[inline(never)]
    fn wait(&self, number: u32) {
        let end = now_us().saturating_add(BOUND_US);
        loop {
            for _ in 0..TURNS {
                if self.serving.load(Ordering::Acquire) == number {
                    return;
                }
                core::hint::spin_loop();
            }
            if now_us() > end {
                crate::fatal::fatal(format_args!("a lock was held for more than a minute"));
            }
        }
    }

    /// Where the value is. Using it is up to what the caller knows.
    pub const fn as_mut_ptr(&self) -> *mut T {
        self.value.get()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the turn is this guard's until it is dropped.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex
            .serving
            .store(self.number.wrapping_add(1), Ordering::Release);
    }
}
