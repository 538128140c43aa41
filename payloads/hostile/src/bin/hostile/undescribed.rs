//! Accesses to emulated registers that no syndrome describes (DDI 0487, ESR_EL2: ISV):
//! with writeback, of pairs, of SIMD&FP registers. What each gives is compared with what
//! plain accesses of the same registers give. What the hypervisor does not carry out is
//! an external abort.

use crate::{GICD, GICR, SMMU, other, stage1};
use core::arch::asm;
use portcullis_hostile::{Checks, DATA, NONE, exception, read, read8, read64, write, write64};

/// Priorities of SPIs of the host's that nothing raises, from INTID 64 on.
const PRIORITIES: u64 = GICD + 0x440;
/// Their routes.
const ROUTES: u64 = GICD + 0x6000 + 64 * 8;
/// Priorities of SGIs, at a redistributor.
const SGI_PRIORITIES: u64 = GICR + 0x1_0400;

/// Lets this kernel use SIMD&FP registers (CPACR_EL1.FPEN).
fn enable_vectors() {
    // SAFETY: no code of this kernel's but the functions here uses them.
    unsafe {
        asm!("mrs {c}, cpacr_el1", "orr {c}, {c}, #(3 << 20)", "msr cpacr_el1, {c}", "isb",
             c = out(reg) _);
    }
}

/// One load or store of the pair or register in `{v}` and `{w}` or in V5 and V6 at
/// `{a}`; the exception that it caused, and what is in `{v}`, `{w}` and `{a}` then.
macro_rules! general {
    ($text:literal, $at:expr, $v:expr, $w:expr) => {{
        let (mut at, mut v, mut w): (u64, u64, u64) = ($at, $v, $w);
        let caught = exception(|| {
            // SAFETY: registers of the machine, or an abort that is stepped over.
            unsafe { asm!($text, "/* {a} {v} {w} */", a = inout(reg) at, v = inout(reg) v, w = inout(reg) w) }
        });
        (caught, [v, w], at)
    }};
}

/// As above, with V5 and V6 from and to four double words.
macro_rules! vector {
    ($text:literal, $at:expr, $values:expr) => {{
        let (mut at, mut values): (u64, [u64; 4]) = ($at, $values);
        let caught = exception(|| {
            // SAFETY: likewise; no code uses V5 and V6.
            unsafe {
                asm!(".arch_extension fp", ".arch_extension simd",
                     "ldp q5, q6, [{m}]", $text, "stp q5, q6, [{m}]",
                     ".arch_extension nosimd", ".arch_extension nofp",
                     a = inout(reg) at, m = in(reg) &raw mut values);
            }
        });
        (caught, values, at)
    }};
}

/// What is where nothing was loaded.
const OLD: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// At the GIC, which every mode emulates.
pub fn at_gic(checks: &mut Checks) {
    enable_vectors();
    loads_of_priorities(checks);
    loads_of_routes(checks);
    stores_of_priorities(checks);
    stores_of_routes(checks);
    at_redistributor(checks);
    stack_pointer(checks);
    refused(checks);
    with_translation(checks);
    rewritten(checks);
}

/// Four words that differ, and one behind.
fn set_priorities() -> [u64; 4] {
    for (n, value) in (0..5).zip([
        0x2020_2020,
        0xa0b0_c0d0,
        0x4040_4040,
        0xf0e0_d0c0,
        0x8080_8080,
    ]) {
        write(PRIORITIES + n * 4, value);
    }
    core::array::from_fn(|n| u64::from(read(PRIORITIES + n as u64 * 4)))
}

