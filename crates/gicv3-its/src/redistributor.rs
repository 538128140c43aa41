//! The LPI part of the redistributors: the physical one, which EL2 enables once
//! with tables of its own, and the one that the owner sees.

use crate::ids::{FIRST_LPI, Lpi, RedistributorId, Target};
use crate::lpis::LpiCount;
use crate::platform::{Clock, Registers};
use crate::reg;
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_owner_memory::Size;
use thiserror::Error;

/// Most redistributors.
pub const REDISTRIBUTOR_LIMIT: usize = 64;

/// How long a redistributor may take to accept a change.
const TIMEOUT_US: u64 = 100_000;

/// Why the LPIs of a redistributor could not be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LpiError {
    /// `GICR_CTLR.EnableLPIs` was 1 already, and stays so: the redistributor
    /// goes on using tables that firmware or an earlier kernel gave it.
    #[error("its LPIs were enabled before, and cannot be disabled")]
    AlreadyEnabled,
    /// It does not accept the change within 100 ms, or does not keep an
    /// address.
    #[error("it does not accept LPI tables")]
    Refused,
}

/// Disables the LPIs of a redistributor, whatever state it was left in, and says
/// whether it sees the CPUs' caches. To be called for every redistributor before
/// memory for tables is chosen.
///
/// # Errors
/// [`LpiError::AlreadyEnabled`]: the memory of the old tables is in use as long
/// as the machine runs.
pub fn quiesce_lpis<R: Registers>(registers: &R, clock: &impl Clock) -> Result<bool, LpiError> {
    let control = registers.read32(reg::RD_CTLR);
    if control & reg::RD_CTLR_ENABLE != 0 {
        registers.write32(reg::RD_CTLR, control & !reg::RD_CTLR_ENABLE);
        let busy = reg::RD_CTLR_ENABLE | reg::RD_CTLR_RWP;
        if !wait(clock, || registers.read32(reg::RD_CTLR) & busy == 0) {
            return Err(LpiError::AlreadyEnabled);
        }
    }
    let probe = reg::INNER_SHAREABLE | reg::RD_WRITE_BACK;
    let coherent = [reg::RD_PROPBASER, reg::RD_PENDBASER].map(|offset| {
        registers.write64(offset, probe);
        let kept = registers.read64(offset) & reg::SHAREABILITY != 0;
        registers.write64(offset, 0);
        kept
    });
    Ok(coherent == [true; 2])
}

/// Enables the LPIs of a redistributor with tables of EL2's, once: the bit is
/// never cleared again.
///
/// `pending` is zeroed, published, and a multiple of 64 KiB.
pub(crate) fn enable<R: Registers>(
    registers: &R,
    clock: &impl Clock,
    count: LpiCount,
    configuration: PhysAddr,
    pending: PhysAddr,
) -> Result<(), LpiError> {
    if registers.read32(reg::RD_CTLR) & reg::RD_CTLR_ENABLE != 0 {
        return Err(LpiError::AlreadyEnabled);
    }
    let bits = u64::from(count.intid_bits) - 1;
    let configuration = configuration.raw() & reg::PROPBASER_ADDRESS | bits;
    let right = reg::PROPBASER_ADDRESS | reg::PROPBASER_ID_BITS;
    install(registers, reg::RD_PROPBASER, configuration, 0, right)?;
    let pending = pending.raw() & reg::PENDBASER_ADDRESS;
    let (zero, right) = (reg::PENDBASER_PTZ, reg::PENDBASER_ADDRESS);
    install(registers, reg::RD_PENDBASER, pending, zero, right)?;
    let control = registers.read32(reg::RD_CTLR);
    registers.write32(reg::RD_CTLR, control | reg::RD_CTLR_ENABLE);
    let mask = reg::RD_CTLR_ENABLE | reg::RD_CTLR_RWP;
    let enabled = || registers.read32(reg::RD_CTLR) & mask == reg::RD_CTLR_ENABLE;
    if !wait(clock, enabled) {
        return Err(LpiError::Refused);
    }
    Ok(())
}

/// Writes a base register, as cacheable where the redistributor sees the caches.
/// Bits of `once` do not read back.
fn install<R: Registers>(
    registers: &R,
    offset: u32,
    value: u64,
    once: u64,
    right: u64,
) -> Result<(), LpiError> {
    let shared = reg::INNER_SHAREABLE | reg::RD_WRITE_BACK;
    registers.write64(offset, value | once | shared);
    if registers.read64(offset) & reg::SHAREABILITY == 0 {
        registers.write64(offset, value | once | reg::RD_NON_CACHEABLE);
    }
    if registers.read64(offset) & right != value & right {
        return Err(LpiError::Refused);
    }
    Ok(())
}

