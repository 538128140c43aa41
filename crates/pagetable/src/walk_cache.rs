//! The last table that an operation reached, so that the next operation near it
//! starts there; and facts about addresses and entries that were just found.
//!
//! The walk cache names a table that owned, valid descriptors lead to. This
//! stays true until a table descriptor changes, so all code that may change one
//! [forgets](WalkCache::forget) the cache first. New tables change no
//! descriptor. A [`View`](crate::View) has no walk cache, because no code could
//! make it forget.
//!
//! The cache is empty while a plan with broken entries is outstanding, so code
//! that finds an entry in it need not check for that. It is only used with 4
//! KiB pages, as the fast paths are.

use crate::descent::{STRIDE_4K, shift_4k};
use crate::descriptor::leaf_type;
use crate::geometry::LAST;
use crate::plan::notes_4k;
use core::cell::Cell;

/// A table of full size, and the addresses that it maps.
#[derive(Clone, Debug)]
pub(crate) struct WalkCache {
    /// Bytes that an entry maps; 0 if the cache is empty, since no range has
    /// that size.
    size: Cell<u64>,
    /// First input address of the table.
    first: Cell<u64>,
    /// log2 of `size`.
    shift: Cell<u32>,
    table: Cell<u64>,
    leaf: Cell<u64>,
    level: Cell<u8>,
    /// The notes of a plan about one block or page of the table.
    notes: Cell<u64>,
    /// An address that no mapping reaches across, or [`NOWHERE`]. It is always
    /// `NOWHERE` if the table is not one of pages.
    boundary: Cell<u64>,
    /// The first and the end of entries of one table that are known to be 0.
    empty_entries: Cell<(u64, u64)>,
}

/// An address that is larger than every input address.
const NOWHERE: u64 = u64::MAX;

impl WalkCache {
    pub(crate) const fn none() -> Self {
        Self {
            size: Cell::new(0),
            first: Cell::new(0),
            shift: Cell::new(0),
            table: Cell::new(0),
            leaf: Cell::new(0),
            level: Cell::new(0),
            notes: Cell::new(0),
            boundary: Cell::new(NOWHERE),
            empty_entries: Cell::new((0, 0)),
        }
    }

    /// The entry that maps exactly `size` bytes from `address` on, if it is in
    /// this table.
    #[inline(always)]
    pub(crate) fn entry(&self, address: u64, size: u64) -> Option<u64> {
        if size != self.size.get() {
            return None;
        }
        // Bits below the index that are not 0 become the high end of the
        // number.
        let index = address
            .wrapping_sub(self.first.get())
            .rotate_right(self.shift.get());
        (index < 1 << STRIDE_4K).then(|| self.table.get() + index * 8)
    }

    /// The level of the table.
    #[inline(always)]
    pub(crate) fn level(&self) -> u8 {
        self.level.get()
    }

    /// The type bits of a block or page in it.
    #[inline(always)]
    pub(crate) fn leaf(&self) -> u64 {
        self.leaf.get()
    }

    /// The notes of a plan about one block or page of the table.
    #[inline(always)]
    pub(crate) fn notes(&self) -> u64 {
        self.notes.get()
    }

    /// Remembers the table of `entry`, which maps `address` at `level` and lies
    /// in a table of full size.
    pub(crate) fn set_table(&self, level: u8, address: u64, entry: u64) {
        let shift = shift_4k(level);
        self.size.set(1 << shift);
        self.first.set(address & !((1 << (shift + STRIDE_4K)) - 1));
        self.shift.set(shift);
        self.table.set(entry & !0xfff);
        self.leaf.set(leaf_type(level));
        self.level.set(level);
        self.notes.set(notes_4k(level));
        if level != LAST {
            self.boundary.set(NOWHERE);
        }
    }

    /// Whether `address` is remembered as a boundary that no mapping reaches
    /// across. One boundary is remembered at a time: the end of the last
    /// unmapped range. It is forgotten when something is mapped across it.
    #[inline(always)]
    pub(crate) fn is_boundary(&self, address: u64) -> bool {
        self.boundary.get() == address
    }

    /// Remembers that no mapping reaches across `address`. The address must not
    /// lie in a borrowed table, whose owner may map something there unnoticed.
    pub(crate) fn set_boundary(&self, address: u64) {
        // Only page tables can be cached here: a block contains addresses behind its
        // first, and a page those within it, which would have to be read each time.
        if self.level.get() == LAST && address & 0xfff == 0 {
            self.boundary.set(address);
        }
    }

    /// Forgets the boundary if it is in `lo..hi`. Called before a range is
    /// mapped that may reach across it; `lo` counts if the range continues the
    /// mapping before it.
    #[inline(always)]
    pub(crate) fn note_mapping(&self, lo: u64, hi: u64) {
        let boundary = self.boundary.get();
        if lo <= boundary && boundary < hi {
            self.boundary.set(NOWHERE);
        }
    }

    /// Whether `count` entries from `entry` on are known to be 0.
    #[inline(always)]
    pub(crate) fn are_empty(&self, entry: u64, count: u64) -> bool {
        let (first, end) = self.empty_entries.get();
        first <= entry && entry < end && (end - entry) / 8 >= count
    }

    /// Remembers that `count` entries from `entry` on, all in one table, are 0,
    /// so that the next mapping there need not read them.
    #[inline(always)]
    pub(crate) fn set_empty_entries(&self, entry: u64, count: u64) {
        self.empty_entries.set((entry, entry + count * 8));
    }

    /// Forgets the empty entries. Called when something is mapped.
    #[inline(always)]
    pub(crate) fn forget_empty_entries(&self) {
        self.empty_entries.set((0, 0));
    }

    /// Forgets everything. Called before a table descriptor changes.
    pub(crate) fn forget(&mut self) {
        *self = Self::none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_for_its_own_table_and_level() {
        let mut cache = WalkCache::none();
        for address in [0, 0xfff, 0x1000, 1 << 63] {
            assert_eq!(cache.entry(address, 0x1000), None);
            assert_eq!(cache.entry(address, 1), None);
        }
        cache.set_table(3, 0x20_5000, 0x7028);
        assert_eq!((cache.level(), cache.leaf()), (3, 0b11));
        assert_eq!(cache.entry(0x20_0000, 0x1000), Some(0x7000));
        assert_eq!(cache.entry(0x3f_f000, 0x1000), Some(0x7ff8));
        assert_eq!(cache.entry(0x20_0000, 0x20_0000), None);
        assert_eq!(cache.entry(0x20_0000, 0x2000), None);
        for other in [0x1f_f000, 0x40_0000, 0x20_0008, 0x21_0fff, 0x3f_ffff, 0] {
            assert_eq!(cache.entry(other, 0x1000), None, "{other:#x}");
        }
        // This uses all bits of an address, and a table at address 0.
        cache.set_table(3, (1 << 48) - 0x1000, 0xff8);
        assert_eq!(cache.entry((1 << 48) - 0x1000, 0x1000), Some(0xff8));
        for bit in 21..64 {
            assert_eq!(cache.entry(((1 << 48) - 0x1000) ^ 1 << bit, 0x1000), None);
        }
        cache.set_table(1, 5 << 39, 0x1000);
        assert_eq!((cache.level(), cache.leaf()), (1, 0b01));
        assert_eq!(cache.entry((6 << 39) - (1 << 30), 1 << 30), Some(0x1ff8));
        cache.forget();
        assert_eq!(cache.entry(5 << 39, 1 << 30), None);
    }
}
