//! Pages side by side, the largest parts first.

use crate::bank::Size;
use crate::entry::try_exchange;
use crate::sync::AtomicU32;
use crate::word::{Pages, Unit, Word};
use crate::{Bank, Entry, Owner, PageState, PinError, TransferError, UnpinError};
use core::convert::Infallible;
use portcullis_addr::PhysAddr;

/// Pages side by side in one bank.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    bank: &'a Bank<'a>,
    /// Indices of the pages in the bank.
    from: usize,
    to: usize,
}

impl<'a> Span<'a> {
    /// Pages `from` up to but not including `to` of `bank`, which has them.
    #[inline(always)]
    pub(crate) fn new(bank: &'a Bank<'a>, from: usize, to: usize) -> Self {
        Self { bank, from, to }
    }

    /// Pins the pages, which `owner` must own or share.
    #[inline(always)]
    pub(crate) fn pin(&self, owner: Owner) -> Result<(), PinError> {
        let entry = |entry: Entry, page| {
            let state = entry.state();
            if !state.lets_map(owner) {
                return Err(PinError::NotOwner { page, state });
            }
            entry.pinned().ok_or(PinError::CountOverflow { page })
        };
        let undo = |pinned: Self| {
            let unpinned = pinned.unpin();
            debug_assert!(
                unpinned.is_ok(),
                "another caller unpinned what was not its own"
            );
        };
        self.change(|unit| unit.pin(owner), entry, undo)
    }

    /// Unpins the pages.
    #[inline(always)]
    pub(crate) fn unpin(&self) -> Result<(), UnpinError> {
        let entry = |entry: Entry, page| entry.unpinned().ok_or(UnpinError::NotPinned { page });
        // The entries may count what a word counted before. A page whose entry is full
        // is pinned often enough without one more.
        let undo = |unpinned: Self| {
            for slot in unpinned.entries() {
                let _ = try_exchange(slot, |entry| entry.pinned().ok_or(()));
            }
        };
        self.change(|unit| unit.unpin(), entry, undo)
    }

