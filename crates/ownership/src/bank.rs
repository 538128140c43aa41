//! A piece of RAM and what the ledger keeps of it.

use crate::sync::AtomicU32;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use thiserror::Error;

/// A contiguous piece of RAM and its entries, one for each page.
#[derive(Clone, Copy)]
pub struct Bank<'a> {
    range: Range<PhysAddr>,
    entries: &'a [AtomicU32],
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
    /// Banks are not in ascending order, or overlap.
    #[error("the bank {0} does not lie above the bank before it")]
    Order(Range<PhysAddr>),
}

impl<'a> Bank<'a> {
    /// The bank `range` with one entry a page. What the entries hold counts:
    /// all zero means that [`Owner::NOBODY`] has every page.
    ///
    /// # Errors
    /// [`LedgerError::Unaligned`], [`LedgerError::EntryCount`].
    pub fn new(range: Range<PhysAddr>, entries: &'a [AtomicU32]) -> Result<Self, LedgerError> {
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
        Ok(Self { range, entries })
    }

    /// The memory that the bank describes.
    #[must_use]
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    pub(crate) fn entries(&self) -> &'a [AtomicU32] {
        self.entries
    }

    pub(crate) fn slice(&self, range: Range<PhysAddr>) -> Option<&'a [AtomicU32]> {
        if !self.range.covers(&range) {
            return None;
        }
        let first = (range.start().raw() - self.range.start().raw()) / PAGE_SIZE;
        let count = range.size() / PAGE_SIZE;
        let first = usize::try_from(first).ok()?;
        let count = usize::try_from(count).ok()?;
        self.entries.get(first..first.checked_add(count)?)
    }
}
