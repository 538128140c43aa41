//! A piece of RAM and what the ledger keeps of it.

use crate::part::Parts;
use crate::sync::AtomicU32;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use thiserror::Error;

/// A contiguous piece of RAM, its entries, one for each page, and its words, one
/// for each group of pages.
#[derive(Clone, Copy)]
pub struct Bank<'a> {
    range: Range<PhysAddr>,
    entries: &'a [AtomicU32],
    groups: &'a [AtomicU32],
}

/// Why a ledger could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// A bank's ends are not page-aligned.
    #[error("the bank {0} does not start and end on a page")]
    Unaligned(Range<PhysAddr>),
    /// A bank has fewer or more entries than pages.
    #[error("the bank {bank} has {pages} pages and {entries} entries")]
    EntryCount {
        /// The bank.
        bank: Range<PhysAddr>,
        /// Its pages.
        pages: u64,
        /// The entries that came with it.
        entries: u64,
    },
    /// A bank has fewer or more words than groups.
    #[error("the bank {bank} has {groups} groups and {words} words")]
    GroupCount {
        /// The bank.
        bank: Range<PhysAddr>,
        /// The groups that it touches.
        groups: u64,
        /// The words that came with it.
        words: u64,
    },
    /// Banks are not in ascending order, or overlap.
    #[error("the bank {0} does not lie above the bank before it")]
    Order(Range<PhysAddr>),
}

/// Bytes of a group.
const GROUP: u64 = Bank::GROUP_PAGES as u64 * PAGE_SIZE;

impl<'a> Bank<'a> {
    /// Pages that are counted as one when they are pinned together: 64 KiB,
    /// naturally aligned. Loom has to come to an end.
    pub const GROUP_PAGES: usize = if cfg!(loom) { 2 } else { 16 };

    /// The bank `range` with one entry a page and one word for each of its
    /// [groups](Self::groups). What the entries hold counts: all zero means that
    /// [`Owner::NOBODY`](crate::Owner::NOBODY) has every page. The words start as
    /// zero.
    ///
    /// # Errors
    /// [`LedgerError::Unaligned`], [`LedgerError::EntryCount`],
    /// [`LedgerError::GroupCount`].
    pub fn new(
        range: Range<PhysAddr>,
        entries: &'a [AtomicU32],
        groups: &'a [AtomicU32],
    ) -> Result<Self, LedgerError> {
        if !range.is_aligned(PAGE_SIZE) {
            return Err(LedgerError::Unaligned(range));
        }
        let pages = range.size() / PAGE_SIZE;
        if pages != entries.len() as u64 {
            return Err(LedgerError::EntryCount {
                bank: range,
                pages,
                entries: entries.len() as u64,
            });
        }
        let touched = Self::groups(range);
        if touched != groups.len() as u64 {
            return Err(LedgerError::GroupCount {
                bank: range,
                groups: touched,
                words: groups.len() as u64,
            });
        }
        Ok(Self {
            range,
            entries,
            groups,
        })
    }

    /// How many groups `range` touches. Those at its ends may be only partly in
    /// it; their words are there to keep the arithmetic short, and unused.
    #[must_use]
    pub fn groups(range: Range<PhysAddr>) -> u64 {
        range.end().raw().div_ceil(GROUP) - range.start().raw() / GROUP
    }

    /// The memory that the bank describes.
    #[must_use]
    #[inline(always)]
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    #[inline(always)]
    pub(crate) fn entries(&self) -> &'a [AtomicU32] {
        self.entries
    }

    #[inline(always)]
    pub(crate) fn words(&self) -> &'a [AtomicU32] {
        self.groups
    }

    /// Pages of the first group that lie before the bank.
    #[inline(always)]
    pub(crate) fn ahead(&self) -> usize {
        (self.range.start().raw() / PAGE_SIZE) as usize % Self::GROUP_PAGES
    }

    /// Index of the page at or around `address`; `None` outside the bank.
    pub(crate) fn page(&self, address: PhysAddr) -> Option<usize> {
        let offset = address.raw().checked_sub(self.range.start().raw())?;
        let page = usize::try_from(offset / PAGE_SIZE).ok()?;
        (page < self.entries.len()).then_some(page)
    }

    /// The pages of `range`, which is aligned; `None` if it is not all in the
    /// bank.
    #[inline(always)]
    pub(crate) fn parts(&'a self, range: Range<PhysAddr>) -> Option<Parts<'a>> {
        if !self.range.covers(&range) {
            return None;
        }
        let first = (range.start().raw() - self.range.start().raw()) / PAGE_SIZE;
        let count = range.size() / PAGE_SIZE;
        let first = usize::try_from(first).ok()?;
        let count = usize::try_from(count).ok()?;
        Some(Parts::new(self, first, first.checked_add(count)?))
    }
}
