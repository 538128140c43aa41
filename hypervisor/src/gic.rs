//! The GIC: the hypervisor's own interrupts, and the filter that keeps the
//! host's hands off them.
//!
//! With a single security state (GICD_CTLR.DS = 1) Group 0 interrupts are
//! signalled as FIQ. HCR_EL2.FMO takes those to EL2, while the host's, in
//! Group 1, go straight to EL1 as IRQ. The price of FMO is that writes of the
//! SGI registers trap (IHI 0069, 12.2; ICC_SGI1R_EL1). The other registers that
//! are common to both groups would become the virtual ones; ICH_HCR_EL2.TC
//! traps them instead, so that the host reads and writes the real state.

use crate::log::{RateLimit, warning};
use crate::mmio::Device;
use crate::percpu::{self, MAX_CPUS, PerCpu, Reason, bump, power};
use crate::psci::this_affinity;
use crate::smmu;
use crate::sysreg::{isb, now_us, read_sysreg, write_sysreg};
use crate::trap::Frame;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};
use portcullis_gic_filter::{
    HOST_PRIORITY, OWN_PRIORITY, Owned, Verdict, distributor_write, rd_write, sgi_write,
};
use spin::{Mutex, Once};

const GICD_CTLR: u64 = 0x0000;
const GICD_TYPER: u64 = 0x0004;
const GICD_IGROUPR: u64 = 0x0080;
const GICD_ISENABLER: u64 = 0x0100;
const GICD_IPRIORITYR: u64 = 0x0400;
const GICD_ICFGR: u64 = 0x0c00;
const GICD_IROUTER: u64 = 0x6000;
/// GICD_CTLR.RWP: a write has not taken effect everywhere yet.
const CTLR_RWP: u32 = 1 << 31;
/// GICD_CTLR.DS: one security state.
const CTLR_DS: u32 = 1 << 6;
const CTLR_ARE: u32 = 1 << 4;
const CTLR_GROUP_0: u32 = 1 << 0;

const GICR_WAKER: u64 = 0x0014;
const GICR_TYPER: u64 = 0x0008;
const SGI_FRAME: u64 = 0x1_0000;
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

/// A GICv3 with one security state, whose Group 0 is ours.
struct Gic {
    distributor: Device,
    /// RD frame of each CPU's redistributor, by index.
    redistributors: [Option<Device>; MAX_CPUS],
    owned: Owned,
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
    GIC.get().is_some()
}

/// The pages whose accesses the filter must see: absent from the host's stage 2.
pub fn filtered_pages(mut each: impl FnMut(Range<PhysAddr>)) {
    let Some(gic) = GIC.get() else { return };
    let mut page = |device: &Device, offset: u64, size: u64| {
        if let Some(start) = device.range().start().checked_add(offset)
            && let Ok(range) = Range::from_size(start, size)
        {
            each(range);
        }
    };
    page(&gic.distributor, 0, PAGE_SIZE);
    page(&gic.distributor, GICD_IROUTER, 2 * PAGE_SIZE);
    for redistributor in gic.redistributors.iter().flatten() {
        page(redistributor, 0, PAGE_SIZE);
        page(redistributor, SGI_FRAME, PAGE_SIZE);
    }
}

