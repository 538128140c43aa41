//! Accesses that survive an external abort.
//!
//! EL2 reads and writes memory and registers for somebody else: a queue that the
//! host has chosen, a register of the GIC that the host names, a UART that the host
//! may have switched off. What answers there with an error is not EL2's failure.
//! Each instruction that makes such an access has an entry in a table, with the
//! address at which to go on. The vector for exceptions from EL2 (`entry.rs`) looks
//! there when an access ends in an external abort: the load has loaded 0, the store
//! has stored nothing, and [`take_abort`] says so to the code that asked.
//!
//! An exception of any other kind, and at any other instruction, is a failure of
//! EL2's.

use crate::percpu::PerCpu;
use crate::sysreg::read_sysreg;
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

// What the exception does to memory is the flag of this CPU, which is looked at
// by assembly alone; what is accessed is nothing that Rust knows. So these are
// `nomem`: a compiler may keep its own values in registers, and keeps the order of
// these accesses among each other and with every barrier.
macro_rules! load {
    ($name:ident, $type:ty, $instruction:literal, $register:literal) => {
        /// Loads what is `OFFSET` bytes after `at`, once; 0 when that ends in an
        /// external abort.
        ///
        /// # Safety
        /// The address is aligned, and mapped at EL2 as memory of somebody else's
        /// or as registers.
        #[inline(always)]
        pub unsafe fn $name<const OFFSET: u64>(at: u64) -> $type {
            let value: $type;
            // SAFETY: as the caller promises; an abort goes on at 3.
            unsafe {
                asm!(
                    concat!("1: ", $instruction, " {v", $register, "}, [{a}, #{o}]"),
                    "2:",
                    ".pushsection .text.fixup, \"ax\"",
                    concat!("3: mov {v", $register, "}, #0"),
                    "b 2b",
                    ".popsection",
                    ".pushsection .fixups, \"a\"",
                    ".balign 4",
                    ".word 1b - ., 3b - .",
                    ".popsection",
                    a = in(reg) at,
                    o = const OFFSET,
                    v = lateout(reg) value,
                    options(nostack, preserves_flags, nomem)
                );
            }
            value
        }
    };
}

macro_rules! store {
    ($name:ident, $type:ty, $instruction:literal, $register:literal) => {
        /// Stores `value` at `at`, once; nothing when that ends in an external
        /// abort.
        ///
        /// # Safety
        /// As for a load, and the memory is none that Rust knows.
        #[inline(always)]
        pub unsafe fn $name(at: u64, value: $type) {
            // SAFETY: as the caller promises; an abort goes on at 2.
            unsafe {
                asm!(
                    concat!("1: ", $instruction, " {v", $register, "}, [{a}]"),
                    "2:",
                    ".pushsection .fixups, \"a\"",
                    ".balign 4",
                    ".word 1b - ., 2b - .",
                    ".popsection",
                    a = in(reg) at,
                    v = in(reg) value,
                    options(nostack, preserves_flags, nomem)
                );
            }
        }
    };
}

load!(load8, u8, "ldrb", ":w");
load!(load16, u16, "ldrh", ":w");
load!(load32, u32, "ldr", ":w");
load!(load64, u64, "ldr", "");
store!(store8, u8, "strb", ":w");
store!(store16, u16, "strh", ":w");
store!(store32, u32, "str", ":w");
store!(store64, u64, "str", "");

/// Loads the two words that are `OFFSET` bytes after `at`, each once; both are 0 when
/// one ends in an external abort. LDP is two accesses of 64 bits, each single-copy
/// atomic (DDI 0487, B2.2.1).
///
/// # Safety
/// As for one load.
#[inline(always)]
pub unsafe fn load_pair<const OFFSET: u64>(at: u64) -> [u64; 2] {
    let (first, second): (u64, u64);
    // SAFETY: as the caller promises; an abort goes on at 3.
    unsafe {
        asm!(
            "1: ldp {v}, {w}, [{a}, #{o}]",
            "2:",
            ".pushsection .text.fixup, \"ax\"",
            "3: mov {v}, #0",
            "mov {w}, #0",
            "b 2b",
            ".popsection",
            ".pushsection .fixups, \"a\"",
            ".balign 4",
            ".word 1b - ., 3b - .",
            ".popsection",
            a = in(reg) at,
            o = const OFFSET,
            v = out(reg) first,
            w = out(reg) second,
            options(nostack, preserves_flags, nomem)
        );
    }
    [first, second]
}

/// Whether an access of this CPU's ended in an external abort since this was last
/// asked.
#[inline(always)]
#[must_use]
pub fn take_abort() -> bool {
    let (cpu, aborted): (u64, u64);
    cpu = read_sysreg!("tpidr_el2");
    // SAFETY: reads the flag in this CPU's block, in order with the accesses.
    unsafe {
        asm!(
            "ldr {v}, [{cpu}, #{flag}]",
            cpu = in(reg) cpu,
            flag = const offset_of!(PerCpu, aborted),
            v = lateout(reg) aborted,
            options(nostack, preserves_flags, readonly)
        );
    }
    if aborted != 0 {
        clear();
    }
    aborted != 0
}

#[cold]
fn clear() {
    crate::percpu::this().aborted.store(0, Ordering::Relaxed);
}
