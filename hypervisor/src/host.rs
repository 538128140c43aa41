//! The host's side of a CPU: what EL2 sets before the host runs, and the
//! exceptions that EL2 gives it.

use crate::sysreg::{id_field, isb, read_sysreg, write_sysreg};
use crate::trap::Frame;
use portcullis_addr::Ipa;
use portcullis_cpu::{AbortAnswer, Class, Syndrome};

unsafe extern "C" {
    fn enter_host(entry: u64, context: u64, stack: u64) -> !;
}

/// VTCR_EL2 and VTTBR_EL2 for the host.
#[derive(Clone, Copy, Debug)]
pub struct Stage2Registers {
    /// Translation control.
    pub vtcr: u64,
    /// Root table and VMID.
    pub vttbr: u64,
}

/// Hypervisor configuration register, DDI 0487, HCR_EL2.
mod hcr {
    pub const VM: u64 = 1 << 0;
    pub const SWIO: u64 = 1 << 1;
    pub const FMO: u64 = 1 << 3;
    pub const AMO: u64 = 1 << 5;
    pub const TSC: u64 = 1 << 19;
    pub const TIDCP: u64 = 1 << 20;
    pub const TACR: u64 = 1 << 21;
    pub const RW: u64 = 1 << 31;
    pub const APK: u64 = 1 << 40;
    pub const API: u64 = 1 << 41;
    pub const ENSCXT: u64 = 1 << 53;
    pub const ATA: u64 = 1 << 56;
}

/// Prepares EL2 and EL1 of this CPU for the host, as the kernel's boot protocol
/// asks for an entry at EL1 (Linux, booting.rst), with stage 2 on.
///
/// What the host could not use is not trapped but left to the architecture: an
/// unmodified kernel must find the machine it would find without us.
pub fn prepare(stage2: Stage2Registers, fiq_to_el2: bool) {
    let pfr0 = read_sysreg!("id_aa64pfr0_el1");
    let pfr1 = read_sysreg!("id_aa64pfr1_el1");
    let isar1 = read_sysreg!("id_aa64isar1_el1");
    let isar2 = read_sysreg!("s3_0_c0_c6_2");
    let mmfr0 = read_sysreg!("id_aa64mmfr0_el1");
    let mmfr3 = read_sysreg!("s3_0_c0_c7_3");

    crate::inherited::replace();
    // TIDCP, TACR: registers of the part's own, which can do anything, are not the
    // host's.
    let mut hcr = hcr::VM | hcr::SWIO | hcr::TSC | hcr::TIDCP | hcr::TACR | hcr::RW;
    if fiq_to_el2 {
        hcr |= hcr::FMO;
    }
    // PFR0.RAS: an SError can be handed to the host with its syndrome, so that those
    // that EL2 caused can be told from the host's.
    if id_field(pfr0, 28) != 0 {
        hcr |= hcr::AMO;
    }
    // ISAR1.APA, API, GPA, GPI; ISAR2.APA3, GPA3: pointer authentication.
    if isar1 >> 4 & 0xff != 0 || isar1 >> 24 & 0xff != 0 || isar2 >> 8 & 0xff != 0 {
        hcr |= hcr::APK | hcr::API;
    }
    if id_field(pfr1, 8) >= 2 {
        hcr |= hcr::ATA;
    }
    // PFR0.CSV2 or PFR1.CSV2_frac: SCXTNUM registers exist.
    if id_field(pfr0, 56) >= 2 || id_field(pfr1, 32) >= 2 {
        hcr |= hcr::ENSCXT;
    }

    let (midr, mpidr) = (read_sysreg!("midr_el1"), read_sysreg!("mpidr_el1"));
    // SAFETY: these registers only say how EL1 and EL0 run; EL2's own
    // translation, stack and vectors are untouched. (The same holds for every
    // block below.)
    unsafe {
        write_sysreg!("vtcr_el2", stage2.vtcr);
        write_sysreg!("vttbr_el2", stage2.vttbr);
        write_sysreg!("hcr_el2", hcr);
        write_sysreg!("vpidr_el2", midr);
        write_sysreg!("vmpidr_el2", mpidr);
        write_sysreg!("hstr_el2", 0);
        write_sysreg!("cntvoff_el2", 0);
        // EL1PCTEN, EL1PCEN: the physical counter and timer are the host's.
        write_sysreg!("cnthctl_el2", 3);
    }
    vectors_and_streaming(pfr0, pfr1);
    fine_grained_traps(mmfr0, mmfr3, pfr1, isar2);

    // SAFETY: as above; EL1's MMU is off, with the RES1 bits set (DDI 0487,
    // SCTLR_EL1), and its timers and virtual interrupt state start clean.
    unsafe {
        write_sysreg!("sctlr_el1", 0x30d0_0800);
        write_sysreg!("cntkctl_el1", 0);
        write_sysreg!("cntv_ctl_el0", 0);
        write_sysreg!("cntp_ctl_el0", 0);
    }
    if id_field(mmfr3, 0) != 0 {
        // SAFETY: as above.
        unsafe { write_sysreg!("s3_0_c2_c0_3", 0) } // TCR2_EL1
    }
    if id_field(mmfr3, 4) != 0 {
        // SAFETY: as above.
        unsafe { write_sysreg!("s3_0_c1_c0_3", 0) } // SCTLR2_EL1
    }
    isb();
}

