//! One space of I/O virtual addresses.

use bitflags::bitflags;
use portcullis_addr::{Iova, PhysAddr, Range};
use thiserror::Error;

bitflags! {
    /// What a device may do with what is mapped.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Read it.
        const READ = 1 << 0;
        /// Write it.
        const WRITE = 1 << 1;
        /// Fetch instructions from it.
        const EXECUTE = 1 << 2;
        /// It is registers of a device, not memory.
        const MMIO = 1 << 3;
    }
}

/// Why nothing was mapped. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// A part of the range is mapped.
    #[error("a part of the range is mapped")]
    AlreadyMapped,
    /// An address is larger than the hardware takes.
    #[error("an address is larger than the hardware takes")]
    TooLarge,
    /// Memory for tables is used up.
    #[error("memory for tables is used up")]
    NoMemory,
    /// A [`flush`](DmaDomain::flush) has to come first.
    #[error("an invalidation has to complete first")]
    FlushFirst,
}

/// Why nothing was taken away. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnmapError {
    /// A mapping reaches across an end of the range.
    #[error("a mapping reaches across an end of the range")]
    WouldSplit,
    /// A [`flush`](DmaDomain::flush) has to come first.
    #[error("an invalidation has to complete first")]
    FlushFirst,
}

/// Something may still be in use that was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an invalidation did not complete")]
pub struct FlushError;

/// A run of a domain that is mapped to one run of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where devices see it.
    pub iova: Range<Iova>,
    /// What they see.
    pub to: PhysAddr,
    /// Registers, not memory.
    pub mmio: bool,
}

/// One space of I/O virtual addresses, as an IOMMU of some kind has it.
///
/// It keeps where each mapping begins: what was mapped by one call can be taken
/// away only as a whole, however the hardware's entries were joined.
///
/// Whoever calls has checked that the memory may be mapped, and holds it until
/// the [`flush`](Self::flush) after the mapping is gone.
pub trait DmaDomain {
    /// Maps `iova` to what begins at `to`. With `joined`, it is the rest of the
    /// mapping that ends where `iova` begins.
    ///
    /// # Errors
    /// [`MapError`].
    fn map(
        &mut self,
        iova: Range<Iova>,
        to: PhysAddr,
        access: Access,
        joined: bool,
    ) -> Result<(), MapError>;

    /// Whether a mapping reaches across `at`: it is mapped on both sides by one
    /// call.
    fn crosses(&self, at: Iova) -> bool;

    /// The first mapped run in `range`, in ascending order.
    fn first(&self, range: Range<Iova>) -> Option<Mapped>;

    /// Takes away a run that [`first`](Self::first) gave, or a part of it that
    /// no mapping reaches out of. Devices may use it until a
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`UnmapError`].
    fn unmap(&mut self, iova: Range<Iova>) -> Result<(), UnmapError>;

    /// Waits until no device uses what was taken away, and frees what only that
    /// needed.
    ///
    /// # Errors
    /// [`FlushError`]: it may be in use for ever. What was taken away must stay
    /// as it is.
    fn flush(&mut self) -> Result<(), FlushError>;
}
