//! When the hypervisor itself fails: fence DMA, stop the host on every CPU, report,
//! power off. In this order, and without anything that could fail again: no lock is
//! waited for, nothing is allocated.
//!
//! The other CPUs are not asked to stop, since a host can keep an interrupt away.
//! Their stage 2 is emptied: the next access of each, a fetch included, comes to
//! EL2, where it parks.

use crate::log::error;
use crate::percpu::{self, PER_CPU, PerCpu};
use crate::sysreg::read_sysreg;
use crate::{machine, psci, smmu};
use core::panic::PanicInfo;
use core::sync::atomic::Ordering;

/// What the vector saved; see `fatal_common` in `entry.rs`.
#[repr(C)]
pub struct FatalFrame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    sp: u64,
    esr: u64,
    far: u64,
    _pad: [u64; 2],
}

const KINDS: [&str; 8] = [
    "sync_sp0",
    "irq_sp0",
    "fiq_sp0",
    "serror_sp0",
    "sync",
    "irq",
    "fiq",
    "serror",
];

/// Reports an exception taken from EL2 to EL2.
pub extern "C" fn fatal_exception(kind: u64, frame: &FatalFrame) -> ! {
    stop(|cpu| {
        let kind = usize::try_from(kind)
            .ok()
            .and_then(|k| KINDS.get(k))
            .unwrap_or(&"unknown");
        let esr = frame.esr;
        error!(
            "event=hypervisor_exception cpu={:#x} kind={kind} class={:?} esr={esr:#x} elr={:#x} \
             offset={:#x} far={:#x} spsr={:#x} sp={:#x}",
            cpu.mpidr.load(Ordering::Relaxed),
            class(esr),
            frame.elr,
            frame.elr.wrapping_sub(crate::image::base()),
            frame.far,
            frame.spsr,
            frame.sp,
        );
        if matches!(esr >> 26 & 0x3f, 0x20 | 0x21 | 0x24 | 0x25) {
            error!(
                "event=hypervisor_exception_fault access={} fault={:?} level={} hint={:?}",
                if esr >> 26 & 0x3f < 0x24 {
                    "execute"
                } else if esr >> 6 & 1 != 0 {
                    "write"
                } else {
                    "read"
                },
                fault(esr),
                esr & 3,
                crate::mmu::describe(frame.far),
            );
        }
        for (row, values) in frame.x.chunks(4).enumerate() {
            let first = row * 4;
            match *values {
                [a, b, c, d] => error!(
                    "event=hypervisor_registers x{first}={a:#x} x{}={b:#x} x{}={c:#x} x{}={d:#x}",
                    first + 1,
                    first + 2,
                    first + 3
                ),
                [a, b, c] => error!(
                    "event=hypervisor_registers x{first}={a:#x} x{}={b:#x} x{}={c:#x}",
                    first + 1,
                    first + 2
                ),
                _ => {}
            }
        }
        error!(
            "event=hypervisor_system_registers sctlr_el2={:#x} tcr_el2={:#x} ttbr0_el2={:#x} \
             hcr_el2={:#x} vttbr_el2={:#x} hpfar_el2={:#x}",
            read_sysreg!("sctlr_el2"),
            read_sysreg!("tcr_el2"),
            read_sysreg!("ttbr0_el2"),
            read_sysreg!("hcr_el2"),
            read_sysreg!("vttbr_el2"),
            read_sysreg!("hpfar_el2"),
        );
    })
}

/// Reports a failure that the code itself found.
pub fn fatal(reason: core::fmt::Arguments<'_>) -> ! {
    stop(|cpu| {
        error!(
            "event=hypervisor_failure cpu={:#x} reason=\"{reason}\"",
            cpu.mpidr.load(Ordering::Relaxed)
        );
    })
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    stop(|cpu| {
        let (file, line) = info
            .location()
            .map_or(("unknown", 0), |l| (l.file(), l.line()));
        error!(
            "event=hypervisor_panic cpu={:#x} at={file}:{line} reason=\"{}\"",
            cpu.mpidr.load(Ordering::Relaxed),
            info.message()
        );
    })
}

/// How far a CPU is with its own failure.
mod phase {
    pub const RUNNING: u32 = 0;
    pub const FENCING: u32 = 1;
    pub const STOPPING: u32 = 2;
    pub const REPORTING: u32 = 3;
}

fn stop(report: impl FnOnce(&PerCpu)) -> ! {
    // Nothing more is done for the host, by a CPU that enters EL2 from here on.
    for cpu in &PER_CPU {
        cpu.halted.store(1, Ordering::Relaxed);
    }
    let cpu = percpu::this();
    let before = cpu.failed.load(Ordering::Relaxed);
    let fenced = match before {
        phase::RUNNING => {
            cpu.failed.store(phase::FENCING, Ordering::Relaxed);
            smmu::fence_all()
        }
        // An SMMU's registers could not be reached. The others can.
        phase::FENCING | phase::STOPPING => smmu::fence_rest(),
        // A failure of the report has nothing to add that could be trusted.
        _ => psci::power_off(),
    };
    if before != phase::STOPPING {
        cpu.failed.store(phase::STOPPING, Ordering::Relaxed);
        machine::stop_host();
    }
    cpu.failed.store(phase::REPORTING, Ordering::Relaxed);
    // A boot that was being refused anyway has a better reason to give.
    crate::boot::end_refused(fenced);
    error!(
        "event=dma_fenced smmus={} failed={}",
        fenced.done, fenced.failed
    );
    report(cpu);
    psci::power_off()
}

/// Parks this CPU if EL2 has failed. To be looked at first on every way into EL2.
#[inline(always)]
pub fn park_if_failed(cpu: &PerCpu) {
    if cpu.halted.load(Ordering::Relaxed) != 0 {
        park();
    }
}

#[cold]
#[inline(never)]
fn park() -> ! {
    loop {
        // SAFETY: waits, with every interrupt masked since EL2 was entered.
        unsafe { core::arch::asm!("wfe", options(nomem, nostack, preserves_flags)) }
    }
}

/// Name of an exception class (DDI 0487, ESR_ELx.EC).
pub fn class(esr: u64) -> &'static str {
    match esr >> 26 & 0x3f {
        0x00 => "unknown instruction",
        0x07 => "floating-point access",
        0x0e => "illegal execution state",
        0x15 => "svc",
        0x16 => "hvc",
        0x17 => "smc",
        0x18 => "system register",
        0x19 => "sve",
        0x20 => "instruction abort from a lower level",
        0x21 => "instruction abort",
        0x22 => "pc alignment",
        0x24 => "data abort from a lower level",
        0x25 => "data abort",
        0x26 => "sp alignment",
        0x2f => "serror",
        0x3c => "brk",
        _ => "other",
    }
}

/// Name of a fault status code (DDI 0487, ESR_ELx.ISS for aborts, DFSC).
fn fault(esr: u64) -> &'static str {
    match esr & 0x3f {
        0x00..=0x03 => "address size",
        0x04..=0x07 => "translation",
        0x08..=0x0b => "access flag",
        0x0c..=0x0f => "permission",
        0x10 => "external abort",
        0x14..=0x17 => "external abort on a walk",
        0x21 => "alignment",
        0x30 => "tlb conflict",
        _ => "other",
    }
}
