//! What the ledger knows of one page, in 32 bits.

use crate::sync::{AtomicU32, Ordering};
use core::fmt;

/// Who may use a page of memory.
///
/// The numbers are what the ledger stores; they are stable so that a memory
/// dump can be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(u8);

impl Owner {
    /// Memory that is not yet given out. It is in no translation table.
    pub const NOBODY: Self = Self(0);
    /// The hypervisor's image, stacks, tables and queues.
    pub const HYPERVISOR: Self = Self(1);
    /// The host.
    pub const HOST: Self = Self(2);
    /// Firmware that goes on running, or a device that firmware looks after:
    /// EL3, an OP-TEE, a power controller. It is in no translation table, and
    /// no page of it ever changes hands.
    pub const FIRMWARE: Self = Self(3);

    pub(crate) const fn from_id(id: u8) -> Self {
        Self(id)
    }

    /// The number stored in the ledger.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NOBODY => f.write_str("nobody"),
            Self::HYPERVISOR => f.write_str("hypervisor"),
            Self::HOST => f.write_str("host"),
            Self::FIRMWARE => f.write_str("firmware"),
            Self(other) => write!(f, "owner{other}"),
        }
    }
}

/// Whether a page rests with its owner or is on its way to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The owner may map it.
    Owned,
    /// The page is leaving its owner: translations are being removed and
    /// invalidated. Nobody may map it until the move is committed or cancelled.
    Leaving,
}

/// One page's entry: owner in bits 31:24, state in bit 23, DMA count in bits
/// 22:0. Bits are fixed so that the whole entry changes in one atomic store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u32);

impl Entry {
    /// The largest DMA count an entry can hold. One more is
    /// [`PinError::CountOverflow`](crate::PinError::CountOverflow), never a
    /// wrap to zero.
    pub const MAX_DMA_COUNT: u32 = (1 << 23) - 1;

    const LEAVING: u32 = 1 << 23;

    /// What the ledger stores for a page that rests with `owner` and that no
    /// DMA mapping holds: for filling entries before a ledger is made of them.
    #[must_use]
    pub const fn initial(owner: Owner) -> u32 {
        Self::owned(owner).0
    }

    pub(crate) const fn owned(owner: Owner) -> Self {
        Self((owner.0 as u32) << 24)
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Who owns the page; while it is leaving, who owned it until now.
    #[must_use]
    pub const fn owner(self) -> Owner {
        Owner((self.0 >> 24) as u8)
    }

    /// Whether the page is on its way to another owner.
    #[must_use]
    pub const fn state(self) -> State {
        if self.0 & Self::LEAVING == 0 {
            State::Owned
        } else {
            State::Leaving
        }
    }

    /// How many DMA mappings hold the page.
    #[must_use]
    pub const fn dma_count(self) -> u32 {
        self.0 & Self::MAX_DMA_COUNT
    }

    pub(crate) const fn leaving(self) -> Self {
        Self(self.0 | Self::LEAVING)
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

    /// As [`pinned`](Self::pinned) for a page that rests with `owner`; `None` for
    /// any other.
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
        write!(
            f,
            "{} {:?} dma={}",
            self.owner(),
            self.state(),
            self.dma_count()
        )
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

    #[test]
    fn layout_is_fixed() {
        let entry = Entry::from_bits(0x0280_0003);
        assert_eq!(entry.owner(), Owner::HOST);
        assert_eq!(entry.state(), State::Leaving);
        assert_eq!(entry.dma_count(), 3);
        assert_eq!(Entry::owned(Owner::HYPERVISOR).bits(), 0x0100_0000);
    }

    #[test]
    fn the_count_never_runs_into_the_state() {
        let full = Entry::from_bits(0x027f_ffff);
        assert_eq!(full.pinned(), None);
        assert_eq!(full.unpinned().unwrap().dma_count(), 0x7f_fffe);
        assert_eq!(Entry::owned(Owner::HOST).unpinned(), None);
        assert_eq!(full.pinned_by(Owner::HOST), None);
    }

    #[test]
    fn one_owner_pins_what_rests_with_it() {
        let pinned = |bits| Entry::from_bits(bits).pinned_by(Owner::HOST);
        assert_eq!(pinned(0x0200_0000).map(Entry::bits), Some(0x0200_0001));
        assert_eq!(pinned(0x027f_fffe).map(Entry::bits), Some(0x027f_ffff));
        for other in [0x0280_0000, 0x0100_0000, 0x0300_0000, 0, 0x0280_0003] {
            assert_eq!(pinned(other), None, "{other:#x}");
        }
    }
}
