//! Every SMMU whose streams may walk one set of tables.

use core::ops::DerefMut;
use portcullis_addr::Ipa;
use portcullis_memory::{Allocator, Memory};
use portcullis_pagetable::{Granule, Invalidation};
use smmuv3_driver::{Clock, Error, Granule as DmaGranule, Registers, Smmu};
use smmuv3_spec::Vmid;
use thiserror::Error as ThisError;

/// An SMMU that did not complete an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error("SMMU {index}: {error}")]
pub struct SmmuError {
    /// Its place in the order in which the SMMUs were given.
    pub index: usize,
    /// What it reported.
    pub error: Error,
}

/// Drops what `plan` changed, of the translations tagged `vmid`, on every SMMU,
/// and waits until none uses it any more.
///
/// Every SMMU whose streams were ever attached to the tables has to be given,
/// also one that is fenced: what it holds would be in use again the moment it
/// is restarted wrongly.
///
/// # Errors
/// That of the first SMMU that failed. The others were invalidated all the
/// same, as far as they could be, but the caller must treat the old
/// translations as in use.
pub fn invalidate_smmus<S, R, M, C>(
    smmus: impl IntoIterator<Item = S>,
    vmid: Vmid,
    plan: &Invalidation<Ipa>,
) -> Result<(), SmmuError>
where
    S: DerefMut<Target = Smmu<R, M, C>>,
    R: Registers,
    M: Memory + Allocator,
    C: Clock,
{
    let Some(range) = plan.range() else {
        return Ok(());
    };
    let granule = dma_granule(plan.granule());
    let (level, leaf) = (plan.level(), plan.leaf_only());
    let mut first = Ok(());
    for (index, mut smmu) in smmus.into_iter().enumerate() {
        let done = smmu.tlbi_ipa_range(vmid, range, granule, level, leaf);
        first = first.and(done.map_err(|error| SmmuError { index, error }));
    }
    first
}

/// The same granule, as the driver of SMMUs says it.
pub(crate) const fn dma_granule(granule: Granule) -> DmaGranule {
    match granule {
        Granule::Size4K => DmaGranule::Size4K,
        Granule::Size16K => DmaGranule::Size16K,
        Granule::Size64K => DmaGranule::Size64K,
    }
}
