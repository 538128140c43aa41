//! What the ledger knows of one page, in 32 bits.

use crate::sync::{AtomicU32, Ordering};
use crate::{Owner, PageState};
use core::fmt;

/// One page's entry, in one word so that all of it changes in one atomic store:
///
/// | bits | |
/// |---|---|
/// | 31:24 | an owner |
/// | 23:21 | the kind of state |
/// | 20:0 | DMA count |
///
/// | kind | state |
/// |---|---|
/// | 0 | `Owned` by that owner |
/// | 1 | `Shared` by that owner with the host |
/// | 2 | `Shared` by the host with that owner |
/// | 3 | `Dirty`, for that owner |
/// | 4 | `Leaving` that owner |
///
/// The others are never written. They are read as `Leaving`, which lets no owner map
/// the page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u32);

impl Entry {
    /// The largest DMA count an entry can hold. One more is
    /// [`PinError::CountOverflow`](crate::PinError::CountOverflow), never a
    /// wrap to zero.
    pub const MAX_DMA_COUNT: u32 = (1 << Self::KIND) - 1;

    const KIND: u32 = 21;
    const OWNER: u32 = 24;
    const OWNED: u32 = 0;
    const SHARED_WITH_HOST: u32 = 1;
    const SHARED_BY_HOST: u32 = 2;
    const DIRTY: u32 = 3;
    const LEAVING: u32 = 4;

    /// What the ledger stores for a page that `owner` owns and that no DMA
    /// mapping holds: for filling entries before a ledger is made of them.
    #[must_use]
    pub const fn initial(owner: Owner) -> u32 {
        Self::owned(owner).0
    }

    pub(crate) const fn owned(owner: Owner) -> Self {
        Self::of_kind(Self::OWNED, owner)
    }

    pub(crate) const fn leaving(owner: Owner) -> Self {
        Self::of_kind(Self::LEAVING, owner)
    }

    const fn of_kind(kind: u32, owner: Owner) -> Self {
        Self((owner.id() as u32) << Self::OWNER | kind << Self::KIND)
    }