fn loads_of_priorities(checks: &mut Checks) {
    let [first, second, third, fourth] = set_priorities();
    checks.equal("undescribed_priorities", second, 0xa0b0_c0d0);
    let at = PRIORITIES;
    let got = general!("ldr {v:w}, [{a}], #4", at, OLD, OLD);
    checks.equal("load_post", got, (NONE, [first, OLD], at + 4));
    let got = general!("ldr {v:w}, [{a}, #-4]!", at + 8, OLD, OLD);
    checks.equal("load_pre", got, (NONE, [second, OLD], at + 4));
    let got = general!("ldrb {v:w}, [{a}], #-3", at + 7, OLD, OLD);
    checks.equal("load_post_byte", got, (NONE, [0xa0, OLD], at + 4));
    let got = general!("ldrsb {v}, [{a}], #1", at + 7, OLD, OLD);
    checks.equal(
        "load_post_signed",
        got,
        (NONE, [0xffff_ffff_ffff_ffa0, OLD], at + 8),
    );
    let got = general!("ldrsb {v:w}, [{a}, #1]!", at + 6, OLD, OLD);
    checks.equal(
        "load_pre_signed_word",
        got,
        (NONE, [0xffff_ffa0, OLD], at + 7),
    );
    let got = general!("ldrsw {v}, [{a}], #4", at + 4, OLD, OLD);
    checks.equal(
        "load_post_signed_double",
        got,
        (NONE, [0xffff_ffff_a0b0_c0d0, OLD], at + 8),
    );
    let got = general!("ldp {v:w}, {w:w}, [{a}]", at, OLD, OLD);
    checks.equal("load_pair", got, (NONE, [first, second], at));
    let got = general!("ldp {v:w}, {w:w}, [{a}], #8", at + 8, OLD, OLD);
    checks.equal("load_pair_post", got, (NONE, [third, fourth], at + 16));
    let got = general!("ldp {v:w}, {w:w}, [{a}, #-8]!", at + 16, OLD, OLD);
    checks.equal("load_pair_pre", got, (NONE, [third, fourth], at + 8));
    let got = general!("ldnp {v:w}, {w:w}, [{a}, #4]", at, OLD, OLD);
    checks.equal("load_pair_no_allocate", got, (NONE, [second, third], at));
    let got = general!("ldpsw {v}, {w}, [{a}]", at, OLD, OLD);
    checks.equal(
        "load_pair_signed",
        got,
        (NONE, [first, 0xffff_ffff_a0b0_c0d0], at),
    );
    let got = general!("ldp {v:w}, wzr, [{a}]", at, OLD, OLD);
    checks.equal("load_pair_to_zero", got, (NONE, [first, OLD], at));
    // The base is one of the pair: it gets what is loaded.
    let got = general!("ldp {a:w}, {v:w}, [{a}]", at, OLD, OLD);
    checks.equal("load_pair_to_base", got, (NONE, [second, OLD], first));
    // Too wide for priorities, as a plain load of 64 bits is.
    let got = general!("ldp {v}, {w}, [{a}]", at, OLD, OLD);
    checks.equal(
        "load_pair_wide",
        got,
        (NONE, [read64(at), read64(at + 8)], at),
    );
    let got = vector!("ldr s5, [{a}], #4", at + 4, [OLD; 4]);
    checks.equal(
        "load_vector_word",
        got,
        (NONE, [second, 0, OLD, OLD], at + 8),
    );
    let got = vector!("ldr b5, [{a}]", at + 7, [OLD; 4]);
    checks.equal("load_vector_byte", got, (NONE, [0xa0, 0, OLD, OLD], at + 7));
    let got = vector!("ldp s5, s6, [{a}], #8", at, [OLD; 4]);
    checks.equal(
        "load_vector_pair",
        got,
        (NONE, [first, 0, second, 0], at + 8),
    );
}

