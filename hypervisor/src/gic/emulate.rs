//! The host's accesses to the GIC that come to EL2, carried out as far as the
//! filter lets them.

use super::{CONFIGURATION, GIC, GICD_TYPER, GICR_TYPER, Gic, SGI_FRAME};
use crate::its;
use crate::log::{RateLimit, warning};
use crate::mmio::Device;
use crate::percpu::{PerCpu, Reason, bump};
use crate::sysreg::{read_sysreg, write_sysreg};
use crate::trap::Frame;
use gicv3_its::{Progress, RdWrite, Size};
use portcullis_addr::PhysAddr;
use portcullis_gic_filter::{
    HOST_PRIORITY, Verdict, distributor_read, distributor_write, extended_ppi_words, rd_write,
    redistributor_read, sgi_write, shared_distributor_write,
};

static ABORTED: RateLimit = RateLimit::new();

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

    fn size(&self) -> Size {
        match self.bytes {
            1 => Size::Byte,
            2 => Size::Half,
            4 => Size::Word,
            _ => Size::Double,
        }
    }

    /// `None` when a GIC answers with an error, as some do where nothing is, or
    /// where the access is too wide: it reads as zero then, and is ignored.
    fn read(&self, device: &Device, offset: u64) -> Option<u64> {
        let device = device.tolerant();
        let value = match self.bytes {
            1 => device.read8(offset).map(u64::from),
            2 => device.read16(offset).map(u64::from),
            4 => device.read32(offset).map(u64::from),
            _ => device.read64(offset),
        };
        if value.is_none() {
            self.report_abort();
        }
        value
    }

    fn do_write(&self, device: &Device, offset: u64, value: u64) {
        let device = device.tolerant();
        let done = match self.bytes {
            1 => device.write8(offset, value as u8),
            2 => device.write16(offset, value as u16),
            4 => device.write32(offset, value as u32),
            _ => device.write64(offset, value),
        };
        if !done {
            self.report_abort();
        }
    }

    #[cold]
    fn report_abort(&self) {
        if let Some(dropped) = ABORTED.take() {
            warning!(
                "event=gic_access_aborted address={:#x} bytes={} dropped={dropped}",
                self.ipa,
                self.bytes
            );
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
        may_read: impl Fn(u64, u32) -> bool,
        filter: impl Fn(u64, u32, u64) -> Verdict,
    ) {
        if !self.write {
            if !may_read(offset, self.bytes) {
                bump(&cpu.refused_gic);
                frame.set(self.register, 0);
                return;
            }
            let value = self.read(device, offset).unwrap_or(0);
            frame.set(self.register, self.extend(value));
            return;
        }
        let mask = u64::MAX >> (64 - self.bytes * 8);
        let value = frame.get(self.register) & mask;
        match filter(offset, self.bytes, value) {
            Verdict::Write(allowed) => self.do_write(device, offset, allowed),
            Verdict::Merge { value, keep } => {
                let _guard = CONFIGURATION.lock();
                if let Some(now) = self.read(device, offset) {
                    self.do_write(device, offset, now & keep | value & !keep);
                }
            }
            Verdict::Ignore => bump(&cpu.refused_gic),
        }
    }
}

/// What became of an access to a filtered page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// There is more work than one exit does: the host's CPU is to take its
    /// interrupts and to do the access again.
    Again,
    /// The address is in no filtered page.
    Elsewhere,
}

/// Frames of a redistributor that has virtual LPIs.
const MOST_FRAMES: u64 = 4 * SGI_FRAME;

/// Carries out an access to a filtered page.
pub fn mmio(cpu: &PerCpu, frame: &mut Frame, access: Access) -> Outcome {
    const AARCH32: u64 = 1 << 4;
    let Some(gic) = GIC.get() else {
        return Outcome::Elsewhere;
    };
    // A 32-bit process has no business here, and stepping over its instruction
    // would need its IT state.
    if frame.spsr & AARCH32 != 0 {
        return Outcome::Elsewhere;
    }
    match gic.place(access.ipa) {
        Some(Place::Distributor(offset)) => to_distributor(cpu, frame, access, gic, offset),
        Some(Place::Rd(redistributor, offset)) => {
            return to_rd_frame(cpu, frame, access, redistributor, offset);
        }
        Some(Place::Sgi(redistributor, rest)) => {
            to_sgi_frame(cpu, frame, access, gic, redistributor, rest);
        }
        Some(Place::Other(other)) => to_other(cpu, frame, access, other),
        Some(Place::Hidden) => refuse(cpu, frame, access),
        None => return Outcome::Elsewhere,
    }
    Outcome::Done
}

/// Whether `ipa` is in a filtered page.
#[must_use]
pub fn is_filtered(ipa: u64) -> bool {
    GIC.get().is_some_and(|gic| gic.place(ipa).is_some())
}

