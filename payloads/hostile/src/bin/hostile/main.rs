//! A host kernel that does at EL1 what no Linux would: undefined firmware calls,
//! accesses and jumps into the hypervisor, writes that would take the
//! hypervisor's interrupts away, and an SMMU of its own used as no driver would.
//! It prints one line for each attempt, `hostile: check=NAME result=ok|wrong …`,
//! then `hostile: done wrong=N`, and powers off.
//!
//! It knows QEMU's virt machine and nothing else: a test's payload.
#![no_std]
#![no_main]

mod other;
mod smmu;
mod stage1;
mod undescribed;
mod viommu;

use core::arch::asm;
use portcullis_hostile::{
    Checks, DATA, FETCH, LAST, NONE, NOT_SUPPORTED, exception, read, read64, say, smc, write,
    write8, write64,
};

const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;
const SMMU: u64 = 0x0905_0000;
/// QEMU puts a kernel image 2 MiB above the start of RAM.
const HYPERVISOR: u64 = 0x4020_0000;
/// No RAM; where a test lets the tree say that it is, nothing answers.
const HOLLOW: u64 = 0x2_0000_0000;
/// Where a test may have its tree say that there is memory of firmware's.
const FIRMWARE: u64 = 0x8000_0000;
/// The SMMU's event queue interrupt: SPI 74.
const OURS: u64 = 106;
/// Bits of the event queue's and the global error's interrupt (SPI 77) in their
/// word of a one-bit register.
const BOTH: u32 = 1 << 10 | 1 << 13;

// SAFETY: the one function of this name, which `portcullis_hostile` calls.
#[unsafe(no_mangle)]
extern "C" fn payload_main() -> ! {
    let mut checks = Checks::of("hostile");
    firmware_calls(&mut checks);
    let paravirt = viommu::is_there();
    let nested = !paravirt && smmu::is_there();
    memory(&mut checks, nested || paravirt);
    if nested {
        smmu::attack(&mut checks);
    }
    if paravirt {
        viommu::attack(&mut checks);
    }
    distributor(&mut checks);
    redistributor(&mut checks);
    undescribed::at_gic(&mut checks);
    system_registers(&mut checks);
    standby(&mut checks);
    // An image that fails on demand does so here, while another CPU prints.
    if other::start() {
        // With an image that does so, an SError is pending after the first.
        write(HYPERVISOR, 0x0bad_0009);
        // SAFETY: lets an SError be taken, which is noted.
        exception(|| unsafe { asm!("msr daifclr, #4", "isb", "msr daifset, #4") });
        say!("hostile: serror esr={:#x}", LAST.esr());
        let provoked = exception(|| write(HYPERVISOR, 0x0bad_0005));
        other::end();
        checks.equal("provoke", provoked, DATA);
    }
    checks.end()
}

fn firmware_calls(checks: &mut Checks) {
    // The hint that no SVE state is live does not make a call another one.
    checks.equal("smc_sve_hint", smc(0x8401_0000, 0, 0) >= 0x1_0000, true);
    checks.equal("smc_unknown", smc(0xdead_beef, 1, 2), NOT_SUPPORTED);
    checks.equal(
        "smc_system_suspend",
        smc(0xc400_000e, HYPERVISOR, 0),
        NOT_SUPPORTED,
    );
    let feature = smc(0x8400_000a, 0xc400_000e, 0);
    checks.equal("psci_features_of_denied", feature, NOT_SUPPORTED);
    checks.equal("psci_version", smc(0x8400_0000, 0, 0) >= 0x1_0000, true);
    let result: u64;
    // SAFETY: an immediate that no convention defines; comes back with -1.
    unsafe { asm!("smc #7", inout("x0") 0x8400_0000u64 => result) }
    checks.equal("smc_immediate", result, NOT_SUPPORTED);
    let result: u64;
    // SAFETY: there is no hypervisor call; comes back with -1.
    unsafe { asm!("hvc #0", inout("x0") 0x8400_0000u64 => result) }
    checks.equal("hvc", result, NOT_SUPPORTED);
    let cpu_on = 0xc400_0003;
    checks.equal(
        "cpu_on_self",
        smc(cpu_on, 0, payload_main as *const () as u64) as i64,
        -4,
    );
    checks.equal(
        "cpu_on_into_hypervisor",
        smc(cpu_on, 1, HYPERVISOR) as i64,
        -9,
    );
    checks.equal("cpu_on_into_registers", smc(cpu_on, 1, SMMU) as i64, -9);
    checks.equal(
        "cpu_on_nobody",
        smc(cpu_on, 0xffff, payload_main as *const () as u64) as i64,
        -2,
    );
    // A power-down whose way back is the hypervisor's.
    let suspend = smc(0xc400_0001, 1 << 16, HYPERVISOR) as i64;
    checks.equal("cpu_suspend_into_hypervisor", suspend, -9);
}

