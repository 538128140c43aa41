//! The event queue: faults of endpoints (5.13.6.9).

use crate::chain::{Broken, Piece, walk};
use crate::features::{Features, Terms};
use crate::held::Held;
use crate::ring::Rings;
use crate::{Counts, Platform};
use bitflags::bitflags;
use portcullis_addr::Iova;
use portcullis_dma_domain::Endpoint;

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultReason(pub u8);

impl FaultReason {
    /// None of the others.
    pub const UNKNOWN: Self = Self(0);
    /// The endpoint is in no domain.
    pub const DOMAIN: Self = Self(1);
    /// Nothing is mapped there, or not for such an access.
    pub const MAPPING: Self = Self(2);
}

bitflags! {
    /// What was tried.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultFlags: u32 {
        /// VIRTIO_IOMMU_FAULT_F_READ: it was a read.
        const READ = 1 << 0;
        /// VIRTIO_IOMMU_FAULT_F_WRITE: it was a write.
        const WRITE = 1 << 1;
    }
}

/// VIRTIO_IOMMU_FAULT_F_ADDRESS.
const ADDRESS: u32 = 1 << 8;

/// An access that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why it failed.
    pub reason: FaultReason,
    /// What was tried.
    pub flags: FaultFlags,
    /// Whose access.
    pub endpoint: Endpoint,
    /// Where, if that is known.
    pub address: Option<Iova>,
}

/// Bytes of `struct virtio_iommu_fault`.
const SIZE: usize = 24;

impl Fault {
    fn bytes(&self) -> [u8; SIZE] {
        let (address, known) = match self.address {
            Some(address) => (address.raw(), ADDRESS),
            None => (0, 0),
        };
        let fields = [self.reason.0, 0, 0, 0]
            .into_iter()
            .chain((self.flags.bits() | known).to_le_bytes())
            .chain(self.endpoint.0.to_le_bytes())
            .chain([0; 4])
            .chain(address.to_le_bytes());
        let mut bytes = [0; SIZE];
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The driver has it.
    Delivered,
    /// It was dropped and counted: there is no queue, no buffer, or one that it
    /// does not fit in.
    Dropped,
}

/// Puts `fault` into the next buffer; whether it is there. Publishes nothing.
pub(crate) fn deliver<P: Platform>(
    platform: &P,
    rings: &mut Rings<P::Window>,
    terms: &Terms,
    counts: &mut Counts,
    fault: &Fault,
) -> Result<bool, Broken> {
    let waiting = rings.waiting();
    if waiting == 0 {
        return Ok(false);
    }
    if waiting > rings.size() {
        return Err(Broken::RunsAhead);
    }
    let head = rings.head();
    let mut held = Held::new(platform);
    let indirect = terms.features.contains(Features::INDIRECT_DESC);
    // Pieces without bytes do not count, so these are enough.
    let mut pieces = [Piece::default(); SIZE];
    let (mut count, mut room) = (0, 0u64);
    walk(rings, &mut held, head, indirect, |_, piece| {
        if piece.writable && piece.len > 0 {
            room += u64::from(piece.len);
            if let Some(entry) = pieces.get_mut(count) {
                *entry = piece;
                count += 1;
            }
        }
    })?;
    if rings.aborted() {
        return Err(Broken::Aborted);
    }
    rings.take();
    let bytes = fault.bytes();
    if room < SIZE as u64 {
        rings.put(head, 0);
        return Ok(false);
    }
    let mut left = &bytes[..];
    for piece in pieces {
        let (now, later) = left.split_at(left.len().min(piece.len as usize));
        if held.copy_out(piece.at, now).is_err() {
            counts.outside += 1;
            rings.put(head, 0);
            return Ok(false);
        }
        left = later;
    }
    rings.put(head, SIZE as u32);
    if rings.aborted() {
        return Err(Broken::Aborted);
    }
    Ok(true)
}