/// A filtered page, and where in it.
enum Place<'a> {
    Distributor(u64),
    /// The RD frame of the CPU with this index.
    Rd((usize, &'a Device), u64),
    Sgi(&'a Device, u64),
    /// A redistributor of a CPU that the host does not have.
    Other(&'a Device),
    /// The frames for virtual LPIs, which the host does not have.
    Hidden,
}

impl Gic {
    #[inline(always)]
    fn place(&self, ipa: u64) -> Option<Place<'_>> {
        let address = PhysAddr::new(ipa);
        if self.distributor.range().contains(address) {
            let offset = ipa - self.distributor.range().start().raw();
            return Some(Place::Distributor(offset));
        }
        for (index, redistributor) in self.redistributors.iter().enumerate() {
            let Some(redistributor) = redistributor else {
                continue;
            };
            if redistributor.range().contains(address) {
                let offset = ipa.wrapping_sub(redistributor.range().start().raw());
                return Some(match offset.checked_sub(SGI_FRAME) {
                    None => Place::Rd((index, redistributor), offset),
                    Some(rest) => Place::Sgi(redistributor, rest),
                });
            }
        }
        if let Some(other) = self.others.at(address) {
            return Some(Place::Other(other));
        }
        let behind = |redistributor: &Device| {
            let start = redistributor.range().start().raw();
            super::has_virtual_lpis(redistributor) && ipa.wrapping_sub(start) < MOST_FRAMES
        };
        let hidden = self.redistributors.iter().flatten().any(behind);
        hidden.then_some(Place::Hidden)
    }
}

/// An access that reads as zero and writes nothing.
fn refuse(cpu: &PerCpu, frame: &mut Frame, access: Access) {
    bump(&cpu.refused_gic);
    if !access.write {
        frame.set(access.register, 0);
    }
}

fn to_distributor(cpu: &PerCpu, frame: &mut Frame, access: Access, gic: &Gic, offset: u64) {
    if offset == GICD_TYPER && !access.write && access.bytes == 4 {
        let shown = its::show_typer(gic.distributor.read32(offset));
        frame.set(access.register, access.extend(shown.into()));
        return;
    }
    let extended = gic.extended_end;
    let filter = |o, b, v| {
        if gic.own_group {
            distributor_write(&gic.owned, extended, o, b, v)
        } else {
            shared_distributor_write(extended, o, b, v)
        }
    };
    let (device, read) = (&gic.distributor, |o, b| distributor_read(extended, o, b));
    access.carry_out(cpu, frame, device, offset, read, filter);
}

/// The RD frame: its LPI registers are the emulation's.
fn to_rd_frame(
    cpu: &PerCpu,
    frame: &mut Frame,
    access: Access,
    (index, redistributor): (usize, &Device),
    offset: u64,
) -> Outcome {
    let size = access.size();
    // Truncation: inside the frame.
    let register = offset as u32;
    if !access.write {
        if !redistributor_read(0, offset, access.bytes) {
            refuse(cpu, frame, access);
            return Outcome::Done;
        }
        let Some(physical) = access.read(redistributor, offset) else {
            frame.set(access.register, 0);
            return Outcome::Done;
        };
        let shown = its::read_redistributor(index, register, size, physical);
        frame.set(access.register, access.extend(shown.unwrap_or(physical)));
        return Outcome::Done;
    }
    let value = frame.get(access.register) & u64::MAX >> (64 - access.bytes * 8);
    match its::write_redistributor((index, redistributor), register, size, value) {
        RdWrite::Emulated(Progress::Done) | RdWrite::Control(_) => {}
        RdWrite::Emulated(Progress::Again) => return Outcome::Again,
        RdWrite::Other => {
            let filter = |o, b, v| rd_write(o, b, v);
            let read = |o, b| redistributor_read(0, o, b);
            access.carry_out(cpu, frame, redistributor, offset, read, filter);
        }
    }
    Outcome::Done
}

/// A redistributor of a CPU that the host does not have: it says what it is, and
/// takes nothing.
fn to_other(cpu: &PerCpu, frame: &mut Frame, access: Access, other: &Device) {
    let offset = access.ipa.wrapping_sub(other.range().start().raw());
    if access.write || offset >= SGI_FRAME || !redistributor_read(0, offset, access.bytes) {
        refuse(cpu, frame, access);
        return;
    }
    let physical = access.read(other, offset).unwrap_or(0);
    // Truncation: inside the frame.
    let shown = gicv3_its::read_without_lpis(offset as u32, access.size(), physical);
    frame.set(access.register, access.extend(shown.unwrap_or(physical)));
}

fn to_sgi_frame(
    cpu: &PerCpu,
    frame: &mut Frame,
    access: Access,
    gic: &Gic,
    redistributor: &Device,
    rest: u64,
) {
    let offset = rest.saturating_add(SGI_FRAME);
    let extended = extended_ppi_words(redistributor.read64(GICR_TYPER));
    let read = |o, b| redistributor_read(extended, o, b);
    let filter = |o, b, v| {
        if gic.own_group {
            sgi_write(extended, rest, b, v)
        } else if read(o, b) {
            // Hardware itself keeps the host from what is the secure side's.
            Verdict::Write(v)
        } else {
            Verdict::Ignore
        }
    };
    access.carry_out(cpu, frame, redistributor, offset, read, filter);
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
    const ICC_SRE: u64 = register(3, 0, 12, 12, 5);
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
            // The register has 8 bits, and hardware drops the others.
            write_sysreg!("s3_0_c4_c6_0", (value & 0xff).max(u64::from(HOST_PRIORITY)));
        },
        (ICC_CTLR, true) => frame.set(rt, read_sysreg!("s3_0_c12_c12_4")),
        // SAFETY: binary point and EOI mode are the host's to choose;
        // `own_interrupt` follows the mode.
        (ICC_CTLR, false) => unsafe { write_sysreg!("s3_0_c12_c12_4", value & CTLR_HOST) },
        // SRE, DFB, DIB: on, and staying so.
        (ICC_SRE, true) => frame.set(rt, 7),
        (ICC_SRE, false) => {}
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