fn loads_of_routes(checks: &mut Checks) {
    for n in 0..4 {
        write64(ROUTES + n * 8, n & 1 | 1 << 31);
    }
    let all: [u64; 4] = core::array::from_fn(|n| read64(ROUTES + n as u64 * 8));
    checks.equal("undescribed_routes", all[0] != all[1], true);
    let got = general!("ldp {v}, {w}, [{a}], #16", ROUTES, OLD, OLD);
    checks.equal(
        "load_pair_double",
        got,
        (NONE, [all[0], all[1]], ROUTES + 16),
    );
    let got = vector!("ldr d5, [{a}, #8]!", ROUTES, [OLD; 4]);
    checks.equal(
        "load_vector_double",
        got,
        (NONE, [all[1], 0, OLD, OLD], ROUTES + 8),
    );
    let got = vector!("ldr q6, [{a}], #16", ROUTES, [OLD; 4]);
    let wanted = [OLD, OLD, all[0], all[1]];
    checks.equal("load_vector_quad", got, (NONE, wanted, ROUTES + 16));
    let got = vector!("ldp q5, q6, [{a}]", ROUTES, [OLD; 4]);
    checks.equal("load_vector_quads", got, (NONE, all, ROUTES));
}

fn stores_of_priorities(checks: &mut Checks) {
    let words = || [0, 4, 8, 12].map(|n| read(PRIORITIES + n));
    let (one, two) = (0x3030_3030, 0x5060_7080);
    let at = PRIORITIES;
    let [first, second, third, fourth] = set_priorities().map(|word| word as u32);
    let got = general!("str {v:w}, [{a}], #4", at, one, OLD);
    checks.equal("store_post", got, (NONE, [one, OLD], at + 4));
    checks.equal("store_post", words(), [0x3030_3030, second, third, fourth]);
    let got = general!("str {v:w}, [{a}, #-4]!", at + 16, two, OLD);
    checks.equal("store_pre", got, (NONE, [two, OLD], at + 12));
    checks.equal(
        "store_pre",
        words(),
        [0x3030_3030, second, third, 0x5060_7080],
    );
    set_priorities();
    let got = general!("strb {v:w}, [{a}], #1", at + 1, 0xf90, OLD);
    checks.equal("store_post_byte", got, (NONE, [0xf90, OLD], at + 2));
    checks.equal("store_post_byte", read8(at + 1), 0x90);
    set_priorities();
    let got = general!("stp {v:w}, {w:w}, [{a}, #8]!", at - 4, one, two);
    checks.equal("store_pair", got, (NONE, [one, two], at + 4));
    checks.equal(
        "store_pair",
        words(),
        [first, 0x3030_3030, 0x5060_7080, fourth],
    );
    set_priorities();
    // What the filter makes of a plain store, it makes of these: no priority above 0x10.
    let got = general!("stp wzr, {w:w}, [{a}]", at, OLD, two);
    checks.equal("store_pair_filtered", got, (NONE, [OLD, two], at));
    checks.equal(
        "store_pair_filtered",
        words(),
        [0x1010_1010, 0x5060_7080, third, fourth],
    );
    set_priorities();
    let got = vector!("str s6, [{a}], #4", at, [0, 0, 0x0909_0909_7070_7070, OLD]);
    checks.equal("store_vector_word", (got.0, got.2), (NONE, at + 4));
    checks.equal(
        "store_vector_word",
        words(),
        [0x7070_7070, second, third, fourth],
    );
    set_priorities();
    let got = vector!("stp s5, s6, [{a}]", at + 8, [one, 0, two, 0]);
    checks.equal("store_vector_pair", (got.0, got.2), (NONE, at + 8));
    checks.equal(
        "store_vector_pair",
        words(),
        [first, second, 0x3030_3030, 0x5060_7080],
    );
}