/// Takes Group 0 and the interrupts `lines` for the hypervisor. Returns whether
/// this GIC allows it.
///
/// `redistributors` are the RD frames of the redistributor regions, in any
/// order; each is matched to a CPU by its affinity.
pub fn take(
    distributor: Device,
    redistributors: impl Iterator<Item = Device>,
    lines: impl Iterator<Item = Line> + Clone,
) -> bool {
    if distributor.read32(GICD_CTLR) & CTLR_DS == 0 {
        return false;
    }
    let mut gic = Gic {
        distributor,
        redistributors: [None; MAX_CPUS],
        owned: Owned::new(),
    };
    for redistributor in redistributors {
        let affinity = affinity_of(redistributor.read64(GICR_TYPER));
        let index = percpu::PER_CPU.iter().position(|cpu| {
            cpu.stack.load(Ordering::Relaxed) != 0 && cpu.mpidr.load(Ordering::Relaxed) == affinity
        });
        if let Some(slot) = index.and_then(|i| gic.redistributors.get_mut(i)) {
            *slot = Some(redistributor);
        }
    }

    // From whatever state firmware left: everything is the host's (Group 1)…
    let last_word = distributor.read32(GICD_TYPER) & 0x1f;
    for word in 1..=u64::from(last_word) {
        distributor.write32(GICD_IGROUPR + word * 4, u32::MAX);
    }
    distributor.write32(
        GICD_CTLR,
        distributor.read32(GICD_CTLR) | CTLR_ARE | CTLR_GROUP_0,
    );
    wait(|| distributor.read32(GICD_CTLR) & CTLR_RWP == 0);
    // …but our own.
    let target = this_affinity();
    for line in lines.clone() {
        if !gic.owned.add(line.intid) {
            continue;
        }
        let n = u64::from(line.intid);
        let group = GICD_IGROUPR + n / 32 * 4;
        distributor.write32(group, distributor.read32(group) & !(1 << (n % 32)));
        distributor.write8(GICD_IPRIORITYR + n, OWN_PRIORITY);
        let kind = GICD_ICFGR + n / 16 * 4;
        let edge = 2 << (n % 16 * 2);
        let others = distributor.read32(kind) & !edge;
        distributor.write32(kind, if line.edge { others | edge } else { others });
        distributor.write64(GICD_IROUTER + n * 8, target);
        distributor.write32(GICD_ISENABLER + n / 32 * 4, 1 << (n % 32));
    }
    wait(|| distributor.read32(GICD_CTLR) & CTLR_RWP == 0);
    TARGET.store(target, Ordering::Relaxed);
    GIC.call_once(|| gic);
    true
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

/// Sets up this CPU's side, before the host runs on it.
pub fn init_cpu() {
    // GIC system registers exist (PFR0.GIC): the host may use them.
    if read_sysreg!("id_aa64pfr0_el1") >> 24 & 0xf == 0 {
        return;
    }
    // SAFETY: interrupt controller state only; EL2 takes no interrupt while it
    // runs (PSTATE.DAIF is set on every entry).
    unsafe { write_sysreg!("s3_4_c12_c9_5", 0xf) } // ICC_SRE_EL2: SRE, DFB, DIB, Enable
    isb();
    let Some(gic) = GIC.get() else {
        // SAFETY: as above; no virtual interrupt, no trap.
        unsafe { write_sysreg!("s3_4_c12_c11_0", 0) } // ICH_HCR_EL2
        return;
    };
    const ICH_HCR_TC: u64 = 1 << 10;
    // SAFETY: as above.
    unsafe {
        write_sysreg!("s3_0_c12_c12_5", 0x7); // ICC_SRE_EL1
        write_sysreg!("s3_4_c12_c11_0", ICH_HCR_TC);
        write_sysreg!("s3_4_c12_c11_7", 0); // ICH_VMCR_EL2
        write_sysreg!("s3_0_c4_c6_0", 0xff); // ICC_PMR_EL1: nothing is masked
        write_sysreg!("s3_0_c12_c8_3", 0); // ICC_BPR0_EL1
        write_sysreg!("s3_0_c12_c12_4", 0); // ICC_CTLR_EL1
        write_sysreg!("s3_0_c12_c12_6", 1); // ICC_IGRPEN0_EL1
    }
    isb();
    if let Some(redistributor) = gic.redistributors.get(percpu::index()).copied().flatten() {
        redistributor.write32(GICR_WAKER, redistributor.read32(GICR_WAKER) & !WAKER_SLEEP);
        if !wait(|| redistributor.read32(GICR_WAKER) & WAKER_ASLEEP == 0) {
            warning!(
                "event=gic_timeout what=redistributor_wake address={}",
                redistributor.range().start()
            );
        }
        redistributor.write32(SGI_FRAME + GICD_IGROUPR, u32::MAX);
    }
    // When every CPU that could take ours was off, this one does.
    let _guard = CONFIGURATION.lock();
    let target = TARGET.load(Ordering::Relaxed);
    let alive = percpu::all().any(|cpu| {
        cpu.mpidr.load(Ordering::Relaxed) == target
            && cpu.power.load(Ordering::Acquire) == power::ON
    });
    if !alive {
        route(gic, this_affinity());
    }
}

/// Sends our interrupts to another CPU, when this one goes off.
pub fn leave_cpu() {
    let Some(gic) = GIC.get() else { return };
    let _guard = CONFIGURATION.lock();
    let this = this_affinity();
    if TARGET.load(Ordering::Relaxed) != this {
        return;
    }
    let other = percpu::all().find(|cpu| {
        cpu.mpidr.load(Ordering::Relaxed) != this && cpu.power.load(Ordering::Acquire) == power::ON
    });
    if let Some(other) = other {
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
        if gic.owned.contains(intid) {
            smmu::interrupt(intid);
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
        if let Some(redistributor) = gic.redistributors.get(percpu::index()).copied().flatten() {
            redistributor.write32(SGI_FRAME + GICD_IGROUPR, u32::MAX);
        }
    } else if intid < 1020 {
        let group = GICD_IGROUPR + u64::from(intid / 32) * 4;
        let bits = gic.distributor.read32(group);
        gic.distributor.write32(group, bits | 1 << (intid % 32));
    }
}

/// A data access of the host's that stage 2 did not map, with everything that
/// is needed to do it in its place.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    ipa: u64,
    bytes: u32,
    write: bool,
    register: usize,
    sign_extend: bool,
    wide: bool,
}

impl Access {
    /// `None` when the syndrome does not say enough (ESR_EL2.ISS.ISV = 0), or
    /// the access was a cache operation or a table walk.
    #[must_use]
    pub fn decode(esr: u64, ipa: u64) -> Option<Self> {
        const ISV: u64 = 1 << 24;
        const CACHE_OR_WALK: u64 = 1 << 8 | 1 << 7;
        if esr & ISV == 0 || esr & CACHE_OR_WALK != 0 {
            return None;
        }
        Some(Self {
            ipa,
            bytes: 1 << (esr >> 22 & 3),
            write: esr >> 6 & 1 != 0,
            register: (esr >> 16 & 0x1f) as usize,
            sign_extend: esr >> 21 & 1 != 0,
            wide: esr >> 15 & 1 != 0,
        })
    }

    fn read(&self, device: &Device, offset: u64) -> u64 {
        match self.bytes {
            1 => u64::from(device.read8(offset)),
            2 => u64::from(device.read16(offset)),
            4 => u64::from(device.read32(offset)),
            _ => device.read64(offset),
        }
    }

    fn do_write(&self, device: &Device, offset: u64, value: u64) {
        match self.bytes {
            1 => device.write8(offset, value as u8),
            2 => device.write16(offset, value as u16),
            4 => device.write32(offset, value as u32),
            _ => device.write64(offset, value),
        }
    }

    /// What a load of `value` leaves in the register.
    fn extend(&self, value: u64) -> u64 {
        let bits = self.bytes * 8;
        let mut value = value;
        if self.sign_extend && bits < 64 {
            let shift = 64 - bits;
            value = ((value << shift) as i64 >> shift) as u64;
        }
        if self.wide {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    /// Does the access on `device`, as far as `filter` lets it.
    fn carry_out(
        &self,
        cpu: &PerCpu,
        frame: &mut Frame,
        device: &Device,
        offset: u64,
        filter: impl Fn(u64, u32, u64) -> Verdict,
    ) {
        if !self.write {
            let value = self.read(device, offset);
            frame.set(self.register, self.extend(value));
            return;
        }
        let mask = u64::MAX >> (64 - self.bytes * 8);
        let value = frame.get(self.register) & mask;
        match filter(offset, self.bytes, value) {
            Verdict::Write(allowed) => self.do_write(device, offset, allowed),
            Verdict::Merge { value, keep } => {
                let _guard = CONFIGURATION.lock();
                let now = self.read(device, offset);
                self.do_write(device, offset, now & keep | value & !keep);
            }
            Verdict::Ignore => bump(&cpu.refused_gic),
        }
    }
}

/// Carries out an access to a filtered page. `false` when the address is in
/// none.
pub fn mmio(cpu: &PerCpu, frame: &mut Frame, access: Access) -> bool {
    let Some(gic) = GIC.get() else { return false };
    let address = PhysAddr::new(access.ipa);
    if gic.distributor.range().contains(address) {
        let offset = access.ipa - gic.distributor.range().start().raw();
        access.carry_out(cpu, frame, &gic.distributor, offset, |o, b, v| {
            distributor_write(&gic.owned, o, b, v)
        });
        return true;
    }
    for redistributor in gic.redistributors.iter().flatten() {
        if redistributor.range().contains(address) {
            let offset = access.ipa - redistributor.range().start().raw();
            access.carry_out(cpu, frame, redistributor, offset, |o, b, v| {
                match o.checked_sub(SGI_FRAME) {
                    Some(o) => sgi_write(o, b, v),
                    None => rd_write(o, b, v),
                }
            });
            return true;
        }
    }
    false
}

/// A trapped system register access of the host's.
pub fn sysreg_trap(cpu: &PerCpu, frame: &mut Frame, esr: u64) {
    // Op0, Op2, Op1, CRn, CRm of the ISS, without Rt and direction.
    const fn register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
        op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1
    }
    const WHICH: u64 = 0x3f_fc1e;
    const ICC_PMR: u64 = register(3, 0, 4, 6, 0);
    const ICC_DIR: u64 = register(3, 0, 12, 11, 1);
    const ICC_RPR: u64 = register(3, 0, 12, 11, 3);
    const ICC_SGI1R: u64 = register(3, 0, 12, 11, 5);
    const ICC_ASGI1R: u64 = register(3, 0, 12, 11, 6);
    const ICC_SGI0R: u64 = register(3, 0, 12, 11, 7);
    const ICC_CTLR: u64 = register(3, 0, 12, 12, 4);
    /// ICC_CTLR_EL1.CBPR, EOImode, PMHE.
    const CTLR_HOST: u64 = 1 << 0 | 1 << 1 | 1 << 6;

    let rt = (esr >> 5 & 0x1f) as usize;
    let read = esr & 1 != 0;
    let value = frame.get(rt);
    let which = esr & WHICH;
    if which == ICC_SGI1R && !read {
        cpu.count(Reason::Sgi);
        // SAFETY: sends an SGI of Group 1, which only the host takes.
        unsafe { write_sysreg!("s3_0_c12_c11_5", value) }
        frame.skip();
        return;
    }
    cpu.count(Reason::Sysreg);
    match (which, read) {
        (ICC_PMR, true) => frame.set(rt, read_sysreg!("s3_0_c4_c6_0")),
        // SAFETY: a mask that is never below ours lets our interrupts through.
        (ICC_PMR, false) => unsafe {
            write_sysreg!("s3_0_c4_c6_0", value.max(u64::from(HOST_PRIORITY)));
        },
        (ICC_CTLR, true) => frame.set(rt, read_sysreg!("s3_0_c12_c12_4")),
        // SAFETY: binary point and EOI mode are the host's to choose;
        // `own_interrupt` follows the mode.
        (ICC_CTLR, false) => unsafe { write_sysreg!("s3_0_c12_c12_4", value & CTLR_HOST) },
        (ICC_RPR, true) => frame.set(rt, read_sysreg!("s3_0_c12_c11_3")),
        (ICC_DIR, false) => {
            let ours = GIC
                .get()
                .is_some_and(|gic| gic.owned.contains((value & 0xff_ffff) as u32));
            if ours {
                bump(&cpu.refused_gic);
            } else {
                // SAFETY: deactivates an interrupt of the host's.
                unsafe { write_sysreg!("s3_0_c12_c11_1", value) }
            }
        }
        // Group 0 SGIs would come to EL2: not the host's to send.
        (ICC_ASGI1R | ICC_SGI0R, false) => bump(&cpu.refused_gic),
        _ => {
            crate::host::inject_undefined(frame);
            return;
        }
    }
    frame.skip();
}
