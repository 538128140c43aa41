//! Which writes of a host to the GIC's configuration go through, when a few
//! interrupts belong to the hypervisor.
//!
//! The hypervisor takes its own interrupts (an SMMU reporting a fault) as
//! Group 0, which arrive as FIQ at EL2, while the host's stay Group 1 and
//! arrive as IRQ at EL1 without ever passing EL2 (IHI 0069, 4.6). For that to
//! hold whatever the host writes:
//! - no interrupt of the host's is ever in Group 0;
//! - no register field of the hypervisor's interrupts changes;
//! - Group 0 stays enabled at the distributor;
//! - no interrupt of the host's has a priority at or above the hypervisor's,
//!   since an active interrupt of equal priority masks ours.
//!
//! The functions here decide; they touch no hardware. Offsets are those of
//! IHI 0069, 12.8 (GICD), 12.10 (GICR, RD frame) and 12.11 (GICR, SGI frame),
//! with affinity routing on and a single security state (GICD_CTLR.DS = 1).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod distributor;
mod extended_interrupts;
mod redistributor;

pub use distributor::{distributor_read, distributor_write, shared_distributor_write};
pub use extended_interrupts::{EXTENDED_SPI, extended_ppi_words, extended_spi_end};
pub use redistributor::{rd_write, redistributor_read, sgi_write};

/// The decision about a write of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write this value, with the access size that the host used.
    Write(u64),
    /// Write `value`, but keep the bits of the register where `keep` is 1. For
    /// fields that no single write can leave alone.
    Merge {
        /// The bits that the host may write.
        value: u64,
        /// Mask of the bits that do not change.
        keep: u64,
    },
    /// Write nothing: the access is ignored and counted.
    Ignore,
}

/// Priority of the hypervisor's interrupts: above all others.
pub const OWN_PRIORITY: u8 = 0x00;

/// The highest priority (lowest number) that the host may give an interrupt.
/// With the four priority bits that every GICv3 has (IHI 0069, 4.8), this is
/// the first step below [`OWN_PRIORITY`].
pub const HOST_PRIORITY: u8 = 0x10;

/// The hypervisor's interrupts: SPI INTIDs 32 to 1019, at most `MAX`.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    intids: [u32; Self::MAX],
    count: usize,
}

impl Default for Owned {
    fn default() -> Self {
        Self::new()
    }
}

impl Owned {
    /// How many interrupts the hypervisor can own: four for each of 16 SMMUs.
    pub const MAX: usize = 64;

    /// No interrupt.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            intids: [0; Self::MAX],
            count: 0,
        }
    }

    /// Adds `intid`; `false` when it is no SPI or the list is full.
    #[must_use]
    pub fn add(&mut self, intid: u32) -> bool {
        if !(32..1020).contains(&intid) {
            return false;
        }
        if self.contains(intid) {
            return true;
        }
        match self.intids.get_mut(self.count) {
            Some(slot) => {
                *slot = intid;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// Whether `intid` is the hypervisor's.
    #[must_use]
    pub fn contains(&self, intid: u32) -> bool {
        self.iter().any(|own| own == intid)
    }

    /// The INTIDs.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.intids.iter().take(self.count).copied()
    }

    /// Mask of the fields of `bits` bits each that belong to owned interrupts,
    /// in a register access of `width` bits whose first field is `first`.
    fn mask(&self, first: u32, bits: u32, width: u32) -> u64 {
        let field = (1u64 << bits) - 1;
        self.iter()
            .filter_map(|intid| intid.checked_sub(first))
            .map(|index| index.saturating_mul(bits))
            .filter(|&shift| shift < width)
            .fold(0, |mask, shift| mask | field << shift)
    }
}

/// Replaces each of the lowest `bytes` priority bytes of `value` by one that
/// the host may use.
#[must_use]
pub fn clamp_priorities(value: u64, bytes: u32) -> u64 {
    (0..bytes).fold(0, |out, byte| {
        let shift = byte * 8;
        let priority = (value >> shift) as u8;
        out | u64::from(priority.max(HOST_PRIORITY)) << shift
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spis_can_be_owned() {
        let mut owned = Owned::new();
        assert!(!owned.add(31));
        assert!(!owned.add(1020));
        assert!(owned.add(106));
        assert!(owned.add(106));
        assert_eq!(owned.iter().collect::<Vec<_>>(), [106]);
    }

    #[test]
    fn masks_cover_the_owned_fields_only() {
        let mut owned = Owned::new();
        assert!(owned.add(106) && owned.add(109));
        // 106 = 96 + 10, 109 = 96 + 13.
        assert_eq!(owned.mask(96, 1, 32), 0x2400);
        assert_eq!(owned.mask(64, 1, 32), 0);
        // ICFGR: two bits each, 16 to a word; 106 = 96 + 10.
        assert_eq!(owned.mask(96, 2, 32), 0x0c30_0000);
        assert_eq!(owned.mask(104, 8, 32), 0x00ff_0000);
    }

    #[test]
    fn priorities_stay_below_ours() {
        assert_eq!(clamp_priorities(0xa000_0fa0, 4), 0xa010_10a0);
        assert_eq!(clamp_priorities(0x00, 1), 0x10);
    }
}
