//! What each CPU has of its own.

use crate::sysreg::read_sysreg;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// CPUs that the image has room for. Each costs its stacks only when the device
/// tree names it.
pub const MAX_CPUS: usize = 64;

/// Mask of the affinity fields of MPIDR_EL1: Aff3 in 39:32, Aff2..0 in 23:0.
pub const AFFINITY: u64 = 0xff_00ff_ffff;

/// Why EL2 was entered; the index into [`PerCpu::entries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// SMC of the host: PSCI and the other allowed calls.
    Smc,
    /// HVC of the host.
    Hvc,
    /// A software-generated interrupt, which traps because FIQ is routed to EL2.
    Sgi,
    /// Another trapped system register.
    Sysreg,
    /// Data access that stage 2 does not map: GIC registers that are filtered.
    Gic,
    /// Access to a register of an SMMU that the hypervisor emulates.
    Smmu,
    /// Write to a register of an ITS that the hypervisor emulates.
    Its,
    /// Access to a register of the virtio-iommu.
    Viommu,
    /// Data access to what the host may not touch.
    DataAbort,
    /// Instruction fetch from what the host may not touch.
    FetchAbort,
    /// An interrupt of the hypervisor's own.
    Fiq,
    /// Anything else.
    Other,
}

/// Names of the reasons, in order, as the log prints them.
pub const REASONS: [&str; 12] = [
    "smc",
    "hvc",
    "sgi",
    "sysreg",
    "gic",
    "smmu",
    "its",
    "viommu",
    "data_abort",
    "fetch_abort",
    "fiq",
    "other",
];

/// Where a CPU is between off and on, as the host sees it.
pub mod power {
    /// Off; `CPU_ON` may claim it.
    pub const OFF: u32 = 0;
    /// A `CPU_ON` is under way.
    pub const PENDING: u32 = 1;
    /// Runs the host.
    pub const ON: u32 = 2;
}

/// Sets of pages that a CPU has mapped at a time; a page can be in one of them,
/// which its number says. Linux keeps requests to map and to unmap, which differ
/// in size, in two pages for each of its CPUs, and one CPU notifies of what others
/// asked for.
pub const SLOT_SETS: usize = 4;

/// Pages of a set.
pub const SLOT_WAYS: usize = 2;

/// See [`enter_page`](crate::mmu::enter_page).
#[derive(Debug)]
pub struct Slot {
    /// Physical address of the page, plus 2, plus 1 where it is not cacheable; 0 while
    /// there is none. That makes the whole block zero at first, so that the image does
    /// not have it.
    pub page: AtomicU64,
    /// Where the slot is at EL2, for as long as the machine runs.
    pub at: AtomicU64,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            page: AtomicU64::new(0),
            at: AtomicU64::new(0),
        }
    }
}

/// One CPU's block. The fields up to [`history`](Self::history) are used by assembly at
/// fixed offsets, the first six of them before the MMU is on.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Offset 0: top of the stack for reporting our own failures.
    pub fatal_stack: AtomicU64,
    /// Offset 8: top of the stack.
    pub stack: AtomicU64,
    /// Offset 16: TTBR0_EL2.
    pub ttbr: AtomicU64,
    /// Offset 24: TCR_EL2.
    pub tcr: AtomicU64,
    /// Offset 32: MAIR_EL2.
    pub mair: AtomicU64,
    /// Offset 40: SCTLR_EL2 with the MMU on.
    pub sctlr: AtomicU64,
    /// Offset 48: not 0 once an access has ended in an external abort; see
    /// [`take_abort`](crate::fixup::take_abort).
    pub aborted: AtomicU64,
    /// Offset 56: registers of an access that ended in an exception, while a way
    /// to go on is looked for.
    pub saved: [AtomicU64; 4],
    /// Offset 88: how this CPU forgets the host's branch history on the way into EL2;
    /// see `vectors_forgetful`.
    pub history: AtomicU64,
    /// MPIDR_EL1, affinity fields only.
    pub mpidr: AtomicU64,
    /// One of [`power`].
    pub power: AtomicU32,
    /// How far this CPU is with a failure of its own; see `fatal`.
    pub failed: AtomicU32,
    /// Not 0 once EL2 has failed, on this CPU or another: nothing is done for the
    /// host from then on.
    pub halted: AtomicU32,
    /// Where the host wants to start or resume, an IPA.
    pub host_entry: AtomicU64,
    /// What the host wants in x0 there.
    pub host_context: AtomicU64,
    /// The pages of somebody else's that this CPU has mapped.
    pub slots: [[Slot; SLOT_WAYS]; SLOT_SETS],
    /// Which of each set gives way next.
    pub turns: [AtomicU32; SLOT_SETS],
    /// EL2 entries by [`Reason`].
    pub entries: [AtomicU64; REASONS.len()],
    /// SMCs and HVCs that were refused.
    pub refused_calls: AtomicU64,
    /// Writes to the GIC that were refused.
    pub refused_gic: AtomicU64,
    /// Accesses to reserved registers of emulated SMMUs.
    pub reserved_smmu: AtomicU64,
    /// Where the host was to do an instruction again, since it was not the one that
    /// had accessed an emulated register, with bit 0 set; 0 since one was.
    pub sent_back: AtomicU64,
}

