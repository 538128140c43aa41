//! Maximal ranges of one owner's pages.

use crate::sync::{AtomicU32, Ordering};
use crate::{Bank, Entry, Owner};
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};

/// Iterator over maximal ranges of pages that one owner owns alone.
#[derive(Clone)]
pub struct Runs<'a> {
    banks: &'a [Bank<'a>],
    /// Pages of the first bank that were passed already.
    passed: usize,
    owner: Owner,
}

impl<'a> Runs<'a> {
    pub(crate) fn new(banks: &'a [Bank<'a>], owner: Owner) -> Self {
        Self {
            banks,
            passed: 0,
            owner,
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<PhysAddr>;

    fn next(&mut self) -> Option<Range<PhysAddr>> {
        // Owner and state are the bits above the count, and this loop is long.
        let wanted = Entry::owned(self.owner).bits();
        let matches =
            |slot: &AtomicU32| slot.load(Ordering::Relaxed) & !Entry::MAX_DMA_COUNT == wanted;
        while let Some((bank, rest)) = self.banks.split_first() {
            let left = bank.entries().get(self.passed..).unwrap_or_default();
            if let Some(skip) = left.iter().position(matches) {
                let run = left
                    .iter()
                    .skip(skip)
                    .take_while(|slot| matches(slot))
                    .count();
                let first = bank
                    .range()
                    .start()
                    .checked_add((self.passed + skip) as u64 * PAGE_SIZE)?;
                self.passed += skip + run;
                if run == 0 {
                    // The page changed between the two looks.
                    continue;
                }
                return Range::from_size(first, run as u64 * PAGE_SIZE).ok();
            }
            self.banks = rest;
            self.passed = 0;
        }
        None
    }
}