    /// A page in that state, held by no DMA mapping. `None` for one shared by two
    /// owners of which none is the host, or by one with itself.
    pub(crate) fn of(state: PageState) -> Option<Self> {
        Some(match state {
            PageState::Owned(owner) => Self::owned(owner),
            PageState::Leaving(owner) => Self::leaving(owner),
            PageState::Dirty(owner) => Self::of_kind(Self::DIRTY, owner),
            PageState::Shared { owner, with } if owner == with => return None,
            PageState::Shared { owner, with } if with == Owner::HOST => {
                Self::of_kind(Self::SHARED_WITH_HOST, owner)
            }
            PageState::Shared { owner, with } if owner == Owner::HOST => {
                Self::of_kind(Self::SHARED_BY_HOST, with)
            }
            PageState::Shared { .. } => return None,
        })
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Who owns the page; see [`PageState::owner`].
    #[must_use]
    pub const fn owner(self) -> Owner {
        self.state().owner()
    }

    /// What may be done with the page.
    #[must_use]
    pub const fn state(self) -> PageState {
        let owner = Owner::from_id((self.0 >> Self::OWNER) as u8);
        match self.0 >> Self::KIND & 0b111 {
            Self::OWNED => PageState::Owned(owner),
            Self::SHARED_WITH_HOST => PageState::Shared {
                owner,
                with: Owner::HOST,
            },
            Self::SHARED_BY_HOST => PageState::Shared {
                owner: Owner::HOST,
                with: owner,
            },
            Self::DIRTY => PageState::Dirty(owner),
            _ => PageState::Leaving(owner),
        }
    }

    /// How many DMA mappings hold the page.
    #[must_use]
    pub const fn dma_count(self) -> u32 {
        self.0 & Self::MAX_DMA_COUNT
    }

    /// With the count of `self`, in the state of `state`.
    pub(crate) const fn in_state_of(self, state: Self) -> Self {
        Self(state.0 & !Self::MAX_DMA_COUNT | self.dma_count())
    }

    /// With `more` DMA mappings, as far as they can be counted.
    pub(crate) const fn with_more(self, more: u32) -> Self {
        let room = Self::MAX_DMA_COUNT - self.dma_count();
        Self(self.0 + if more < room { more } else { room })
    }

    /// `None` at [`MAX_DMA_COUNT`](Self::MAX_DMA_COUNT).
    pub(crate) const fn pinned(self) -> Option<Self> {
        if self.dma_count() == Self::MAX_DMA_COUNT {
            None
        } else {
            Some(Self(self.0 + 1))
        }
    }

    /// As [`pinned`](Self::pinned) for a page that `owner` owns and shares with no
    /// other; `None` for any other.
    #[inline(always)]
    pub(crate) const fn pinned_by(self, owner: Owner) -> Option<Self> {
        // What is left is the count, unless the owner or the state differs.
        if self.0 ^ Self::owned(owner).0 < Self::MAX_DMA_COUNT {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }

    /// `None` at a count of 0.
    pub(crate) const fn unpinned(self) -> Option<Self> {
        if self.dma_count() == 0 {
            None
        } else {
            Some(Self(self.0 - 1))
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dma={}", self.state(), self.dma_count())
    }
}

/// Replaces an entry by `change` of it. When `change` refuses, nothing has changed.
#[inline(always)]
pub(crate) fn try_exchange<E>(
    slot: &AtomicU32,
    change: impl Fn(Entry) -> Result<Entry, E>,
) -> Result<(), E> {
    let mut bits = slot.load(Ordering::Acquire);
    loop {
        let new = change(Entry::from_bits(bits))?;
        match slot.compare_exchange_weak(bits, new.bits(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(()),
            Err(found) => bits = found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Owner = Owner::from_id(7);

    #[test]
    fn layout_is_fixed() {
        let states = [
            (0x0200_0003, PageState::Owned(Owner::HOST)),
            (0x0280_0003, PageState::Leaving(Owner::HOST)),
            (0x0260_0003, PageState::Dirty(Owner::HOST)),
            (
                0x0720_0003,
                PageState::Shared {
                    owner: GUEST,
                    with: Owner::HOST,
                },
            ),
            (
                0x0740_0003,
                PageState::Shared {
                    owner: Owner::HOST,
                    with: GUEST,
                },
            ),
        ];
        for (bits, state) in states {
            let entry = Entry::from_bits(bits);
            assert_eq!((entry.state(), entry.dma_count()), (state, 3));
            assert_eq!(Entry::of(state).map(Entry::bits), Some(bits & !3));
        }
        assert_eq!(Entry::owned(Owner::HYPERVISOR).bits(), 0x0100_0000);
    }

    #[test]
    fn what_is_never_written_lets_no_owner_map_the_page() {
        for kind in 5..8 {
            let entry = Entry::from_bits(0x0200_0000 | kind << 21);
            assert_eq!(entry.state(), PageState::Leaving(Owner::HOST));
            assert!(!entry.state().lets_map(Owner::HOST));
        }
    }

    #[test]
    fn only_the_host_shares_with_others() {
        let shared = |owner, with| Entry::of(PageState::Shared { owner, with });
        assert_eq!(shared(GUEST, Owner::from_id(8)), None);
        assert_eq!(shared(GUEST, GUEST), None);
        assert_eq!(shared(Owner::HOST, Owner::HOST), None);
    }

    #[test]
    fn the_count_never_runs_into_the_state() {
        let full = Entry::from_bits(0x021f_ffff);
        assert_eq!(full.pinned(), None);
        assert_eq!(full.unpinned().unwrap().dma_count(), 0x1f_fffe);
        assert_eq!(Entry::owned(Owner::HOST).unpinned(), None);
        assert_eq!(full.pinned_by(Owner::HOST), None);
    }

    #[test]
    fn one_owner_pins_at_once_what_is_its_own_alone() {
        let pinned = |bits| Entry::from_bits(bits).pinned_by(Owner::HOST);
        assert_eq!(pinned(0x0200_0000).map(Entry::bits), Some(0x0200_0001));
        assert_eq!(pinned(0x021f_fffe).map(Entry::bits), Some(0x021f_ffff));
        for other in [
            0x0280_0000,
            0x0100_0000,
            0x0300_0000,
            0,
            0x0280_0003,
            0x0220_0000,
            0x0740_0000,
            0x0260_0000,
        ] {
            assert_eq!(pinned(other), None, "{other:#x}");
        }
    }
}
