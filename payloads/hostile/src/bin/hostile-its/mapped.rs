//! Stage 1 of this kernel's, for a moment: registers as Normal memory, where an
//! access need not be aligned as far as stage 1 goes.

use crate::places::{clear, own};
use core::arch::asm;
use portcullis_hostile::write64;

/// A block of 1 GiB: Normal memory by MAIR's first byte, accessed, for EL1 (DDI
/// 0487, D8.3.1).
const BLOCK: u64 = 1 << 10 | 1;
const BLOCK_SIZE: u64 = 1 << 30;
/// Normal memory that is not cached.
const MAIR: u64 = 0x44;
/// 39 bits of input from TTBR0 alone, walks that are not cached, 40 bits of
/// output.
const TCR: u64 = 2 << 32 | 1 << 23 | 25;

/// Calls `attempt` with the first 2 GiB mapped one to one as Normal memory.
pub fn as_normal_memory(attempt: impl FnOnce()) {
    clear(own::STAGE_1, 0x1000);
    for n in 0..2 {
        write64(own::STAGE_1 + n * 8, (n * BLOCK_SIZE) | BLOCK);
    }
    let before: u64;
    // SAFETY: the tables map everything that this kernel uses one to one.
    unsafe {
        asm!(
            "msr mair_el1, {mair}",
            "msr tcr_el1, {tcr}",
            "msr ttbr0_el1, {table}",
            "tlbi vmalle1",
            "dsb sy",
            "isb",
            "mrs {before}, sctlr_el1",
            "orr {on}, {before}, #1",
            "msr sctlr_el1, {on}",
            "isb",
            mair = in(reg) MAIR, tcr = in(reg) TCR, table = in(reg) own::STAGE_1,
            before = out(reg) before, on = out(reg) _,
        );
    }
    attempt();
    // SAFETY: as it was.
    unsafe {
        asm!("dsb sy", "msr sctlr_el1, {}", "isb", "tlbi vmalle1", "dsb sy", "isb",
             in(reg) before);
    }
}
