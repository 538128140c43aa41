//! A range of pages, group by group.

use crate::group::{Group, Missing, Pages, Word, exchange_once, give, try_exchange};
use crate::sync::{AtomicU32, Ordering};
use crate::{Bank, Entry, Owner, PinError, State, TransferError, UnpinError};
use portcullis_addr::{PAGE_SIZE, PhysAddr};

/// The parts of a range of pages that lie in one group each, ascending.
#[derive(Clone)]
pub(crate) struct Parts<'a> {
    bank: &'a Bank<'a>,
    /// Pages of the bank that are left.
    from: usize,
    to: usize,
}

impl<'a> Parts<'a> {
    /// Pages `from` up to but not including `to` of `bank`, which has them.
    pub(crate) fn new(bank: &'a Bank<'a>, from: usize, to: usize) -> Self {
        Self { bank, from, to }
    }

    /// Replaces the words of whole groups by `change` of them, from the first page
    /// on, until one is not as it should be or another CPU is at it. What is left
    /// for [`all_or_none`](Self::all_or_none), and what was done.
    ///
    /// Groups that are pinned again and again take a load and an exchange each.
    #[inline(always)]
    pub(crate) fn whole_groups(self, change: impl Fn(Word) -> Option<Word>) -> (Self, Self) {
        let ahead = self.bank.ahead();
        let first = self.from + ahead;
        let count = (self.to - self.from) / Bank::GROUP_PAGES;
        let mut done = 0;
        if first.is_multiple_of(Bank::GROUP_PAGES) {
            let group = first / Bank::GROUP_PAGES;
            let words = self.bank.words().get(group..group + count);
            done = words.map_or(0, |words| {
                let changed = |slot: &&AtomicU32| exchange_once(slot, &change);
                words.iter().take_while(changed).count()
            });
        }
        let at = self.from + done * Bank::GROUP_PAGES;
        (
            Self {
                from: at,
                ..self.clone()
            },
            Self { to: at, ..self },
        )
    }

