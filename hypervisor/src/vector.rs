//! The SIMD&FP registers. EL2's own code uses none of them, so that they hold the
//! host's values while EL2 runs.

use crate::sysreg::{id_field, read_sysreg};
use core::arch::global_asm;

// Two instructions for each register: 8 bytes, by its number. CPTR_EL2 does not trap
// them (`host::prepare`), and PSTATE.SM, which the host may have set, allows them (DDI
// 0487, B1.4.4: loads and stores of SIMD&FP registers).
global_asm!(
    r#"
    .text
    .arch_extension fp
    .arch_extension simd
    .global vector_store
vector_store:
    adr     x2, 1f
    add     x2, x2, x0, lsl #3
    br      x2
1:
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [x1]
    ret
    .endr

    .global vector_load
vector_load:
    adr     x2, 1f
    add     x2, x2, x0, lsl #3
    br      x2
1:
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     q\n, [x1]
    ret
    .endr
    .arch_extension nosimd
    .arch_extension nofp
    "#
);

unsafe extern "C" {
    /// Stores register `number`, below 32, at `to`. Changes x2.
    fn vector_store(number: u64, to: *mut [u64; 2]);
    /// Loads it.
    fn vector_load(number: u64, from: *const [u64; 2]);
}

/// Whether this CPU has them (ID_AA64PFR0_EL1.FP and AdvSIMD).
pub fn exist() -> bool {
    let pfr0 = read_sysreg!("id_aa64pfr0_el1");
    id_field(pfr0, 16) != 0xf && id_field(pfr0, 20) != 0xf
}

/// Whether the host may use them where it was interrupted (CPACR_EL1.FPEN): else the
/// instruction would have trapped to EL1, and what they hold is another task's.
pub fn are_on(spsr: u64) -> bool {
    let el0 = spsr & 0xf == 0;
    exist()
        && match read_sysreg!("cpacr_el1") >> 20 & 3 {
            0b11 => true,
            0b01 => !el0,
            _ => false,
        }
}

/// What register `number` holds, the low half first; 0 where there are none.
pub fn get(number: u8) -> [u64; 2] {
    let mut value = [0; 2];
    if exist() {
        // SAFETY: one of 32 stores of 16 bytes, to a value that is that large; the
        // registers exist, and nothing but x2 changes, which the convention of calls
        // lets it.
        unsafe { vector_store(u64::from(number % 32), &mut value) }
    }
    value
}

/// Sets register `number`, and clears the rest of it where it is part of a longer one.
pub fn set(number: u8, value: [u64; 2]) {
    if exist() {
        // SAFETY: one of 32 loads of 16 bytes, from a value that is that large; the
        // register is the host's, and no code of EL2's has something in it.
        unsafe { vector_load(u64::from(number % 32), &value) }
    }
}
