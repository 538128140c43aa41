//! The image header, the first instructions and the exception vectors.

use core::arch::global_asm;

unsafe extern "C" {
    /// The first instruction of a CPU that [`crate::start_cpu`] turns on, which
    /// has the top of its stack in x0.
    pub safe fn secondary_start();
}

global_asm!(
    r#"
    .section .head, "ax"
    .global _start
_start:
    b       1f
    .long   0
    .quad   0
    .quad   __image_size
    .quad   0xa
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0
1:  mov     x19, x0
    adrp    x20, __image_start
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
2:  cmp     x1, x2
    b.hs    3f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    add     x5, x5, x20
    str     x5, [x3, x20]
    b       2b
3:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
4:  cmp     x1, x2
    b.hs    5f
    stp     xzr, xzr, [x1], #16
    b       4b
5:  mov     sp, x2
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el1, x0
    isb
    mov     x0, x19
    bl      payload_main
6:  wfe
    b       6b

    .global secondary_start
secondary_start:
    mov     sp, x0
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el1, x0
    isb
    bl      {secondary}
    b       6b

    // Every synchronous exception is noted and stepped over: a data abort
    // goes on after the instruction, a fetch abort returns to its caller.
    .text
    .balign 2048
vectors:
    .space  512
    // Current level, SP_EL1.
    b       noted
    .balign 128
    .space  256
    // An SError: noted, and masked from then on.
    stp     x0, x1, [sp, #-16]!
    adrp    x0, {last}
    add     x0, x0, :lo12:{last}
    mrs     x1, esr_el1
    str     x1, [x0]
    mrs     x1, spsr_el1
    orr     x1, x1, #(1 << 8)
    msr     spsr_el1, x1
    ldp     x0, x1, [sp], #16
    eret
    .balign 2048
noted:
    stp     x0, x1, [sp, #-32]!
    stp     x2, x3, [sp, #16]
    adrp    x0, {last}
    add     x0, x0, :lo12:{last}
    mrs     x1, esr_el1
    mrs     x2, far_el1
    stp     x1, x2, [x0]
    mrs     x3, elr_el1
    add     x3, x3, #4
    lsr     x1, x1, #26
    cmp     x1, #0x21
    b.ne    7f
    mov     x3, x30
7:  msr     elr_el1, x3
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #32
    eret
    "#,
    secondary = sym crate::secondary,
    last = sym crate::LAST,
);