    /// Does `act` to all parts. When it refuses one, `undo` is done to those
    /// before.
    #[inline(always)]
    pub(crate) fn all_or_none<E>(
        &self,
        act: impl Fn(&Part<'a>) -> Result<(), E>,
        undo: impl Fn(&Part<'a>),
    ) -> Result<(), E> {
        for (index, part) in self.clone().enumerate() {
            if let Err(error) = act(&part) {
                self.clone().take(index).for_each(|part| undo(&part));
                return Err(error);
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Part<'a>> {
        if self.from >= self.to {
            return None;
        }
        let ahead = self.bank.ahead();
        let group = (self.from + ahead) / Bank::GROUP_PAGES;
        let end = (group + 1) * Bank::GROUP_PAGES - ahead;
        let part = Part {
            bank: self.bank,
            group,
            from: self.from,
            to: self.to.min(end),
        };
        self.from = part.to;
        Some(part)
    }
}

/// Pages side by side in one group.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    bank: &'a Bank<'a>,
    /// Index of the group among those that the bank touches.
    group: usize,
    /// Indices of the pages in the bank.
    from: usize,
    to: usize,
}

impl<'a> Part<'a> {
    /// The group, if it lies in the bank as a whole. No word stands for others.
    #[inline(always)]
    pub(crate) fn group(&self) -> Option<Group<'a>> {
        let first = self.first_of_group()?;
        Some(Group {
            word: self.bank.words().get(self.group)?,
            pages: self.bank.entries().get(first..first + Bank::GROUP_PAGES)?,
        })
    }

    #[inline(always)]
    fn first_of_group(&self) -> Option<usize> {
        (self.group * Bank::GROUP_PAGES).checked_sub(self.bank.ahead())
    }

    fn is_whole(&self) -> bool {
        self.to - self.from == Bank::GROUP_PAGES
    }

    /// The entries of the pages.
    fn entries(&self) -> &'a [AtomicU32] {
        let all = self.bank.entries();
        all.get(self.from..self.to).unwrap_or_default()
    }

    /// Where the bank's page with that index begins. It lies in the bank, so the
    /// sum does not wrap.
    fn address(&self, page: usize) -> PhysAddr {
        let start = self.bank.range().start().raw();
        PhysAddr::new(start.saturating_add(page as u64 * PAGE_SIZE))
    }

    /// Pins the pages, which `owner` must have.
    #[inline(always)]
    pub(crate) fn pin(&self, owner: Owner) -> Result<(), PinError> {
        if self.is_whole() && self.group().is_some_and(|group| group.pin(owner)) {
            return Ok(());
        }
        self.pin_singly(owner)
    }

    #[inline(never)]
    fn pin_singly(&self, owner: Owner) -> Result<(), PinError> {
        self.change_entries(|entry, page| {
            if entry.owner() != owner || entry.state() != State::Owned {
                return Err(PinError::NotOwner {
                    page: self.address(page),
                    owner: entry.owner(),
                    state: entry.state(),
                });
            }
            entry.pinned().ok_or(PinError::CountOverflow {
                page: self.address(page),
            })
        })
        .map_err(|(page, error)| {
            // Not from the entries alone: another CPU may have unpinned with
            // these counts what it had pinned as a group.
            let pinned = Self { to: page, ..*self };
            pinned.take_back();
            error
        })
    }

    /// Unpins the pages.
    #[inline(always)]
    pub(crate) fn unpin(&self) -> Result<(), UnpinError> {
        if self.is_whole() && self.group().is_some_and(|group| group.unpin()) {
            return Ok(());
        }
        self.unpin_singly()
    }

    #[inline(never)]
    fn unpin_singly(&self) -> Result<(), UnpinError> {
        let (Some(group), Some(first)) = (self.group(), self.first_of_group()) else {
            return self
                .change_entries(|entry, page| {
                    entry.unpinned().ok_or(UnpinError::NotPinned {
                        page: self.address(page),
                    })
                })
                .map_err(|(page, error)| {
                    Self { to: page, ..*self }.give_back();
                    error
                });
        };
        let pages = Pages::between(self.from - first, self.to - first);
        group.take(pages).map_err(|missing| match missing {
            Missing::NotPinned(page) => UnpinError::NotPinned {
                page: self.address(first + page),
            },
            Missing::Full(page) => UnpinError::CountOverflow {
                page: self.address(first + page),
            },
        })
    }

    /// Undoes a pin.
    pub(crate) fn take_back(&self) {
        let taken = self.unpin();
        debug_assert!(taken.is_ok(), "somebody unpinned what was not theirs");
    }

    /// Undoes an unpin. Whether entries or the word counted is all the same.
    pub(crate) fn give_back(&self) {
        self.entries().iter().for_each(give);
    }

    /// Starts moving the pages away from `from`.
    pub(crate) fn begin(&self, from: Owner) -> Result<(), TransferError> {
        // The group first, see there.
        let group = self.group();
        if let Some(Err(word)) = group.map(|group| group.hold()) {
            let page = self.address(self.from);
            return Err(match word.owner() {
                Some(owner) if owner != from => TransferError::NotOwner { page, owner },
                _ => TransferError::Pinned {
                    page,
                    count: self.first_count(word.pins()),
                },
            });
        }
        self.change_entries(|entry, page| {
            let page = self.address(page);
            if entry.state() == State::Leaving {
                return Err(TransferError::Leaving { page });
            }
            if entry.owner() != from {
                let owner = entry.owner();
                return Err(TransferError::NotOwner { page, owner });
            }
            if entry.dma_count() != 0 {
                let count = entry.dma_count();
                return Err(TransferError::Pinned { page, count });
            }
            Ok(entry.leaving())
        })
        .map_err(|(page, error)| {
            let begun = Self { to: page, ..*self };
            begun.settle(from);
            error
        })
    }

    /// DMA count of the first page, with what its group counts.
    fn first_count(&self, pins: u32) -> u32 {
        self.entries().first().map_or(pins, |slot| {
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            entry.with_more(pins).dma_count()
        })
    }

    /// Ends what [`begin`](Self::begin) began: the pages rest with `owner`.
    pub(crate) fn settle(&self, owner: Owner) {
        // Only this transfer holds a leaving page, so a plain store will do.
        for slot in self.entries() {
            slot.store(Entry::owned(owner).bits(), Ordering::Release);
        }
        if let Some(group) = self.group() {
            group.let_go();
        }
    }

    /// Replaces every entry by `change` of it and of the page's index in the
    /// bank. When `change` refuses one, its index comes with the error; those
    /// before are for the caller to undo.
    fn change_entries<E>(
        &self,
        change: impl Fn(Entry, usize) -> Result<Entry, E>,
    ) -> Result<(), (usize, E)> {
        for (page, slot) in (self.from..self.to).zip(self.entries()) {
            try_exchange(slot, |entry| change(entry, page)).map_err(|error| (page, error))?;
        }
        Ok(())
    }
}
