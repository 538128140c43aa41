//! SMCs of the host: an allow-list, with PSCI relayed so that every CPU enters
//! the host through EL2 (PSCI: DEN 0022; calling convention: DEN 0028).

use crate::host;
use crate::log::{self, RateLimit, error, info, warning};
use crate::percpu::{self, AFFINITY, PerCpu, REASONS, bump, power};
use crate::trap::Frame;
use crate::{fatal, gic, machine, mmu};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::Ipa;
use smccc::{Call, Smc};

/// `NOT_SUPPORTED`, also what an unknown SMC returns (DEN 0028, 5.2).
pub const NOT_SUPPORTED: u64 = -1i64 as u64;
const ALREADY_ON: u64 = -4i64 as u64;
const ON_PENDING: u64 = -5i64 as u64;
const INVALID_PARAMETERS: u64 = -2i64 as u64;
const INVALID_ADDRESS: u64 = -9i64 as u64;

unsafe extern "C" {
    fn secondary_entry();
}

/// Function numbers; bit 30 marks the 64-bit form of a call.
mod function {
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    /// Speculation work-arounds: no arguments that are addresses.
    pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
    pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
    pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
    /// The random number service (DEN 0098): answers in registers.
    pub const TRNG_VERSION: u32 = 0x8400_0050;
    pub const TRNG_FEATURES: u32 = 0x8400_0051;
    pub const TRNG_UUID: u32 = 0x8400_0052;
    pub const TRNG_RND_32: u32 = 0x8400_0053;
    pub const TRNG_RND_64: u32 = 0xc400_0053;

    pub const PSCI_VERSION: u32 = 0x8400_0000;
    pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
    pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const CPU_ON_32: u32 = 0x8400_0003;
    pub const CPU_ON_64: u32 = 0xc400_0003;
    pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
    pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const PSCI_FEATURES: u32 = 0x8400_000a;
}
use function::*;

/// Bit of a fast call's function number.
const SVE_HINT: u32 = 1 << 16;

static DENIED: RateLimit = RateLimit::new();
static COUNTS_PRINTED: AtomicBool = AtomicBool::new(false);

fn call(function: u32, a: u64, b: u64, c: u64) -> [u64; 4] {
    let mut args = [0; 17];
    args[0] = a;
    args[1] = b;
    args[2] = c;
    let [r0, r1, r2, r3, ..] = Smc::call64(function, args);
    [r0, r1, r2, r3]
}

/// Whether the host may make this call at all.
fn allowed(function: u32) -> bool {
    matches!(
        function,
        SMCCC_VERSION
            | SMCCC_ARCH_FEATURES
            | ARCH_WORKAROUND_1
            | ARCH_WORKAROUND_2
            | ARCH_WORKAROUND_3
            | TRNG_VERSION
            | TRNG_FEATURES
            | TRNG_UUID
            | TRNG_RND_32
            | TRNG_RND_64
            | PSCI_VERSION
            | CPU_SUSPEND_32
            | CPU_SUSPEND_64
            | CPU_OFF
            | CPU_ON_32
            | CPU_ON_64
            | AFFINITY_INFO_32
            | AFFINITY_INFO_64
            | MIGRATE_INFO_TYPE
            | SYSTEM_OFF
            | SYSTEM_RESET
            | PSCI_FEATURES
    )
}

/// Carries out, relays or refuses an SMC of the host.
pub fn smc(cpu: &'static PerCpu, frame: &mut Frame, immediate: u64) {
    let mut function = frame.get(0) as u32;
    if function >> 31 != 0 {
        // A fast call's hint that no SVE state is live (DEN 0028, 2.5). Calls
        // are relayed without it, which is always allowed.
        function &= !SVE_HINT;
    }
    if immediate != 0 || !allowed(function) {
        bump(&cpu.refused_calls);
        if let Some(dropped) = DENIED.take() {
            warning!(
                "event=smc_denied function={function:#x} immediate={immediate:#x} \
                 dropped={dropped}"
            );
        }
        frame.set(0, NOT_SUPPORTED);
        return;
    }
    let wide = function & 1 << 30 != 0;
    let argument = |n| {
        let value = frame.get(n);
        if wide { value } else { value & 0xffff_ffff }
    };
    let (a, b, c) = (argument(1), argument(2), argument(3));
    match function {
        CPU_ON_32 | CPU_ON_64 => frame.set(0, cpu_on(a, Ipa::new(b), c)),
        CPU_OFF => frame.set(0, cpu_off(cpu)),
        CPU_SUSPEND_32 | CPU_SUSPEND_64 => frame.set(0, cpu_suspend(cpu, a, Ipa::new(b), c)),
        SYSTEM_OFF => {
            print_counts();
            power_off()
        }
        SYSTEM_RESET => {
            print_counts();
            log::save();
            call(SYSTEM_RESET, 0, 0, 0);
            power_off()
        }
        PSCI_FEATURES | SMCCC_ARCH_FEATURES if !allowed(a as u32) => frame.set(0, NOT_SUPPORTED),
        _ => {
            for (n, value) in call(function, a, b, c).into_iter().enumerate() {
                frame.set(n, value);
            }
        }
    }
}

/// Where a CPU comes out of firmware, with its [`PerCpu`] in x0.
fn entry_point() -> u64 {
    secondary_entry as *const () as u64
}

