//! The last table of each level that an operation reached, so that the next
//! one near it starts there.
//!
//! A hint names a table that owned, valid descriptors lead to. That stays true
//! while descriptors of tables stay as they are, so whatever may change one of
//! them [forgets](Hints::forget) all hints first. Making new tables changes
//! none. A [`View`](crate::View) has no hints: nobody could tell it to forget.
//!
//! Only for 4 KiB pages, which is what the fast paths are for.

use crate::descend::{STRIDE_4K, shift_4k};
use crate::geometry::LAST;
use core::cell::Cell;

/// A table, by its address and the first input address that it is for.
#[derive(Clone, Debug)]
struct Hint {
    first: Cell<u64>,
    table: Cell<u64>,
}

/// Hints for the levels from 1 on.
#[derive(Clone, Debug)]
pub(crate) struct Hints([Hint; LAST as usize]);

impl Hints {
    pub(crate) const fn none() -> Self {
        const fn nowhere() -> Hint {
            Hint {
                // Further from every input address than a table reaches.
                first: Cell::new(1 << 63),
                table: Cell::new(0),
            }
        }
        Self([nowhere(), nowhere(), nowhere()])
    }

    /// The entry at `LEVEL` for `address`, which is a valid input address.
    /// `None` also when an entry does not begin there.
    #[inline(always)]
    pub(crate) fn entry<const LEVEL: u8>(&self, address: u64) -> Option<u64> {
        let Hint { first, table } = &self.0[LEVEL as usize - 1];
        // What is not 0 below the index becomes the high end of the number.
        let index = address
            .wrapping_sub(first.get())
            .rotate_right(shift_4k(LEVEL));
        (index < 1 << STRIDE_4K).then(|| table.get() + index * 8)
    }

    /// Notes that `entry` at `LEVEL` is for `address`, and lies in a table of
    /// full size.
    pub(crate) fn keep<const LEVEL: u8>(&self, address: u64, entry: u64) {
        let Hint { first, table } = &self.0[LEVEL as usize - 1];
        first.set(address & !((1 << (shift_4k(LEVEL) + STRIDE_4K)) - 1));
        table.set(entry & !0xfff);
    }

    /// To be called before a descriptor of a table changes.
    pub(crate) fn forget(&mut self) {
        *self = Self::none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_for_its_own_table_and_level() {
        let mut hints = Hints::none();
        for address in [0, 0xfff, 0x1000, (1 << 52) - 0x1000] {
            assert_eq!(hints.entry::<1>(address), None);
            assert_eq!(hints.entry::<2>(address), None);
            assert_eq!(hints.entry::<3>(address), None);
        }
        hints.keep::<3>(0x20_5000, 0x7028);
        assert_eq!(hints.entry::<3>(0x20_0000), Some(0x7000));
        assert_eq!(hints.entry::<3>(0x3f_f000), Some(0x7ff8));
        for other in [0x1f_f000, 0x40_0000, 0x20_0008, 0x21_0fff, 0x3f_ffff, 0] {
            assert_eq!(hints.entry::<3>(other), None, "{other:#x}");
        }
        assert_eq!(hints.entry::<2>(0x20_0000), None);
        // All bits of an address, and a table at address 0.
        hints.keep::<3>((1 << 48) - 0x1000, 0xff8);
        assert_eq!(hints.entry::<3>((1 << 48) - 0x1000), Some(0xff8));
        for bit in 21..52 {
            assert_eq!(hints.entry::<3>(((1 << 48) - 0x1000) ^ 1 << bit), None);
        }
        hints.keep::<1>(5 << 39, 0x1000);
        assert_eq!(hints.entry::<1>((6 << 39) - (1 << 30)), Some(0x1ff8));
        hints.forget();
        assert_eq!(hints.entry::<1>(5 << 39), None);
        assert_eq!(hints.entry::<3>((1 << 48) - 0x1000), None);
    }
}
