//! Requests of the driver and their answers (5.13.6).
//!
//! What a back end says becomes a status like this:
//!
//! | [`Refusal`] | status | because |
//! |---|---|---|
//! | `NoDomain` | NOENT; INVAL for DETACH | 5.13.6.5.2, 5.13.6.6.2; 5.13.6.4.2 |
//! | `NoEndpoint` | NOENT | 5.13.6.3.2, 5.13.6.4.2, 5.13.6.7.2 |
//! | `BadDomain` | RANGE | `domain_range` is a range of parameters |
//! | `NotAttached` | INVAL | 5.13.6.4.2 |
//! | `AlreadyMapped` | INVAL | 5.13.6.5.2 |
//! | `OutOfRange` | RANGE | `input_range` and RESV_MEM are ranges of parameters |
//! | `WouldSplit` | RANGE | 5.13.6.6.2 |
//! | `NotOwned` | FAULT | the address is bad, whatever the range |
//! | `BadAccess` | UNSUPP | each flag is known, the combination not supported (5.13.6.5) |
//! | `NoMemory` | NOMEM | insufficient resources |
//! | `Failed` | DEVERR | internal device error |
//!
//! After a DETACH that is DEVERR the endpoint is blocked and in no domain: the
//! next one is INVAL.
//!
//! Before that, by the device itself:
//!
//! | what | status | because |
//! |---|---|---|
//! | no room for a status, or no type | none, used length 0 | 5.13.6 |
//! | unknown type, or one that was not agreed on | none, used length 0 | 5.13.6.2 |
//! | readable part too short for its type | INVAL | the tail is there to say so |
//! | ATTACH: `reserved` or `flags` not 0 | INVAL | 5.13.6.3.2; no flag is offered |
//! | ATTACH: domain out of `domain_range` | RANGE | see `BadDomain` |
//! | MAP: unknown flag, MMIO not agreed on | INVAL | 5.13.6.5.2 |
//! | MAP: `virt_start`, `phys_start`, `virt_end` + 1 misaligned | RANGE | 5.13.6.5.2 |
//! | MAP: nothing, or outside of `input_range` | RANGE | out-of-range parameters |
//! | MAP: `phys_end` beyond 2^64 | FAULT | see `NotOwned` |
//! | UNMAP: `virt_end` below `virt_start` | RANGE | out-of-range parameters |
//! | PROBE: properties smaller than `probe_size` | INVAL | 5.13.6.7.2 |
//!
//! `reserved` of a DETACH and PROBE must, that of an UNMAP may be ignored, and
//! is. An UNMAP goes to the back end as it is: its ends may lie within a page or
//! outside of `input_range`, as long as they cut no mapping (5.13.6.6.2).

use crate::features::{Features, Terms};
use portcullis_addr::{Iova, Ipa, Range};
use portcullis_dma_domain::{Access, DomainId, Endpoint, Refusal, Request};

/// Status of a request (5.13.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// VIRTIO_IOMMU_S_OK: it was done.
    pub const OK: Self = Self(0);
    /// VIRTIO_IOMMU_S_IOERR; never used.
    pub const IOERR: Self = Self(1);
    /// VIRTIO_IOMMU_S_UNSUPP: there is no such request.
    pub const UNSUPP: Self = Self(2);
    /// VIRTIO_IOMMU_S_DEVERR: the hardware failed.
    pub const DEVERR: Self = Self(3);
    /// VIRTIO_IOMMU_S_INVAL: a field has a value that it cannot have.
    pub const INVAL: Self = Self(4);
    /// VIRTIO_IOMMU_S_RANGE: an address or a domain is not one that is allowed.
    pub const RANGE: Self = Self(5);
    /// VIRTIO_IOMMU_S_NOENT: there is no such endpoint or domain.
    pub const NOENT: Self = Self(6);
    /// VIRTIO_IOMMU_S_FAULT: what is to be mapped is not all memory that may be mapped.
    pub const FAULT: Self = Self(7);
    /// VIRTIO_IOMMU_S_NOMEM: memory is used up.
    pub const NOMEM: Self = Self(8);

    /// Of what a back end said, for a request that is a DETACH or not; see the
    /// table of the module's documentation.
    #[cold]
    pub(crate) fn of(refusal: Refusal, detach: bool) -> Self {
        match refusal {
            Refusal::NoDomain if detach => Self::INVAL,
            Refusal::NoDomain | Refusal::NoEndpoint => Self::NOENT,
            Refusal::BadDomain | Refusal::OutOfRange | Refusal::WouldSplit => Self::RANGE,
            Refusal::NotAttached | Refusal::AlreadyMapped => Self::INVAL,
            Refusal::NotOwned => Self::FAULT,
            Refusal::BadAccess => Self::UNSUPP,
            Refusal::NoMemory => Self::NOMEM,
            Refusal::Failed => Self::DEVERR,
        }
    }
}

/// VIRTIO_IOMMU_T_ATTACH.
pub(crate) const ATTACH: u8 = 1;
/// VIRTIO_IOMMU_T_DETACH.
pub(crate) const DETACH: u8 = 2;
/// VIRTIO_IOMMU_T_MAP.
pub(crate) const MAP: u8 = 3;
/// VIRTIO_IOMMU_T_UNMAP.
pub(crate) const UNMAP: u8 = 4;
/// VIRTIO_IOMMU_T_PROBE.
pub(crate) const PROBE: u8 = 5;

