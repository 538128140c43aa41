//! What the running hypervisor knows of the machine.

use crate::host::Stage2Registers;
use crate::lock::Mutex;
use crate::memory::Shared;
use crate::mmu;
use crate::sysreg::isb;
use core::arch::asm;
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_isolation::{Ledger, OwnerSpace, Sharing, VmidRange, Vmids};
use portcullis_memory::Memory;
use portcullis_pagetable::Bbm;
use spin::Once;

/// The host's memory, as tables and ledger have it.
pub type Host = OwnerSpace<'static, Shared, Shared>;

static HOST: Once<Mutex<Host>> = Once::new();
static LEDGER: Once<Ledger<'static>> = Once::new();
static STAGE2: Once<Stage2Registers> = Once::new();
/// The root table of the host's stage 2.
static ROOT: Once<Range<PhysAddr>> = Once::new();

/// The VMIDs that are in use on CPUs and SMMUs.
static VMIDS: Once<Mutex<Vmids>> = Once::new();

/// Says how many bits of a VMID every SMMU tells apart. Called once, at boot.
pub fn set_vmid_bits(bits: u8) {
    VMIDS.call_once(|| Mutex::new(Vmids::new(bits)));
}

/// How many VMIDs are free.
#[must_use]
pub fn free_vmids() -> u32 {
    VMIDS.get().map_or(0, |vmids| vmids.lock().free())
}

/// `count` VMIDs side by side that nothing else uses. `None` when there are none.
#[must_use]
pub fn take_vmids(count: u32) -> Option<VmidRange> {
    VMIDS.get()?.lock().take(count)
}

/// Makes the host's memory known to every CPU.
pub fn set_host(space: Host) {
    let geometry = space.cpu().geometry();
    let (ps, t0sz, sl0, tg0) = (
        geometry.ps(),
        geometry.t0sz(),
        geometry.sl0(),
        geometry.tg0(),
    );
    // Bit 31 is RES1; inner shareable, write-back walks (DDI 0487, VTCR_EL2).
    let vtcr = 1 << 31 | ps << 16 | tg0 << 14 | 3 << 12 | 1 << 10 | 1 << 8 | sl0 << 6 | t0sz;
    let vttbr = u64::from(space.vmid().0) << 48 | space.cpu().root().raw();
    STAGE2.call_once(|| Stage2Registers { vtcr, vttbr });
    if let Ok(root) = Range::from_size(space.cpu().root(), geometry.root_bytes()) {
        ROOT.call_once(|| root);
    }
    LEDGER.call_once(|| *space.ledger());
    HOST.call_once(|| Mutex::new(space));
}

/// Calls `with` with the host's memory, once it is known.
#[cfg(feature = "digest")]
pub fn with_host(with: impl FnOnce(&Host)) {
    if let Some(host) = HOST.get() {
        with(&host.lock());
    }
}

/// Who owns which page; `None` before the host's memory is known.
#[must_use]
pub fn ledger() -> Option<&'static Ledger<'static>> {
    LEDGER.get()
}

/// Stage 2 of the host's CPUs.
#[must_use]
pub fn stage2() -> Stage2Registers {
    match STAGE2.get() {
        Some(registers) => *registers,
        None => crate::fatal::fatal(format_args!("a CPU came up before the host's memory")),
    }
}

/// Takes the host's memory away from every CPU, which therefore comes to EL2 with its
/// next access, a fetch included. For when EL2 has failed: takes no lock.
pub fn stop_host() {
    let Some(root) = ROOT.get() else { return };
    for at in (root.start().raw()..root.end().raw()).step_by(8) {
        Shared::COHERENT.store(PhysAddr::new(at), 0);
    }
    // SAFETY: dropping cached translations never changes what memory holds. When
    // the barrier is complete no CPU has one left (DDI 0487, D8.16). Twice: see
    // `mmu::invalidate_host_tlb`.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi alle1is",
            "dsb ish",
            "tlbi alle1is",
            "dsb ish",
            options(nostack)
        )
    }
    isb();
}

/// Whether a CPU of the host may start at `entry`: in RAM of the host, on an
/// instruction.
#[must_use]
pub fn host_can_run_at(entry: Ipa) -> bool {
    entry.raw().is_multiple_of(4) && HOST.get().is_some_and(|host| host.lock().is_ram(entry))
}

/// Whether the host's stage 2 works on this CPU as on the one that booted.
#[must_use]
pub fn suits_this_cpu() -> bool {
    HOST.get().is_some_and(|host| {
        let host = host.lock();
        let shared = host.sharing() == Sharing::Shared;
        host.cpu().geometry().output_bits() <= mmu::physical_bits()
            && (!shared || mmu::bbm() == Bbm::Level2)
    })
}