fn stores_of_routes(checks: &mut Checks) {
    let values = [1, 1 << 31, 1 << 31 | 1, 0];
    let clear = || (0..4).for_each(|n| write64(ROUTES + n * 8, 0));
    let all = || [0, 1, 2, 3].map(|n| read64(ROUTES + n * 8));
    clear();
    for (n, value) in (0..).zip(values) {
        write64(ROUTES + n * 8, value);
    }
    let plain = all();
    checks.equal("undescribed_routes_differ", plain[0] != plain[1], true);
    clear();
    let got = general!("stp {v}, {w}, [{a}], #16", ROUTES, values[0], values[1]);
    checks.equal("store_pair_double", (got.0, got.2), (NONE, ROUTES + 16));
    checks.equal("store_pair_double", all(), [plain[0], plain[1], 0, 0]);
    clear();
    let got = vector!("str q5, [{a}, #16]!", ROUTES - 16, values);
    checks.equal("store_vector_quad", (got.0, got.2), (NONE, ROUTES));
    checks.equal("store_vector_quad", all(), [plain[0], plain[1], 0, 0]);
    clear();
    let got = vector!("stp q5, q6, [{a}], #32", ROUTES, values);
    checks.equal("store_vector_quads", (got.0, got.2), (NONE, ROUTES + 32));
    checks.equal("store_vector_quads", all(), plain);
    clear();
}

fn at_redistributor(checks: &mut Checks) {
    let at = SGI_PRIORITIES + 8;
    let got = general!("stp {v:w}, {w:w}, [{a}]", at, 0x6060_6060, 0x7070_7070);
    checks.equal("redistributor_pair", got.0, NONE);
    checks.equal(
        "redistributor_pair",
        [read(at), read(at + 4)],
        [0x6060_6060, 0x7070_7070],
    );
    let got = general!("ldr {v:w}, [{a}], #4", at, OLD, OLD);
    checks.equal(
        "redistributor_post",
        got,
        (NONE, [0x6060_6060, OLD], at + 4),
    );
    // GICR_TYPER, of which the emulation hides some.
    let got = general!("ldr {v}, [{a}], #8", GICR + 8, OLD, OLD);
    checks.equal(
        "redistributor_type",
        got,
        (NONE, [read64(GICR + 8), OLD], GICR + 16),
    );
}

/// The stack pointer as a base. Nothing is on the stack meanwhile, and if an exception
/// were taken, none of it would be left: so it is tried when others have worked.
fn stack_pointer(checks: &mut Checks) {
    if general!("ldr {v:w}, [{a}], #4", PRIORITIES, OLD, OLD).0 != NONE {
        return;
    }
    let [first, ..] = set_priorities();
    let (value, after): (u64, u64);
    // SAFETY: the stack pointer is another one for one instruction, with interrupts masked.
    unsafe {
        asm!("mov {s}, sp", "mov sp, {a}", "ldr {v:w}, [sp], #16", "mov {a}, sp", "mov sp, {s}",
             s = out(reg) _, a = inout(reg) PRIORITIES => after, v = out(reg) value);
    }
    checks.equal(
        "load_from_stack_pointer",
        (value, after),
        (first, PRIORITIES + 16),
    );
    let (value, after): (u64, u64);
    // SAFETY: likewise, of the stack pointer that is EL0's.
    unsafe {
        asm!("msr spsel, #0", "mov sp, {a}", "ldr {v:w}, [sp, #4]!", "mov {a}, sp",
             "msr spsel, #1", a = inout(reg) PRIORITIES - 4 => after, v = out(reg) value);
    }
    checks.equal("load_from_sp_el0", (value, after), (first, PRIORITIES));
}