/// Bytes of `struct virtio_iommu_req_head`.
pub(crate) const HEAD: u64 = 4;
/// Bytes of `struct virtio_iommu_req_tail`.
pub(crate) const TAIL: u32 = 4;
/// Readable bytes of a MAP, the most that means anything.
pub(crate) const MAP_SIZE: usize = 36;
/// Readable bytes of an UNMAP.
pub(crate) const UNMAP_SIZE: usize = 28;
const ATTACH_SIZE: u64 = 20;
const PROBE_READ: u64 = 72;

/// VIRTIO_IOMMU_MAP_F_READ.
const MAP_READ: u32 = 1;
/// VIRTIO_IOMMU_MAP_F_WRITE.
const MAP_WRITE: u32 = 2;
/// VIRTIO_IOMMU_MAP_F_MMIO.
const MAP_MMIO: u32 = 4;

/// What the readable part of a chain says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A request for the back end.
    Ask(Request),
    /// A PROBE.
    Probe(Endpoint),
    /// It is refused.
    Refuse(Status),
    /// A type that there is not.
    Unknown,
}

impl From<Result<Request, Status>> for Decoded {
    fn from(result: Result<Request, Status>) -> Self {
        match result {
            Ok(request) => Self::Ask(request),
            Err(status) => Self::Refuse(status),
        }
    }
}

/// Checks a MAP.
#[inline(always)]
pub(crate) fn map(terms: &Terms, words: [u64; 3], to: u64, flags: u32) -> Result<Request, Status> {
    let [head, start, last] = words;
    let mmio = if terms.features.contains(Features::MMIO) {
        MAP_MMIO
    } else {
        0
    };
    if flags & !(MAP_READ | MAP_WRITE | mmio) != 0 {
        return Err(Status::INVAL);
    }
    // 2^64 is as aligned as 0.
    let end = last.wrapping_add(1);
    if (start | end | to) & terms.unaligned != 0 || start < terms.first || end > terms.end {
        return Err(Status::RANGE);
    }
    let iova = Range::new(Iova::new(start), Iova::new(end)).map_err(|_| Status::RANGE)?;
    if to.checked_add(last.wrapping_sub(start)).is_none() {
        return Err(Status::FAULT);
    }
    Ok(Request::Map {
        domain: domain(head),
        iova,
        to: Ipa::new(to),
        access: access(flags),
    })
}

/// Checks an UNMAP.
#[inline(always)]
pub(crate) fn unmap(words: [u64; 3]) -> Result<Request, Status> {
    let [head, start, last] = words;
    // Nothing is mapped at the last address of all, so that it may be left out.
    let iova = match Range::new(Iova::new(start), Iova::new(last.saturating_add(1))) {
        Ok(iova) => iova,
        Err(_) => at_the_end(start, last)?,
    };
    Ok(Request::Unmap {
        domain: domain(head),
        iova,
    })
}

/// A range in which the same is mapped as at the last address of all, nothing,
/// if that is what is meant.
#[cold]
fn at_the_end(start: u64, last: u64) -> Result<Range<Iova>, Status> {
    let before = Range::new(Iova::new(u64::MAX - 1), Iova::new(u64::MAX));
    let meant = (start, last) == (u64::MAX, u64::MAX);
    before.ok().filter(|_| meant).ok_or(Status::RANGE)
}

/// The second half of the first word of every request but PROBE.
#[inline]
fn domain(head: u64) -> DomainId {
    DomainId((head >> 32) as u32)
}

/// The driver has no way to ask for instruction fetches, so they are not given.
/// READ, WRITE and MMIO are bits of [`Access`] already.
#[inline]
fn access(flags: u32) -> Access {
    let bit = |flag, access| {
        if flags & flag != 0 {
            access
        } else {
            Access::empty()
        }
    };
    bit(MAP_READ, Access::READ) | bit(MAP_WRITE, Access::WRITE) | bit(MAP_MMIO, Access::MMIO)
}

fn word(body: &[u8; MAP_SIZE], at: usize) -> u32 {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn double(body: &[u8; MAP_SIZE], at: usize) -> u64 {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What `body` says, of which the driver gave `len` bytes, at least
/// [`HEAD`]. `has` says whether there is an endpoint.
pub(crate) fn decode(
    terms: &Terms,
    body: &[u8; MAP_SIZE],
    len: u64,
    has: impl Fn(Endpoint) -> bool,
) -> Decoded {
    let kind = body[0];
    let (least, needs) = match kind {
        ATTACH | DETACH => (ATTACH_SIZE, Features::empty()),
        MAP => (MAP_SIZE as u64, Features::MAP_UNMAP),
        UNMAP => (UNMAP_SIZE as u64, Features::MAP_UNMAP),
        PROBE => (PROBE_READ, Features::PROBE),
        _ => return Decoded::Unknown,
    };
    if !terms.features.contains(needs) {
        return Decoded::Unknown;
    }
    if len < least {
        return Decoded::Refuse(Status::INVAL);
    }
    let words = [0, 8, 16].map(|at| double(body, at));
    match kind {
        MAP => map(terms, words, double(body, 24), word(body, 32)).into(),
        UNMAP => unmap(words).into(),
        PROBE => Decoded::Probe(Endpoint(word(body, 4))),
        _ => {
            let (domain, endpoint) = (word(body, 4), Endpoint(word(body, 8)));
            if kind == ATTACH && double(body, 12) != 0 {
                return Decoded::Refuse(Status::INVAL);
            }
            if !has(endpoint) {
                return Decoded::Refuse(Status::NOENT);
            }
            let known = (terms.domains.0..=terms.domains.1).contains(&domain);
            let domain = DomainId(domain);
            match kind {
                ATTACH if !known => Decoded::Refuse(Status::RANGE),
                ATTACH => Decoded::Ask(Request::Attach { domain, endpoint }),
                _ => Decoded::Ask(Request::Detach { domain, endpoint }),
            }
        }
    }
}
