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
use core::sync::atomic::{AtomicBool, Ordering};

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

/// Whether PAR_EL1 wants more than a plain read.
static CAREFUL: AtomicBool = AtomicBool::new(false);

/// From now on PAR_EL1 is read with barriers around, or as 128 bits where the host
/// has tables of that kind: for parts that need the one or have the other.
pub fn read_par_carefully() {
    CAREFUL.store(true, Ordering::Relaxed);
}

/// PAR_EL1.F: there is no translation.
const FAILED: u64 = 1;
/// PAR_EL1.PA.
const PAGE: u64 = 0x000f_ffff_ffff_f000;

/// What the host's own translation makes of an address that it accessed: the IPA
/// (DDI 0487, AT S1E1R). `None` when it translates no longer, since another CPU
/// of the host's may have changed the tables, also to what cannot be walked.
/// PAR_EL1, which is the host's, is kept.
#[inline]
#[must_use]
pub fn host_ipa(va: u64) -> Option<u64> {
    if CAREFUL.load(Ordering::Relaxed) {
        return careful_host_ipa(va);
    }
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

/// As [`host_ipa`], for parts on which a read of PAR_EL1 is to have barriers around it
/// (Cortex-A77 1508412), and where PAR_EL1 has 128 bits (FEAT_D128).
#[cold]
#[inline(never)]
fn careful_host_ipa(va: u64) -> Option<u64> {
    /// TCR2_EL1.D128: the host's tables have descriptors of 128 bits.
    const D128: u64 = 1 << 5;
    let has_d128 = id_field(read_sysreg!("s3_0_c0_c7_3"), 32) != 0;
    let wide = has_d128 && read_sysreg!("s3_0_c2_c0_3") & D128 != 0;
    let (low, high): (u64, u64);
    // SAFETY: as in `host_ipa`; MRRS and MSRR exist where the host's tables are wide.
    unsafe {
        if wide {
            asm!(
                ".arch_extension d128",
                "dmb sy",
                "mrrs x2, x3, par_el1",
                "1: at s1e1r, {va}",
                "isb",
                "mrrs x4, x5, par_el1",
                "2: msrr par_el1, x2, x3",
                "dmb sy",
                ".pushsection .text.fixup, \"ax\"",
                "3: mov x4, #{failed}",
                "b 2b",
                ".popsection",
                ".pushsection .fixups, \"a\"",
                ".balign 4",
                ".word 1b - ., 3b - .",
                ".popsection",
                va = in(reg) va,
                failed = const FAILED,
                out("x2") _,
                out("x3") _,
                out("x4") low,
                out("x5") high,
                options(nostack, preserves_flags)
            );
        } else {
            asm!(
                "dmb sy",
                "mrs {par}, par_el1",
                "dmb sy",
                "1: at s1e1r, {va}",
                "isb",
                "dmb sy",
                "mrs {result}, par_el1",
                "dmb sy",
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
                result = out(reg) low,
                failed = const FAILED,
                options(nostack, preserves_flags)
            );
            high = 0;
        }
    }
    if low & FAILED != 0 {
        let _ = crate::fixup::take_abort();
        return None;
    }
    // PAR_EL1.D128, bit 64, says that the address is in bits 119:76.
    let page = if high & 1 != 0 {
        high & 0x00ff_ffff_ffff_f000
    } else {
        low & PAGE
    };
    Some(page | va & 0xfff)
}

/// One identification field of 4 bits at `shift`.
#[must_use]
pub fn id_field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}