fn memory(checks: &mut Checks, has_iommu: bool) {
    let smmu = [("smmu_page_0", SMMU), ("smmu_page_1", SMMU + 0x1_0000)];
    let others = [
        ("hypervisor", HYPERVISOR),
        ("fw_cfg", 0x0902_0010),
        ("virtio_mmio", 0x0a00_0000),
    ];
    // Where the host has an SMMU or a virtio-iommu of its own, it is there.
    let smmu = smmu.into_iter().filter(|_| !has_iommu);
    for (name, at) in others.into_iter().chain(smmu) {
        checks.equal(name, exception(|| _ = read(at)), DATA);
        checks.equal(name, exception(|| write(at, 0)), DATA);
        checks.equal(name, LAST.far(), at);
    }
    let jump = || {
        // SAFETY: the fetch aborts and the vectors return here.
        unsafe { asm!("blr {}", in(reg) HYPERVISOR + 0x1000, out("x30") _) }
    };
    checks.equal("jump", exception(jump), FETCH);
    let exclusive = || {
        // SAFETY: aborts; an access without a syndrome that could be decoded.
        unsafe { asm!("ldxr {}, [{}]", out(reg) _, in(reg) HYPERVISOR) }
    };
    checks.equal("exclusive", exception(exclusive), DATA);
    let pair = || {
        // SAFETY: aborts, as a plain access there does.
        unsafe { asm!("ldp {}, {}, [{}]", out(reg) _, out(reg) _, in(reg) HYPERVISOR) }
    };
    checks.equal("pair", exception(pair), DATA);
}

