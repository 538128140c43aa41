//! The first instructions, the exception vectors, and the way into the host.
//!
//! Everything here runs without a stack, without the MMU, or between two
//! exception levels; it does the least possible and calls Rust.

use core::arch::global_asm;

// The image header (Linux, Documentation/arch/arm64/booting.rst) and the boot
// CPU's path. Entered at EL2, MMU off, device tree in x0.
global_asm!(
    r#"
    .section .head, "ax"
    .global _start
_start:
    b       primary_entry
    .long   0
    .quad   0                   // text_offset
    .quad   __image_size
    .quad   0xa                 // little-endian, 4 KiB pages, anywhere in RAM
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

    .text
primary_entry:
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    park
    msr     daifset, #15
    mov     x19, x0
    // E2H and TGE off: this image uses the EL2 registers' own layout.
    mov     x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    // Where E2H cannot be cleared the registers have another layout. Such a part
    // says so in ID_AA64MMFR4_EL1.E2H0, a negative number, or does not: then the bit
    // need not read as 1 either, but FAR_EL1 is FAR_EL2 (Linux, el2_setup.h).
    mrs     x1, s3_0_c0_c7_4
    tbnz    x1, #27, park
    mrs     x1, hcr_el2
    tbnz    x1, #34, park
    mov     x1, #1
    msr     far_el1, x1
    isb
    mov     x1, #2
    msr     far_el2, x1
    isb
    mrs     x1, far_el1
    cmp     x1, #2
    b.eq    park
    bl      plain_translation
    mov     x1, #0x0830
    movk    x1, #0x30c5, lsl #16
    msr     sctlr_el2, x1
    isb
    // What is written from here on goes past the caches, so no older line of
    // the image may sit in them, before or after.
    adrp    x0, __image_start
    adrp    x1, __image_end
    bl      discard_lines

    adrp    x20, __image_start
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #0x403          // R_AARCH64_RELATIVE
    b.ne    park
    add     x5, x5, x20
    str     x5, [x3, x20]
    b       1b

    // The others are packed (ELF, SHT_RELR): the address of a word that has its
    // addend in it, or, with bit 0 set, a bit for each of the 63 words that follow.
2:  adrp    x1, __relr_start
    add     x1, x1, :lo12:__relr_start
    adrp    x2, __relr_end
    add     x2, x2, :lo12:__relr_end
5:  cmp     x1, x2
    b.hs    9f
    ldr     x3, [x1], #8
    tbnz    x3, #0, 6f
    add     x4, x3, x20
    ldr     x5, [x4]
    add     x5, x5, x20
    str     x5, [x4], #8
    b       5b
6:  mov     x6, x4
7:  lsr     x3, x3, #1
    cbz     x3, 8f
    tbz     x3, #0, 10f
    ldr     x5, [x6]
    add     x5, x5, x20
    str     x5, [x6]
10: add     x6, x6, #8
    b       7b
8:  add     x4, x4, #504
    b       5b

9:  adrp    x1, __bss_start
    adrp    x2, __bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b

4:  adrp    x0, __image_start
    adrp    x1, __image_end
    bl      discard_lines
    adrp    x0, __boot_stack_top
    mov     sp, x0
    adrp    x1, {per_cpu}
    add     x1, x1, :lo12:{per_cpu}
    msr     tpidr_el2, x1
    adrp    x2, __boot_fatal_top
    stp     x2, x0, [x1]        // PerCpu::fatal_stack, ::stack
    adrp    x2, vectors
    add     x2, x2, :lo12:vectors
    msr     vbar_el2, x2
    isb
    mov     x0, x19
    bl      {primary}
    b       park

// Invalidates the data cache lines of x0 .. x1 to the point of coherency.
discard_lines:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x3, x3, x2
    sub     x4, x3, #1
    bic     x0, x0, x4
1:  cmp     x0, x1
    b.hs    2f
    dc      ivac, x0
    add     x0, x0, x3
    b       1b
2:  dsb     sy
    ret

// What may change the meaning of EL2's tables and system control is off
// (ID_AA64MMFR3_EL1.TCRX, SCTLRX: TCR2_EL2, SCTLR2_EL2; ID_AA64PFR1_EL1.GCS:
// GCSCR_EL2). Changes x1.
plain_translation:
    mrs     x1, s3_0_c0_c7_3
    tst     x1, #0xf
    b.eq    1f
    msr     s3_4_c2_c0_3, xzr
1:  tst     x1, #0xf0
    b.eq    2f
    msr     s3_4_c1_c0_3, xzr
2:  mrs     x1, id_aa64pfr1_el1
    ubfx    x1, x1, #44, #4
    cbz     x1, 3f
    msr     s3_4_c2_c5_0, xzr
3:  isb
    ret

    .global secondary_entry
// A CPU that the host turned on, or that wakes from a suspend: EL2, MMU off,
// x0 = its PerCpu, which the CPU that called PSCI cleaned to memory.
secondary_entry:
    msr     daifset, #15
    mov     x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    msr     tpidr_el2, x0
    bl      plain_translation
    ldp     x1, x2, [x0, #16]   // ttbr, tcr
    ldp     x3, x4, [x0, #32]   // mair, sctlr
    ldr     x5, [x0, #8]        // stack
    msr     ttbr0_el2, x1
    msr     tcr_el2, x2
    msr     mair_el2, x3
    adrp    x6, vectors
    add     x6, x6, :lo12:vectors
    msr     vbar_el2, x6
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el2, x4
    isb
    mov     sp, x5
    bl      {secondary}
    b       park

    .global park
park:
    wfe
    b       park
    "#,
    per_cpu = sym crate::percpu::PER_CPU,
    primary = sym crate::boot::primary,
    secondary = sym crate::psci::secondary,
);

// Exception vectors (DDI 0487, D1.3.1.2). What comes from EL2 itself is a
// failure of ours; it is reported from a stack of its own, since the reason may
// be that the other one is full. What comes from below is the host.
//
// Some instructions of ours may end in an exception all the same: those that reach
// what is somebody else's, and the walk of the host's own tables, which may lie
// where nothing answers, or ask for updates that memory cannot do (DDI 0487, AT and
// synchronous External aborts). They are in the table that `fixup.rs` is about, as
// pairs of distances: to the instruction, and to where to go on.
global_asm!(
    r#"
    .macro  fatal kind
    .balign 128
    msr     sp_el0, x0
    mov     x0, #\kind
    b       fatal_common
    .endm

    .macro  lower name
    .balign 128
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    b       \name
    .endm

    // As lower, on parts on which the host's branch history could lead EL2's own
    // branches (Spectre-BHB): it is dropped before any of them. PerCpu::history
    // says how: 0 by CLRBHB, 256 by firmware, else by so many taken branches.
    .macro  forgetful name
    .balign 128
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mrs     x0, tpidr_el2
    ldr     x1, [x0, #88]
    cbz     x1, 3f
    tbnz    x1, #8, 4f
2:  b       . + 4
    subs    x1, x1, #1
    b.ne    2b
    dsb     nsh
    isb
    b       \name
3:  hint    #22                 // CLRBHB
    isb
    b       \name
4:  stp     x2, x3, [sp, #16]
    mov     w0, #0x3fff         // SMCCC_ARCH_WORKAROUND_3
    movk    w0, #0x8000, lsl #16
    smc     #0
    ldp     x2, x3, [sp, #16]
    b       \name
    .endm

    .macro  table way
    fatal   0
    fatal   1
    fatal   2
    fatal   3
    .balign 128
    b       own_sync
    fatal   5
    fatal   6
    fatal   7
    \way   lower_sync_entry
    \way   lower_irq_entry
    \way   lower_fiq_entry
    \way   lower_serror_entry
    \way   lower_sync_entry
    \way   lower_irq_entry
    \way   lower_fiq_entry
    \way   lower_serror_entry
    .endm

    .text
    .global vectors
    .global vectors_forgetful
    .balign 2048
vectors:
    table   lower
    .balign 2048
vectors_forgetful:
    table   forgetful

    // Saves the host's registers and calls a handler with them.
    .macro  from_lower name, handler
\name:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x0, elr_el2
    mrs     x1, spsr_el2
    stp     x30, x0, [sp, #240]
    str     x1, [sp, #256]
    mov     x0, sp
    bl      \handler
    b       to_lower
    .endm

    from_lower lower_sync_entry, {sync}
    from_lower lower_irq_entry, {irq}
    from_lower lower_fiq_entry, {fiq}
    // An SError's handler also gets where EL2 last returned to, which this frame
    // takes the place of.
lower_serror_entry:
    ldr     x0, [sp, #248]
    msr     cnthp_cval_el2, x0
    b       lower_serror_saved
    from_lower lower_serror_saved, {serror}

to_lower:
    ldr     x1, [sp, #256]
    ldp     x30, x0, [sp, #240]
    msr     spsr_el2, x1
    msr     elr_el2, x0
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #272
    eret
    // Nothing past an ERET may run, not even speculatively.
    dsb     nsh
    isb

// x0 = kind, the interrupted x0 in SP_EL0. The host's registers that this
// overwrites are not needed again: nothing returns from here.
fatal_common:
    msr     tpidrro_el0, x1
    mrs     x1, tpidr_el2
    ldr     x1, [x1]            // PerCpu::fatal_stack
    sub     x1, x1, #304
    stp     x2, x3, [x1, #16]
    stp     x4, x5, [x1, #32]
    stp     x6, x7, [x1, #48]
    stp     x8, x9, [x1, #64]
    stp     x10, x11, [x1, #80]
    stp     x12, x13, [x1, #96]
    stp     x14, x15, [x1, #112]
    stp     x16, x17, [x1, #128]
    stp     x18, x19, [x1, #144]
    stp     x20, x21, [x1, #160]
    stp     x22, x23, [x1, #176]
    stp     x24, x25, [x1, #192]
    stp     x26, x27, [x1, #208]
    stp     x28, x29, [x1, #224]
    mrs     x2, sp_el0
    mrs     x3, tpidrro_el0
    stp     x2, x3, [x1]
    mrs     x2, elr_el2
    stp     x30, x2, [x1, #240]
    mrs     x2, spsr_el2
    mov     x3, sp
    stp     x2, x3, [x1, #256]
    mrs     x2, esr_el2
    mrs     x3, far_el2
    stp     x2, x3, [x1, #272]
    mov     sp, x1
    bl      {fatal}
    b       park

// A synchronous exception of EL2's own. It may be that the stack is full, so no
// memory but this CPU's block is used; the first register goes to the comparator of
// EL2's own timer, which is never on.
own_sync:
    msr     cnthp_cval_el2, x0
    mrs     x0, tpidr_el2
    stp     x1, x2, [x0, #56]   // PerCpu::saved
    stp     x3, x4, [x0, #72]
    mrs     x1, esr_el2
    ubfx    x2, x1, #26, #6
    cmp     x2, #0x25           // a data abort
    b.ne    own_failure
    // Fault status 0x10 to 0x1f: external aborts and memory errors, on the access
    // or on a walk; 0x31: an update of the host's tables that memory cannot do.
    and     x2, x1, #0x3f
    and     x3, x2, #0x30
    cmp     x3, #0x10
    b.eq    3f
    cmp     x2, #0x31
    b.ne    own_failure
3:  mrs     x1, elr_el2
    adrp    x2, __fixups_start
    add     x2, x2, :lo12:__fixups_start
    adrp    x3, __fixups_end
    add     x3, x3, :lo12:__fixups_end
1:  cmp     x2, x3
    b.hs    own_failure
    ldrsw   x4, [x2]
    add     x4, x4, x2
    cmp     x4, x1
    b.eq    2f
    add     x2, x2, #8
    b       1b
2:  ldrsw   x4, [x2, #4]!
    add     x4, x4, x2
    msr     elr_el2, x4
    str     x1, [x0, #48]       // PerCpu::aborted
    ldp     x3, x4, [x0, #72]
    ldp     x1, x2, [x0, #56]
    mrs     x0, cnthp_cval_el2
    eret
    dsb     nsh
    isb
own_failure:
    ldp     x3, x4, [x0, #72]
    ldp     x1, x2, [x0, #56]
    mrs     x0, cnthp_cval_el2
    msr     sp_el0, x0
    mov     x0, #4
    b       fatal_common

    .global enter_host
// x0 = entry point, x1 = the host's x0, x2 = top of this CPU's stack.
enter_host:
    mov     sp, x2
    msr     elr_el2, x0
    mov     x0, #0x3c5          // EL1h, DAIF masked
    msr     spsr_el2, x0
    mov     x0, x1
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    mov     x4, xzr
    mov     x5, xzr
    mov     x6, xzr
    mov     x7, xzr
    mov     x8, xzr
    mov     x9, xzr
    mov     x10, xzr
    mov     x11, xzr
    mov     x12, xzr
    mov     x13, xzr
    mov     x14, xzr
    mov     x15, xzr
    mov     x16, xzr
    mov     x17, xzr
    mov     x18, xzr
    mov     x19, xzr
    mov     x20, xzr
    mov     x21, xzr
    mov     x22, xzr
    mov     x23, xzr
    mov     x24, xzr
    mov     x25, xzr
    mov     x26, xzr
    mov     x27, xzr
    mov     x28, xzr
    mov     x29, xzr
    mov     x30, xzr
    eret
    dsb     nsh
    isb
    "#,
    sync = sym crate::trap::lower_sync,
    irq = sym crate::trap::lower_irq,
    fiq = sym crate::trap::lower_fiq,
    serror = sym crate::trap::lower_serror,
    fatal = sym crate::fatal::fatal_exception,
);