fn wait(clock: &impl Clock, mut done: impl FnMut() -> bool) -> bool {
    let deadline = clock.now_us().saturating_add(TIMEOUT_US);
    while !done() {
        if clock.now_us() > deadline {
            return false;
        }
        clock.relax();
    }
    true
}

/// One redistributor: what the owner has written, and what EL2 did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redistributor {
    /// The target by which commands name it.
    pub(crate) target: Target,
    /// EL2's pending table for it.
    pub(crate) pending: PhysAddr,
    /// Its physical LPIs are enabled, and its collection is mapped on every
    /// physical ITS.
    pub(crate) up: bool,
    /// `GICR_CTLR.EnableLPIs` of the owner's.
    enabled: bool,
    /// LPIs that the owner's configuration table has; none while they are disabled.
    configured: u32,
    propbaser: u64,
    pendbaser: u64,
    /// What is pending is so in another table of the owner's than the one that it
    /// has now, or that one is all zero (PTZ): nothing is pending when its LPIs are
    /// enabled. (What is pending in a table that EL2 has not written is not read.)
    zeroed: bool,
    /// A change of `enabled` is yet to reach the LPIs from this one on.
    changing: Option<Lpi>,
}

/// The bits of the owner's `GICR_PROPBASER` that it can write.
const PROPBASER: u64 =
    reg::PROPBASER_ADDRESS | reg::PROPBASER_ID_BITS | reg::SHAREABILITY | reg::RD_CACHEABILITY;
/// Likewise of `GICR_PENDBASER`; PTZ is not kept.
const PENDBASER: u64 = reg::PENDBASER_ADDRESS | reg::SHAREABILITY | reg::RD_CACHEABILITY;

impl Redistributor {
    pub(crate) const fn new(target: Target, pending: PhysAddr) -> Self {
        Self {
            target,
            pending,
            up: false,
            enabled: false,
            configured: 0,
            propbaser: 0,
            pendbaser: 0,
            zeroed: false,
            changing: None,
        }
    }

    /// The address of the configuration of `lpi` in the owner's table. `None`
    /// while the redistributor's LPIs are disabled, or beyond the table.
    #[inline]
    pub(crate) fn configuration_of(&self, lpi: Lpi) -> Option<Ipa> {
        let index = lpi.0.wrapping_sub(FIRST_LPI);
        let start = self.propbaser & reg::PROPBASER_ADDRESS;
        // 52 bits and 32.
        (index < self.configured).then(|| Ipa::new(start.wrapping_add(index.into())))
    }

    /// The owner's configuration table, while its LPIs are enabled.
    pub(crate) fn table(&self) -> Option<Range<Ipa>> {
        let start = Ipa::new(self.propbaser & reg::PROPBASER_ADDRESS);
        // None of no bytes.
        Range::from_size(start, self.configured.into()).ok()
    }

    /// Whether what is pending is to be cleared, since the owner is enabling LPIs
    /// with another table, or one of zeroes.
    pub(crate) fn starts_clear(&self) -> bool {
        self.enabled && self.zeroed
    }

    /// A change of `EnableLPIs` has reached the LPIs before `next`, or all of them.
    pub(crate) fn changed_until(&mut self, next: Option<Lpi>) {
        self.changing = next;
        if next.is_none() && self.enabled {
            self.zeroed = false;
        }
    }

    /// Where a change of `EnableLPIs` goes on, if there is one.
    pub(crate) fn changing(&self) -> Option<Lpi> {
        self.changing
    }

