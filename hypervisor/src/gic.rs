//! The GIC: the hypervisor's own interrupts, and the filter that keeps the
//! host's hands off them.
//!
//! With a single security state (GICD_CTLR.DS = 1) Group 0 interrupts are
//! signalled as FIQ. HCR_EL2.FMO takes those to EL2, while the host's, in
//! Group 1, go straight to EL1 as IRQ. The price of FMO is that writes of the
//! SGI registers trap (IHI 0069, 12.2; ICC_SGI1R_EL1). The other registers that
//! are common to both groups would become the virtual ones; ICH_HCR_EL2.TC
//! traps them instead, so that the host reads and writes the real state.
//!
//! On a GIC with two security states Group 0 is the secure side's. There EL2 takes
//! no interrupt, and lets everything through but what makes the GIC a bus master:
//! the LPIs (see `its`).

mod emulate;

pub use emulate::{Access, Outcome, is_filtered, mmio, sysreg_trap};

use crate::lock::Mutex;
use crate::log::{RateLimit, warning};
use crate::mmio::Device;
use crate::percpu::{self, MAX_CPUS, PER_CPU, PerCpu, power};
use crate::psci::this_affinity;
use crate::sysreg::{dsb_sy, isb, now_us, read_sysreg, write_sysreg};
use crate::{its, smmu};
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_gic_filter::{
    EXTENDED_SPI, OWN_PRIORITY, Owned, clamp_priorities, extended_ppi_words, extended_spi_end,
};
use spin::Once;

const GICD_CTLR: u64 = 0x0000;
const GICD_TYPER: u64 = 0x0004;
const GICD_IGROUPR: u64 = 0x0080;
const GICD_ISENABLER: u64 = 0x0100;
const GICD_ICENABLER: u64 = 0x0180;
const GICD_ISPENDR: u64 = 0x0200;
const GICD_ICPENDR: u64 = 0x0280;
const GICD_ICACTIVER: u64 = 0x0380;
const GICD_IPRIORITYR: u64 = 0x0400;
const GICD_ICFGR: u64 = 0x0c00;
const GICD_IROUTER: u64 = 0x6000;
/// `GICD_IGROUPR<n>E`, `ISPENDR<n>E` and `IPRIORITYR<n>E`: of extended SPIs.
const GICD_IGROUPRE: u64 = 0x1000;
const GICD_ISPENDRE: u64 = 0x1600;
const GICD_IPRIORITYRE: u64 = 0x2000;
const EXTENDED_SPI_LAST: u32 = EXTENDED_SPI + 1023;
/// GICD_CTLR.RWP: a write has not taken effect everywhere yet.
const CTLR_RWP: u32 = 1 << 31;
/// GICD_TYPER.MBIS: a frame for message-based SPIs follows the distributor's.
const TYPER_MBIS: u32 = 1 << 16;
/// GICD_CTLR.DS: one security state.
const CTLR_DS: u32 = 1 << 6;
const CTLR_ARE: u32 = 1 << 4;
const CTLR_GROUP_0: u32 = 1 << 0;

const GICR_WAKER: u64 = 0x0014;
const GICR_TYPER: u64 = 0x0008;
const SGI_FRAME: u64 = 0x1_0000;
/// Bytes of a frame.
const FRAME: u64 = 0x1_0000;
/// Four interrupts with the priority that is the middle of the range.
const MIDDLE_PRIORITIES: u32 = 0xa0a0_a0a0;
const WAKER_SLEEP: u32 = 1 << 1;
const WAKER_ASLEEP: u32 = 1 << 2;

/// How long the GIC may take to accept a change.
const TIMEOUT_US: u64 = 100_000;

/// Interrupts taken in one FIQ before the CPU goes back to the host.
const BATCH: usize = 8;

/// One interrupt of the hypervisor's, as the device tree describes it.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// INTID, an SPI.
    pub intid: u32,
    /// Edge-triggered; level-sensitive otherwise.
    pub edge: bool,
}

/// A GICv3.
struct Gic {
    /// It has one security state, so that Group 0 is ours.
    own_group: bool,
    distributor: Device,
    /// RD frame of each CPU's redistributor, by index.
    redistributors: [Option<Device>; MAX_CPUS],
    /// Those of CPUs that the tree does not name.
    others: Others,
    owned: Owned,
    /// One more than the INTID of the last extended SPI.
    extended_end: u32,
}

static GIC: Once<Gic> = Once::new();
/// Held while a register is read, changed and written back, or while the route
/// of our interrupts changes.
static CONFIGURATION: Mutex<()> = Mutex::new(());
/// Affinity of the CPU that our interrupts go to.
static TARGET: AtomicU64 = AtomicU64::new(0);
static UNEXPECTED: RateLimit = RateLimit::new();

