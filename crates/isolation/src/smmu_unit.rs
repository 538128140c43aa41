//! The SMMUs of a machine, as what one owner's domains are made for.

use crate::smmu_domain::{SMMU_LIMIT, Smmus, StageDomain};
use crate::stage::Stage;
use core::marker::PhantomData;
use portcullis_addr::{Iova, Range};
use portcullis_dma_domain::{AttachError, CreateError, DmaUnit, Endpoint, FlushError};
use portcullis_memory::{Allocator, Memory};
use portcullis_pagetable::{Bbm, Error as TableError, Geometry, Stage1El1, Stage2};
use smmuv3_driver::{Error, Translation};
use smmuv3_spec::{StreamId, Vmid};

/// Endpoints that are streams of one SMMU, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRange {
    /// Number of the first.
    pub first: Endpoint,
    /// How many.
    pub count: u32,
    /// Which SMMU.
    pub smmu: usize,
    /// The stream of the first.
    pub stream: StreamId,
}

/// What all the domains have in common.
#[derive(Clone, Copy, Debug)]
pub struct SmmuUnitConfig {
    /// Shape of the tables, of the unit's stage; every SMMU takes it.
    pub geometry: Geometry,
    /// What every SMMU promises on changing block sizes.
    pub bbm: Bbm,
    /// The domain in slot 0 has this VMID, the others the ones after it. Nobody
    /// else uses them. In stage 1, the ASIDs of these numbers: nobody else has
    /// streams of VMID 0, or uses these ASIDs there.
    pub first_vmid: Vmid,
    /// How many domains there can be at a time.
    pub slots: usize,
}

/// Makes domains in stage 2 format.
pub type SmmuUnit<'a, M, S> = StageUnit<'a, M, S, Stage2>;

/// Makes domains in stage 1 format, for SMMUs without a stage 2.
pub type Stage1Unit<'a, M, S> = StageUnit<'a, M, S, Stage1El1>;

/// Makes domains for the streams that an owner has on some SMMUs, each in abort
/// at first. [`CommonStage::choose`](crate::CommonStage::choose) says which stage
/// all of these SMMUs have.
pub struct StageUnit<'a, M, S, F> {
    config: SmmuUnitConfig,
    input: Range<Iova>,
    endpoints: &'a [EndpointRange],
    memory: M,
    smmus: S,
    stage: PhantomData<F>,
}

impl<'a, M: Memory + Allocator + Clone, S: Smmus + Clone, F: Stage> StageUnit<'a, M, S, F> {
    /// `memory` publishes as the SMMUs' walks need. `None` when the VMIDs would
    /// not fit 16 bits, the geometry is another stage's, or a range names an
    /// SMMU beyond [`SMMU_LIMIT`].
    pub fn new(
        config: SmmuUnitConfig,
        endpoints: &'a [EndpointRange],
        memory: M,
        smmus: S,
    ) -> Option<Self> {
        let last = config.slots.checked_add(config.first_vmid.0.into())?;
        let known = endpoints.iter().all(|range| range.smmu < SMMU_LIMIT);
        let input = Range::new(Iova::new(0), Iova::new(config.geometry.input_end())).ok()?;
        let fits = config.geometry.is_stage2() == F::STAGE2;
        (last <= 1 << 16 && known && fits).then_some(Self {
            config,
            input,
            endpoints,
            memory,
            smmus,
            stage: PhantomData,
        })
    }

    /// Where an endpoint is.
    #[must_use]
    pub fn stream(&self, endpoint: Endpoint) -> Option<(usize, StreamId)> {
        self.endpoints.iter().find_map(|range| {
            let offset = endpoint.0.checked_sub(range.first.0)?;
            let stream = range.stream.0.checked_add(offset)?;
            (offset < range.count).then_some((range.smmu, StreamId(stream)))
        })
    }

    /// The endpoint that a stream is.
    #[must_use]
    pub fn endpoint(&self, smmu: usize, stream: StreamId) -> Option<Endpoint> {
        self.endpoints.iter().find_map(|range| {
            let offset = stream.0.checked_sub(range.stream.0)?;
            let endpoint = range.first.0.checked_add(offset)?;
            (range.smmu == smmu && offset < range.count).then_some(Endpoint(endpoint))
        })
    }

    /// The VMID or ASID of the domain in `slot`.
    fn tag(&self, slot: usize) -> u16 {
        // `new` has seen that all of them fit.
        let slot = u16::try_from(slot).unwrap_or(u16::MAX);
        self.config.first_vmid.0.saturating_add(slot)
    }

    /// The slot of the domain that the entry of an endpoint's stream leads to; `None`
    /// where the SMMU is fenced and `fenced` is not set, or the other way round. A stream
    /// of a fenced SMMU is not translated, whatever is left in its entry.
    fn slot_where(&self, endpoint: Endpoint, fenced: bool) -> Option<usize> {
        let (smmu, stream) = self.stream(endpoint)?;
        let attached = self.smmus.at(smmu, |smmu| {
            F::tag_on(smmu, stream).filter(|_| smmu.is_fenced() == fenced)
        });
        let slot = usize::from(attached??.checked_sub(self.config.first_vmid.0)?);
        (slot < self.config.slots).then_some(slot)
    }