    /// Changes `EnableLPIs`; every LPI that goes here is then to be configured
    /// anew.
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        if self.enabled != enabled {
            self.enabled = enabled;
            let bits = (self.propbaser & reg::PROPBASER_ID_BITS) + 1;
            let lpis = (1u64 << bits.min(32)).saturating_sub(FIRST_LPI.into());
            // Less than 2^32.
            self.configured = if enabled { lpis as u32 } else { 0 };
            self.changing = Some(Lpi(FIRST_LPI));
        }
    }

    /// What the owner reads at `offset`, of `size`, where hardware gives
    /// `physical`. `None` for a register that is not about LPIs.
    pub(crate) fn read(&self, offset: u32, size: Size, physical: u64) -> Option<u64> {
        let wide = |register: u32, value: u64| match (offset.wrapping_sub(register), size) {
            (0, Size::Double) => Some(value),
            (0, Size::Word) => Some(value & 0xffff_ffff),
            (4, Size::Word) => Some(value >> 32),
            _ => None,
        };
        if offset == reg::RD_CTLR && size == Size::Word {
            let own = reg::RD_CTLR_ENABLE | reg::RD_CTLR_IR | reg::RD_CTLR_CES;
            let enabled = if self.enabled { reg::RD_CTLR_ENABLE } else { 0 };
            let rest = physical & !u64::from(own);
            return Some(rest | u64::from(enabled | reg::RD_CTLR_CES));
        }
        match offset & !7 {
            reg::RD_TYPER => {
                let hidden = if offset & 4 == 0 {
                    reg::RD_TYPER_HIDDEN
                } else {
                    0
                };
                Some(physical & !hidden)
            }
            reg::RD_PROPBASER => wide(reg::RD_PROPBASER, self.propbaser).or(Some(0)),
            reg::RD_PENDBASER => wide(reg::RD_PENDBASER, self.pendbaser).or(Some(0)),
            _ if is_lpi_register(offset) => Some(0),
            _ => None,
        }
    }

    /// The owner's write of a base register. It is ignored while its LPIs are
    /// enabled (UNPREDICTABLE, IHI 0069, `GICR_PROPBASER`). `false` for another
    /// register or size.
    pub(crate) fn write_base(&mut self, offset: u32, size: Size, value: u64) -> bool {
        let (register, mask) = match offset & !7 {
            reg::RD_PROPBASER => (&mut self.propbaser, PROPBASER),
            reg::RD_PENDBASER => (&mut self.pendbaser, PENDBASER),
            _ => return false,
        };
        let new = match (offset & 7, size) {
            (0, Size::Double) => value,
            (0, Size::Word) => *register & !0xffff_ffff | value & 0xffff_ffff,
            (4, Size::Word) => *register & 0xffff_ffff | value << 32,
            _ => return false,
        };
        if self.enabled {
            return true;
        }
        let before = *register;
        *register = new & mask;
        if offset & !7 == reg::RD_PENDBASER {
            let moved = (before ^ new) & reg::PENDBASER_ADDRESS != 0;
            self.zeroed |= moved || new & reg::PENDBASER_PTZ != 0;
        }
        true
    }
}

/// What an owner without LPIs reads at `offset` of an RD frame, where hardware
/// gives `physical`. `None` for a register that is not about LPIs.
#[must_use]
pub fn read_without_lpis(offset: u32, size: Size, physical: u64) -> Option<u64> {
    if offset == reg::RD_CTLR && size == Size::Word {
        let own = reg::RD_CTLR_ENABLE | reg::RD_CTLR_IR | reg::RD_CTLR_CES;
        return Some(physical & !u64::from(own));
    }
    match offset & !7 {
        reg::RD_TYPER if offset & 4 == 0 => {
            Some(physical & !(reg::RD_TYPER_HIDDEN | reg::RD_TYPER_PLPIS))
        }
        reg::RD_TYPER => Some(physical),
        _ if is_lpi_register(offset) => Some(0),
        _ => None,
    }
}

/// The part of a write that reaches the physical register, for an owner without
/// LPIs.
pub fn write_without_lpis(offset: u32, size: Size, value: u64) -> crate::RdWrite {
    if offset == reg::RD_CTLR && size == Size::Word {
        // Truncation: the access has 32 bits.
        return crate::RdWrite::Control(value as u32 & reg::RD_CTLR_DPG);
    }
    if is_lpi_register(offset) {
        return crate::RdWrite::Emulated(portcullis_owner_memory::Progress::Done);
    }
    crate::RdWrite::Other
}

/// Whether a register is only about LPIs, or tells of them.
pub(crate) fn is_lpi_register(offset: u32) -> bool {
    matches!(
        offset & !7,
        reg::RD_TYPER
            | reg::RD_SETLPIR
            | reg::RD_CLRLPIR
            | reg::RD_PROPBASER
            | reg::RD_PENDBASER
            | reg::RD_INVLPIR
            | reg::RD_INVALLR
            | reg::RD_SYNCR
    )
}

/// Every redistributor, by the index of its CPU.
#[derive(Debug)]
pub(crate) struct Redistributors {
    list: [Option<Redistributor>; REDISTRIBUTOR_LIMIT],
}

impl Redistributors {
    pub(crate) const fn new() -> Self {
        Self {
            list: [None; REDISTRIBUTOR_LIMIT],
        }
    }

