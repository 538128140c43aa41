//! Ranges of pages: transfers between owners and DMA counts.

use crate::span::Span;
use crate::sync::{AtomicU32, Ordering};
use crate::{
    Bank, Entry, LedgerError, Owner, PageState, PinError, Runs, Scrub, Transfer, TransferError,
    UnpinError,
};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};

/// The ledger over all banks of RAM.
#[derive(Clone, Copy)]
pub struct Ledger<'a> {
    banks: &'a [Bank<'a>],
}

impl<'a> Ledger<'a> {
    /// A ledger over `banks`, in ascending order.
    ///
    /// # Errors
    /// [`LedgerError::Order`] when the banks are not ascending and disjoint.
    pub fn new(banks: &'a [Bank<'a>]) -> Result<Self, LedgerError> {
        for pair in banks.windows(2) {
            if let [low, high] = pair
                && low.range().end() > high.range().start()
            {
                return Err(LedgerError::Order(high.range()));
            }
        }
        Ok(Self { banks })
    }

    /// The banks, ascending.
    #[must_use]
    pub fn banks(&self) -> &'a [Bank<'a>] {
        self.banks
    }

    /// The entry of the page at or around `address`, with the DMA mappings that
    /// are counted for its group and its block; `None` outside RAM. While other
    /// CPUs pin and unpin, a mapping may be counted twice or not yet.
    #[must_use]
    pub fn entry(&self, address: PhysAddr) -> Option<Entry> {
        let mut banks = self.banks.iter();
        banks.find_map(|bank| bank.entry(bank.page(address)?))
    }

    /// Whether all of `range` is RAM of one bank.
    #[must_use]
    pub fn is_ram(&self, range: Range<PhysAddr>) -> bool {
        self.banks.iter().any(|bank| bank.range().covers(&range))
    }

    /// Maximal ranges of pages that `owner` owns and shares with no other, ascending. What changes
    /// while the iterator runs may be seen or not.
    #[must_use]
    pub fn runs(&self, owner: Owner) -> Runs<'a> {
        Runs::new(self.banks, owner)
    }

    /// Starts moving every page of `range` from `from`, which owns them and shares none,
    /// to `to`. Until the transfer is over, no owner may map them.
    ///
    /// # Errors
    /// [`TransferError`]; no page has changed then.
    pub fn begin(
        &self,
        range: Range<PhysAddr>,
        from: Owner,
        to: Owner,
    ) -> Result<Transfer<'a>, TransferError> {
        let before = PageState::Owned(from);
        let pages = self.whole_pages(range)?;
        pages.begin(before, 0)?;
        Ok(Transfer::new(pages, range, before, to))
    }

    /// Lets `with` use every page of `range`, which `owner` owns and shares with no
    /// other. One of the two is the host. Pages that DMA mappings hold stay held; those
    /// that are held as a part of a larger range cannot be shared meanwhile.
    ///
    /// # Errors
    /// [`TransferError`]; no page has changed then.
    pub fn share(
        &self,
        range: Range<PhysAddr>,
        owner: Owner,
        with: Owner,
    ) -> Result<(), TransferError> {
        let after = shared(owner, with)?;
        let pages = self.whole_pages(range)?;
        // Leaving in between: what is not shared in the end must not be pinned by `with`.
        pages.begin(PageState::Owned(owner), Entry::MAX_DMA_COUNT)?;
        pages.settle(after);
        Ok(())
    }

    /// Starts taking every page of `range` away from `with`, which `owner` shares them
    /// with. Until the transfer is over neither may map them; a commit gives them to
    /// `owner` alone. The evidence that it needs is of the tables of `with`; those of the
    /// owner may go on having the pages.
    ///
    /// # Errors
    /// [`TransferError`]; no page has changed then.
    pub fn begin_unshare(
        &self,
        range: Range<PhysAddr>,
        owner: Owner,
        with: Owner,
    ) -> Result<Transfer<'a>, TransferError> {
        let before = shared(owner, with)?;
        let pages = self.whole_pages(range)?;
        pages.begin(before, 0)?;
        Ok(Transfer::new(pages, range, before, owner))
    }

    /// Starts overwriting every page of `range`, which are dirty and for `owner`. One
    /// caller at a time gets them.
    ///
    /// # Errors
    /// [`TransferError`]; no page has changed then.
    pub fn begin_scrub(
        &self,
        range: Range<PhysAddr>,
        owner: Owner,
    ) -> Result<Scrub<'a>, TransferError> {
        let pages = self.whole_pages(range)?;
        pages.begin(PageState::Dirty(owner), 0)?;
        Ok(Scrub::new(pages, range, owner))
    }

    fn whole_pages(&self, range: Range<PhysAddr>) -> Result<Span<'a>, TransferError> {
        if !range.is_aligned(PAGE_SIZE) {
            return Err(TransferError::Unaligned(range));
        }
        self.span(range).ok_or(TransferError::NotRam(range))
    }

    /// Counts one more DMA mapping of each page of `range`, which `owner` must
    /// own, or share.
    ///
    /// # Errors
    /// [`PinError`]; no count has changed then.
    #[inline]
    pub fn pin(&self, range: Range<PhysAddr>, owner: Owner) -> Result<(), PinError> {
        if self.change_one(range, |entry| entry.pinned_by(owner)) {
            return Ok(());
        }
        self.pin_all(range, owner)
    }

    /// Any number of pages, and what is wrong with them.
    #[inline(never)]
    fn pin_all(&self, range: Range<PhysAddr>, owner: Owner) -> Result<(), PinError> {
        if !range.is_aligned(PAGE_SIZE) {
            return Err(PinError::Unaligned(range));
        }
        let pages = self.span(range).ok_or(PinError::NotRam(range))?;
        pages.pin(owner)
    }

    /// Counts one DMA mapping less of each page of `range`. To be called only
    /// after the mapping's invalidation completed on every SMMU.
    ///
    /// `range` is a union of parts of what was pinned, and not unpinned yet. A
    /// pinned range can be unpinned in parts: it is cut wherever a block of 2 MiB
    /// begins or ends, in what is no whole block wherever a group of 64 KiB does,
    /// and in what is no whole group at every page.
    ///
    /// # Errors
    /// [`UnpinError`]; no count has changed then. A caller that unpins less than a
    /// part may not be told so, while others have pinned the same pages; what they
    /// unpin later may not be found then, and stays pinned.
    #[inline]
    pub fn unpin(&self, range: Range<PhysAddr>) -> Result<(), UnpinError> {
        if self.change_one(range, Entry::unpinned) {
            return Ok(());
        }
        self.unpin_all(range)
    }

    #[inline(never)]
    fn unpin_all(&self, range: Range<PhysAddr>) -> Result<(), UnpinError> {
        if !range.is_aligned(PAGE_SIZE) {
            return Err(UnpinError::Unaligned(range));
        }
        let pages = self.span(range).ok_or(UnpinError::NotRam(range))?;
        pages.unpin()
    }

    /// Calls `use_it` while every page of `range`, which `owner` must have, is pinned.
    ///
    /// # Errors
    /// [`PinError`]; `use_it` was not called then, and no count has changed.
    #[inline(always)]
    pub fn with_pinned<T>(
        &self,
        range: Range<PhysAddr>,
        owner: Owner,
        use_it: impl FnOnce() -> T,
    ) -> Result<T, PinError> {
        // One page is looked up once.
        let slot = self.slot(range);
        if !slot.is_some_and(|slot| change(slot, |entry| entry.pinned_by(owner))) {
            self.pin_all(range, owner)?;
        }
        let result = use_it();
        if !slot.is_some_and(|slot| change(slot, Entry::unpinned)) {
            // It was pinned above, or its count has changed meanwhile.
            let counted = self.unpin_all(range);
            debug_assert!(counted.is_ok());
        }
        Ok(result)
    }

    /// Replaces the entry of `range` by `by` of it if that is one page, with
    /// an entry that may be changed so. Returns whether it did; if not, nothing
    /// has changed.
    #[inline(always)]
    fn change_one(&self, range: Range<PhysAddr>, by: impl Fn(Entry) -> Option<Entry>) -> bool {
        self.slot(range).is_some_and(|slot| change(slot, by))
    }

    /// The entry of `range`, if that is one page.
    #[inline(always)]
    fn slot(&self, range: Range<PhysAddr>) -> Option<&'a AtomicU32> {
        let at = range.start().raw();
        if range.size() != PAGE_SIZE || at & (PAGE_SIZE - 1) != 0 {
            return None;
        }
        self.banks.iter().find_map(|bank| {
            let page = at.wrapping_sub(bank.range().start().raw()) / PAGE_SIZE;
            // Below the bank is far above its last page.
            let page = usize::try_from(page).ok()?;
            bank.entries().get(page)
        })
    }

    #[inline(always)]
    fn span(&self, range: Range<PhysAddr>) -> Option<Span<'a>> {
        self.banks.iter().find_map(|bank| bank.span(range))
    }
}

/// The state of pages that the two share.
fn shared(owner: Owner, with: Owner) -> Result<PageState, TransferError> {
    let state = PageState::Shared { owner, with };
    let entry = Entry::of(state).ok_or(TransferError::BadSharing { owner, with })?;
    Ok(entry.state())
}

/// Replaces the entry in `slot` by `by` of it. `false` when there is none, or another
/// CPU was faster; nothing has changed then.
#[inline(always)]
fn change(slot: &AtomicU32, by: impl Fn(Entry) -> Option<Entry>) -> bool {
    let bits = slot.load(Ordering::Acquire);
    let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
    by(Entry::from_bits(bits)).is_some_and(|new| {
        slot.compare_exchange(bits, new.bits(), order, failed)
            .is_ok()
    })
}