fn distributor(checks: &mut Checks) {
    let (word, bit) = (OURS / 32 * 4, 1u32 << (OURS % 32));
    write(GICD, 0);
    checks.equal("gicd_ctlr", read(GICD) & 0x11, 0x11);
    for value in [0, u32::MAX] {
        write(GICD + 0x80 + word, value);
        checks.equal("gicd_igroupr", read(GICD + 0x80 + word), !BOTH);
    }
    write(GICD + 0x180 + word, u32::MAX);
    checks.equal("gicd_icenabler", read(GICD + 0x100 + word) & bit, bit);
    write(GICD + 0x200 + word, bit);
    checks.equal("gicd_ispendr", read(GICD + 0x200 + word) & bit, 0);
    write8(GICD + 0x400 + OURS, 0xf0);
    write(GICD + 0x400 + OURS / 4 * 4, 0xf0f0_f0f0);
    let priority = read(GICD + 0x400 + OURS / 4 * 4);
    checks.equal("gicd_ipriorityr", priority, 0xf000_f0f0);
    checks.equal(
        "gicd_initial_priority",
        read(GICD + 0x400 + 44),
        0xa0a0_a0a0,
    );
    write8(GICD + 0x400 + 40, 0);
    checks.equal(
        "gicd_highest_priority",
        read(GICD + 0x400 + 40) & 0xff,
        0x10,
    );
    let before = read64(GICD + 0x6000 + OURS * 8);
    write64(GICD + 0x6000 + OURS * 8, 0x8000_0001);
    write(GICD + 0x6000 + OURS * 8, 1);
    checks.equal("gicd_irouter", read64(GICD + 0x6000 + OURS * 8), before);
    write64(GICD + 0x6000 + 40 * 8, 0);
    write(GICD + 0x40, OURS as u32);
    checks.equal("gicd_setspi", read(GICD + 0x200 + word) & bit, 0);
    let trigger = read(GICD + 0xc00 + OURS / 16 * 4);
    write(GICD + 0xc00 + OURS / 16 * 4, 0);
    let after = read(GICD + 0xc00 + OURS / 16 * 4);
    let field = 3 << (OURS % 16 * 2);
    checks.equal("gicd_icfgr", after & field, trigger & field);
    checks.equal("gicd_wide_read", read64(GICD + 0x400), 0);
    // Loads in all shapes: signed, into the zero register, narrow.
    write8(GICD + 0x400 + 41, 0xa0);
    let signed: u64;
    // SAFETY: reads a register of the machine.
    unsafe { asm!("ldrsb {}, [{}]", out(reg) signed, in(reg) GICD + 0x400 + 41) }
    checks.equal("load_signed", signed, 0xffff_ffff_ffff_ffa0);
    let signed: u64;
    // SAFETY: as above.
    unsafe { asm!("ldrsb {:w}, [{}]", out(reg) signed, in(reg) GICD + 0x400 + 41) }
    checks.equal("load_signed_word", signed, 0xffff_ffa0);
    // SAFETY: as above.
    unsafe { asm!("ldr wzr, [{a}]", "str wzr, [{a}]", a = in(reg) GICD + 0x180) }
}

fn redistributor(checks: &mut Checks) {
    write(GICR + 0x14, 2);
    checks.equal("gicr_waker", read(GICR + 0x14) & 2, 0);
    write(GICR + 0x1_0080, 0);
    checks.equal("gicr_igroupr0", read(GICR + 0x1_0080), u32::MAX);
    // Never written by this kernel, and not the reset value, which is ours.
    checks.equal("gicr_reset_priority", read(GICR + 0x1_0410), 0x1010_1010);
    write(GICR + 0x1_0400, 0);
    checks.equal("gicr_ipriorityr", read(GICR + 0x1_0400), 0x1010_1010);
}

fn system_registers(checks: &mut Checks) {
    let sre: u64;
    // SAFETY: tries to turn the interrupt controller's registers off.
    unsafe {
        asm!("msr S3_0_C12_C12_5, xzr", "isb", "mrs {}, S3_0_C12_C12_5", out(reg) sre);
    }
    checks.equal("icc_sre", sre & 1, 1);
    let mask: u64;
    // SAFETY: the priority mask of this CPU; then as it was.
    unsafe {
        asm!("msr S3_0_C4_C6_0, xzr", "isb", "mrs {}, S3_0_C4_C6_0", out(reg) mask);
        asm!("msr S3_0_C4_C6_0, {}", in(reg) 0xf0u64);
    }
    checks.equal("icc_pmr_lets_ours_through", mask >= 0x10, true);
    // Hardware keeps 8 bits, and these are 0.
    let mask: u64;
    // SAFETY: as above.
    unsafe {
        asm!("msr S3_0_C4_C6_0, {}", "isb", in(reg) 0x100u64);
        asm!("mrs {}, S3_0_C4_C6_0", out(reg) mask);
        asm!("msr S3_0_C4_C6_0, {}", in(reg) 0xf0u64);
    }
    checks.equal("icc_pmr_upper_bits", mask >= 0x10, true);
    let group0 = || {
        // SAFETY: a Group 0 SGI to this CPU, which must not arrive anywhere.
        unsafe { asm!("msr S3_0_C12_C11_7, {}", "isb", in(reg) 1u64) }
    };
    checks.equal("icc_sgi0r", exception(group0), NONE);
    let el2 = || {
        // SAFETY: undefined at EL1; stepped over.
        unsafe { asm!("mrs {}, S3_4_C12_C11_0", out(reg) _) }
    };
    exception(el2);
    checks.equal("el2_register", LAST.esr() != 0, true);
    // CPUECTLR_EL1 of several parts, and a register that no part has there.
    let own = || {
        // SAFETY: registers of the part's own: undefined; stepped over.
        unsafe { asm!("mrs {}, S3_1_C15_C2_1", out(reg) _) }
    };
    exception(own);
    checks.equal("part_register", LAST.esr() != 0, true);
    let (before, after): (u64, u64);
    // SAFETY: what is written is ignored.
    unsafe {
        asm!("mrs {b}, actlr_el1", "mvn {a}, {b}", "msr actlr_el1, {a}", "isb",
             "mrs {a}, actlr_el1", b = out(reg) before, a = out(reg) after);
    }
    checks.equal("actlr", after, before);
    if let Some(counted) = counted_at_el2() {
        checks.equal("el2_is_not_counted", counted < 100, true);
    }
}

