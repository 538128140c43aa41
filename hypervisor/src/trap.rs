//! What the host did that needs EL2, told apart and sent to where it is
//! handled.

use crate::log::{RateLimit, warning};
use crate::percpu::{self, Reason, bump};
use crate::sysreg::read_sysreg;
use crate::{gic, host, nested, paravirt, psci, smmu};

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

    /// Goes on after the trapped instruction, which was an A64 one, as if it
    /// had been executed: a single step is done, and no branch came before
    /// (PSTATE.SS, .BTYPE).
    pub fn skip(&mut self) {
        const SS: u64 = 1 << 21;
        const BTYPE: u64 = 3 << 10;
        self.elr = self.elr.wrapping_add(4);
        self.spsr &= !(SS | BTYPE);
    }
}

static UNEXPECTED: RateLimit = RateLimit::new();
static CPU_FAULTS: RateLimit = RateLimit::new();

/// Class of a data abort.
const DATA_ABORT: u64 = 0x24;

/// A synchronous exception of the host.
///
/// A write to an emulated SMMU or to the virtio-iommu is the one that comes
/// often, with a host that waits for each, so they go before everything else.
pub extern "C" fn lower_sync(frame: &mut Frame) {
    let cpu = percpu::this();
    let esr = read_sysreg!("esr_el2");
    let stored = esr >> 26 & 0x3f == DATA_ABORT
        && if is_permission_fault(esr) {
            nested::store(cpu, frame, esr, read_sysreg!("far_el2"))
        } else {
            paravirt::access(cpu, frame, esr)
        };
    if !stored {
        other_sync(cpu, frame, esr);
    }
    let due = gic::look_is_due();
    if due {
        smmu::guard();
    }
    if due || smmu::needs_polling() {
        smmu::poll();
    }
}

#[inline(never)]
fn other_sync(cpu: &'static percpu::PerCpu, frame: &mut Frame, esr: u64) {
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
        DATA_ABORT => data_abort(cpu, frame, esr),
        0x20 => {
            cpu.count(Reason::FetchAbort);
            report_cpu_fault(cpu, frame, esr, fault_ipa(esr), "execute");
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
}

fn data_abort(cpu: &percpu::PerCpu, frame: &mut Frame, esr: u64) {
    let far = read_sysreg!("far_el2");
    let ipa = fault_ipa(esr);
    if let Some(access) = ipa.and_then(|ipa| gic::Access::decode(esr, ipa))
        && gic::mmio(cpu, frame, access)
    {
        cpu.count(Reason::Gic);
        frame.skip();
        return;
    }
    if ipa.is_some_and(|ipa| nested::reserved(cpu, frame, esr, ipa)) {
        return;
    }
    cpu.count(Reason::DataAbort);
    #[cfg(feature = "provoke")]
    crate::provoke::maybe(frame, esr, ipa.unwrap_or(0));
    let write = esr >> 6 & 1 != 0;
    report_cpu_fault(cpu, frame, esr, ipa, if write { "write" } else { "read" });
    host::inject_abort(frame, esr, far);
}

/// The IPA that faulted, for translation faults and for faults on the host's
/// own table walk: only then does HPFAR_EL2 hold it. `None` for a permission
/// fault, such as a fetch from registers (DDI 0487, HPFAR_EL2).
fn fault_ipa(esr: u64) -> Option<u64> {
    if is_permission_fault(esr) {
        return None;
    }
    let page = (read_sysreg!("hpfar_el2") & 0xfff_ffff_fff0) << 8;
    Some(page | read_sysreg!("far_el2") & 0xfff)
}

/// Whether stage 2 maps what was accessed, and does not permit the access. The
/// host's own table walk is another matter.
#[inline]
fn is_permission_fault(esr: u64) -> bool {
    const S1PTW: u64 = 1 << 7;
    esr & (0x3c | S1PTW) == 0x0c
}

struct Address(Option<u64>);

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address:#x}"),
            None => f.write_str("unknown"),
        }
    }
}

fn report_cpu_fault(cpu: &percpu::PerCpu, frame: &Frame, esr: u64, ipa: Option<u64>, access: &str) {
    if let Some(dropped) = CPU_FAULTS.take() {
        warning!(
            "event=cpu_fault cpu={:#x} address={} access={access} va={:#x} pc={:#x} \
             el={} walk={} entries={} dropped={dropped}",
            cpu.mpidr.load(core::sync::atomic::Ordering::Relaxed),
            Address(ipa),
            read_sysreg!("far_el2"),
            frame.elr,
            frame.spsr >> 2 & 3,
            // S1PTW: the host's own table walk went there.
            esr >> 7 & 1,
            percpu::total_entries(),
        );
    }
}

/// An IRQ at EL2: HCR_EL2.IMO is 0, so they go to EL1.
pub extern "C" fn lower_irq(_frame: &mut Frame) {
    crate::fatal::fatal(format_args!("an IRQ came to EL2, which does not take them"));
}

/// An interrupt of ours.
pub extern "C" fn lower_fiq(_frame: &mut Frame) {
    let cpu = percpu::this();
    cpu.count(Reason::Fiq);
    gic::own_interrupt();
}

/// An SError at EL2: HCR_EL2.AMO is 0, so they go to EL1, those that an access
/// of EL2's own may have caused included.
pub extern "C" fn lower_serror(_frame: &mut Frame) {
    crate::fatal::fatal(format_args!(
        "an SError came to EL2, which does not take them"
    ));
}