fn vectors_and_streaming(pfr0: u64, pfr1: u64) {
    // CPTR_EL2 with E2H = 0: RES1 bits, and no trap for what exists.
    const RES1: u64 = 0x22ff & !(1 << 8);
    const TZ: u64 = 1 << 8;
    const TSM: u64 = 1 << 12;
    let sve = id_field(pfr0, 32) != 0;
    let sme = id_field(pfr1, 24);
    let mut cptr = RES1;
    if !sve {
        cptr |= TZ;
    }
    if sme == 0 {
        cptr |= TSM;
    }
    // SAFETY: as in `prepare`.
    unsafe { write_sysreg!("cptr_el2", cptr) }
    isb();
    if sve {
        // ZCR_EL2.LEN: the longest vectors there are.
        // SAFETY: as in `prepare`.
        unsafe { write_sysreg!("s3_4_c1_c2_0", 0xf) }
    }
    if sme != 0 {
        // SMCR_EL2: longest vectors, FA64 and ZT0 where they exist.
        let smfr0 = read_sysreg!("s3_0_c0_c4_5");
        let fa64 = smfr0 >> 63 << 31;
        let zt0 = if sme >= 2 { 1 << 30 } else { 0 };
        // SAFETY: as in `prepare`.
        unsafe { write_sysreg!("s3_4_c1_c2_6", 0xf | fa64 | zt0) }
    }
}

