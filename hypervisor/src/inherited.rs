//! What an earlier stage may have left in registers that act on EL2, or that decide
//! what the host can do: firmware, a boot loader, or a kernel that ran at EL2. Each
//! is written where the identification registers say that it exists; Linux does so
//! in `arch/arm64/include/asm/el2_setup.h`.

use crate::percpu;
use crate::sysreg::{id_field, isb, read_par_carefully, read_sysreg, write_sysreg};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_cpu::{BranchHistory, DebugIds, HistoryIds, Midr};

/// `mpam=` and `bhb=` of the command line.
static MPAM: AtomicBool = AtomicBool::new(true);
static BHB: AtomicBool = AtomicBool::new(true);

unsafe extern "C" {
    static vectors: u8;
    static vectors_forgetful: u8;
}

/// Sets what the command line said. Before the first CPU is prepared.
pub fn set_options(bhb: bool, mpam: bool) {
    BHB.store(bhb, Ordering::Relaxed);
    MPAM.store(mpam, Ordering::Relaxed);
}

/// Sets this CPU's.
pub fn replace() {
    let pfr0 = read_sysreg!("id_aa64pfr0_el1");
    let pfr1 = read_sysreg!("id_aa64pfr1_el1");
    let mmfr1 = read_sysreg!("id_aa64mmfr1_el1");
    let midr = Midr(read_sysreg!("midr_el1"));
    let actlr = midr.actlr_el2(read_sysreg!("actlr_el2"));
    // SAFETY: these decide which registers of the part's own EL1 may write, and
    // turn EL2's own timers off; EL2's translation, stack and vectors are
    // untouched. (The same holds for every block below.)
    unsafe {
        write_sysreg!("actlr_el2", actlr);
        write_sysreg!("hacr_el2", 0);
        write_sysreg!("cnthp_ctl_el2", 0);
        if id_field(mmfr1, 8) != 0 {
            write_sysreg!("s3_4_c14_c3_1", 0); // CNTHV_CTL_EL2, of FEAT_VHE
        }
        if id_field(mmfr1, 16) != 0 {
            write_sysreg!("s3_0_c10_c4_3", 0); // LORC_EL1
        }
    }
    if id_field(pfr1, 44) != 0 {
        // SAFETY: as above: no guarded control stack before the host asks for one.
        unsafe {
            write_sysreg!("s3_0_c2_c5_0", 0); // GCSCR_EL1
            write_sysreg!("s3_0_c2_c5_2", 0); // GCSCRE0_EL1
        }
    }
    if MPAM.load(Ordering::Relaxed) && (id_field(pfr0, 40) != 0 || id_field(pfr1, 16) != 0) {
        const EN_MPAMSM: u64 = 1 << 50;
        const HAS_HCR: u64 = 1 << 17;
        // SAFETY: as above: MPAM2_EL2 traps nothing, and has no partition of ours.
        unsafe { write_sysreg!("s3_4_c10_c5_0", EN_MPAMSM) }
        if read_sysreg!("s3_0_c10_c4_4") & HAS_HCR != 0 {
            // SAFETY: as above: MPAMHCR_EL2 does not trap MPAMIDR_EL1.
            unsafe { write_sysreg!("s3_4_c10_c4_0", 0) }
        }
    }
    if midr.needs_barriers_around_par() || id_field(read_sysreg!("s3_0_c0_c7_3"), 32) != 0 {
        read_par_carefully();
    }
    debug_and_profiling();
    choose_vectors(midr, pfr0, mmfr1);
    isb();
}

fn debug_and_profiling() {
    let mut ids = DebugIds {
        dfr0: read_sysreg!("id_aa64dfr0_el1"),
        pmcr: 0,
    };
    if ids.has_monitor() {
        ids.pmcr = read_sysreg!("pmcr_el0");
    }
    // SAFETY: as in `replace`.
    unsafe { write_sysreg!("mdcr_el2", ids.mdcr(cfg!(feature = "count-el2"))) }
    if ids.has_trace_filter() {
        // SAFETY: as above: EL2 is not traced.
        unsafe { write_sysreg!("s3_4_c1_c2_1", 0) } // TRFCR_EL2
    }
    if ids.has_branch_records() {
        const CC: u64 = 1 << 3;
        const MPRED: u64 = 1 << 4;
        // SAFETY: as above: EL2's branches are not recorded; what the host may
        // have recorded of its own needs both bits (BRBCR_EL2).
        unsafe { write_sysreg!("s2_4_c9_c0_0", CC | MPRED) }
    }
    if ids.has_profiling() {
        /// PMBIDR_EL1.P: the buffer is EL3's.
        const P: u64 = 1 << 4;
        const PCT_PHYSICAL: u64 = 1 << 6;
        const PA: u64 = 1 << 4;
        if read_sysreg!("s3_0_c9_c10_7") & P == 0 {
            // SAFETY: as above: EL2 is not profiled; the host may have physical
            // addresses and the physical counter (PMSCR_EL2).
            unsafe { write_sysreg!("s3_4_c9_c9_0", PCT_PHYSICAL | PA) }
        }
    }
}

/// The vectors that drop the host's branch history, where the part needs that.
fn choose_vectors(midr: Midr, pfr0: u64, mmfr1: u64) {
    let ids = HistoryIds {
        pfr0,
        isar2: read_sysreg!("s3_0_c0_c6_2"),
        mmfr1,
    };
    let needed = match BHB.load(Ordering::Relaxed) {
        true => BranchHistory::of(midr, ids),
        false => BranchHistory::Harmless,
    };
    // As `vectors_forgetful` has it.
    let how = match needed {
        BranchHistory::Harmless => None,
        BranchHistory::Clear => Some(0),
        BranchHistory::Loop(rounds) => Some(u64::from(rounds)),
        BranchHistory::Firmware => Some(1 << 8),
    };
    percpu::this()
        .history
        .store(how.unwrap_or(0), Ordering::Relaxed);
    let table = match how {
        Some(_) => &raw const vectors_forgetful,
        None => &raw const vectors,
    };
    // SAFETY: both are vector tables of `entry.rs` for EL2 that do the same.
    unsafe { write_sysreg!("vbar_el2", table as u64) }
}
