//! Why pages cannot change hands, be pinned or be unpinned.

use crate::{Owner, PageState};
use portcullis_addr::{PhysAddr, Range};
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
    /// A page is in another state than the one that the change begins with: it is
    /// another owner's, on its way already, shared, or dirty.
    #[error("the page {page} is {state}")]
    WrongState {
        /// The first such page.
        page: PhysAddr,
        /// What it is.
        state: PageState,
    },
    /// Of two owners that share a page, one is the host, and the other another.
    #[error("{owner} cannot share memory with {with}")]
    BadSharing {
        /// Who owns the pages.
        owner: Owner,
        /// Who was to use them.
        with: Owner,
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
    /// The owner may not map a page: it neither owns nor shares it, or the page is on
    /// its way to another owner.
    #[error("the page {page} is {state}")]
    NotOwner {
        /// The first such page.
        page: PhysAddr,
        /// What it is.
        state: PageState,
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
    /// A page is not pinned, or only as a part of what is not unpinned with it:
    /// the caller counts wrongly.
    #[error("the page {page} is not held by any DMA mapping")]
    NotPinned {
        /// The first such page.
        page: PhysAddr,
    },
}