/// Whether FIQs come to EL2 on this machine.
#[must_use]
pub fn takes_fiq() -> bool {
    GIC.get().is_some_and(|gic| gic.own_group)
}

/// When the SMMUs are to be looked at because of time, in counter ticks.
static NEXT_LOOK: AtomicU64 = AtomicU64::new(0);

/// Whether more than 50 ms went by since this last said so. A host can mask our
/// interrupt on a CPU by forging an active priority (ICC_AP1R0_EL1 is its own),
/// so the SMMUs are also looked at when it comes to EL2 for another reason.
#[inline]
#[must_use]
pub fn look_is_due() -> bool {
    let now = read_sysreg!("cntpct_el0");
    if now < NEXT_LOOK.load(Ordering::Relaxed) {
        return false;
    }
    let due = now.saturating_add(read_sysreg!("cntfrq_el0") / 20);
    NEXT_LOOK.store(due, Ordering::Relaxed);
    true
}

/// The pages whose accesses the filter must see, and those that the host may not
/// reach at all: absent from the host's stage 2. Every page of a redistributor is among them,
/// and so are those for virtual LPIs, which have table addresses of their own.
pub fn filtered_pages(mut each: impl FnMut(Range<PhysAddr>)) {
    let Some(gic) = GIC.get() else { return };
    let mut page = |device: &Device, offset: u64, size: u64| {
        if let Some(start) = device.range().start().checked_add(offset)
            && let Ok(range) = Range::from_size(start, size)
        {
            each(range);
        }
    };
    page(&gic.distributor, 0, FRAME);
    if gic.own_group && gic.distributor.read32(GICD_TYPER) & TYPER_MBIS != 0 {
        page(&gic.distributor, FRAME, FRAME);
    }
    for redistributor in gic.redistributors.iter().flatten() {
        let frames = if has_virtual_lpis(redistributor) {
            4
        } else {
            2
        };
        page(redistributor, 0, frames * FRAME);
    }
}

/// GICR_TYPER.VLPIS.
fn has_virtual_lpis(redistributor: &Device) -> bool {
    redistributor.read64(GICR_TYPER) & 1 << 1 != 0
}

/// Whether a redistributor has frames for virtual LPIs, which the host does not
/// see.
#[must_use]
pub fn hides_virtual_lpis() -> bool {
    GIC.get()
        .is_some_and(|gic| gic.redistributors.iter().flatten().any(has_virtual_lpis))
}

/// Calls `each` with the index of every CPU and its redistributor.
pub fn for_each_redistributor(mut each: impl FnMut(usize, &Device)) {
    let Some(gic) = GIC.get() else { return };
    for (cpu, redistributor) in gic.redistributors.iter().enumerate() {
        if let Some(redistributor) = redistributor {
            each(cpu, redistributor);
        }
    }
}

/// Whether `intid` is one of the hypervisor's interrupts.
#[must_use]
pub fn owns(intid: u32) -> bool {
    GIC.get().is_some_and(|gic| gic.owned.contains(intid))
}

/// One more than the INTID of the last SPI (IHI 0069, `GICD_TYPER.ITLinesNumber`),
/// and of the last extended one.
#[must_use]
pub fn spi_ends(distributor: &Device) -> [u32; 2] {
    let typer = distributor.read32(GICD_TYPER);
    let end = (((typer & 0x1f) + 1) * 32).min(1020);
    [end, extended_spi_end(typer)]
}

/// Whether this distributor has a single security state, so that Group 0 can be
/// the hypervisor's.
#[must_use]
pub fn can_be_taken(distributor: &Device) -> bool {
    distributor.read32(GICD_CTLR) & CTLR_DS != 0
}

/// The redistributors of CPUs that the tree does not name, each with its RD and SGI
/// frame. A host looks at all of them on its way to its own
/// (`GICR_TYPER.Last`), and may read what they are.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    list: [Option<Device>; MAX_CPUS],
    count: usize,
}

impl Others {
    /// None.
    pub const fn new() -> Self {
        Self {
            list: [None; MAX_CPUS],
            count: 0,
        }
    }

    /// Adds one. One that is too many is absent for the host.
    pub fn add(&mut self, redistributor: Device) {
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = Some(redistributor);
            self.count += 1;
        }
    }

    /// The one that has `address`.
    fn at(&self, address: PhysAddr) -> Option<&Device> {
        let mut all = self.list.iter().flatten();
        all.find(|other| other.range().contains(address))
    }
}

