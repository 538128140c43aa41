//! Ranges of pages: transfers between owners and DMA counts.

use crate::sync::{AtomicU32, Ordering};
use crate::{Bank, Entry, LedgerError, Owner, Runs, State};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use thiserror::Error;

/// Why pages cannot change owner. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// The range does not start and end on a page.
    #[error("{0} does not start and end on a page")]
    Unaligned(Range<PhysAddr>),
    /// Part of the range is not RAM, or it spans two banks.
    #[error("{0} is not inside one bank of RAM")]
    NotRam(Range<PhysAddr>),
    /// A page belongs to somebody else.
    #[error("the page {page} belongs to {owner}")]
    NotOwner {
        /// The first such page.
        page: PhysAddr,
        /// Who has it.
        owner: Owner,
    },
    /// A page is already on its way to another owner.
    #[error("the page {page} is already changing its owner")]
    Leaving {
        /// The first such page.
        page: PhysAddr,
    },
    /// A device can reach a page.
    #[error("the page {page} is held by {count} DMA mappings")]
    Pinned {
        /// The first such page.
        page: PhysAddr,
        /// Its DMA count.
        count: u32,
    },
}

/// Why pages cannot be pinned for DMA. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinError {
    /// The range does not start and end on a page.
    #[error("{0} does not start and end on a page")]
    Unaligned(Range<PhysAddr>),
    /// Part of the range is not RAM, or it spans two banks.
    #[error("{0} is not inside one bank of RAM")]
    NotRam(Range<PhysAddr>),
    /// A page belongs to somebody else, or is on its way to somebody else.
    #[error("the page {page} belongs to {owner} ({state:?})")]
    NotOwner {
        /// The first such page.
        page: PhysAddr,
        /// Who has it.
        owner: Owner,
        /// Whether it is on the move.
        state: State,
    },
    /// A page is mapped [`Entry::MAX_DMA_COUNT`] times already.
    #[error("the page {page} cannot take one more DMA mapping")]
    CountOverflow {
        /// The first such page.
        page: PhysAddr,
    },
}

/// Why pages cannot be unpinned. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnpinError {
    /// The range does not start and end on a page.
    #[error("{0} does not start and end on a page")]
    Unaligned(Range<PhysAddr>),
    /// Part of the range is not RAM, or it spans two banks.
    #[error("{0} is not inside one bank of RAM")]
    NotRam(Range<PhysAddr>),
    /// A page has a DMA count of 0: the caller counts wrongly.
    #[error("the page {page} is not held by any DMA mapping")]
    NotPinned {
        /// The first such page.
        page: PhysAddr,
    },
}

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

    /// The entry of the page at or around `address`; `None` outside RAM.
    #[must_use]
    pub fn entry(&self, address: PhysAddr) -> Option<Entry> {
        let bank = self.banks.iter().find(|b| b.range().contains(address))?;
        let index = (address.raw() - bank.range().start().raw()) / PAGE_SIZE;
        let entry = bank.entries().get(usize::try_from(index).ok()?)?;
        Some(Entry::from_bits(entry.load(Ordering::Acquire)))
    }

    /// Whether all of `range` is RAM of one bank.
    #[must_use]
    pub fn is_ram(&self, range: Range<PhysAddr>) -> bool {
        self.banks.iter().any(|bank| bank.range().covers(&range))
    }

    /// Maximal ranges of pages that rest with `owner`, ascending. What changes
    /// while the iterator runs may be seen or not.
    #[must_use]
    pub fn runs(&self, owner: Owner) -> Runs<'a> {
        Runs::new(self.banks, owner)
    }

    /// Starts moving every page of `range` from `from` to `to`. Until
    /// [`Transfer::commit`], nobody may map them.
    ///
    /// # Errors
    /// [`TransferError`]; no page has changed then.
    pub fn begin(
        &self,
        range: Range<PhysAddr>,
        from: Owner,
        to: Owner,
    ) -> Result<Transfer<'a>, TransferError> {
        if !range.is_aligned(PAGE_SIZE) {
            return Err(TransferError::Unaligned(range));
        }
        let entries = self.slice(range).ok_or(TransferError::NotRam(range))?;
        change_all(
            entries,
            |entry, page| {
                if entry.state() == State::Leaving {
                    return Err(TransferError::Leaving {
                        page: page_at(range, page),
                    });
                }
                if entry.owner() != from {
                    return Err(TransferError::NotOwner {
                        page: page_at(range, page),
                        owner: entry.owner(),
                    });
                }
                if entry.dma_count() != 0 {
                    return Err(TransferError::Pinned {
                        page: page_at(range, page),
                        count: entry.dma_count(),
                    });
                }
                Ok(entry.leaving())
            },
            // Only this transfer holds a leaving page, so a plain store undoes.
            |slot| slot.store(Entry::owned(from).bits(), Ordering::Release),
        )?;
        Ok(Transfer {
            entries,
            range,
            from,
            to,
        })
    }

    /// Counts one more DMA mapping of each page of `range`, which `owner` must
    /// have.
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
        let entries = self.slice(range).ok_or(PinError::NotRam(range))?;
        change_all(
            entries,
            |entry, page| {
                if entry.owner() != owner || entry.state() != State::Owned {
                    return Err(PinError::NotOwner {
                        page: page_at(range, page),
                        owner: entry.owner(),
                        state: entry.state(),
                    });
                }
                entry.pinned().ok_or(PinError::CountOverflow {
                    page: page_at(range, page),
                })
            },
            |slot| {
                slot.fetch_sub(1, Ordering::AcqRel);
            },
        )
    }

    /// Counts one DMA mapping less of each page of `range`. To be called only
    /// after the mapping's invalidation completed on every SMMU.
    ///
    /// # Errors
    /// [`UnpinError`]; no count has changed then.
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
        let entries = self.slice(range).ok_or(UnpinError::NotRam(range))?;
        change_all(
            entries,
            |entry, page| {
                entry.unpinned().ok_or(UnpinError::NotPinned {
                    page: page_at(range, page),
                })
            },
            |slot| {
                slot.fetch_add(1, Ordering::AcqRel);
            },
        )
    }

    /// Replaces the entry of `range` by `change` of it if that is one page, with
    /// an entry that may be changed so. Returns whether it did; if not, nothing
    /// has changed.
    #[inline(always)]
    fn change_one(&self, range: Range<PhysAddr>, change: impl Fn(Entry) -> Option<Entry>) -> bool {
        let at = range.start().raw();
        if range.size() != PAGE_SIZE || at & (PAGE_SIZE - 1) != 0 {
            return false;
        }
        for bank in self.banks {
            let page = at.wrapping_sub(bank.range().start().raw()) / PAGE_SIZE;
            // Below the bank is far above its last page.
            if let Some(slot) = usize::try_from(page)
                .ok()
                .and_then(|n| bank.entries().get(n))
            {
                let bits = slot.load(Ordering::Acquire);
                let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                return change(Entry::from_bits(bits)).is_some_and(|new| {
                    slot.compare_exchange(bits, new.bits(), order, failed)
                        .is_ok()
                });
            }
        }
        false
    }

    fn slice(&self, range: Range<PhysAddr>) -> Option<&'a [AtomicU32]> {
        self.banks.iter().find_map(|bank| bank.slice(range))
    }
}

