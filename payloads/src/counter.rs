//! The virtual counter, by which the host and the lab tell the time.

#![allow(
    unsafe_code,
    reason = "the registers can be read in assembly language only"
)]

use core::arch::asm;

/// The counter, in ticks of [`frequency`].
#[must_use]
pub fn now() -> u64 {
    let value: u64;
    // SAFETY: Linux lets user space read the counter; the barrier keeps the
    // read in program order.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack));
    }
    value
}

/// Ticks of [`now`] in one second.
#[must_use]
pub fn frequency() -> u64 {
    let value: u64;
    // SAFETY: Linux lets user space read the register.
    unsafe {
        asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack));
    }
    value
}
