//! SMMUs whose registers of page 1 are in page 0.
//!
//! The architecture has the positions of the event and PRI queues in page 1, 64 KiB
//! up, and leaves open whether they are at the same offsets of page 0 too (IHI 0070,
//! 6.2). Cavium's ThunderX2 has them in page 0 alone: trees say so by
//! `cavium,cn9900-broken-page1-regspace` (Linux binding `iommu/arm,smmu-v3.yaml`).

use smmuv3_spec::reg;

/// The offset of a register in an SMMU that only has page 0.
#[inline]
#[must_use]
pub const fn in_page_0(offset: u32) -> u32 {
    match offset {
        reg::EVENTQ_PROD => reg::EVENTQ_PROD_ALIAS,
        reg::EVENTQ_CONS => reg::EVENTQ_CONS_ALIAS,
        reg::PRIQ_PROD => reg::PRIQ_PROD_ALIAS,
        reg::PRIQ_CONS => reg::PRIQ_CONS_ALIAS,
        other => other,
    }
}