    /// Does `unit` to every unit that lies in the pages as a whole and of which it
    /// says that it did, and replaces each other page's entry by `entry` of it and
    /// of its address. When that refuses one, `undo` is done to the pages before.
    ///
    /// Units that are pinned again and again take a load and an exchange each.
    #[inline(always)]
    fn change<E>(
        &self,
        unit: impl Fn(&Unit<'a>) -> bool,
        entry: impl Fn(Entry, PhysAddr) -> Result<Entry, E>,
        undo: impl Fn(Self),
    ) -> Result<(), E> {
        let mut at = self.from;
        loop {
            at += self.units(Size::Block, at, self.to, &unit);
            if at >= self.to {
                return Ok(());
            }
            // Nothing of the next block before its word was looked at, and of a
            // group that refused, each page.
            let end = self.end_of(Size::Block, at).min(self.to);
            at += self.units(Size::Group, at, end, &unit);
            if at < end {
                let pages = at..self.end_of(Size::Group, at).min(end);
                at = pages.end;
                self.change_entries(pages, &entry)
                    .map_err(|(page, error)| {
                        undo(Self { to: page, ..*self });
                        error
                    })?;
            }
        }
    }

    /// Does `act` to the units from page `at` on, up to page `to`, until it says
    /// no; how many pages it was done to. None if no unit begins there.
    #[inline(always)]
    fn units(&self, size: Size, at: usize, to: usize, act: &impl Fn(&Unit<'a>) -> bool) -> usize {
        let (first, end) = (at + self.bank.ahead(), to + self.bank.ahead());
        if !first.is_multiple_of(size.pages()) {
            return 0;
        }
        let words = first / size.pages()..end / size.pages();
        let words = self.bank.words_of(size).get(words).unwrap_or_default();
        let done = words.iter().enumerate().take_while(|(index, word)| {
            let pages = Pages::new(self.bank, at + index * size.pages(), size);
            act(&Unit { word, pages })
        });
        done.count() * size.pages()
    }

    /// Where the unit around page `at` ends.
    #[inline(always)]
    fn end_of(&self, size: Size, at: usize) -> usize {
        let ahead = self.bank.ahead();
        // A multiple of a power of two.
        ((at + ahead) | (size.pages() - 1)) + 1 - ahead
    }

    /// Replaces the entries of `pages`. When one is refused, its index comes with
    /// the error.
    #[inline(never)]
    fn change_entries<E>(
        &self,
        pages: core::ops::Range<usize>,
        change: &impl Fn(Entry, PhysAddr) -> Result<Entry, E>,
    ) -> Result<(), (usize, E)> {
        let all = self.bank.entries().get(pages.clone());
        for (page, slot) in pages.zip(all.unwrap_or_default()) {
            let address = self.bank.address(page);
            try_exchange(slot, |entry| change(entry, address)).map_err(|error| (page, error))?;
        }
        Ok(())
    }

    fn entries(&self) -> &'a [AtomicU32] {
        let all = self.bank.entries();
        all.get(self.from..self.to).unwrap_or_default()
    }

    /// Makes pages *leaving* that are all in the state `before` and of which each is held
    /// by `most` DMA mappings at most, in its entry.
    pub(crate) fn begin(&self, before: PageState, most: u32) -> Result<(), TransferError> {
        for page in self.from..self.to {
            self.begin_page(page, before, most)
                .inspect_err(|_| Self { to: page, ..*self }.settle(before))?;
        }
        Ok(())
    }

    fn begin_page(&self, page: usize, before: PageState, most: u32) -> Result<(), TransferError> {
        let leaving = Entry::leaving(before.owner());
        let leave = |entry: Entry, page| {
            let state = entry.state();
            if state != before {
                return Err(TransferError::WrongState { page, state });
            }
            if entry.dma_count() > most {
                let count = entry.dma_count();
                return Err(TransferError::Pinned { page, count });
            }
            Ok(entry.in_state_of(leaving))
        };
        self.hold(page, before)?;
        self.change_entries(page..page + 1, &leave)
            .map_err(|(_, error)| {
                self.entered(page).for_each(|unit| unit.let_go());
                error
            })
    }

    /// Holds the units of which the page is the first here, before its entry changes.
    fn hold(&self, page: usize, before: PageState) -> Result<(), TransferError> {
        for (index, unit) in self.entered(page).enumerate() {
            if let Err(word) = unit.hold() {
                let error = self.pinned(page, before, word);
                self.entered(page)
                    .take(index)
                    .for_each(|unit| unit.let_go());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Why the entry of a page does not change whose unit is pinned.
    fn pinned(&self, page: usize, before: PageState, word: Word) -> TransferError {
        let count = self.bank.entry(page).map_or(0, Entry::dma_count);
        let page = self.bank.address(page);
        match word.owner().map(PageState::Owned) {
            Some(state) if state != before => TransferError::WrongState { page, state },
            _ => TransferError::Pinned {
                page,
                // Some may be gone by now.
                count: count.max(word.pins()),
            },
        }
    }

    /// Units of which the page is the first here.
    fn entered(&self, page: usize) -> impl Iterator<Item = Unit<'a>> + use<'a> {
        let (bank, first) = (self.bank, page == self.from);
        let begins = move |size: &Size| (page + bank.ahead()).is_multiple_of(size.pages());
        let sizes = Size::ALL.into_iter();
        sizes
            .filter(move |size| first || begins(size))
            .filter_map(move |size| bank.unit(size, page))
    }

    /// Ends what [`begin`](Self::begin) began: the pages are in the state `after`.
    pub(crate) fn settle(&self, after: PageState) {
        // Only states that have an entry come here; without one the pages stay leaving.
        if let Some(after) = Entry::of(after) {
            for slot in self.entries() {
                // Only the count may change meanwhile.
                let change = |entry: Entry| Ok::<_, Infallible>(entry.in_state_of(after));
                let Ok(()) = try_exchange(slot, change);
            }
        }
        let units = (self.from..self.to).flat_map(|page| self.entered(page));
        units.for_each(|unit| unit.let_go());
    }
}
