//! A bounded pool of pages for tables, queues and stacks.
//!
//! The bookkeeping is a bitmap inside [`Pool`], not in the pages: hardware
//! walks the pages, and a stray descriptor must not be able to damage a list of
//! free pages. The first fit is taken. Single pages, such as tables, are found
//! by whole words of the bitmap; longer runs, which are for boot, page by page.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::fmt;
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};

/// Pages that one bitmap word describes.
const WORD_PAGES: usize = 64;

/// A pool of at most `WORDS` × 64 pages.
pub struct Pool<const WORDS: usize> {
    start: PhysAddr,
    pages: usize,
    used: usize,
    taken: [u64; WORDS],
    /// All words before this one are full.
    full: usize,
}

/// Why a pool could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// The range does not start and end on a page.
    Unaligned(Range<PhysAddr>),
    /// The range has more pages than the bitmap has bits.
    TooLarge {
        /// Pages in the range.
        pages: u64,
        /// Pages that the bitmap can describe.
        limit: u64,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(range) => write!(f, "{range} does not start and end on a page"),
            Self::TooLarge { pages, limit } => {
                write!(f, "the pool has {pages} pages and room to list {limit}")
            }
        }
    }
}

impl core::error::Error for PoolError {}

/// A free that matches no allocation, which is a defect of the caller. Nothing
/// was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllocated(pub PhysAddr);

impl fmt::Display for NotAllocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not given out by this pool", self.0)
    }
}

impl core::error::Error for NotAllocated {}