/// Another CPU rewrites the instruction between its abort and the moment at which the
/// hypervisor reads it. What is carried out is one that was there, as a whole, or the CPU
/// gets an abort; and the hypervisor goes on.
fn rewritten(checks: &mut Checks) {
    const LOAD_POST: u32 = 0xb840_4420; // ldr w0, [x1], #4
    const LOAD_PAIR_POST: u32 = 0x28c1_0820; // ldp w0, w2, [x1], #8
    const EXCLUSIVE: u32 = 0x885f_7c20; // ldxr w0, [x1]
    const NOP: u32 = 0xd503_201f;
    /// Loads that are waited for, and rounds at most: most find something else there.
    const LOADS: u32 = 4000;
    const ROUNDS: u32 = 50_000_000;
    let [first, second, ..] = set_priorities();
    let here: u64;
    // SAFETY: the address of an instruction that may be rewritten: this kernel runs with
    // translation off.
    unsafe {
        asm!("adrp {h}, rewritten_instruction", "add {h}, {h}, :lo12:rewritten_instruction",
             h = out(reg) here);
    }
    if !other::rewrite(here, [LOAD_POST, NOP, LOAD_PAIR_POST, EXCLUSIVE]) {
        return;
    }
    let (mut wrong, mut loaded) = (0, 0);
    for _ in 0..ROUNDS {
        if loaded == LOADS {
            break;
        }
        let (mut one, mut two, mut at) = (OLD, OLD, PRIORITIES);
        let caught = exception(|| {
            // SAFETY: whichever of the four it is.
            unsafe {
                asm!("bl rewritten_instruction", inout("x0") one, inout("x1") at,
                     inout("x2") two, out("x30") _);
            }
        });
        let whole = match at.wrapping_sub(PRIORITIES) {
            0 => (one, two) == (OLD, OLD),
            4 => (caught, one, two) == (NONE, first, OLD),
            8 => (caught, one, two) == (NONE, first, second),
            _ => false,
        };
        wrong += u32::from(!whole || ![NONE, DATA].contains(&caught));
        loaded += u32::from(at != PRIORITIES);
    }
    other::end();
    checks.equal("rewritten_instruction", wrong, 0);
    checks.equal("rewritten_instruction_loads", loaded, LOADS);
}

core::arch::global_asm!(
    r#"
    .text
    .global rewritten_instruction
    .balign 64
rewritten_instruction:
    ldr     w0, [x1], #4
    ret
    .balign 64
    "#
);

/// The same by this kernel's own translation, which the instruction is read through;
/// and where that says that registers are memory.
fn with_translation(checks: &mut Checks) {
    let [first, second, ..] = set_priorities();
    let at = stage1::AS_MEMORY + PRIORITIES;
    let mut all = [(NONE, [OLD; 2], 0); 4];
    let mut zeroed = NONE;
    stage1::with(|| {
        all = [
            general!("ldr {v:w}, [{a}], #4", PRIORITIES, OLD, OLD),
            general!("ldp {v:w}, {w:w}, [{a}], #8", at, OLD, OLD),
            // Not aligned: as plain loads of 32 bits there are, each reads as zero.
            general!("ldp {v:w}, {w:w}, [{a}], #8", at + 2, OLD, OLD),
            general!("ldr {v:w}, [{a}]", at + 2, OLD, OLD),
        ];
        zeroed = general!("dc zva, {a}", at, OLD, OLD).0;
    });
    let [post, pair, odd, plain] = all;
    checks.equal(
        "translated_post",
        post,
        (NONE, [first, OLD], PRIORITIES + 4),
    );
    checks.equal("translated_pair", pair, (NONE, [first, second], at + 8));
    let wanted = if plain.0 == NONE {
        (NONE, [plain.1[0]; 2], at + 10)
    } else {
        (plain.0, [OLD; 2], at + 2)
    };
    checks.equal("translated_odd_pair", odd, wanted);
    checks.equal("translated_zeroing", zeroed, DATA);
    checks.equal("translated_zeroing", set_priorities()[0], first);
}

/// What is not carried out; no register of the CPU's or the GIC's changes.
fn refused(checks: &mut Checks) {
    let before = set_priorities();
    let at = PRIORITIES;
    let got = general!("ldxr {v:w}, [{a}]", at, OLD, OLD);
    checks.equal("refused_exclusive", got, (DATA, [OLD, OLD], at));
    let got = vector!("ld1 {{v5.2d}}, [{a}]", at, [OLD; 4]);
    checks.equal("refused_structure", (got.0, got.2), (DATA, at));
    // Into the next page, from either side.
    let got = general!("ldp {v:w}, {w:w}, [{a}], #8", GICD + 0xffc, OLD, OLD);
    checks.equal("refused_crossing", got, (DATA, [OLD, OLD], GICD + 0xffc));
    let isar0: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0) }
    // FEAT_LSE.
    if isar0 >> 20 & 0xf >= 2 {
        let got = general!(
            ".arch_extension lse; ldadd {v:w}, {w:w}, [{a}]",
            at,
            OLD,
            OLD
        );
        checks.equal("refused_atomic", got, (DATA, [OLD, OLD], at));
    }
    checks.equal("refused_change_nothing", set_priorities(), before);
}