/// Fine-grained traps and the features that HCRX_EL2 gives to EL1: whatever the
/// host's ID registers show works, since a trap here would be answered as an
/// undefined instruction.
fn fine_grained_traps(mmfr0: u64, mmfr3: u64, pfr1: u64, isar2: u64) {
    let gcs = id_field(pfr1, 44) != 0;
    let ls64 = id_field(read_sysreg!("id_aa64isar1_el1"), 60);
    let brbe = id_field(read_sysreg!("id_aa64dfr0_el1"), 52) != 0;
    let pick = |present: bool, bits: u64| if present { bits } else { 0 };
    if id_field(mmfr0, 56) != 0 {
        // Bits named n… trap when 0 (DDI 0487, HFGRTR_EL2 and its relatives).
        let registers = pick(id_field(pfr1, 24) != 0, 3 << 54) // nSMPRI_EL1, nTPIDR2_EL0
            | pick(gcs, 3 << 52) // nGCS_EL0, nGCS_EL1
            | pick(ls64 == 3, 1 << 50) // nACCDATA_EL1
            | pick(id_field(pfr1, 48) != 0, 1 << 56) // nRCWMASK_EL1
            | pick(id_field(mmfr3, 8) != 0, 3 << 57) // nPIRE0_EL1, nPIR_EL1
            | pick(id_field(mmfr3, 16) != 0, 3 << 59) // nPOR_EL0, nPOR_EL1
            | pick(id_field(mmfr3, 24) != 0, 3 << 62); // nMAIR2_EL1, nAMAIR2_EL1
        let instructions = pick(gcs, 7 << 57) // nGCSPUSHM_EL1, nGCSSTR_EL1, nGCSEPP
            | pick(brbe, 3 << 55); // nBRBINJ, nBRBIALL
        let debug_writes = 1 << 62 // nPMSNEVFR_EL1
            | pick(brbe, 3 << 60); // nBRBCTL, nBRBDATA
        let debug_reads = debug_writes | pick(brbe, 1 << 59); // nBRBIDR
        // SAFETY: as in `prepare`.
        unsafe {
            write_sysreg!("s3_4_c1_c1_4", registers); // HFGRTR_EL2
            write_sysreg!("s3_4_c1_c1_5", registers); // HFGWTR_EL2
            write_sysreg!("s3_4_c1_c1_6", instructions); // HFGITR_EL2
            write_sysreg!("s3_4_c3_c1_4", debug_reads); // HDFGRTR_EL2
            write_sysreg!("s3_4_c3_c1_5", debug_writes); // HDFGWTR_EL2
        }
        if id_field(read_sysreg!("id_aa64pfr0_el1"), 44) != 0 {
            // SAFETY: as in `prepare`.
            unsafe { write_sysreg!("s3_4_c3_c1_6", 0) } // HAFGRTR_EL2
        }
    }
    if id_field(mmfr0, 56) >= 2 {
        // FEAT_FGT2: every bit is of the n… kind.
        // SAFETY: as in `prepare`.
        unsafe {
            write_sysreg!("s3_4_c3_c1_0", u64::MAX); // HDFGRTR2_EL2
            write_sysreg!("s3_4_c3_c1_1", u64::MAX); // HDFGWTR2_EL2
            write_sysreg!("s3_4_c3_c1_2", u64::MAX); // HFGRTR2_EL2
            write_sysreg!("s3_4_c3_c1_3", u64::MAX); // HFGWTR2_EL2
            write_sysreg!("s3_4_c3_c1_7", u64::MAX); // HFGITR2_EL2
        }
    }
    // HCRX_EL2 exists from FEAT_HCX (MMFR1.HCX).
    if id_field(read_sysreg!("id_aa64mmfr1_el1"), 40) != 0 {
        let pfr2 = read_sysreg!("s3_0_c0_c4_2");
        let hcrx = pick(ls64 >= 1, 1 << 1) // EnALS
            | pick(ls64 >= 2, 1 << 2) // EnASR
            | pick(ls64 >= 3, 1 << 0) // EnAS0
            | pick(id_field(isar2, 16) != 0, 1 << 11) // MSCEn: memory copies
            | pick(id_field(mmfr3, 0) != 0, 1 << 14) // TCR2En
            | pick(id_field(mmfr3, 4) != 0, 1 << 15) // SCTLR2En
            | pick(id_field(mmfr3, 32) != 0, 1 << 17) // D128En
            | pick(gcs, 1 << 22) // GCSEn
            | pick(id_field(pfr2, 32) != 0, 1 << 23); // EnFPM
        // SAFETY: as in `prepare`.
        unsafe { write_sysreg!("s3_4_c1_c2_2", hcrx) }
    }
}

/// Drops this CPU to the host at `entry` with `context` in x0.
///
/// `prepare` must have run on this CPU. What is on this CPU's EL2 stack is
/// gone.
pub fn enter(entry: Ipa, context: u64) -> ! {
    let stack = crate::percpu::this()
        .stack
        .load(core::sync::atomic::Ordering::Relaxed);
    // SAFETY: stage 2 is on (`prepare`), so the host reaches only what is its
    // own wherever it starts; `stack` is the top of this CPU's mapped stack,
    // and nothing on it is used again because this does not return.
    unsafe { enter_host(entry.raw(), context, stack) }
}

/// PSTATE in the exception handler at EL1, from the PSTATE that was interrupted
/// (DDI 0487, AArch64.TakeException).
fn exception_pstate(spsr: u64, sctlr: u64) -> u64 {
    const NZCV: u64 = 0xf << 28;
    const TCO: u64 = 1 << 25;
    const DIT: u64 = 1 << 24;
    const DIT_32: u64 = 1 << 21;
    const PAN: u64 = 1 << 22;
    const ALLINT: u64 = 1 << 13;
    const SSBS: u64 = 1 << 12;
    const SPAN: u64 = 1 << 23;
    const DSSBS: u64 = 1 << 44;
    const SPINTMASK: u64 = 1 << 62;
    const EL1H_DAIF: u64 = 0x3c5;
    let pfr1 = read_sysreg!("id_aa64pfr1_el1");
    let mut pstate = EL1H_DAIF | spsr & (NZCV | PAN);
    let dit = if is_aarch32(spsr) { DIT_32 } else { DIT };
    if spsr & dit != 0 {
        pstate |= DIT;
    }
    if sctlr & SPAN == 0 {
        pstate |= PAN;
    }
    if sctlr & DSSBS != 0 {
        pstate |= SSBS;
    }
    if id_field(pfr1, 8) >= 2 {
        pstate |= TCO;
    }
    if id_field(pfr1, 36) != 0 && sctlr & SPINTMASK == 0 {
        pstate |= ALLINT;
    }
    pstate
}

