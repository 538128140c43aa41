//! What the host did that needs EL2, told apart and sent to where it is
//! handled.

use crate::fatal::park_if_failed;
use crate::log::{RateLimit, warning};
use crate::percpu::{self, Reason, bump};
use crate::sysreg::{host_ipa, isb, read_sysreg, write_sysreg};
use crate::{emulated_writes, gic, host, paravirt, psci, smmu, undescribed};
use portcullis_cpu::{Class, Midr, SError, SErrorAnswer, Syndrome};

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
static SERRORS: RateLimit = RateLimit::new();

/// A synchronous exception of the host.
///
/// A write to an emulated SMMU or to the virtio-iommu is the one that comes
/// often, with a host that waits for each, so they go before everything else.
pub extern "C" fn lower_sync(frame: &mut Frame) {
    let cpu = percpu::this();
    park_if_failed(cpu);
    let esr = read_sysreg!("esr_el2");
    let stored = Syndrome(esr).class() == Class::DataAbort
        && if Syndrome(esr).is_permission_fault() {
            emulated_writes::store(cpu, frame, esr, read_sysreg!("far_el2"))
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

/// What became of an access that was put in the place of the host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// It is done, and this is what a load gets.
    Done(u64),
    /// It is to be done again.
    Again,
    /// It ends in an abort.
    Aborted,
}

/// Handles an access between a device and a register that holds `value`, as if
/// hardware had said of it what `abort`, `va` and `ipa` say. It comes to the emulation
/// in the same way as an access of the host's, whose own way is no longer for that.
///
/// What hardware has said of an earlier abort is lost.
pub fn described(spsr: u64, abort: Syndrome, va: u64, ipa: u64, value: u64) -> Described {
    // Where no instruction and no vector of the host's is: they are aligned.
    const HERE: u64 = 1;
    const STEPPED: u64 = HERE + 4;
    let mut frame = Frame {
        x: [0; 31],
        elr: HERE,
        spsr,
        _pad: 0,
    };
    frame.x[0] = value;
    // SAFETY: they describe an exception to EL2, and nothing else uses them.
    unsafe {
        write_sysreg!("esr_el2", abort.0);
        write_sysreg!("far_el2", va);
        write_sysreg!("hpfar_el2", ipa >> 8 & 0xfff_ffff_fff0);
    }
    isb();
    lower_sync(&mut frame);
    match frame.elr {
        STEPPED => Described::Done(frame.x[0]),
        HERE => Described::Again,
        // The vector of the host's.
        _ => Described::Aborted,
    }
}

#[inline(never)]
fn other_sync(cpu: &'static percpu::PerCpu, frame: &mut Frame, esr: u64) {
    match Syndrome(esr).class() {
        Class::SystemRegister => system_register(cpu, frame, esr),
        Class::Smc => {
            cpu.count(Reason::Smc);
            // An SMC that traps has not advanced the PC (DDI 0487, D1.3.5).
            frame.skip();
            psci::smc(cpu, frame, esr & 0xffff);
        }
        Class::Hvc => {
            cpu.count(Reason::Hvc);
            #[cfg(feature = "digest")]
            if crate::digest::answer(frame) {
                return;
            }
            bump(&cpu.refused_calls);
            frame.set(0, psci::NOT_SUPPORTED);
        }
        Class::DataAbort => data_abort(cpu, frame, esr),
        Class::InstructionAbort => {
            cpu.count(Reason::FetchAbort);
            let far = read_sysreg!("far_el2");
            report_cpu_fault(cpu, frame, (esr, far), fault_ipa(esr), "execute");
            host::inject_abort(frame, esr, far);
        }
        Class::Other => {
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

/// MSR, MRS and system instructions that trap.
fn system_register(cpu: &'static percpu::PerCpu, frame: &mut Frame, esr: u64) {
    /// Op0, Op2, Op1, CRn and CRm of ACTLR_EL1, as the syndrome has them.
    const ACTLR_EL1: u64 = 3 << 20 | 1 << 17 | 1 << 10;
    const WHICH: u64 = 0x3f_fc1e;
    if esr & WHICH != ACTLR_EL1 {
        // Those of the part's own, which HCR_EL2.TIDCP traps, are undefined there.
        return gic::sysreg_trap(cpu, frame, esr);
    }
    cpu.count(Reason::Sysreg);
    if esr & 1 != 0 {
        frame.set((esr >> 5 & 0x1f) as usize, read_sysreg!("actlr_el1"));
    }
    frame.skip();
}

/// Whether this is an abort that the part reports although stage 1 faults, so that the
/// host is to have its own fault: the access is done again then.
fn is_false_abort(esr: u64, far: u64) -> bool {
    // On the access itself, not on the host's walk.
    const TRANSLATION: u64 = 0x04;
    const WALK: u64 = 1 << 7;
    esr & (WALK | 0x3c) == TRANSLATION
        && Midr(read_sysreg!("midr_el1")).reports_false_stage_2_faults()
        && host_ipa(far).is_none()
}

fn data_abort(cpu: &percpu::PerCpu, frame: &mut Frame, esr: u64) {
    let far = read_sysreg!("far_el2");
    if is_false_abort(esr, far) {
        return;
    }
    let ipa = fault_ipa(esr);
    if let Some(access) = ipa.and_then(|ipa| gic::Access::decode(esr, ipa)) {
        match gic::mmio(cpu, frame, access) {
            gic::Outcome::Done => {
                cpu.count(Reason::Gic);
                frame.skip();
                return;
            }
            gic::Outcome::Again => {
                cpu.count(Reason::Gic);
                return;
            }
            gic::Outcome::Elsewhere => {}
        }
    }
    if ipa.is_some_and(|ipa| emulated_writes::reserved(cpu, frame, esr, ipa)) {
        return;
    }
    if undescribed::carry_out(cpu, frame, esr, ipa) {
        return;
    }
    cpu.count(Reason::DataAbort);
    #[cfg(feature = "provoke")]
    crate::provoke::maybe(frame, esr, ipa.unwrap_or(0));
    let write = esr >> 6 & 1 != 0;
    let access = if write { "write" } else { "read" };
    report_cpu_fault(cpu, frame, (esr, far), ipa, access);
    host::inject_abort(frame, esr, far);
}

/// The IPA that faulted. `None` where HPFAR_EL2 does not hold it.
fn fault_ipa(esr: u64) -> Option<u64> {
    if !Syndrome(esr).has_ipa() {
        return None;
    }
    let page = (read_sysreg!("hpfar_el2") & 0xfff_ffff_fff0) << 8;
    Some(page | read_sysreg!("far_el2") & 0xfff)
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

fn report_cpu_fault(
    cpu: &percpu::PerCpu,
    frame: &Frame,
    (esr, far): (u64, u64),
    ipa: Option<u64>,
    access: &str,
) {
    if let Some(dropped) = CPU_FAULTS.take() {
        warning!(
            "event=cpu_fault cpu={:#x} address={} access={access} va={:#x} pc={:#x} \
             el={} walk={} entries={} dropped={dropped}",
            cpu.mpidr.load(core::sync::atomic::Ordering::Relaxed),
            Address(ipa),
            far,
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
    park_if_failed(percpu::this());
    crate::fatal::fatal(format_args!("an IRQ came to EL2, which does not take them"));
}

/// An interrupt of ours.
pub extern "C" fn lower_fiq(_frame: &mut Frame) {
    let cpu = percpu::this();
    park_if_failed(cpu);
    cpu.count(Reason::Fiq);
    gic::own_interrupt();
}

/// An SError that was taken while the host ran, on a part with FEAT_RAS: without,
/// they go to EL1 (HCR_EL2.AMO), those that an access of EL2's own may have caused
/// included.
pub extern "C" fn lower_serror(frame: &mut Frame) {
    const IESB: u64 = 1 << 21;
    let cpu = percpu::this();
    park_if_failed(cpu);
    cpu.count(Reason::Other);
    let esr = read_sysreg!("esr_el2");
    // As the vector left it.
    let returned = read_sysreg!("cnthp_cval_el2");
    let synchronised = read_sysreg!("sctlr_el2") & IESB != 0;
    match SError(esr).answer(frame.elr, returned, synchronised) {
        SErrorAnswer::Forward(iss) => {
            host::inject_serror(iss);
            if let Some(dropped) = SERRORS.take() {
                warning!(
                    "event=serror esr={esr:#x} pc={:#x} dropped={dropped}",
                    frame.elr
                );
            }
        }
        SErrorAnswer::Stop => crate::fatal::fatal(format_args!(
            "an error that EL2 may have caused was not contained: esr={esr:#x}"
        )),
    }
}