/// At the SMMU that a host drives in nested mode, whose pages it may read: so only
/// stores come to the hypervisor. `queue` has room for `1 << log2` commands, and `fill`
/// puts as many there.
pub fn at_smmu(checks: &mut Checks, queue: u64, log2: u32, fill: impl Fn()) {
    const CR0: u64 = SMMU + 0x20;
    const GERROR_IRQ_CFG0: u64 = SMMU + 0x68;
    const STRTAB_BASE: u64 = SMMU + 0x80;
    const CMDQ_BASE: u64 = SMMU + 0x90;
    const CMDQ_PROD: u64 = SMMU + 0x98;
    const CMDQ_CONS: u64 = SMMU + 0x9c;
    enable_vectors();
    let base = |value| {
        write64(STRTAB_BASE, value);
        let plain = read64(STRTAB_BASE);
        write64(STRTAB_BASE, 0);
        plain
    };
    let value = 0x4123_4567_89ab_cdc0;
    let plain = base(value);
    let got = general!("str {v}, [{a}], #8", STRTAB_BASE, value, OLD);
    checks.equal(
        "smmu_store_post",
        got,
        (NONE, [value, OLD], STRTAB_BASE + 8),
    );
    checks.equal("smmu_store_post", read64(STRTAB_BASE), plain);
    // STRTAB_BASE_CFG has 32 bits, and a store of 64 to it is ignored.
    base(0);
    let config = read(STRTAB_BASE + 8);
    let got = general!(
        "stp {v}, {w}, [{a}, #-16]!",
        STRTAB_BASE + 16,
        value,
        u64::MAX
    );
    checks.equal(
        "smmu_store_pair",
        got,
        (NONE, [value, u64::MAX], STRTAB_BASE),
    );
    checks.equal("smmu_store_pair", read64(STRTAB_BASE), plain);
    checks.equal("smmu_store_pair_ignored", read(STRTAB_BASE + 8), config);
    base(0);
    let got = general!(
        "stp {v:w}, {w:w}, [{a}]",
        STRTAB_BASE,
        value & 0xffff_ffff,
        value >> 32
    );
    checks.equal("smmu_store_pair_words", got.0, NONE);
    checks.equal("smmu_store_pair_words", read64(STRTAB_BASE), plain);
    base(0);
    let got = vector!("str q5, [{a}], #16", STRTAB_BASE, [value, 0, OLD, OLD]);
    checks.equal("smmu_store_quad", (got.0, got.2), (NONE, STRTAB_BASE + 16));
    checks.equal("smmu_store_quad", read64(STRTAB_BASE), plain);
    base(0);
    let got = vector!("str d6, [{a}]", STRTAB_BASE, [OLD, OLD, value, OLD]);
    checks.equal("smmu_store_vector", (got.0, got.2), (NONE, STRTAB_BASE));
    checks.equal("smmu_store_vector", read64(STRTAB_BASE), plain);
    base(0);
    // Two registers of which the second is where the first was.
    let got = general!("stp {v:w}, {w:w}, [{a}]", GERROR_IRQ_CFG0 + 8, 0x12, 0x3);
    checks.equal("smmu_store_two", got.0, NONE);
    let both = [8, 12].map(|n| read(GERROR_IRQ_CFG0 + n));
    checks.equal("smmu_store_two", both, [0x12, 0x3]);
    (0..4).for_each(|n| write(GERROR_IRQ_CFG0 + n * 4, 0));
    // Reserved registers, which are absent, are loaded and stored here.
    let reserved = SMMU + 0x8000;
    let got = general!("ldp {v}, {w}, [{a}], #16", reserved, OLD, OLD);
    checks.equal("smmu_reserved_pair", got, (NONE, [0, 0], reserved + 16));
    let got = vector!("str q5, [{a}]", reserved, [OLD; 4]);
    checks.equal("smmu_reserved_quad", got.0, NONE);
    // The end of the page that the host may read, and over it into one that is absent.
    let end = SMMU + 0xff0;
    let got = general!("stp {v}, {w}, [{a}], #16", end, 0, 0);
    checks.equal("smmu_store_at_the_end", got, (NONE, [0, 0], end + 16));
    let got = general!("stp {v}, {w}, [{a}], #16", end + 8, 0, 0);
    checks.equal("smmu_refused_crossing", got, (DATA, [0, 0], end + 8));
    // More commands than one exit carries out: the store is done again, from its start,
    // until the second register has taken all; then the base moves, once. The upper half
    // of CMDQ_BASE is fixed while the queue is enabled.
    let entries = 1 << log2;
    write(CR0, 0);
    write64(CMDQ_BASE, queue | u64::from(log2));
    write(CMDQ_PROD, 0);
    write(CMDQ_CONS, 0);
    write(CR0, 1 << 3);
    fill();
    let high = read(CMDQ_BASE + 4);
    let got = general!(
        "stp {v:w}, {w:w}, [{a}], #8",
        CMDQ_BASE + 4,
        0xffff_ffff,
        entries
    );
    checks.equal(
        "smmu_store_again",
        got,
        (NONE, [0xffff_ffff, entries], CMDQ_CONS),
    );
    checks.equal("smmu_store_again", u64::from(read(CMDQ_CONS)), entries);
    checks.equal("smmu_store_again_fixed", read(CMDQ_BASE + 4), high);
    write(CR0, 0);
}

