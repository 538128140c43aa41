//! Reading and writing system registers.
//!
//! Each register is named as the assembler names it. A write can change how the
//! machine behaves, so [`write_sysreg!`] is unsafe to use and says so at each
//! place; a read of an identification or status register cannot.

/// Reads a system register as `u64`. Only for registers whose read has no side
/// effect.
macro_rules! read_sysreg {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register touches no memory, and the
        // registers this is used for have no side effect on a read.
        unsafe {
            core::arch::asm!(
                concat!("mrs {}, ", $name),
                out(reg) value,
                options(nostack, preserves_flags)
            );
        }
        value
    }};
}

/// Writes a system register. Must stand in an `unsafe` block that says why the
/// machine stays as Rust expects it.
macro_rules! write_sysreg {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(
            concat!("msr ", $name, ", {}"),
            in(reg) value,
            options(nostack, preserves_flags)
        )
    }};
}

pub(crate) use read_sysreg;
pub(crate) use write_sysreg;

use core::arch::asm;

/// Instruction synchronisation barrier.
#[inline]
pub fn isb() {
    // SAFETY: a barrier only orders.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Full-system data synchronisation barrier.
#[inline]
pub fn dsb_sy() {
    // SAFETY: a barrier only orders.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Full-system data memory barrier.
#[inline]
pub fn dmb_sy() {
    // SAFETY: a barrier only orders.
    unsafe { asm!("dmb sy", options(nostack, preserves_flags)) }
}

/// Microseconds of the system counter. It starts at reset and does not wrap in
/// the life of a machine.
#[must_use]
pub fn now_us() -> u64 {
    isb();
    let ticks = read_sysreg!("cntpct_el0");
    let hz = read_sysreg!("cntfrq_el0").max(1);
    let seconds = ticks / hz;
    let rest = ticks % hz;
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(rest.saturating_mul(1_000_000) / hz)
}

/// What the host's own translation makes of an address that it accessed: the IPA
/// (DDI 0487, AT S1E1R). `None` when it translates no longer, since another CPU
/// of the host's may have changed the tables, also to what cannot be walked.
/// PAR_EL1, which is the host's, is kept.
#[inline]
#[must_use]
pub fn host_ipa(va: u64) -> Option<u64> {
    const FAILED: u64 = 1;
    const PAGE: u64 = 0x000f_ffff_ffff_f000;
    let result: u64;
    // SAFETY: looks a translation up, and keeps PAR_EL1. The walk may end in an
    // exception: then it goes on at 3.
    unsafe {
        asm!(
            "mrs {par}, par_el1",
            "1: at s1e1r, {va}",
            "isb",
            "mrs {result}, par_el1",
            "2: msr par_el1, {par}",
            ".pushsection .text.fixup, \"ax\"",
            "3: mov {result}, #{failed}",
            "b 2b",
            ".popsection",
            ".pushsection .fixups, \"a\"",
            ".balign 4",
            ".word 1b - ., 3b - .",
            ".popsection",
            va = in(reg) va,
            par = out(reg) _,
            result = out(reg) result,
            failed = const FAILED,
            options(nostack, preserves_flags, nomem)
        );
    }
    if result & FAILED != 0 {
        // One that was an abort is known by that.
        let _ = crate::fixup::take_abort();
        return None;
    }
    Some(result & PAGE | va & 0xfff)
}

/// One identification field of 4 bits at `shift`.
#[must_use]
pub fn id_field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}
