//! The invalidation that a change needs, as a value.

use crate::geometry::{Granule, LAST};
use core::fmt;
use core::marker::PhantomData;
use portcullis_addr::{Address, PhysAddr, Range};

/// The TLB invalidation that a change needs.
///
/// The change is in memory and published when a caller gets this value. The
/// caller then
///
/// 1. invalidates [`range`](Self::range) on **every** CPU and SMMU that
///    translates through these tables, and waits until that has completed;
/// 2. hands the value to [`Table::complete`](crate::Table::complete), which
///    frees tables that no walker can reach any more and makes entries valid
///    that had to be broken first (DDI 0487, D8.17.1).
///
/// Dropping the value leaks the retired tables. If an entry was broken, the
/// table then refuses every later change ([`Error::Unfinished`](crate::Error)),
/// so a forgotten plan is safe and is noticed.
///
/// Until step 2 the range must not be mapped again: a new entry beside a stale
/// one is what break-before-make prevents.
#[must_use = "the old translation can be in use until it is invalidated, and its tables until they are freed"]
pub struct Invalidation<A> {
    pub(crate) owner: PhysAddr,
    pub(crate) start: u64,
    /// The end of the changed range; 0 if nothing changed, since a range is
    /// never empty.
    pub(crate) end: u64,
    /// The work after the invalidation; 0 if there is none. It is the head of
    /// the list of retired tables, see `retire`, and [`BROKEN`].
    after_work: u64,
    /// Levels, granule and flags. They are in one word because a value that is
    /// written byte by byte and read as a whole has to wait for the store
    /// buffer.
    notes: u64,
    space: PhantomData<A>,
}

/// In the after-work, in a bit that no link has: entries in the range are
/// pending.
const BROKEN: u64 = 1;

/// In the notes: the highest and the lowest level that changed, two bits each.
const HIGHEST: u32 = 0;
const LOWEST: u32 = 2;
/// A table descriptor changed although no table was retired, so that a
/// leaf-only invalidation is not enough.
const TABLE_REPLACED: u64 = 1 << 4;
/// log2 of the granule.
const GRANULE: u32 = 8;

impl<A: Address> Invalidation<A> {
    /// An empty plan for the table with this root.
    #[inline(always)]
    pub(crate) fn new(owner: PhysAddr, granule: Granule) -> Self {
        Self {
            owner,
            start: 0,
            end: 0,
            after_work: 0,
            notes: u64::from(granule.shift()) << GRANULE,
            space: PhantomData,
        }
    }

    /// A plan for one block or page, with its notes.
    #[inline(always)]
    pub(crate) fn for_one_leaf(owner: PhysAddr, start: u64, end: u64, notes: u64) -> Self {
        Self {
            owner,
            start,
            end,
            after_work: 0,
            notes,
            space: PhantomData,
        }
    }

    #[inline(always)]
    fn highest(&self) -> u8 {
        (self.notes >> HIGHEST & 0b11) as u8
    }

    #[inline(always)]
    fn lowest(&self) -> u8 {
        (self.notes >> LOWEST & 0b11) as u8
    }

    /// The input addresses whose translation changed, a multiple of the granule
    /// at both ends; `None` when nothing that could be cached has changed.
    #[must_use]
    pub fn range(&self) -> Option<Range<A>> {
        Range::new(A::new(self.start), A::new(self.end)).ok()
    }

    /// Whether nothing that could be cached has changed. Such a plan needs no
    /// invalidation, and [`Table::complete`](crate::Table::complete) does
    /// nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Whether only blocks and pages changed, no table descriptor that was
    /// valid before: then `TLBI *L*`, or `Leaf` = 1 for the SMMU, is enough
    /// (D8.17.5).
    #[must_use]
    pub fn leaf_only(&self) -> bool {
        self.retired() == 0 && self.notes & TABLE_REPLACED == 0
    }

    /// Level of every entry that changed, for the `TTL` hint (Table D8-124);
    /// `None` when there were several levels or a table was removed, and the
    /// hint has to be 0.
    #[must_use]
    pub fn level(&self) -> Option<u8> {
        (!self.is_empty() && self.leaf_only() && self.highest() == self.lowest())
            .then_some(self.highest())
    }

    /// The distance in bytes between two invalidations by address that together
    /// hit every changed entry: the size of the smallest of them.
    #[must_use]
    pub fn stride(&self) -> u64 {
        let granule = (self.notes >> GRANULE) as u32;
        let levels = if self.is_empty() {
            0
        } else {
            u32::from(LAST - self.lowest())
        };
        // One level resolves as many bits as entries of 8 bytes fit a page.
        1 << (granule + levels * (granule - 3))
    }

    /// The granule of the table, for commands that contain it.
    #[must_use]
    pub fn granule(&self) -> Granule {
        let shift = (self.notes >> GRANULE) as u32;
        [Granule::Size4K, Granule::Size16K]
            .into_iter()
            .find(|granule| granule.shift() == shift)
            .unwrap_or(Granule::Size64K)
    }

    /// Whether entries are pending, so that accesses to the range fault until
    /// [`Table::complete`](crate::Table::complete).
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.after_work & BROKEN != 0
    }

    /// Whether [`Table::complete`](crate::Table::complete) has nothing to do.
    /// The value may then be dropped, if the invalidation is certain to happen.
    #[inline(always)]
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.has_after_work()
    }

    /// Whether `complete` has something to do.
    #[inline(always)]
    pub(crate) fn has_after_work(&self) -> bool {
        self.after_work != 0
    }

    /// Head of the list of retired tables, 0 when there is none.
    pub(crate) fn retired(&self) -> u64 {
        self.after_work & !BROKEN
    }

    /// Puts a link in front of the list.
    pub(crate) fn set_retired(&mut self, link: u64) {
        self.after_work = link | self.after_work & BROKEN;
    }

    /// Notes that entries in the range are pending.
    pub(crate) fn set_broken(&mut self) {
        self.after_work |= BROKEN;
    }

    /// Notes that a table descriptor changed although no table was retired.
    pub(crate) fn set_table_replaced(&mut self) {
        self.notes |= TABLE_REPLACED;
    }

    #[inline(always)]
    pub(crate) fn add_change(&mut self, start: u64, end: u64, level: u8) {
        let (mut highest, mut lowest) = (level, level);
        if self.end == 0 {
            (self.start, self.end) = (start, end);
        } else {
            self.start = self.start.min(start);
            self.end = self.end.max(end);
            highest = highest.min(self.highest());
            lowest = lowest.max(self.lowest());
        }
        self.notes = self.notes & !levels(LAST, LAST) | levels(highest, lowest);
    }
}

/// The notes for one block or page at `level`, with 4 KiB pages.
pub(crate) const fn notes_4k(level: u8) -> u64 {
    (Granule::Size4K.shift() as u64) << GRANULE | levels(level, level)
}

#[inline(always)]
const fn levels(highest: u8, lowest: u8) -> u64 {
    (highest as u64) << HIGHEST | (lowest as u64) << LOWEST
}

impl<A: Address> fmt::Debug for Invalidation<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation")
            .field("range", &self.range())
            .field("level", &self.level())
            .field("leaf_only", &self.leaf_only())
            .field("broken", &self.is_broken())
            .finish()
    }
}