/// Index of the CPU whose redistributor answers at `redistributor`.
#[must_use]
pub fn cpu_of(redistributor: &Device) -> Option<usize> {
    let affinity = affinity_of(redistributor.read64(GICR_TYPER));
    PER_CPU.iter().position(|cpu| {
        cpu.stack.load(Ordering::Relaxed) != 0 && cpu.mpidr.load(Ordering::Relaxed) == affinity
    })
}

/// Takes Group 0 and the interrupts `lines` for the hypervisor.
/// `redistributors` has the RD frame of each CPU by its index, `others` the rest.
///
/// Lines that the filter cannot protect (no SPI, or too many) are left out;
/// [`owns`] tells.
pub fn take(
    distributor: Device,
    redistributors: [Option<Device>; MAX_CPUS],
    others: Others,
    lines: impl Iterator<Item = Line>,
) {
    let [_, extended_end] = spi_ends(&distributor);
    let mut gic = Gic {
        own_group: true,
        distributor,
        redistributors,
        others,
        owned: Owned::new(),
        extended_end,
    };
    let settle = || wait(|| distributor.read32(GICD_CTLR) & CTLR_RWP == 0);
    // From whatever state firmware left: nothing is signalled while groups and
    // priorities change, and everything is the host's (Group 1), below ours…
    distributor.write32(GICD_CTLR, CTLR_ARE);
    settle();
    let give = |groups: u64, priorities: u64, words: RangeInclusive<u64>| {
        for word in words {
            distributor.write32(groups + word * 4, u32::MAX);
            for quarter in 0..8 {
                let at = priorities + word * 32 + quarter * 4;
                distributor.write32(at, MIDDLE_PRIORITIES);
            }
        }
    };
    let last_word = u64::from(distributor.read32(GICD_TYPER) & 0x1f);
    give(GICD_IGROUPR, GICD_IPRIORITYR, 1..=last_word);
    if let Some(last) = ((extended_end - EXTENDED_SPI) / 32).checked_sub(1) {
        give(GICD_IGROUPRE, GICD_IPRIORITYRE, 0..=last.into());
    }
    // …but our own.
    let target = this_affinity();
    for line in lines {
        if !gic.owned.add(line.intid) {
            continue;
        }
        let n = u64::from(line.intid);
        let (word, bit) = (n / 32 * 4, 1 << (n % 32));
        distributor.write32(GICD_ICENABLER + word, bit);
        settle();
        distributor.write32(GICD_ICACTIVER + word, bit);
        let group = GICD_IGROUPR + word;
        distributor.write32(group, distributor.read32(group) & !bit);
        distributor.write8(GICD_IPRIORITYR + n, OWN_PRIORITY);
        let kind = GICD_ICFGR + n / 16 * 4;
        let edge = 2 << (n % 16 * 2);
        let others = distributor.read32(kind) & !edge;
        distributor.write32(kind, if line.edge { others | edge } else { others });
        distributor.write64(GICD_IROUTER + n * 8, target);
        distributor.write32(GICD_ICPENDR + word, bit);
        distributor.write32(GICD_ISENABLER + word, bit);
    }
    distributor.write32(GICD_CTLR, CTLR_ARE | CTLR_GROUP_0);
    if !settle() {
        warning!(
            "event=gic_timeout what=distributor address={}",
            distributor.range().start()
        );
    }
    TARGET.store(target, Ordering::Relaxed);
    GIC.call_once(|| gic);
}

/// Makes a GIC known whose Group 0 is not ours. Nothing of it changes, but that
/// affinity routing is on, without which there are no LPIs.
pub fn watch(distributor: Device, redistributors: [Option<Device>; MAX_CPUS], others: Others) {
    if distributor.read32(GICD_CTLR) & CTLR_ARE == 0 {
        // Only with every group of the non-secure side's disabled (IHI 0069,
        // GICD_CTLR.ARE_NS).
        for value in [0, CTLR_ARE] {
            distributor.write32(GICD_CTLR, value);
            wait(|| distributor.read32(GICD_CTLR) & CTLR_RWP == 0);
        }
    }
    GIC.call_once(|| Gic {
        own_group: false,
        distributor,
        redistributors,
        others,
        owned: Owned::new(),
        extended_end: spi_ends(&distributor)[1],
    });
}

/// The distributor, also where the GIC stays the host's: for [`raise`].
static DISTRIBUTOR: Once<Device> = Once::new();

/// Makes the distributor known to [`raise`].
pub fn use_distributor(distributor: Device) {
    DISTRIBUTOR.call_once(|| distributor);
}

