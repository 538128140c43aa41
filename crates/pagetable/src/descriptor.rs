//! The bits of a descriptor that every format shares (DDI 0487, D8.3.1).
//!
//! In tables of this crate an entry is one of
//!
//! | value | meaning |
//! |---|---|
//! | 0 | nothing mapped |
//! | bit 0 set | valid table, block or page |
//! | bit 0 clear, rest not 0 | *pending*: what stands there becomes valid when the invalidation under way has completed |
//!
//! Hardware ignores everything in a descriptor whose bit 0 is clear (Tables
//! D8-54, D8-55), so the last two rows differ for it only in bit 0.

use crate::geometry::{Geometry, Granule, LAST};
use portcullis_addr::PhysAddr;

/// Bit 0: valid.
pub(crate) const VALID: u64 = 1;
/// Bit 1: a table above level 3, a page at level 3 (Table D8-48).
pub(crate) const TABLE: u64 = 1 << 1;
/// Bit 10: access flag (D8.5.1).
pub(crate) const AF: u64 = 1 << 10;
/// Bits 9:8 = 0b11: inner shareable (D8.6.2, D8.6.7).
pub(crate) const SH_INNER: u64 = 0b11 << 8;
/// Bit 52: contiguous (D8.7.1).
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
/// Bit 55 of a table descriptor, ignored by hardware (Tables D8-50, D8-51): the
/// table below belongs to another owner.
pub(crate) const BORROWED: u64 = 1 << 55;
/// Bit 56 of a table descriptor, ignored by hardware: the table below is
/// shared, so it has to stay.
pub(crate) const SHARED: u64 = 1 << 56;

/// Bits 47:12, where every address lies.
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// How addresses are laid out in descriptors of one geometry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Address bits in place: 47 down to the granule.
    mask: u64,
    /// 64 KiB granule with 52 bits: OA[51:48] in bits 15:12.
    wide: bool,
}

impl Layout {
    /// With 4 KiB pages.
    pub(crate) const SIZE_4K: Self = Self {
        mask: ADDRESS,
        wide: false,
    };

    pub(crate) const fn of(geometry: &Geometry) -> Self {
        Self {
            mask: ADDRESS & !(geometry.granule().bytes() - 1),
            wide: matches!(geometry.granule(), Granule::Size64K) && geometry.output_bits() > 48,
        }
    }

    /// The address field for `address`, a multiple of the granule.
    #[inline(always)]
    pub(crate) const fn encode(self, address: u64) -> u64 {
        let field = address & self.mask;
        if self.wide {
            field | (address >> 48 & 0xf) << 12
        } else {
            field
        }
    }

    /// The address in a descriptor.
    #[inline(always)]
    pub(crate) const fn decode(self, descriptor: u64) -> u64 {
        let address = descriptor & self.mask;
        if self.wide {
            address | (descriptor >> 12 & 0xf) << 48
        } else {
            address
        }
    }

    /// Every bit of the address field.
    #[inline(always)]
    pub(crate) const fn field(self) -> u64 {
        if self.wide {
            self.mask | 0xf << 12
        } else {
            self.mask
        }
    }

    /// A valid table descriptor.
    #[inline(always)]
    pub(crate) const fn table(self, at: PhysAddr) -> u64 {
        self.encode(at.raw()) | TABLE | VALID
    }
}

/// Whether an entry at `level` that is not 0 holds a table, valid or pending.
#[inline(always)]
pub(crate) const fn is_table(descriptor: u64, level: u8) -> bool {
    level < LAST && descriptor & TABLE != 0
}

/// The type bits of a valid leaf at `level`: block or page.
#[inline(always)]
pub(crate) const fn leaf_type(level: u8) -> u64 {
    if level == LAST { TABLE | VALID } else { VALID }
}