/// Pages on their way from one owner to another.
///
/// Dropped without [`commit`](Self::commit) or [`cancel`](Self::cancel), the
/// pages stay *leaving* for ever: when an invalidation failed, nobody can know
/// who still reaches them.
#[must_use = "the pages stay lost to both owners until the transfer is committed or cancelled"]
#[derive(Debug)]
pub struct Transfer<'a> {
    entries: &'a [AtomicU32],
    range: Range<PhysAddr>,
    from: Owner,
    to: Owner,
}

impl Transfer<'_> {
    /// The pages on the move.
    #[must_use]
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    /// Who is to get the pages.
    #[must_use]
    pub fn to(&self) -> Owner {
        self.to
    }

    /// Completes the move. To be called only after the old owner's
    /// translations were removed and that removal completed everywhere.
    pub fn commit(self) {
        self.settle(self.to);
    }

    /// Gives the pages back. To be called only while, or once again, the old
    /// owner's translations are what they were.
    pub fn cancel(self) {
        self.settle(self.from);
    }

    fn settle(&self, owner: Owner) {
        for slot in self.entries {
            slot.store(Entry::owned(owner).bits(), Ordering::Release);
        }
    }
}

/// Start of the page with index `page` in `range`. The index counts entries of
/// the range, so the sum stays inside it.
fn page_at(range: Range<PhysAddr>, page: usize) -> PhysAddr {
    PhysAddr::new(range.start().raw().saturating_add(page as u64 * PAGE_SIZE))
}

/// Replaces every entry by `change` of it. When `change` refuses one, `undo`
/// runs on those already changed, last first.
fn change_all<E>(
    entries: &[AtomicU32],
    mut change: impl FnMut(Entry, usize) -> Result<Entry, E>,
    undo: impl Fn(&AtomicU32),
) -> Result<(), E> {
    for (index, slot) in entries.iter().enumerate() {
        let mut bits = slot.load(Ordering::Acquire);
        loop {
            let new = match change(Entry::from_bits(bits), index) {
                Ok(new) => new,
                Err(error) => {
                    entries.iter().take(index).rev().for_each(&undo);
                    return Err(error);
                }
            };
            match slot.compare_exchange_weak(bits, new.bits(), Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => break,
                Err(found) => bits = found,
            }
        }
    }
    Ok(())
}
