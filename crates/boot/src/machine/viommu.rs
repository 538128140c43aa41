//! The virtio-iommu that the host is to see, in paravirt mode: one for all
//! SMMUs, in the place of the first, with numbers for all of their streams.
//!
//! Its registers are where the first page of the first SMMU's is. That page is
//! withheld from the host on every machine, so nothing else is lost for it, and
//! an access by the host traps. Its interrupt is one that an SMMU leaves alone,
//! as in nested mode.
//!
//! virtio-iommu knows devices by endpoint numbers of 32 bits. The endpoint of a
//! stream is its StreamID, with the index of its SMMU in the upper four bits: on
//! a machine with one SMMU the StreamID itself.

use super::emulated::{foreign_line, spare_lines};
use super::odd::Oddities;
use super::smmu::{SMMU_LIMIT, Smmu};
use super::spare::Spare;
use super::stream::{STREAM_RANGE_LIMIT, StreamRange};
use super::{HostLineList, Machine};
use crate::error::BootError;
use crate::fdt::Fdt;
use crate::list::List;
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};

/// Bits of a StreamID on a machine with several SMMUs.
const STREAM_BITS: u32 = 28;

// Every SMMU has an index that fits what is left.
const _: () = assert!(SMMU_LIMIT <= 1 << (u32::BITS - STREAM_BITS));

/// The virtio-iommu that the host is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Viommu {
    /// Its registers: one page, part of the first SMMU's.
    pub registers: Range<PhysAddr>,
    /// The INTID of its interrupt, an SPI that the hypervisor makes pending.
    pub line: u32,
    /// The phandle by which the host's devices refer to it: that of an SMMU,
    /// which goes. There is none where none refers to an SMMU.
    pub phandle: Option<u32>,
}

/// The endpoint number of a stream of the SMMU with that index. Unique for all
/// streams of [`Machine::streams`](super::Machine::streams) in paravirt mode.
#[must_use]
pub fn endpoint(smmu: usize, stream: u32) -> u32 {
    // The index fits by the assertion above.
    let index = u32::try_from(smmu).unwrap_or(u32::MAX);
    stream | index.wrapping_shl(STREAM_BITS)
}

impl StreamRange {
    /// The endpoint number of its first stream. That of each further stream is
    /// one more.
    #[must_use]
    pub fn first_endpoint(&self) -> u32 {
        endpoint(self.smmu, self.first)
    }
}

impl Machine {
    /// The stream that an endpoint number stands for, as the index of its SMMU
    /// and its StreamID; `None` for one that no device of the tree has.
    #[must_use]
    pub fn stream_of(&self, number: u32) -> Option<(usize, u32)> {
        self.streams.iter().find_map(|range| {
            let offset = number.checked_sub(range.first_endpoint())?;
            (offset <= range.last - range.first).then(|| (range.smmu, range.first + offset))
        })
    }
}

/// The virtio-iommu in the place of `smmus`; `None` where there are none.
///
/// # Errors
/// - [`BootError::NoSpareInterrupt`] when no SMMU has an SPI to spare and every
///   other one is a device's
/// - [`BootError::PropertyValue`] when the first SMMU's registers are no page
/// - [`BootError::StreamTooLarge`] for a StreamID that makes no endpoint number
pub(super) fn read(
    fdt: &Fdt<'_>,
    smmus: &List<Smmu, SMMU_LIMIT>,
    streams: &List<StreamRange, STREAM_RANGE_LIMIT>,
    spare: &Spare<'_>,
    odd: &mut Oddities,
) -> Result<Option<Viommu>, BootError> {
    let Some(first) = smmus.get(0) else {
        return Ok(None);
    };
    let at = first.registers.start();
    let page = Range::from_size(at, PAGE_SIZE)
        .ok()
        .filter(|page| at.is_aligned(PAGE_SIZE) && first.registers.covers(page))
        .ok_or(BootError::PropertyValue {
            node: first.path,
            property: "reg",
            value: at.raw(),
            right: "whole pages of 4 KiB",
        })?;
    if smmus.len() > 1 {
        let too_large = |range: &&StreamRange| range.last >= 1 << STREAM_BITS;
        if let Some(range) = streams.iter().find(too_large) {
            return Err(BootError::StreamTooLarge {
                node: fdt.path(range.node),
                stream: range.last,
                limit: (1 << STREAM_BITS) - 1,
            });
        }
    }
    let none = HostLineList::new();
    let line = smmus
        .iter()
        .find_map(|smmu| spare_lines(smmus, smmu, &none)?.event());
    let line = match line {
        Some(line) => line,
        None => foreign_line(smmus, first, &none, spare, odd)?,
    };
    Ok(Some(Viommu {
        registers: page,
        line,
        phandle: smmus.iter().find_map(|smmu| smmu.phandle),
    }))
}
