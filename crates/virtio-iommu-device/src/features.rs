//! What is offered and agreed on (2.2, 5.13.3, 6).

use bitflags::bitflags;
use portcullis_dma_domain::Limits;
use thiserror::Error;

bitflags! {
    /// Feature bits that this device knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// VIRTIO_IOMMU_F_INPUT_RANGE: `input_range` is given.
        const INPUT_RANGE = 1 << 0;
        /// VIRTIO_IOMMU_F_DOMAIN_RANGE: `domain_range` is given.
        const DOMAIN_RANGE = 1 << 1;
        /// VIRTIO_IOMMU_F_MAP_UNMAP: MAP and UNMAP.
        const MAP_UNMAP = 1 << 2;
        /// VIRTIO_IOMMU_F_PROBE: PROBE.
        const PROBE = 1 << 4;
        /// VIRTIO_IOMMU_F_MMIO: mappings of registers.
        const MMIO = 1 << 5;
        /// VIRTIO_F_INDIRECT_DESC: descriptors in tables of their own.
        const INDIRECT_DESC = 1 << 28;
        /// VIRTIO_F_EVENT_IDX: notifications by index.
        const EVENT_IDX = 1 << 29;
        /// VIRTIO_F_VERSION_1: not a legacy device.
        const VERSION_1 = 1 << 32;
    }
}

impl Features {
    /// What is always offered.
    pub const BASE: Self = Self::INPUT_RANGE
        .union(Self::DOMAIN_RANGE)
        .union(Self::MAP_UNMAP)
        .union(Self::PROBE)
        .union(Self::MMIO)
        .union(Self::VERSION_1);
}

/// What a monitor may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Offer VIRTIO_F_INDIRECT_DESC. A request then costs one more page to hold
    /// with a driver that puts its descriptors into a table of their own.
    pub indirect: bool,
    /// Offer VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// Units of work that one call does: a request, eight descriptors, a turn of
    /// the back end. At least 1 is done.
    pub work: u32,
    /// What VendorID reads as.
    pub vendor: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            indirect: true,
            event_idx: true,
            work: 64,
            // "PORT" as the bytes of a little-endian word.
            vendor: u32::from_le_bytes(*b"PORT"),
        }
    }
}

impl Config {
    /// What is offered.
    #[must_use]
    pub fn offered(&self) -> Features {
        let mut features = Features::BASE;
        features.set(Features::INDIRECT_DESC, self.indirect);
        features.set(Features::EVENT_IDX, self.event_idx);
        features
    }
}

/// A back end that this device cannot describe to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadLimits {
    /// There is no size of a page (5.13.4.2).
    #[error("there is no size of a page")]
    NoPageSize,
    /// The input range does not begin and end at a page.
    #[error("the input range does not begin and end at a page")]
    InputRange,
    /// The first domain comes after the last.
    #[error("the first domain comes after the last")]
    Domains,
}

/// Bytes of the properties in an answer to PROBE, `probe_size`: room for ten
/// reserved ranges.
pub const PROBE_SIZE: u32 = 256;

/// Bytes of the configuration, of which the last four are not offered: they
/// belong to BYPASS_CONFIG.
pub(crate) const CONFIG_SIZE: usize = 40;

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// What the driver may ask for: offered, and after FEATURES_OK agreed on.
    pub(crate) features: Features,
    /// The bits below the smallest page.
    pub(crate) unaligned: u64,
    /// First address of the input range.
    pub(crate) first: u64,
    /// First address after the input range.
    pub(crate) end: u64,
    /// First and last number of a domain.
    pub(crate) domains: (u32, u32),
}

impl Terms {
    pub(crate) fn new(limits: &Limits) -> Result<Self, BadLimits> {
        if limits.page_sizes == 0 {
            return Err(BadLimits::NoPageSize);
        }
        let granule = 1 << limits.page_sizes.trailing_zeros();
        if !limits.input.is_aligned(granule) {
            return Err(BadLimits::InputRange);
        }
        if limits.domains.0 > limits.domains.1 {
            return Err(BadLimits::Domains);
        }
        Ok(Self {
            features: Features::empty(),
            unaligned: granule - 1,
            first: limits.input.start().raw(),
            end: limits.input.end().raw(),
            domains: limits.domains,
        })
    }
}

/// The configuration space (5.13.4), which never changes.
pub(crate) fn configuration(limits: &Limits) -> [u8; CONFIG_SIZE] {
    let mut bytes = [0; CONFIG_SIZE];
    let mut put = |at: usize, field: &[u8]| {
        for (to, from) in bytes.iter_mut().skip(at).zip(field) {
            *to = *from;
        }
    };
    put(0, &limits.page_sizes.to_le_bytes());
    put(8, &limits.input.start().raw().to_le_bytes());
    // Inclusive here; a range is never empty.
    put(16, &(limits.input.end().raw() - 1).to_le_bytes());
    put(24, &limits.domains.0.to_le_bytes());
    put(28, &limits.domains.1.to_le_bytes());
    put(32, &PROBE_SIZE.to_le_bytes());
    bytes
}