impl<const WORDS: usize> Pool<WORDS> {
    /// A pool without a page.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            start: PhysAddr::new(0),
            pages: 0,
            used: 0,
            taken: [0; WORDS],
            full: 0,
        }
    }

    /// A pool over `range` with all pages free.
    ///
    /// # Errors
    /// [`PoolError`] when the range is not whole pages or too large.
    pub fn new(range: Range<PhysAddr>) -> Result<Self, PoolError> {
        let mut pool = Self::empty();
        pool.reset(range)?;
        Ok(pool)
    }

    /// Makes this a pool over `range` with all pages free, in place, since a
    /// pool may be larger than a stack. All earlier allocations are forgotten.
    ///
    /// # Errors
    /// As [`Pool::new`]; nothing has changed then.
    pub fn reset(&mut self, range: Range<PhysAddr>) -> Result<(), PoolError> {
        if !range.is_aligned(PAGE_SIZE) {
            return Err(PoolError::Unaligned(range));
        }
        let limit = WORDS * WORD_PAGES;
        let pages = range.size() / PAGE_SIZE;
        match usize::try_from(pages) {
            Ok(count) if count <= limit => {
                self.start = range.start();
                self.pages = count;
                self.used = 0;
                self.taken.fill(0);
                self.full = 0;
                Ok(())
            }
            _ => Err(PoolError::TooLarge {
                pages,
                limit: limit as u64,
            }),
        }
    }

    /// Number of allocated pages.
    #[must_use]
    pub fn used_pages(&self) -> usize {
        self.used
    }

    /// Pages in the pool.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The pages that are not allocated, in ascending order.
    pub fn unused(&self) -> impl Iterator<Item = PhysAddr> {
        let free = (0..self.pages).filter(|page| !self.is_taken(*page));
        free.filter_map(|page| self.start.checked_add(page as u64 * PAGE_SIZE))
    }

    /// Allocates `count` neighbouring pages at a multiple of `alignment` bytes
    /// (a power of two; less than a page counts as a page). Their content is
    /// not cleared. `None` if there is no such run.
    pub fn allocate(&mut self, count: usize, alignment: u64) -> Option<PhysAddr> {
        if count == 0 || !alignment.is_power_of_two() {
            return None;
        }
        let alignment = alignment.max(PAGE_SIZE);
        if count == 1 && alignment == PAGE_SIZE {
            return self.allocate_page();
        }
        let aligned = self.start.raw().checked_next_multiple_of(alignment)?;
        let step = usize::try_from(alignment / PAGE_SIZE).ok()?;
        let mut first = usize::try_from((aligned - self.start.raw()) / PAGE_SIZE).ok()?;
        while first.checked_add(count)? <= self.pages {
            if (first..first + count).all(|page| !self.is_taken(page)) {
                for page in first..first + count {
                    self.set(page, true);
                }
                self.used += count;
                return self.start.checked_add(first as u64 * PAGE_SIZE);
            }
            first = first.checked_add(step)?;
        }
        None
    }

    fn allocate_page(&mut self) -> Option<PhysAddr> {
        let words = self.taken.iter().enumerate().skip(self.full);
        let (word, taken) = words.into_iter().find(|(_, word)| **word != u64::MAX)?;
        self.full = word;
        let page = word * WORD_PAGES + taken.trailing_ones() as usize;
        if page >= self.pages {
            return None;
        }
        self.set(page, true);
        self.used += 1;
        self.start.checked_add(page as u64 * PAGE_SIZE)
    }

    /// Frees `count` pages from `at` on.
    ///
    /// # Errors
    /// [`NotAllocated`] if one of them is not allocated.
    pub fn free(&mut self, at: PhysAddr, count: usize) -> Result<(), NotAllocated> {
        let error = NotAllocated(at);
        let offset = at.raw().checked_sub(self.start.raw()).ok_or(error)?;
        if !at.is_aligned(PAGE_SIZE) {
            return Err(error);
        }
        let first = usize::try_from(offset / PAGE_SIZE).map_err(|_| error)?;
        let end = first.checked_add(count).ok_or(error)?;
        if end > self.pages || !(first..end).all(|page| self.is_taken(page)) {
            return Err(error);
        }
        for page in first..end {
            self.set(page, false);
        }
        self.full = self.full.min(first / WORD_PAGES);
        self.used -= count;
        Ok(())
    }

    fn is_taken(&self, page: usize) -> bool {
        self.taken
            .get(page / WORD_PAGES)
            .is_none_or(|word| word >> (page % WORD_PAGES) & 1 != 0)
    }

    fn set(&mut self, page: usize, taken: bool) {
        if let Some(word) = self.taken.get_mut(page / WORD_PAGES) {
            let bit = 1 << (page % WORD_PAGES);
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 0x4_3000;

    fn pool(pages: u64) -> Pool<2> {
        Pool::new(Range::from_size(PhysAddr::new(START), pages * PAGE_SIZE).unwrap()).unwrap()
    }

    #[test]
    fn alignment_is_that_of_the_address() {
        let mut pool = pool(16);
        assert_eq!(pool.allocate(1, 8), Some(PhysAddr::new(0x4_3000)));
        assert_eq!(pool.allocate(4, 0x4000), Some(PhysAddr::new(0x4_4000)));
        assert_eq!(pool.allocate(1, 0x1_0000), Some(PhysAddr::new(0x5_0000)));
        assert_eq!(pool.allocate(1, 0x1_0000), None);
    }

    #[test]
    fn unused_pages_are_those_that_were_not_taken() {
        let mut pool = pool(4);
        let unused = |pool: &Pool<2>| pool.unused().map(|at| at.raw()).collect::<Vec<_>>();
        assert_eq!(unused(&pool), [0x4_3000, 0x4_4000, 0x4_5000, 0x4_6000]);
        let at = pool.allocate(2, 0x2000).unwrap();
        assert_eq!(unused(&pool), [0x4_3000, 0x4_6000]);
        pool.free(at, 1).unwrap();
        assert_eq!(unused(&pool), [0x4_3000, 0x4_4000, 0x4_6000]);
    }

    #[test]
    fn wrong_frees_change_nothing() {
        let mut pool = pool(4);
        let at = pool.allocate(2, PAGE_SIZE).unwrap();
        assert!(pool.free(at, 3).is_err());
        assert!(pool.free(PhysAddr::new(at.raw() + 8), 1).is_err());
        assert!(pool.free(PhysAddr::new(0), 1).is_err());
        assert_eq!(pool.used_pages(), 2);
        pool.free(at, 2).unwrap();
        assert!(pool.free(at, 2).is_err());
        assert_eq!(pool.used_pages(), 0);
    }

    #[test]
    fn a_page_is_found_wherever_it_is() {
        let mut pool = pool(100);
        let at = |page: u64| PhysAddr::new(START + page * PAGE_SIZE);
        for page in 0..100 {
            assert_eq!(pool.allocate(1, PAGE_SIZE), Some(at(page)));
        }
        for page in [99, 3, 64, 63, 0] {
            assert_eq!(pool.allocate(1, PAGE_SIZE), None);
            pool.free(at(page), 1).unwrap();
            assert_eq!(pool.allocate(1, PAGE_SIZE), Some(at(page)));
        }
        // In a word before one that has pages too, and of a run across both.
        pool.free(at(80), 1).unwrap();
        pool.free(at(62), 4).unwrap();
        for page in [62, 63, 64, 65, 80] {
            assert_eq!(pool.allocate(1, PAGE_SIZE), Some(at(page)));
        }
        assert_eq!(pool.allocate(1, PAGE_SIZE), None);
        assert_eq!(pool.used_pages(), 100);
    }

    #[test]
    fn nothing_comes_out_of_nothing_and_what_is_given_can_change() {
        let mut pool = Pool::<2>::empty();
        assert_eq!(pool.allocate(1, PAGE_SIZE), None);
        assert!(pool.free(PhysAddr::new(0), 1).is_err());
        let range = |pages| Range::from_size(PhysAddr::new(START), pages * PAGE_SIZE).unwrap();
        pool.reset(range(2)).unwrap();
        assert_eq!(pool.allocate(2, PAGE_SIZE), Some(PhysAddr::new(START)));
        assert!(pool.reset(range(129)).is_err());
        assert_eq!((pool.used_pages(), pool.pages()), (2, 2));
        pool.reset(range(70)).unwrap();
        assert_eq!((pool.used_pages(), pool.pages()), (0, 70));
        assert_eq!(pool.allocate(70, PAGE_SIZE), Some(PhysAddr::new(START)));
    }

    #[test]
    fn set_up_is_checked() {
        let range = |size| Range::from_size(PhysAddr::new(START), size).unwrap();
        assert!(matches!(
            Pool::<2>::new(range(129 * PAGE_SIZE)),
            Err(PoolError::TooLarge {
                pages: 129,
                limit: 128
            })
        ));
        assert!(matches!(
            Pool::<2>::new(range(7)),
            Err(PoolError::Unaligned(_))
        ));
    }

    proptest! {
        /// Live allocations never overlap, are aligned and inside the pool.
        #[test]
        fn allocations_are_disjoint(ops in prop::collection::vec((any::<bool>(), prop_oneof![Just(1), 1usize..9], prop_oneof![Just(0), 0u32..4], any::<prop::sample::Index>()), 1..200)) {
            let mut pool = pool(100);
            let mut live: Vec<(u64, usize)> = Vec::new();
            for (take, count, shift, index) in ops {
                if take {
                    let alignment = PAGE_SIZE << shift;
                    let before = live.iter().map(|l| l.1).sum::<usize>();
                    let got = pool.allocate(count, alignment);
                    if count == 1 && shift == 0 {
                        // A page is found where there is one, the first.
                        let free = |page: u64| {
                            let at = START + page * PAGE_SIZE;
                            !live.iter().any(|(from, n)| (*from..from + *n as u64 * PAGE_SIZE).contains(&at))
                        };
                        let first = (0..100).find(|page| free(*page));
                        prop_assert_eq!(got, first.map(|page| PhysAddr::new(START + page * PAGE_SIZE)));
                        prop_assert_eq!(got.is_none(), before == 100);
                    }
                    if let Some(at) = got {
                        prop_assert!(at.is_aligned(alignment));
                        let end = at.raw() + count as u64 * PAGE_SIZE;
                        prop_assert!(at.raw() >= START && end <= START + 100 * PAGE_SIZE);
                        for &(other, n) in &live {
                            prop_assert!(end <= other || other + n as u64 * PAGE_SIZE <= at.raw());
                        }
                        live.push((at.raw(), count));
                    }
                } else if !live.is_empty() {
                    let (at, n) = live.swap_remove(index.index(live.len()));
                    pool.free(PhysAddr::new(at), n).unwrap();
                }
            }
            prop_assert_eq!(pool.used_pages(), live.iter().map(|l| l.1).sum::<usize>());
        }
    }
}