/// Signals an edge on an SPI of the host's, from a device that EL2 emulates.
/// Whether and where it is taken is the host's to say.
pub fn raise(intid: u32) {
    let (block, n) = match intid {
        32..1020 => (GICD_ISPENDR, u64::from(intid)),
        EXTENDED_SPI..=EXTENDED_SPI_LAST => (GICD_ISPENDRE, u64::from(intid - EXTENDED_SPI)),
        _ => return,
    };
    if let Some(distributor) = DISTRIBUTOR.get() {
        // What the interrupt is about must be seen before it.
        dsb_sy();
        distributor.write32(block + n / 32 * 4, 1 << (n % 32));
    }
}

/// Makes one of the hypervisor's interrupts pending again: its work was cut
/// off, and the next edge may never come.
pub fn pend_again(intid: u32) {
    if let Some(gic) = GIC.get()
        && gic.owned.contains(intid)
    {
        let n = u64::from(intid);
        gic.distributor
            .write32(GICD_ISPENDR + n / 32 * 4, 1 << (n % 32));
    }
}

/// GICR_TYPER.Affinity_Value, bits 63:32, in the layout of MPIDR_EL1.
fn affinity_of(typer: u64) -> u64 {
    let affinity = typer >> 32;
    (affinity & 0xff00_0000) << 8 | affinity & 0x00ff_ffff
}