    /// `false` when there is no room.
    pub(crate) fn set(&mut self, id: RedistributorId, one: Redistributor) -> bool {
        match self.list.get_mut(usize::from(id.0)) {
            Some(slot) => {
                *slot = Some(one);
                true
            }
            None => false,
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: RedistributorId) -> Option<&Redistributor> {
        self.list.get(usize::from(id.0))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: RedistributorId) -> Option<&mut Redistributor> {
        self.list.get_mut(usize::from(id.0))?.as_mut()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Redistributor> {
        self.list.iter().flatten()
    }

    /// The redistributors that are enabled, with their indices.
    pub(crate) fn up(&self) -> impl Iterator<Item = (RedistributorId, &Redistributor)> {
        // At most REDISTRIBUTOR_LIMIT.
        let ids = (0..).map(RedistributorId);
        let all = ids.zip(self.list.iter());
        all.filter_map(|(id, one)| Some((id, one.as_ref()?)).filter(|(_, one)| one.up))
    }

    /// The one that commands name `target`, if it is up.
    #[inline]
    pub(crate) fn find(&self, target: Target) -> Option<RedistributorId> {
        self.up()
            .find(|(_, one)| one.target == target)
            .map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RdWrite;
    use portcullis_owner_memory::Progress;

    fn enabled(propbaser: u64) -> Redistributor {
        let mut one = Redistributor::new(Target::processor(0), PhysAddr::new(0));
        assert!(one.write_base(0x70, Size::Double, propbaser));
        one.set_enabled(true);
        one
    }

    #[test]
    fn hidden_bits_read_as_zero() {
        let one = enabled(0);
        // PLPIS stays; VLPIS, Dirty, DirectLPI and RVPEID go.
        assert_eq!(one.read(0x08, Size::Double, 0xff), Some(0x71));
        assert_eq!(one.read(0x08, Size::Word, 0xff), Some(0x71));
        assert_eq!(one.read(0x0c, Size::Word, 0xff), Some(0xff));
        // EnableLPIs and CES are ours, IR goes, RWP is hardware's.
        assert_eq!(one.read(0x00, Size::Word, 0x0c), Some(0x0b));
        assert_eq!(read_without_lpis(0x08, Size::Double, 0xff), Some(0x70));
        assert_eq!(read_without_lpis(0x00, Size::Word, 0x0f), Some(0x08));
    }

    #[test]
    fn invalidation_by_register_reads_as_zero_and_never_passes() {
        let one = enabled(0);
        for offset in [0x40, 0x48, 0xa0, 0xb0, 0xc0] {
            for (add, size) in [(0, Size::Double), (0, Size::Word), (4, Size::Word)] {
                assert_eq!(one.read(offset + add, size, u64::MAX), Some(0));
                let verdict = write_without_lpis(offset + add, size, u64::MAX);
                assert_eq!(verdict, RdWrite::Emulated(Progress::Done));
            }
        }
        // Only what concerns SPIs reaches GICR_CTLR.
        let verdict = write_without_lpis(0, Size::Word, u64::MAX);
        assert_eq!(verdict, RdWrite::Control(0x0700_0000));
    }

    #[test]
    fn base_registers_keep_their_fields_and_are_locked_while_enabled() {
        let mut one = Redistributor::new(Target::processor(0), PhysAddr::new(0));
        assert!(one.write_base(0x70, Size::Double, u64::MAX));
        let fields = 0x070f_ffff_ffff_ff9f;
        assert_eq!(one.read(0x70, Size::Double, 0), Some(fields));
        assert!(one.write_base(0x7c, Size::Word, u64::MAX));
        assert_eq!(one.read(0x78, Size::Double, 0), Some(0x070f_ffff_0000_0000));
        one.set_enabled(true);
        assert!(one.write_base(0x70, Size::Double, 0));
        assert_eq!(one.read(0x70, Size::Double, 0), Some(fields));
    }

    #[test]
    fn what_is_pending_stays_with_its_table() {
        let mut one = Redistributor::new(Target::processor(0), PhysAddr::new(0));
        let mut starts_clear = |pendbaser| {
            one.set_enabled(false);
            one.changed_until(None);
            if let Some(pendbaser) = pendbaser {
                assert!(one.write_base(0x78, Size::Double, pendbaser));
            }
            one.set_enabled(true);
            let clear = one.starts_clear();
            one.changed_until(None);
            clear
        };
        assert!(starts_clear(Some(0x4000_0000)));
        assert!(!starts_clear(None));
        assert!(!starts_clear(Some(0x4000_0000)));
        assert!(starts_clear(Some(0x4000_0000 | 1 << 62)));
        assert!(!starts_clear(None));
        assert!(starts_clear(Some(0x4001_0000)));
    }

    #[test]
    fn configuration_bytes_lie_behind_each_other_from_the_first_lpi_on() {
        // IDbits 13: INTIDs of 14 bits.
        let one = enabled(0x4000_0000 | 13);
        let at = |lpi| one.configuration_of(Lpi(lpi)).map(Ipa::raw);
        assert_eq!(at(8192), Some(0x4000_0000));
        assert_eq!(at(16383), Some(0x4000_1fff));
        assert_eq!(at(16384), None);
        assert_eq!(at(8191), None);
    }
}