/// At the virtio-iommu of paravirt mode.
pub fn at_viommu(checks: &mut Checks) {
    enable_vectors();
    let at = SMMU;
    let [magic, version, device, vendor] = [0, 4, 8, 12].map(|n| u64::from(read(at + n)));
    let got = general!("ldr {v:w}, [{a}], #4", at, OLD, OLD);
    checks.equal("viommu_load_post", got, (NONE, [magic, OLD], at + 4));
    let got = general!("ldp {v:w}, {w:w}, [{a}], #8", at, OLD, OLD);
    checks.equal("viommu_load_pair", got, (NONE, [magic, version], at + 8));
    let got = vector!("ldp s5, s6, [{a}, #8]!", at, [OLD; 4]);
    checks.equal(
        "viommu_load_vectors",
        got,
        (NONE, [device, 0, vendor, 0], at + 8),
    );
    // 64 bits of such a register at once are no access that it has (virtio 1.2, 4.2.2.2).
    let wide = [read64(at), read64(at + 8)];
    let got = vector!("ldr q5, [{a}]", at, [OLD; 4]);
    checks.equal(
        "viommu_load_quad",
        got,
        (NONE, [wide[0], wide[1], OLD, OLD], at),
    );
    // The configuration has registers of 64 bits, and is read in any size up to 32.
    let config = SMMU + 0x100;
    let got = general!("ldrb {v:w}, [{a}], #1", config + 1, OLD, OLD);
    let byte = u64::from(read8(config + 1));
    checks.equal(
        "viommu_load_post_byte",
        got,
        (NONE, [byte, OLD], config + 2),
    );
    let got = general!("ldxr {v:w}, [{a}]", at, OLD, OLD);
    checks.equal("viommu_refused_exclusive", got, (DATA, [OLD, OLD], at));
}

/// Stores a word and moves on, as a loop over registers does.
pub fn store_post(at: u64, value: u32) -> u64 {
    general!("str {v:w}, [{a}], #4", at, u64::from(value), 0).2
}

/// Stores both halves of an address with one instruction.
pub fn store_halves(at: u64, value: u64) {
    general!(
        "stp {v:w}, {w:w}, [{a}]",
        at,
        value & 0xffff_ffff,
        value >> 32
    );
}