impl PerCpu {
    const fn new() -> Self {
        Self {
            fatal_stack: AtomicU64::new(0),
            stack: AtomicU64::new(0),
            ttbr: AtomicU64::new(0),
            tcr: AtomicU64::new(0),
            mair: AtomicU64::new(0),
            sctlr: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            saved: [const { AtomicU64::new(0) }; 4],
            history: AtomicU64::new(0),
            mpidr: AtomicU64::new(0),
            power: AtomicU32::new(power::OFF),
            failed: AtomicU32::new(0),
            halted: AtomicU32::new(0),
            host_entry: AtomicU64::new(0),
            host_context: AtomicU64::new(0),
            slots: [const { [const { Slot::empty() }; SLOT_WAYS] }; SLOT_SETS],
            turns: [const { AtomicU32::new(0) }; SLOT_SETS],
            entries: [const { AtomicU64::new(0) }; REASONS.len()],
            refused_calls: AtomicU64::new(0),
            refused_gic: AtomicU64::new(0),
            reserved_smmu: AtomicU64::new(0),
            sent_back: AtomicU64::new(0),
        }
    }

    /// Counts one EL2 entry. Only the CPU itself writes its counters, so no
    /// atomic read-modify-write is paid for on the way in.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.entries.get(reason as usize) {
            bump(counter);
        }
    }
}

/// Adds one to a counter that a single CPU writes.
pub fn bump(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

const _: () = {
    assert!(core::mem::offset_of!(PerCpu, aborted) == 48);
    assert!(core::mem::offset_of!(PerCpu, saved) == 56);
    assert!(core::mem::offset_of!(PerCpu, history) == 88);
};

/// Every CPU's block. Index 0 is the CPU that booted.
pub static PER_CPU: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];

/// Index of this CPU in [`PER_CPU`].
#[must_use]
pub fn index() -> usize {
    let offset = read_sysreg!("tpidr_el2").wrapping_sub(PER_CPU.as_ptr() as u64);
    (offset as usize / size_of::<PerCpu>()).min(MAX_CPUS - 1)
}

/// This CPU's block.
#[inline]
#[must_use]
pub fn this() -> &'static PerCpu {
    let block = read_sysreg!("tpidr_el2");
    // SAFETY: `entry.rs` points TPIDR_EL2 to an element of `PER_CPU` before any
    // Rust runs on the CPU, and nothing writes the register again.
    unsafe { &*(block as *const PerCpu) }
}

/// The blocks of the CPUs that the device tree names.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    PER_CPU
        .iter()
        .filter(|cpu| cpu.stack.load(Ordering::Relaxed) != 0)
}

/// EL2 entries of all CPUs so far.
#[must_use]
pub fn total_entries() -> u64 {
    all()
        .flat_map(|cpu| &cpu.entries)
        .map(|counter| counter.load(Ordering::Relaxed))
        .fold(0, u64::wrapping_add)
}