fn wait(mut done: impl FnMut() -> bool) -> bool {
    let deadline = now_us().saturating_add(TIMEOUT_US);
    while !done() {
        if now_us() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Sets up this CPU's side, before the host runs on it, and counts it as on.
pub fn enter_cpu(cpu: &PerCpu) {
    // GIC system registers exist (PFR0.GIC): the host may use them.
    if read_sysreg!("id_aa64pfr0_el1") >> 24 & 0xf != 0 {
        init_interface();
    }
    if takes_fiq()
        && let Some(redistributor) = own_redistributor()
    {
        redistributor.write32(GICR_WAKER, redistributor.read32(GICR_WAKER) & !WAKER_SLEEP);
        if !wait(|| redistributor.read32(GICR_WAKER) & WAKER_ASLEEP == 0) {
            warning!(
                "event=gic_timeout what=redistributor_wake address={}",
                redistributor.range().start()
            );
        }
        redistributor.write32(SGI_FRAME + GICD_IGROUPR, u32::MAX);
        let extended = extended_ppi_words(redistributor.read64(GICR_TYPER));
        for word in 1..=extended {
            redistributor.write32(SGI_FRAME + GICD_IGROUPR + word * 4, u32::MAX);
        }
        // What the host never writes has whatever priority reset gives, which
        // is the highest in QEMU.
        for word in 0..8 * (1 + extended) {
            let at = SGI_FRAME + GICD_IPRIORITYR + word * 4;
            let clamped = clamp_priorities(redistributor.read32(at).into(), 4);
            redistributor.write32(at, clamped as u32);
        }
    }
    if let Some(redistributor) = own_redistributor() {
        its::enter_cpu(percpu::index(), &redistributor);
    }
    stay(cpu);
}

fn own_redistributor() -> Option<Device> {
    let gic = GIC.get()?;
    gic.redistributors.get(percpu::index()).copied().flatten()
}

fn init_interface() {
    if !takes_fiq() {
        // SAFETY: interrupt controller state only: the host's interface is its
        // own (ICC_SRE_EL2: SRE, DFB, DIB, Enable), with no virtual interrupt.
        unsafe {
            write_sysreg!("s3_4_c12_c9_5", 0xf);
            isb();
            write_sysreg!("s3_4_c12_c11_0", 0); // ICH_HCR_EL2
        }
        return;
    }
    const ICH_HCR_TC: u64 = 1 << 10;
    // SAFETY: as above; EL2 takes no interrupt while it runs (PSTATE.DAIF is
    // set on every entry). Without ICC_SRE_EL2.Enable the host's accesses to
    // ICC_SRE_EL1 trap, so that it cannot turn the registers off.
    unsafe {
        write_sysreg!("s3_4_c12_c9_5", 0x7);
        isb();
        write_sysreg!("s3_0_c12_c12_5", 0x7); // ICC_SRE_EL1
        isb();
        write_sysreg!("s3_4_c12_c11_0", ICH_HCR_TC);
        write_sysreg!("s3_4_c12_c11_7", 0); // ICH_VMCR_EL2
        write_sysreg!("s3_0_c4_c6_0", 0xff); // ICC_PMR_EL1: nothing is masked
        write_sysreg!("s3_0_c12_c8_3", 0); // ICC_BPR0_EL1
        write_sysreg!("s3_0_c12_c8_4", 0); // ICC_AP0R0_EL1: nothing is active
        write_sysreg!("s3_0_c12_c9_0", 0); // ICC_AP1R0_EL1
        write_sysreg!("s3_0_c12_c12_4", 0); // ICC_CTLR_EL1
        write_sysreg!("s3_0_c12_c12_6", 1); // ICC_IGRPEN0_EL1
    }
    isb();
}

/// Counts a CPU as on, and sends our interrupts to it when nobody else takes
/// them.
///
/// Every change of a CPU between on and off is made under one lock together
/// with the choice of the target, so that the target is never a CPU that has
/// just left.
pub fn stay(cpu: &PerCpu) {
    let _guard = CONFIGURATION.lock();
    let target = TARGET.load(Ordering::Relaxed);
    let alive = percpu::all().any(|other| {
        other.mpidr.load(Ordering::Relaxed) == target
            && other.power.load(Ordering::Acquire) == power::ON
    });
    if !alive && let Some(gic) = GIC.get() {
        route(gic, cpu.mpidr.load(Ordering::Relaxed));
    }
    cpu.power.store(power::ON, Ordering::Release);
}

/// Counts a CPU as off, and sends our interrupts to another one that is on.
pub fn leave(cpu: &PerCpu) {
    let _guard = CONFIGURATION.lock();
    cpu.power.store(power::OFF, Ordering::Release);
    let Some(gic) = GIC.get() else { return };
    let this = cpu.mpidr.load(Ordering::Relaxed);
    if TARGET.load(Ordering::Relaxed) != this {
        return;
    }
    if let Some(other) =
        percpu::all().find(|other| other.power.load(Ordering::Acquire) == power::ON)
    {
        route(gic, other.mpidr.load(Ordering::Relaxed));
    }
}

fn route(gic: &Gic, target: u64) {
    for intid in gic.owned.iter() {
        gic.distributor
            .write64(GICD_IROUTER + u64::from(intid) * 8, target);
    }
    TARGET.store(target, Ordering::Relaxed);
}

/// Takes pending interrupts of ours.
pub fn own_interrupt() {
    const EOI_MODE: u64 = 1 << 1;
    let Some(gic) = GIC.get() else { return };
    for _ in 0..BATCH {
        let intid = read_sysreg!("s3_0_c12_c8_0") & 0xff_ffff; // ICC_IAR0_EL1
        if (1020..1024).contains(&intid) {
            return;
        }
        let intid = intid as u32;
        let mut finished = true;
        if gic.owned.contains(intid) {
            finished = smmu::interrupt(intid);
        } else {
            demote(gic, intid);
        }
        // SAFETY: ends the interrupt that was acknowledged above.
        unsafe { write_sysreg!("s3_0_c12_c8_1", u64::from(intid)) } // ICC_EOIR0_EL1
        if read_sysreg!("s3_0_c12_c12_4") & EOI_MODE != 0 {
            // The host chose to deactivate separately, for both groups.
            // SAFETY: as above.
            unsafe { write_sysreg!("s3_0_c12_c11_1", u64::from(intid)) } // ICC_DIR_EL1
        }
        isb();
        if !finished {
            // It is pending again; not before this CPU went back once.
            return;
        }
    }
}

/// Moves an interrupt of the host's back to Group 1, where it arrives as IRQ.
/// The filter keeps the host from moving it here; firmware may have.
fn demote(gic: &Gic, intid: u32) {
    if let Some(dropped) = UNEXPECTED.take() {
        warning!("event=foreign_group0_interrupt intid={intid} dropped={dropped}");
    }
    let _guard = CONFIGURATION.lock();
    if intid < 32 {
        if let Some(redistributor) = own_redistributor() {
            redistributor.write32(SGI_FRAME + GICD_IGROUPR, u32::MAX);
        }
    } else if intid < 1020 {
        let group = GICD_IGROUPR + u64::from(intid / 32) * 4;
        let bits = gic.distributor.read32(group);
        gic.distributor.write32(group, bits | 1 << (intid % 32));
    } else if let Some(n) = intid.checked_sub(EXTENDED_SPI) {
        // None of them is the hypervisor's.
        let group = GICD_IGROUPRE + u64::from(n.min(1023) / 32) * 4;
        gic.distributor.write32(group, u32::MAX);
    } else if let Some(redistributor) = own_redistributor() {
        for word in 1..=extended_ppi_words(redistributor.read64(GICR_TYPER)) {
            redistributor.write32(SGI_FRAME + GICD_IGROUPR + word * 4, u32::MAX);
        }
    }
}
