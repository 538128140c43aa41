//! What a front end asks for.

use crate::domain::Access;
use core::fmt;
use portcullis_addr::{Iova, Ipa, Range};
use thiserror::Error;

/// A number that the owner chose for a domain, see [`Limits::domains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

/// A number that the owner knows a device by; for an SMMU, of several streams
/// of several SMMUs, whatever the device tree says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(pub u32);

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One thing asked for. Addresses of a mapping are multiples of the smallest
/// page; the front end that makes the request has checked that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Lets `endpoint` reach what `domain` maps and nothing else, whatever it
    /// reached before. Makes the domain if there is none of that number.
    Attach {
        /// Where to.
        domain: DomainId,
        /// The device that is meant.
        endpoint: Endpoint,
    },
    /// Blocks `endpoint`. A domain whose last endpoint is gone is gone with all
    /// of its mappings.
    Detach {
        /// The domain that it is in.
        domain: DomainId,
        /// The device that is meant.
        endpoint: Endpoint,
    },
    /// Maps `iova` to memory of the owner's from `to` on.
    Map {
        /// The domain, which exists.
        domain: DomainId,
        /// Where devices see it. Nothing is mapped there.
        iova: Range<Iova>,
        /// What they see.
        to: Ipa,
        /// What they may do.
        access: Access,
    },
    /// Takes away every mapping that lies in `iova`, if no mapping reaches across
    /// one of its ends; nothing otherwise. There need be none.
    Unmap {
        /// The domain, which exists.
        domain: DomainId,
        /// Any addresses. What is reserved is no mapping, and stays.
        iova: Range<Iova>,
    },
}

/// Why a request is not granted. Nothing has changed then, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no domain of that number.
    #[error("no such domain")]
    NoDomain,
    /// There is no such endpoint, or it is not the owner's.
    #[error("no such endpoint")]
    NoEndpoint,
    /// The number is none that a domain may have.
    #[error("a domain cannot have that number")]
    BadDomain,
    /// The endpoint is not in that domain.
    #[error("the endpoint is not in that domain")]
    NotAttached,
    /// A part of the range is mapped already.
    #[error("a part of the range is mapped already")]
    AlreadyMapped,
    /// The range is outside of what endpoints can address, or reserved.
    #[error("the range is outside of what endpoints can address")]
    OutOfRange,
    /// A mapping reaches across an end of the range.
    #[error("a mapping would be split")]
    WouldSplit,
    /// What is to be mapped is not all the owner's.
    #[error("what is to be mapped is not all the owner's")]
    NotOwned,
    /// This access cannot be given, for instance writing without reading where
    /// the hardware has no such permission.
    #[error("that access cannot be given")]
    BadAccess,
    /// Memory for tables, or room for one more domain, is used up.
    #[error("no memory for tables, or no room for one more domain")]
    NoMemory,
    /// The hardware did not do it. What the request was about is blocked, or
    /// keeps its memory.
    #[error("the hardware failed")]
    Failed,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// It is done, or refused.
    Done(Result<(), Refusal>),
    /// It is done once [`Iommu::sync`] says so: until then devices may go on as
    /// before. Other requests may come first.
    AfterSync,
    /// There is more to do than fits one turn: [`Iommu::go_on`] comes next.
    More,
}

/// What was taken away may still be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an invalidation did not complete")]
pub struct SyncError;

/// What an owner may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A bit for each size in bytes of a page or block; the lowest is the
    /// smallest unit of a mapping.
    pub page_sizes: u64,
    /// What endpoints can address.
    pub input: Range<Iova>,
    /// First and last number of a domain.
    pub domains: (u32, u32),
}

/// Why a part of an endpoint's addresses is not for mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedKind {
    /// It must not be used.
    Reserved,
    /// Writes are interrupts, and go through without a mapping or to a doorbell
    /// that the owner may map there itself.
    Msi,
}

/// A part of an endpoint's addresses that is not for mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The addresses.
    pub range: Range<Iova>,
    /// What they are for instead.
    pub kind: ReservedKind,
}

/// Domains and endpoints of one owner.
///
/// One request at a time: after [`Step::More`], nothing but
/// [`go_on`](Self::go_on) is called until that gives something else. Each call
/// does a bounded amount of work.
pub trait Iommu {
    /// What the owner may name.
    fn limits(&self) -> Limits;

    /// Whether the owner has this endpoint.
    fn has(&self, endpoint: Endpoint) -> bool;

    /// The `index`th part of the addresses of `endpoint` that is not for
    /// mappings; `None` after the last. One of them is [`ReservedKind::Msi`] at
    /// most, and none overlaps another.
    fn reserved(&self, endpoint: Endpoint, index: usize) -> Option<Reserved>;

    /// Begins a request.
    fn begin(&mut self, request: Request) -> Step;

    /// Goes on with the request that said [`Step::More`].
    fn go_on(&mut self) -> Step;

    /// Waits until nothing of what was taken away is in use.
    ///
    /// # Errors
    /// [`SyncError`]: everything that said [`Step::AfterSync`] since the last
    /// call may still be in use, and its memory stays held.
    fn sync(&mut self) -> Result<(), SyncError>;

    /// Takes back everything: every endpoint is blocked, every domain gone.
    /// [`Step::More`] as for a request; [`Step::Done`] in the end.
    fn reset(&mut self) -> Step;
}