fn cpu_on(target: u64, entry: Ipa, context: u64) -> u64 {
    let Some(cpu) = percpu::all().find(|c| c.mpidr.load(Ordering::Relaxed) == target) else {
        return INVALID_PARAMETERS;
    };
    if !machine::host_can_run_at(entry) {
        return INVALID_ADDRESS;
    }
    match cpu.power.compare_exchange(
        power::OFF,
        power::PENDING,
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        Ok(_) => {}
        Err(power::PENDING) => return ON_PENDING,
        Err(_) => return ALREADY_ON,
    }
    cpu.host_entry.store(entry.raw(), Ordering::Relaxed);
    cpu.host_context.store(context, Ordering::Relaxed);
    mmu::clean_to_memory(core::ptr::from_ref(cpu) as u64, size_of::<PerCpu>() as u64);
    let [result, ..] = call(
        CPU_ON_64,
        target,
        entry_point(),
        core::ptr::from_ref(cpu) as u64,
    );
    if result != 0 {
        // Unless the CPU came back from a refused CPU_OFF meanwhile.
        let _ = cpu.power.compare_exchange(
            power::PENDING,
            power::OFF,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }
    result
}

fn cpu_off(cpu: &'static PerCpu) -> u64 {
    gic::leave(cpu);
    let [result, ..] = call(CPU_OFF, 0, 0, 0);
    // Only a refusal comes back.
    gic::stay(cpu);
    result
}

/// Which bit of a power state says "power down": it depends on the format
/// that firmware uses (DEN 0022, 5.4.2 and 5.15.2).
fn power_down_bit() -> u64 {
    let [features, ..] = call(PSCI_FEATURES, CPU_SUSPEND_64.into(), 0, 0);
    // A 32-bit call: the result is in w0, and negative is an error.
    let features = features as u32 as i32;
    let extended = features > 0 && features & 1 << 1 != 0;
    if extended { 1 << 30 } else { 1 << 16 }
}

fn cpu_suspend(cpu: &'static PerCpu, state: u64, entry: Ipa, context: u64) -> u64 {
    if state & power_down_bit() != 0 && !machine::host_can_run_at(entry) {
        return INVALID_ADDRESS;
    }
    cpu.host_entry.store(entry.raw(), Ordering::Relaxed);
    cpu.host_context.store(context, Ordering::Relaxed);
    mmu::clean_to_memory(core::ptr::from_ref(cpu) as u64, size_of::<PerCpu>() as u64);
    let [result, ..] = call(
        CPU_SUSPEND_64,
        state,
        entry_point(),
        core::ptr::from_ref(cpu) as u64,
    );
    result
}

/// A CPU that came through `secondary_entry`: MMU on, on its own stack.
pub extern "C" fn secondary(cpu: &'static PerCpu) -> ! {
    fatal::park_if_failed(cpu);
    if !machine::suits_this_cpu() {
        error!(
            "event=cpu_refused cpu={:#x} reason=\"it has fewer address bits, or a lower BBM \
             level, than the CPU that booted\"",
            cpu.mpidr.load(Ordering::Relaxed)
        );
        cpu.power.store(power::OFF, Ordering::Release);
        call(CPU_OFF, 0, 0, 0);
        power_off();
    }
    if !crate::smmu::still_guard() {
        crate::fatal::fatal(format_args!("an SMMU lost its state in a suspend"));
    }
    host::prepare(machine::stage2(), gic::takes_fiq());
    mmu::invalidate_host_tlb();
    gic::enter_cpu(cpu);
    // Where a suspend puts the host is checked when it asks, and again here:
    // firmware decides which suspends power down.
    let entry = Ipa::new(cpu.host_entry.load(Ordering::Relaxed));
    if !machine::host_can_run_at(entry) {
        warning!("event=cpu_entry_refused entry={entry}");
        gic::leave(cpu);
        call(CPU_OFF, 0, 0, 0);
        power_off();
    }
    host::enter(entry, cpu.host_context.load(Ordering::Relaxed))
}

/// The EL2 entries by reason, of all CPUs, once.
fn print_counts() {
    if COUNTS_PRINTED.swap(true, Ordering::Relaxed) {
        return;
    }
    crate::smmu::report();
    crate::its::report();
    crate::paravirt::report();
    let mut totals = [0u64; REASONS.len()];
    let (mut calls, mut gic, mut smmu) = (0, 0, 0);
    for cpu in percpu::all() {
        for (total, counter) in totals.iter_mut().zip(&cpu.entries) {
            *total += counter.load(Ordering::Relaxed);
        }
        calls += cpu.refused_calls.load(Ordering::Relaxed);
        gic += cpu.refused_gic.load(Ordering::Relaxed);
        smmu += cpu.reserved_smmu.load(Ordering::Relaxed);
    }
    struct Counts<'a>(&'a [u64]);
    impl core::fmt::Display for Counts<'_> {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            for (name, count) in REASONS.iter().zip(self.0) {
                write!(f, " {name}={count}")?;
            }
            Ok(())
        }
    }
    info!(
        "event=exit_counts total={}{} refused_calls={calls} refused_gic_writes={gic} \
         reserved_smmu={smmu}",
        totals.iter().sum::<u64>(),
        Counts(&totals),
    );
}

/// Asks firmware to turn the machine off; parks when it does not.
pub fn power_off() -> ! {
    log::save();
    call(SYSTEM_OFF, 0, 0, 0);
    loop {
        core::hint::spin_loop();
    }
}

/// The affinity fields of this CPU.
#[must_use]
pub fn this_affinity() -> u64 {
    crate::sysreg::read_sysreg!("mpidr_el1") & AFFINITY
}
