//! The virtio-iommus that the host is to see, in paravirt mode, in the place of the first
//! SMMU, with numbers for the streams of all SMMUs.
//!
//! Their registers are where the first pages of the first SMMU's are, a page for each.
//! Those pages are withheld from the host on every machine, so nothing else is lost for it,
//! and an access by the host traps. Their interrupts are such as an SMMU leaves alone, as in
//! nested mode, and where there are no more of these, such as no node names. Which streams
//! each has is for [`ViommuStreams`](crate::ViommuStreams) to say.
//!
//! virtio-iommu knows devices by endpoint numbers of 32 bits. The endpoint of a
//! stream is its StreamID, with the index of its SMMU in the upper four bits: on
//! a machine with one SMMU the StreamID itself.

use super::emulated::{HostLines, foreign_line, spare_lines, unnamed_line};
use super::odd::{Odd, Oddities};
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

/// Most virtio-iommus. The hypervisor has 64 windows to rings of the host's, and each has
/// up to six.
pub const VIOMMU_LIMIT: usize = 8;

/// A virtio-iommu that the host may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Viommu {
    /// Its registers: one page, part of the first SMMU's. That of the next comes behind it.
    pub registers: Range<PhysAddr>,
    /// The INTID of its interrupt, an SPI that the hypervisor makes pending.
    pub line: u32,
    /// The phandle by which the host's devices refer to it: that of an SMMU,
    /// which goes, or one that no node has. The first has none where no device refers to an
    /// SMMU.
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

/// Up to `most` virtio-iommus in the place of `smmus`, as many as there are pages and lines
/// for; none where there are no SMMUs.
///
/// # Errors
/// - [`BootError::NoSpareInterrupt`] when no SMMU has an SPI to spare and every
///   other one is a device's
/// - [`BootError::PropertyValue`] when the first SMMU's registers are no page
/// - [`BootError::StreamTooLarge`] for a StreamID that makes no endpoint number
pub(super) fn read(
    fdt: &Fdt<'_>,
    most: usize,
    smmus: &List<Smmu, SMMU_LIMIT>,
    streams: &List<StreamRange, STREAM_RANGE_LIMIT>,
    spare: &Spare<'_>,
    odd: &mut Oddities,
) -> Result<List<Viommu, VIOMMU_LIMIT>, BootError> {
    let mut all = List::new();
    let Some(first) = smmus.get(0) else {
        return Ok(all);
    };
    let at = first.registers.start();
    let mut page = page_of(first, 0).ok_or(BootError::PropertyValue {
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
    let mut given = HostLineList::new();
    let own = |given: &HostLineList| {
        let mut smmus_of = smmus.iter();
        smmus_of.find_map(|smmu| spare_lines(smmus, smmu, given)?.event())
    };
    let mut line = match own(&given) {
        Some(line) => line,
        None => foreign_line(smmus, first, &given, spare, odd)?,
    };
    // Those of SMMUs go, and where none has one, no device has to find the virtio-iommu.
    let mut phandles = smmus.iter().filter_map(|smmu| smmu.phandle);
    let mut phandle = phandles.next();
    let highest = fdt.nodes().filter_map(|(_, node)| node.phandle()).max();
    let mut free = highest.unwrap_or(0);
    loop {
        // There is room as long as this goes on.
        let _ = all.push(Viommu {
            registers: page,
            line,
            phandle,
        });
        // As many slots as SMMUs.
        let _ = given.push(HostLines::Combined(line));
        let number = all.len();
        if number >= most.min(VIOMMU_LIMIT) || phandle.is_none() {
            return Ok(all);
        }
        phandle = phandles.next().or_else(|| {
            // All ones is no phandle.
            free = free.checked_add(1).filter(|free| *free != u32::MAX)?;
            Some(free)
        });
        let next = own(&given).or_else(|| unnamed_line(smmus, &given, spare));
        let (Some(next), Some(other), Some(_)) = (next, page_of(first, number), phandle) else {
            odd.add(first.node, Odd::FewerViommus);
            return Ok(all);
        };
        (line, page) = (next, other);
    }
}

/// The page of an SMMU's registers with that number.
fn page_of(smmu: &Smmu, number: usize) -> Option<Range<PhysAddr>> {
    let offset = u64::try_from(number).ok()?.checked_mul(PAGE_SIZE)?;
    let at = smmu.registers.start().checked_add(offset)?;
    let page = Range::from_size(at, PAGE_SIZE).ok()?;
    (at.is_aligned(PAGE_SIZE) && smmu.registers.covers(&page)).then_some(page)
}
