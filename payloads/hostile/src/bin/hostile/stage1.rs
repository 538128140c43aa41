//! Stage 1 of this kernel's own, which it otherwise does without: what is behind
//! the second GiB boundary below is the machine's registers as normal memory.

use core::arch::asm;
use core::cell::UnsafeCell;

/// Where the machine's first GiB, which is registers, appears as normal memory.
pub const AS_MEMORY: u64 = 8 << 30;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: one CPU runs, and the table is written with translation off.
unsafe impl Sync for Table {}

static ROOT: Table = Table(UnsafeCell::new([0; 512]));

/// MAIR_EL1: registers, and memory that is not cached.
const ATTRIBUTES: u64 = 0x44 << 8;
/// TCR_EL1: 39 bits, 4 KiB, walks not cached, TTBR1_EL1 unused, 36 bits out.
const CONTROL: u64 = 1 << 32 | 1 << 23 | 25;

/// A block of 1 GiB, accessed already, for EL1 alone.
const BLOCK: u64 = 1 << 10 | 1;
const NEVER_EXECUTED: u64 = 3 << 53;
const MEMORY: u64 = 1 << 2;

/// Calls `attempt` with translation on: one to one, and [`AS_MEMORY`].
pub fn with(attempt: impl FnOnce()) {
    let entry = |at: u64, value: u64| {
        // SAFETY: in the table, which nothing else looks at now.
        unsafe {
            ROOT.0
                .get()
                .cast::<u64>()
                .add((at >> 30) as usize)
                .write_volatile(value)
        }
    };
    entry(0, BLOCK | NEVER_EXECUTED);
    for ram in 1..4u64 {
        entry(ram << 30, ram << 30 | BLOCK | MEMORY);
    }
    entry(AS_MEMORY, BLOCK | MEMORY | NEVER_EXECUTED);
    // SAFETY: the program, its data and the registers that it uses stay where they
    // are, and it runs on.
    unsafe {
        asm!("msr mair_el1, {attributes}", "msr tcr_el1, {control}", "msr ttbr0_el1, {root}",
             "dsb sy", "isb", "tlbi vmalle1", "dsb sy", "isb",
             "mrs {s}, sctlr_el1", "orr {s}, {s}, #1", "msr sctlr_el1, {s}", "isb",
             attributes = in(reg) ATTRIBUTES, control = in(reg) CONTROL,
             root = in(reg) ROOT.0.get(), s = out(reg) _);
    }
    attempt();
    // SAFETY: as above.
    unsafe {
        asm!("mrs {s}, sctlr_el1", "bic {s}, {s}, #1", "msr sctlr_el1, {s}", "isb",
             s = out(reg) _);
    }
}
