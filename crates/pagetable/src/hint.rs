//! The last table of each level that an operation reached, so that the next
//! one near it starts there.
//!
//! A hint names a table that owned, valid descriptors lead to. That stays true
//! while descriptors of tables stay as they are, so whatever may change one of
//! them [forgets](Hints::forget) all hints, which `&mut` lets it do before
//! anybody can use them again. Making new tables changes none. A
//! [`View`](crate::View) has no hints: nobody could tell it to forget.

use crate::descend::{SHIFT_4K, STRIDE_4K, shift_4k};
use crate::descriptor::ADDRESS;
use crate::geometry::LAST;
use core::sync::atomic::{AtomicU64, Ordering};

/// For each level from 1 on the address of a table in bits 47:12, and in the
/// other 28 bits what identifies the input addresses it is for, so that one load
/// reads both. 0 is no hint.
///
/// Only for 4 KiB pages, where that fits. Relaxed accesses are enough: hints are
/// filled under `&self` from tables that cannot change meanwhile, and who has
/// `&mut` afterwards was synchronised with by whatever gave it.
#[derive(Debug, Default)]
pub(crate) struct Hints([AtomicU64; LAST as usize]);

impl Hints {
    /// The table at `LEVEL` for `address`, which is below 2^48.
    #[inline(always)]
    pub(crate) fn find<const LEVEL: u8>(&self, address: u64) -> Option<u64> {
        let hint = self.0[LEVEL as usize - 1].load(Ordering::Relaxed);
        ((hint ^ tag::<LEVEL>(address)) & !ADDRESS == 0).then_some(hint & ADDRESS)
    }

    /// Notes that `table`, a multiple of 4096 below 2^48, is for `address`.
    pub(crate) fn keep<const LEVEL: u8>(&self, address: u64, table: u64) {
        self.0[LEVEL as usize - 1].store(tag::<LEVEL>(address) | table, Ordering::Relaxed);
    }

    /// To be called before a descriptor of a table changes.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Which table at `LEVEL` is for `address`, in the bits that no address of a
/// table has. Bit 0 of the number that is rotated there says that it is a hint.
#[inline(always)]
const fn tag<const LEVEL: u8>(address: u64) -> u64 {
    let span = shift_4k(LEVEL) + STRIDE_4K;
    const { assert!(48 - (SHIFT_4K + STRIDE_4K) + 1 <= 28) };
    (address >> (span - 1) | 1).rotate_left(48)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_for_its_own_table_and_level() {
        let mut hints = Hints::default();
        assert_eq!(hints.find::<3>(0), None);
        // A table at address 0 is as good as any.
        hints.keep::<3>(0x20_0000, 0);
        assert_eq!(hints.find::<3>(0x20_0000), Some(0));
        assert_eq!(hints.find::<3>(0x3f_ffff), Some(0));
        assert_eq!(hints.find::<3>(0x40_0000), None);
        assert_eq!(hints.find::<3>(0x1f_ffff), None);
        assert_eq!(hints.find::<2>(0x20_0000), None);
        // All bits of table and address at once.
        hints.keep::<3>((1 << 48) - 1, ADDRESS);
        assert_eq!(hints.find::<3>((1 << 48) - 0x20_0000), Some(ADDRESS));
        for bit in 21..48 {
            assert_eq!(hints.find::<3>(((1 << 48) - 1) ^ 1 << bit), None);
        }
        hints.keep::<1>(5 << 39, 0x1000);
        assert_eq!(hints.find::<1>((6 << 39) - 1), Some(0x1000));
        hints.forget();
        assert_eq!(hints.find::<1>(5 << 39), None);
        assert_eq!(hints.find::<3>((1 << 48) - 1), None);
    }
}