/// How many cycles this CPU's performance monitor counts over many calls that
/// EL2 answers, although it is told to count EL2's (PMEVTYPER<n>_EL0.NSH). `None`
/// where there is no monitor of the architecture, or none that can leave EL2 out.
fn counted_at_el2() -> Option<u64> {
    const CPU_CYCLES: u64 = 0x11;
    /// Neither EL1's nor EL0's, but EL2's.
    const ONLY_EL2: u64 = 1 << 31 | 1 << 30 | 1 << 27;
    let dfr0: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, id_aa64dfr0_el1", out(reg) dfr0) }
    if !(4..0xf).contains(&(dfr0 >> 8 & 0xf)) {
        return None;
    }
    let counted: u64;
    // SAFETY: the performance monitor of this kernel's CPU.
    unsafe {
        asm!("msr pmevtyper0_el0, {}", in(reg) ONLY_EL2 | CPU_CYCLES);
        asm!("msr pmevcntr0_el0, xzr", "msr pmcntenset_el0, {one}", "msr pmcr_el0, {one}", "isb",
             one = in(reg) 1u64);
    }
    for _ in 0..64 {
        smc(0x8400_0000, 0, 0);
    }
    // SAFETY: as above.
    unsafe {
        asm!("isb", "mrs {}, pmevcntr0_el0", "msr pmcr_el0, xzr", out(reg) counted);
    }
    Some(counted)
}

/// A suspend that does not power down comes back here, when this CPU's timer
/// fires. The interrupt stays masked, so it is never taken.
fn standby(checks: &mut Checks) {
    const TIMER: u32 = 1 << 27;
    // EnableGrp1 and ARE; Group 0 stays as it is.
    write(GICD, 0x12);
    write(GICR + 0x1_0100, TIMER);
    // SAFETY: sets the virtual timer to fire in a moment, and lets Group 1 be
    // signalled.
    unsafe {
        asm!("msr S3_0_C12_C12_7, {}", in(reg) 1u64); // ICC_IGRPEN1_EL1
        asm!("msr cntv_tval_el0, {}", "msr cntv_ctl_el0, {}", "isb",
             in(reg) 100_000u64, in(reg) 1u64);
    }
    let result = smc(0xc400_0001, 0, payload_main as *const () as u64);
    let fired: u64;
    // SAFETY: reads the timer's status, then turns it off.
    unsafe {
        asm!("mrs {}, cntv_ctl_el0", "msr cntv_ctl_el0, xzr", out(reg) fired);
    }
    checks.equal("cpu_suspend_standby", result, 0);
    checks.equal("cpu_suspend_woken_by_timer", fired >> 2 & 1, 1);
    write(GICR + 0x1_0180, TIMER);
}
