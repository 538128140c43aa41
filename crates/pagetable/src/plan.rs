//! What has to be invalidated after a change, as a value.

use crate::geometry::{Granule, LAST};
use core::fmt;
use portcullis_addr::{Address, PhysAddr, Range};

/// TLB invalidation that a change has made necessary.
///
/// The change itself is in memory and published when a caller gets this value.
/// The caller then
///
/// 1. invalidates [`range`](Self::range) on **every** CPU and SMMU that
///    translates through these tables, and waits until that has completed;
/// 2. hands the value to [`Table::complete`](crate::Table::complete), which
///    frees tables that no walker can reach any more and makes entries valid
///    that had to be broken first (DDI 0487, D8.17.1).
///
/// Dropping the value loses the retired tables, and when something was broken
/// the table refuses every later change ([`Error::Unfinished`](crate::Error)):
/// what is forgotten stays safe and is seen.
///
/// Until step 2 the range must not be mapped anew, since a new entry beside a
/// stale one is what break-before-make is there to prevent.
#[must_use = "the old translation can be in use until it is invalidated, and its tables until they are freed"]
pub struct Invalidation<A> {
    pub(crate) owner: PhysAddr,
    pub(crate) start: u64,
    /// 0 when nothing changed, since a range is never empty.
    pub(crate) end: u64,
    /// Head of the list of retired tables, see `retire`; 0 when there is none.
    pub(crate) retired: u64,
    pub(crate) highest: u8,
    pub(crate) lowest: u8,
    /// A table was taken out that is not on the list.
    pub(crate) tables: bool,
    /// Entries in the range are pending.
    pub(crate) broken: bool,
    pub(crate) granule: Granule,
    pub(crate) space: core::marker::PhantomData<A>,
}

impl<A: Address> Invalidation<A> {
    /// The input addresses whose translation changed, a multiple of the granule
    /// at both ends; `None` when nothing that could be cached has changed.
    #[must_use]
    pub fn range(&self) -> Option<Range<A>> {
        Range::new(A::new(self.start), A::new(self.end)).ok()
    }

    /// Whether nothing that could be cached has changed. Such a plan needs no
    /// invalidation, and [`Table::complete`](crate::Table::complete) has
    /// nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Whether only blocks and pages changed, no table descriptor that was
    /// valid before: then `TLBI *L*`, or `Leaf` = 1 for the SMMU, is enough
    /// (D8.17.5).
    #[must_use]
    pub fn leaf_only(&self) -> bool {
        self.retired == 0 && !self.tables
    }

    /// Level of every entry that changed, for the `TTL` hint (Table D8-124);
    /// `None` when there were several levels or a table was removed, and the
    /// hint has to be 0.
    #[must_use]
    pub fn level(&self) -> Option<u8> {
        (!self.is_empty() && self.leaf_only() && self.highest == self.lowest)
            .then_some(self.highest)
    }

    /// Bytes from one invalidation by address to the next that together hit
    /// every entry that changed: the size of the smallest of them.
    #[must_use]
    pub fn stride(&self) -> u64 {
        let levels = u32::from(LAST.saturating_sub(self.lowest));
        1 << (self.granule.shift() + levels * self.granule.stride())
    }

    /// Whether entries wait to become valid, so that accesses to the range
    /// fault until [`Table::complete`](crate::Table::complete).
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    #[inline(always)]
    pub(crate) fn touch(&mut self, start: u64, end: u64, level: u8) {
        if self.end == 0 {
            (self.start, self.end) = (start, end);
            (self.highest, self.lowest) = (level, level);
        } else {
            self.start = self.start.min(start);
            self.end = self.end.max(end);
            self.highest = self.highest.min(level);
            self.lowest = self.lowest.max(level);
        }
    }
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