fn is_aarch32(spsr: u64) -> bool {
    spsr & 1 << 4 != 0
}

/// Makes the host take a synchronous exception with `esr` instead of the
/// instruction at `frame.elr`.
///
/// `external` says that it is an external abort, which SCTLR2_EL1.EASE sends to
/// the SError vector.
fn take_exception(frame: &mut Frame, esr: u64, external: bool) {
    const EASE: u64 = 1 << 5;
    const SERROR_VECTOR: u64 = 0x180;
    let spsr = frame.spsr;
    // Offset in EL1's vector table (DDI 0487, D1.3.1.2).
    let offset = match spsr & 0x1f {
        0x04 => 0x000,                     // EL1t
        0x05 => 0x200,                     // EL1h
        mode if mode & 0x10 == 0 => 0x400, // EL0, AArch64
        _ => 0x600,                        // EL0, AArch32
    };
    let mut vbar = read_sysreg!("vbar_el1");
    if external
        && id_field(read_sysreg!("s3_0_c0_c7_3"), 4) != 0
        && read_sysreg!("s3_0_c1_c0_3") & EASE != 0
    {
        vbar = vbar.wrapping_add(SERROR_VECTOR);
    }
    let sctlr = read_sysreg!("sctlr_el1");
    // SAFETY: EL1's exception registers are the host's state; EL2 uses none of
    // them.
    unsafe {
        write_sysreg!("esr_el1", esr);
        write_sysreg!("elr_el1", frame.elr);
        write_sysreg!("spsr_el1", spsr);
    }
    frame.elr = vbar.wrapping_add(offset);
    frame.spsr = exception_pstate(spsr, sctlr);
}

const IL: u64 = 1 << 25;

/// Answers an access of the host's that EL2 does not carry out: with a
/// synchronous external abort, as a bus would where nothing is, or with the fault
/// that the access is itself.
pub fn inject_abort(frame: &mut Frame, esr: u64, far: u64) {
    let (status, external) = match Syndrome(esr).abort_answer() {
        AbortAnswer::External(status) => (status, true),
        AbortAnswer::Own(status) => (status, false),
        AbortAnswer::Again => {
            crate::mmu::invalidate_host_tlb();
            return;
        }
    };
    let from_el0 = frame.spsr & 0xf == 0 || is_aarch32(frame.spsr);
    let data = Syndrome(esr).class() == Class::DataAbort;
    // Class: instruction or data abort, from a lower level or the same.
    let class: u64 = match (data, from_el0) {
        (false, true) => 0x20,
        (false, false) => 0x21,
        (true, true) => 0x24,
        (true, false) => 0x25,
    };
    // WnR and CM.
    let how = if data { esr & (1 << 6 | 1 << 8) } else { 0 };
    // SAFETY: as in `take_exception`.
    unsafe { write_sysreg!("far_el1", far) }
    let esr = class << 26 | esr & IL | how | u64::from(status);
    take_exception(frame, esr, external);
}

/// Answers an instruction that the host may not use as undefined.
pub fn inject_undefined(frame: &mut Frame) {
    take_exception(frame, IL, false);
}

/// Lets an SError with this syndrome be pending for the host, which takes it as soon
/// as it does not mask them. FEAT_RAS.
pub fn inject_serror(iss: u64) {
    const VSE: u64 = 1 << 8;
    let hcr = read_sysreg!("hcr_el2");
    // SAFETY: what is pending for EL1 changes nothing at EL2.
    unsafe {
        write_sysreg!("s3_4_c5_c2_3", iss); // VSESR_EL2
        write_sysreg!("hcr_el2", hcr | VSE);
    }
    isb();
}
