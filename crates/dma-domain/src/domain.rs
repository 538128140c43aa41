//! One space of I/O virtual addresses, and what makes such spaces.

use crate::iommu::Endpoint;
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
    /// The hardware has no such permission.
    #[error("the hardware has no such permission")]
    BadAccess,
    /// Memory for tables is used up.
    #[error("memory for tables is used up")]
    NoMemory,
    /// A [`flush`](DmaDomain::flush) has to come first.
    #[error("an invalidation has to complete first")]
    FlushFirst,
}

/// Why nothing was taken away: a [`flush`](DmaDomain::flush) has to come first,
/// after which it will be. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an invalidation has to complete first")]
pub struct FlushFirst;

/// Something may still be in use that was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an invalidation did not complete")]
pub struct FlushError;

/// A run of addresses that was mapped to one run of memory.
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
/// It keeps where each mapping begins: what was mapped by one request can be
/// taken away only as a whole, however the hardware's entries were joined.
///
/// Whoever calls has checked that the memory may be mapped, and holds it until
/// the [`flush`](Self::flush) after the mapping is gone.
pub trait DmaDomain {
    /// Maps `iova` to what begins at `to`. With `rest`, it is the rest of the
    /// mapping that ends where `iova` begins.
    ///
    /// The work is bounded if `iova` does not cross a multiple of 2 MiB, or one
    /// of 1 GiB where it and `to` agree in their lowest 21 bits.
    ///
    /// # Errors
    /// [`MapError`].
    fn map(
        &mut self,
        iova: Range<Iova>,
        to: PhysAddr,
        access: Access,
        rest: bool,
    ) -> Result<(), MapError>;

    /// Whether a mapping reaches across `at`, which may be any address: what lies
    /// on both sides was mapped by one request. One inside a page lies between two
    /// bytes of whatever has that page.
    fn reaches_across(&self, at: Iova) -> bool;

    /// Takes away the first run of addresses in `range` that is mapped, in a
    /// bounded amount of work, and says what it was; `None` when nothing is. No
    /// mapping reaches across the ends of `range`. Devices may use it until a
    /// [`flush`](Self::flush).
    ///
    /// Inside a mapping, a run begins and ends only at multiples of 2 MiB of
    /// addresses, or where that leaves each naturally aligned 64 KiB of memory in
    /// one piece which the mapping has as a whole, and each 2 MiB.
    ///
    /// # Errors
    /// [`FlushFirst`].
    fn unmap_first(&mut self, range: Range<Iova>) -> Result<Option<Mapped>, FlushFirst>;

    /// Waits until no device uses what was taken away, and frees what only that
    /// needed.
    ///
    /// # Errors
    /// [`FlushError`]: it may be in use for ever, and so may what is taken away
    /// later. It must all stay as it is.
    fn flush(&mut self) -> Result<(), FlushError>;
}

/// Why there is no new domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CreateError {
    /// Memory for tables is used up.
    #[error("memory for tables is used up")]
    NoMemory,
    /// The hardware does not take it.
    #[error("the hardware does not take it")]
    Failed,
}

/// Why an endpoint was not attached or blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AttachError {
    /// Memory is used up. Nothing has changed.
    #[error("memory is used up")]
    NoMemory,
    /// The hardware failed, and the endpoint is blocked.
    #[error("the hardware failed")]
    Failed,
}

/// Everything of one kind that translates DMA for one owner: makes domains, and
/// puts endpoints into them.
///
/// Domains are known by a `slot`, a small number that the caller gives out. At
/// first every endpoint is blocked.
pub trait DmaUnit {
    /// Its domains.
    type Domain: DmaDomain;

    /// A bit for each size in bytes of a page or block.
    fn page_sizes(&self) -> u64;

    /// What endpoints can address.
    fn input(&self) -> Range<Iova>;

    /// Slots are below this.
    fn slots(&self) -> usize;

    /// Whether there is such an endpoint.
    fn has(&self, endpoint: Endpoint) -> bool;

    /// The slot of the domain that `endpoint` is in; `None` when it is blocked, by
    /// a failure of its hardware too, or there is no such endpoint.
    fn slot_of(&self, endpoint: Endpoint) -> Option<usize>;

    /// The slot of the domain that `endpoint` was in when its hardware failed and
    /// blocked it, until [`block`](Self::block) is called, or
    /// [`attach`](Self::attach) has failed.
    fn stranded(&self, endpoint: Endpoint) -> Option<usize> {
        let _ = endpoint;
        None
    }

    /// The first endpoint at or above `from` that is in some domain, or
    /// [stranded](Self::stranded), looking at `budget` of them at most: `Err` with
    /// where to go on when that was not enough, `Ok(None)` when there is none.
    ///
    /// # Errors
    /// Where to go on.
    fn next_attached(&self, from: Endpoint, budget: u32) -> Result<Option<Endpoint>, Endpoint>;

    /// An empty domain for `slot`.
    ///
    /// # Errors
    /// [`CreateError`].
    fn create(&mut self, slot: usize) -> Result<Self::Domain, CreateError>;

    /// Makes sure that nobody holds anything of a domain that no endpoint is in, in
    /// which nothing is mapped and that was flushed. It stays as it is.
    ///
    /// # Errors
    /// [`FlushError`]: somebody may hold something of it for ever, so that neither
    /// it nor its slot may be used again.
    fn forget(&mut self, domain: &mut Self::Domain) -> Result<(), FlushError>;

    /// Gives back what a domain takes, after [`forget`](Self::forget). Its slot
    /// is free.
    fn destroy(&mut self, domain: Self::Domain);

    /// Moves `endpoint` into `domain`, out of `from` if it is in one. Until this
    /// returns, its accesses are translated as before or as then, or are
    /// blocked; none is translated in part by both.
    ///
    /// # Errors
    /// [`AttachError`].
    fn attach(
        &mut self,
        endpoint: Endpoint,
        domain: &mut Self::Domain,
        from: Option<&mut Self::Domain>,
    ) -> Result<(), AttachError>;

    /// Blocks `endpoint`, which is in `domain` or was [stranded](Self::stranded)
    /// there.
    ///
    /// # Errors
    /// [`AttachError::Failed`]; it is blocked all the same.
    fn block(&mut self, endpoint: Endpoint, domain: &mut Self::Domain) -> Result<(), AttachError>;
}
