//! What the host did that needs EL2, told apart and sent to where it is
//! handled.

use crate::log::{RateLimit, warning};
use crate::percpu::{self, Reason, bump};
use crate::sysreg::{read_sysreg, write_sysreg};
use crate::{gic, host, psci, smmu};

/// The host's registers at an exception, as `entry.rs` saves and restores them.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where to return to.
    pub elr: u64,
    /// PSTATE to return with.
    pub spsr: u64,
    _pad: u64,
}

impl Frame {
    /// Register `n`; 31 reads as zero.
    #[must_use]
    pub fn get(&self, n: usize) -> u64 {
        self.x.get(n).copied().unwrap_or(0)
    }

    /// Sets register `n`; 31 is discarded.
    pub fn set(&mut self, n: usize, value: u64) {
        if let Some(x) = self.x.get_mut(n) {
            *x = value;
        }
    }

    /// Goes on after the trapped instruction.
    pub fn skip(&mut self) {
        self.elr = self.elr.wrapping_add(4);
    }
}

static UNEXPECTED: RateLimit = RateLimit::new();
static CPU_FAULTS: RateLimit = RateLimit::new();

/// A synchronous exception of the host.
pub extern "C" fn lower_sync(frame: &mut Frame) {
    let cpu = percpu::this();
    let esr = read_sysreg!("esr_el2");
    match esr >> 26 & 0x3f {
        0x18 => gic::sysreg_trap(cpu, frame, esr),
        0x17 => {
            cpu.count(Reason::Smc);
            // An SMC that traps has not advanced the PC (DDI 0487, D1.3.5).
            frame.skip();
            psci::smc(cpu, frame, esr & 0xffff);
        }
        0x16 => {
            cpu.count(Reason::Hvc);
            bump(&cpu.refused_calls);
            frame.set(0, psci::NOT_SUPPORTED);
        }
        0x24 => data_abort(cpu, frame, esr),
        0x20 => {
            cpu.count(Reason::FetchAbort);
            report_cpu_fault(cpu, frame, esr, fault_ipa(), "execute");
            host::inject_abort(frame, esr, read_sysreg!("far_el2"));
        }
        _ => {
            cpu.count(Reason::Other);
            if let Some(dropped) = UNEXPECTED.take() {
                warning!(
                    "event=unexpected_trap class={:?} esr={esr:#x} elr={:#x} dropped={dropped}",
                    crate::fatal::class(esr),
                    frame.elr
                );
            }
            host::inject_undefined(frame);
        }
    }
    if !gic::takes_fiq() {
        // No interrupt of ours on this machine: look whenever we are here.
        smmu::poll();
    }
}

fn data_abort(cpu: &percpu::PerCpu, frame: &mut Frame, esr: u64) {
    let far = read_sysreg!("far_el2");
    let ipa = fault_ipa();
    if let Some(access) = gic::Access::decode(esr, ipa)
        && gic::mmio(cpu, frame, access)
    {
        cpu.count(Reason::Gic);
        frame.skip();
        return;
    }
    cpu.count(Reason::DataAbort);
    #[cfg(feature = "provoke")]
    crate::provoke::maybe(frame, esr, ipa);
    let write = esr >> 6 & 1 != 0;
    report_cpu_fault(cpu, frame, esr, ipa, if write { "write" } else { "read" });
    host::inject_abort(frame, esr, far);
}

/// The IPA that faulted. Stage 2 here only ever gives translation faults, for
/// which HPFAR_EL2 is valid (DDI 0487, HPFAR_EL2).
fn fault_ipa() -> u64 {
    let page = (read_sysreg!("hpfar_el2") & 0xfff_ffff_fff0) << 8;
    page | read_sysreg!("far_el2") & 0xfff
}

fn report_cpu_fault(cpu: &percpu::PerCpu, frame: &Frame, esr: u64, ipa: u64, access: &str) {
    if let Some(dropped) = CPU_FAULTS.take() {
        warning!(
            "event=cpu_fault cpu={:#x} address={ipa:#x} access={access} pc={:#x} el={} \
             walk={} entries={} dropped={dropped}",
            cpu.mpidr.load(core::sync::atomic::Ordering::Relaxed),
            frame.elr,
            frame.spsr >> 2 & 3,
            // S1PTW: the host's own table walk went there.
            esr >> 7 & 1,
            percpu::total_entries(),
        );
    }
}

/// An IRQ at EL2. The host's go to EL1, so there is none.
pub extern "C" fn lower_irq(_frame: &mut Frame) {
    percpu::this().count(Reason::Other);
}

/// An interrupt of ours.
pub extern "C" fn lower_fiq(_frame: &mut Frame) {
    let cpu = percpu::this();
    cpu.count(Reason::Fiq);
    gic::own_interrupt();
}

/// A system error. They are routed to the host, since nothing that EL2 does on
/// the host's behalf can raise one that is not the host's; one that comes here
/// all the same is handed on as a virtual one.
pub extern "C" fn lower_serror(_frame: &mut Frame) {
    percpu::this().count(Reason::Other);
    const VSE: u64 = 1 << 8;
    let hcr = read_sysreg!("hcr_el2");
    // SAFETY: HCR_EL2.VSE makes a virtual SError pending for EL1; nothing at
    // EL2 changes.
    unsafe { write_sysreg!("hcr_el2", hcr | VSE) }
}