    /// Gives a stream another translation. After a failure other than for want
    /// of memory it aborts.
    fn set(
        &self,
        smmu: usize,
        stream: StreamId,
        translation: &Translation,
    ) -> Result<(), AttachError> {
        match self.smmus.at(smmu, |smmu| smmu.set(stream, translation)) {
            Some(Ok(())) => Ok(()),
            Some(Err(Error::NoMemory { .. })) => Err(AttachError::NoMemory),
            Some(Err(_)) | None => Err(AttachError::Failed),
        }
    }
}

impl<M: Memory + Allocator + Clone, S: Smmus + Clone, F: Stage> StageUnit<'_, M, S, F> {
    /// Has a stream abort, and its entry lead nowhere, also where the SMMU fails
    /// or has failed.
    fn shut(&self, smmu: usize, stream: StreamId) -> Result<(), AttachError> {
        // Not silently: what a blocked device tries is recorded.
        self.set(smmu, stream, &Translation::Invalid).map_err(|_| {
            self.smmus.at(smmu, |smmu| smmu.abort_while_fenced(stream));
            AttachError::Failed
        })
    }
}

impl<M: Memory + Allocator + Clone, S: Smmus + Clone, F: Stage> DmaUnit for StageUnit<'_, M, S, F> {
    type Domain = StageDomain<M, S, F>;

    fn page_sizes(&self) -> u64 {
        let geometry = &self.config.geometry;
        (geometry.first_leaf_level()..=3)
            .fold(0, |sizes, level| sizes | geometry.level_bytes(level))
    }

    fn input(&self) -> Range<Iova> {
        self.input
    }

    fn slots(&self) -> usize {
        self.config.slots
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        self.stream(endpoint).is_some()
    }

    fn slot_of(&self, endpoint: Endpoint) -> Option<usize> {
        self.slot_where(endpoint, false)
    }

    fn stranded(&self, endpoint: Endpoint) -> Option<usize> {
        self.slot_where(endpoint, true)
    }

    fn next_attached(&self, from: Endpoint, budget: u32) -> Result<Option<Endpoint>, Endpoint> {
        let mut at = from;
        for _ in 0..budget {
            if self.has(at) {
                if self.slot_of(at).or_else(|| self.stranded(at)).is_some() {
                    return Ok(Some(at));
                }
                match at.0.checked_add(1) {
                    Some(next) => at = Endpoint(next),
                    None => return Ok(None),
                }
            } else {
                let starts = self.endpoints.iter().map(|range| range.first);
                match starts.filter(|first| *first > at).min() {
                    Some(next) => at = next,
                    None => return Ok(None),
                }
            }
        }
        Err(at)
    }

    fn create(&mut self, slot: usize) -> Result<Self::Domain, CreateError> {
        let tag = self.tag(slot);
        let has_tag = |range: &EndpointRange| {
            let smmus = &self.smmus;
            smmus.at(range.smmu, |smmu| F::has_tag(smmu.features(), tag)) == Some(true)
        };
        if !self.endpoints.iter().all(has_tag) {
            return Err(CreateError::Failed);
        }
        StageDomain::new(
            self.config.geometry,
            self.config.bbm,
            self.memory.clone(),
            tag,
            self.smmus.clone(),
        )
        .map_err(|error| match error {
            TableError::OutOfMemory | TableError::TableOutOfReach { .. } => CreateError::NoMemory,
            _ => CreateError::Failed,
        })
    }

    fn forget(&mut self, domain: &mut Self::Domain) -> Result<(), FlushError> {
        domain.forget()
    }

    fn destroy(&mut self, domain: Self::Domain) {
        domain.destroy();
    }

    fn attach(
        &mut self,
        endpoint: Endpoint,
        domain: &mut Self::Domain,
        _from: Option<&mut Self::Domain>,
    ) -> Result<(), AttachError> {
        let (smmu, stream) = self.stream(endpoint).ok_or(AttachError::Failed)?;
        let translation = F::translation(domain, smmu)?;
        // Before the first translation can be cached: from then on, whatever is
        // taken away is invalidated there too.
        let first = domain.joins(smmu);
        let result = self.set(smmu, stream, &translation);
        if result.is_err() && first {
            domain.does_not_join(smmu);
        }
        if result == Err(AttachError::Failed) {
            // An SMMU that works on has kept the old entry of a stream whose new
            // one it cannot have.
            let _ = self.shut(smmu, stream);
        }
        result
    }

    fn block(&mut self, endpoint: Endpoint, _domain: &mut Self::Domain) -> Result<(), AttachError> {
        let (smmu, stream) = self.stream(endpoint).ok_or(AttachError::Failed)?;
        self.shut(smmu, stream)
    }
}
