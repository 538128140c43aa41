//! A piece of RAM and what the ledger keeps of it.

use crate::span::Span;
use crate::sync::{AtomicU32, Ordering};
use crate::word::{Pages, Unit};
use crate::{Entry, Owner, PageState};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use thiserror::Error;

/// A contiguous piece of RAM, its entries, one for each page, and its words, one
/// for each block and each group of pages.
#[derive(Clone, Copy)]
pub struct Bank<'a> {
    range: Range<PhysAddr>,
    entries: &'a [AtomicU32],
    blocks: &'a [AtomicU32],
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
    /// A bank has fewer or more words than it needs.
    #[error("the bank {bank} needs {needed} words and has {words}")]
    WordCount {
        /// The bank.
        bank: Range<PhysAddr>,
        /// The words for its blocks and groups.
        needed: u64,
        /// The words that came with it.
        words: u64,
    },
    /// Banks are not in ascending order, or overlap.
    #[error("the bank {0} does not lie above the bank before it")]
    Order(Range<PhysAddr>),
}

/// What is counted as one when it is pinned as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Block,
    Group,
}

impl Size {
    /// The largest first.
    pub(crate) const ALL: [Self; 2] = [Self::Block, Self::Group];

    #[inline(always)]
    pub(crate) const fn pages(self) -> usize {
        match self {
            Self::Block => Bank::BLOCK_PAGES,
            Self::Group => Bank::GROUP_PAGES,
        }
    }
}

impl<'a> Bank<'a> {
    /// Pages of a group: 64 KiB, naturally aligned. Loom has to come to an end.
    pub const GROUP_PAGES: usize = if cfg!(loom) { 2 } else { 16 };

    /// Pages of a block: 2 MiB, naturally aligned.
    pub const BLOCK_PAGES: usize = if cfg!(loom) { 4 } else { 512 };

    /// The bank `range` with one entry a page and its [words](Self::words). What
    /// the entries hold counts: all zero means that
    /// [`Owner::NOBODY`](crate::Owner::NOBODY) has every page. The words start as
    /// zero.
    ///
    /// # Errors
    /// [`LedgerError::Unaligned`], [`LedgerError::EntryCount`],
    /// [`LedgerError::WordCount`].
    pub fn new(
        range: Range<PhysAddr>,
        entries: &'a [AtomicU32],
        words: &'a [AtomicU32],
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
        let (needed, given) = (Self::words(range), words.len() as u64);
        let (blocks, groups) = usize::try_from(Self::blocks(range))
            .ok()
            .filter(|_| needed == given)
            .and_then(|blocks| words.split_at_checked(blocks))
            .ok_or(LedgerError::WordCount {
                bank: range,
                needed,
                words: given,
            })?;
        Ok(Self {
            range,
            entries,
            blocks,
            groups,
        })
    }

    /// How many blocks `range` touches.
    fn blocks(range: Range<PhysAddr>) -> u64 {
        const BLOCK: u64 = Bank::BLOCK_PAGES as u64 * PAGE_SIZE;
        range.end().raw().div_ceil(BLOCK) - range.start().raw() / BLOCK
    }

    /// How many words the bank `range` needs: one for each block that it touches,
    /// and one for each group of these. What is only partly in the bank has words
    /// to keep the arithmetic short; they are unused.
    #[must_use]
    pub fn words(range: Range<PhysAddr>) -> u64 {
        Self::blocks(range) * (1 + (Self::BLOCK_PAGES / Self::GROUP_PAGES) as u64)
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

    /// The words of all units of one size, from that on in which the bank's first
    /// block begins.
    #[inline(always)]
    pub(crate) fn words_of(&self, size: Size) -> &'a [AtomicU32] {
        match size {
            Size::Block => self.blocks,
            Size::Group => self.groups,
        }
    }

    /// Pages of the first block that lie before the bank.
    #[inline(always)]
    pub(crate) fn ahead(&self) -> usize {
        (self.range.start().raw() / PAGE_SIZE) as usize % Self::BLOCK_PAGES
    }

    /// The unit of that size around the page, if all of it lies in the bank. No
    /// word stands for others.
    pub(crate) fn unit(&'a self, size: Size, page: usize) -> Option<Unit<'a>> {
        let index = (page + self.ahead()) / size.pages();
        let first = (index * size.pages()).checked_sub(self.ahead())?;
        let pages = Pages::new(self, first, size);
        pages.entries()?;
        let word = self.words_of(size).get(index)?;
        Some(Unit { word, pages })
    }

    /// The page's entry, with what is counted for its block and its group.
    pub(crate) fn entry(&self, page: usize) -> Option<Entry> {
        // The words first, the largest first: a count that stays is in none of
        // those that are looked at later only if it was seen before.
        let words = Size::ALL.map(|size| self.unit(size, page).map(|unit| unit.word()));
        let slot = self.entries.get(page)?;
        let entry = Entry::from_bits(slot.load(Ordering::Acquire));
        // The page may have moved since they were looked at.
        let rests = |owner: Owner| entry.state() == PageState::Owned(owner);
        let words = words.iter().flatten();
        let count = words.filter(|word| word.owner().is_some_and(rests));
        Some(count.fold(entry, |entry, word| entry.with_more(word.pins())))
    }

    /// Index of the page at or around `address`; `None` outside the bank.
    pub(crate) fn page(&self, address: PhysAddr) -> Option<usize> {
        let offset = address.raw().checked_sub(self.range.start().raw())?;
        let page = usize::try_from(offset / PAGE_SIZE).ok()?;
        (page < self.entries.len()).then_some(page)
    }

    /// Where the page with that index begins. It lies in the bank, so the sum
    /// does not wrap.
    pub(crate) fn address(&self, page: usize) -> PhysAddr {
        let start = self.range.start().raw();
        PhysAddr::new(start.saturating_add(page as u64 * PAGE_SIZE))
    }

    /// The pages of `range`, which is aligned; `None` if it is not all in the
    /// bank.
    #[inline(always)]
    pub(crate) fn span(&'a self, range: Range<PhysAddr>) -> Option<Span<'a>> {
        if !self.range.covers(&range) {
            return None;
        }
        let first = (range.start().raw() - self.range.start().raw()) / PAGE_SIZE;
        let count = range.size() / PAGE_SIZE;
        let first = usize::try_from(first).ok()?;
        let count = usize::try_from(count).ok()?;
        Some(Span::new(self, first, first.checked_add(count)?))
    }
}
