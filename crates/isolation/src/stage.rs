//! The format of a domain's tables, and what follows from it: how a permission
//! is said, how the SMMUs tag what they cache, and how streams are led to the
//! tables.

use crate::smmu_domain::{SMMU_LIMIT, Smmus, StageDomain};
use crate::smmu_unit::EndpointRange;
use crate::smmus::dma_granule;
use portcullis_addr::{DeviceInput, Ipa, PhysAddr, Range};
use portcullis_dma_domain::{Access, AttachError, MapError};
use portcullis_memory::{Allocator, Memory};
use portcullis_pagetable::{
    Access as Stage1Access, El1Attributes, Execute, Format, MAIR, MemoryType, Stage1El1, Stage2,
    Stage2Attributes,
};
use smmuv3_driver::{
    Attributes, Clock, Error, Features, Granule, OwnStage1, Registers, Smmu, Stage2 as DmaStage2,
    Translation,
};
use smmuv3_spec::cd::Cd;
use smmuv3_spec::{Asid, StreamId, Vmid};
use thiserror::Error as ThisError;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Stage2 {}
    impl Sealed for super::Stage1El1 {}
}

/// A stage that can be a domain's only one. Everything is decided when the
/// program is built, so that one stage costs the other nothing.
pub trait Stage: Format<Input: DeviceInput> + sealed::Sealed {
    /// What a domain keeps beside its tables for streams to find them by.
    #[doc(hidden)]
    type Contexts: Default;

    /// Whether an SMMU has such a tag: what it does with a command that names one
    /// it does not have is unpredictable (IHI 0070, 4.1.7).
    #[doc(hidden)]
    fn has_tag(features: &Features, tag: u16) -> bool;

    /// What a page gets, if the format can say it.
    #[doc(hidden)]
    fn attributes(access: Access) -> Result<Self::Attributes, MapError>;

    /// Where the last stage is, as this one puts it out.
    #[doc(hidden)]
    fn output(to: PhysAddr) -> Self::Output;

    /// What memory this stage leads to.
    #[doc(hidden)]
    fn memory(output: Self::Output) -> PhysAddr;

    /// Whether a page is registers.
    #[doc(hidden)]
    fn is_device(attributes: &Self::Attributes) -> bool;

    /// Puts an invalidation into the queue of an SMMU.
    #[doc(hidden)]
    fn issue<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &mut Smmu<R, M, C>,
        tag: u16,
        range: Range<Self::Input>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error>;

    /// Drops all that an SMMU holds of a domain, and waits.
    #[doc(hidden)]
    fn drop_all<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &mut Smmu<R, M, C>,
        tag: u16,
    ) -> Result<(), Error>;

    /// The tag of what a stream translates by.
    #[doc(hidden)]
    fn tag_on<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &Smmu<R, M, C>,
        stream: StreamId,
    ) -> Option<u16>;

    /// What leads a stream of the SMMU at `index` to the domain.
    #[doc(hidden)]
    fn translation<M: Memory + Allocator, S: Smmus>(
        domain: &mut StageDomain<M, S, Self>,
        index: usize,
    ) -> Result<Translation, AttachError>;

    /// Frees what is kept. No SMMU finds it any more.
    #[doc(hidden)]
    fn free(contexts: Self::Contexts, memory: &impl Allocator);
}

/// What a device puts out is an IPA then, and a domain has a VMID of its own
/// (IHI 0070, 3.3.2).
impl Stage for Stage2 {
    type Contexts = ();

    fn has_tag(features: &Features, tag: u16) -> bool {
        u32::from(tag) >> features.vmid_bits() == 0
    }

    #[inline(always)]
    fn attributes(access: Access) -> Result<Stage2Attributes, MapError> {
        Ok(Stage2Attributes {
            memory: memory(access),
            read: access.contains(Access::READ),
            write: access.contains(Access::WRITE),
            execute: if access.contains(Access::EXECUTE) {
                Execute::Always
            } else {
                Execute::Never
            },
        })
    }

    #[inline(always)]
    fn output(to: PhysAddr) -> PhysAddr {
        to
    }

    #[inline(always)]
    fn memory(output: PhysAddr) -> PhysAddr {
        output
    }

    #[inline(always)]
    fn is_device(attributes: &Stage2Attributes) -> bool {
        attributes.memory == MemoryType::Device
    }

    #[inline(always)]
    fn issue<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &mut Smmu<R, M, C>,
        tag: u16,
        range: Range<Self::Input>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error> {
        smmu.issue_ipa_range(Vmid(tag), range, granule, level, leaf)
    }

    fn drop_all<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &mut Smmu<R, M, C>,
        tag: u16,
    ) -> Result<(), Error> {
        smmu.tlbi_vmid(Vmid(tag))
    }

    #[inline(always)]
    fn tag_on<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &Smmu<R, M, C>,
        stream: StreamId,
    ) -> Option<u16> {
        smmu.attached(stream).map(|(vmid, _)| vmid.0)
    }

    fn translation<M: Memory + Allocator, S: Smmus>(
        domain: &mut StageDomain<M, S, Self>,
        _index: usize,
    ) -> Result<Translation, AttachError> {
        let table = domain.table();
        let geometry = table.geometry();
        let stage2 = DmaStage2 {
            vmid: domain.vmid(),
            root: table.root(),
            // All below 64, 4 and 8.
            t0sz: geometry.t0sz() as u8,
            sl0: geometry.sl0() as u8,
            granule: dma_granule(geometry.granule()),
            ps: geometry.ps() as u8,
        };
        Ok(Translation::Stage2 {
            stage2,
            attributes: Attributes::INCOMING,
        })
    }

    #[inline(always)]
    fn free((): (), _memory: &impl Allocator) {}
}

/// For SMMUs without a stage 2. A domain has an ASID of its own, and for each
/// SMMU a context descriptor, since how that has to be depends on what the SMMU
/// can do. The owner writes neither.
///
/// Of what a stage 2 can say, this format has no writing without reading and no
/// fetching from what can be written (DDI 0487, D8.4). A doorbell can therefore
/// be read too: its page has the register that messages are written to, and
/// whatever can be read beside it (of an ITS, nothing).
///
/// Reads and writes are allowed whether or not the device calls them
/// privileged; fetches only if it does not.
impl Stage for Stage1El1 {
    type Contexts = [Option<PhysAddr>; SMMU_LIMIT];

    fn has_tag(features: &Features, tag: u16) -> bool {
        u32::from(tag) >> features.asid_bits() == 0
    }

    #[inline(always)]
    fn attributes(access: Access) -> Result<El1Attributes, MapError> {
        let kind = access.intersection(Access::READ | Access::WRITE | Access::EXECUTE);
        let mmio = access.contains(Access::MMIO);
        const READ_WRITE: Access = Access::READ.union(Access::WRITE);
        const READ_EXECUTE: Access = Access::READ.union(Access::EXECUTE);
        let access = match kind {
            Access::READ => Stage1Access::ReadOnly,
            READ_WRITE => Stage1Access::ReadWrite,
            Access::WRITE if mmio => Stage1Access::ReadWrite,
            READ_EXECUTE if !mmio => Stage1Access::ReadExecute,
            _ => return Err(MapError::BadAccess),
        };
        Ok(El1Attributes {
            memory: memory(if mmio { Access::MMIO } else { Access::empty() }),
            access,
            unprivileged: true,
            // Else an invalidation by ASID would spare it (IHI 0070, 4.4.2.2).
            not_global: true,
        })
    }

    // There is no stage 2 behind it, so what it puts out goes to the bus.
    #[inline(always)]
    fn output(to: PhysAddr) -> Ipa {
        Ipa::new(to.raw())
    }

    #[inline(always)]
    fn memory(output: Ipa) -> PhysAddr {
        PhysAddr::new(output.raw())
    }

    #[inline(always)]
    fn is_device(attributes: &El1Attributes) -> bool {
        attributes.memory == MemoryType::Device
    }

    #[inline(always)]
    fn issue<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &mut Smmu<R, M, C>,
        tag: u16,
        range: Range<Self::Input>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error> {
        smmu.issue_va_range(Asid(tag), range, granule, level, leaf)
    }

    fn drop_all<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &mut Smmu<R, M, C>,
        tag: u16,
    ) -> Result<(), Error> {
        smmu.tlbi_asid(Asid(tag))
    }

    fn tag_on<R: Registers, M: Memory + Allocator, C: Clock>(
        smmu: &Smmu<R, M, C>,
        stream: StreamId,
    ) -> Option<u16> {
        smmu.attached_stage1(stream).map(|(asid, _)| asid.0)
    }

    fn translation<M: Memory + Allocator, S: Smmus>(
        domain: &mut StageDomain<M, S, Self>,
        index: usize,
    ) -> Result<Translation, AttachError> {
        let context = domain.context(index)?;
        let table = domain.table();
        let geometry = table.geometry();
        let stage1 = OwnStage1 {
            asid: domain.asid(),
            root: table.root(),
            // Both below 64 and 8.
            t0sz: geometry.t0sz() as u8,
            granule: dma_granule(geometry.granule()),
            ips: geometry.ps() as u8,
            mair: MAIR,
            context,
        };
        Ok(Translation::Stage1 {
            stage1,
            attributes: Attributes::INCOMING,
        })
    }

    fn free(contexts: Self::Contexts, memory: &impl Allocator) {
        for context in contexts.into_iter().flatten() {
            memory.free(context, Cd::SIZE);
        }
    }
}

#[inline(always)]
fn memory(access: Access) -> MemoryType {
    if access.contains(Access::MMIO) {
        MemoryType::Device
    } else {
        MemoryType::Normal
    }
}

/// A format that every SMMU of an owner's endpoints has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommonStage {
    /// For a [`SmmuUnit`](crate::SmmuUnit).
    Stage2,
    /// For a [`Stage1Unit`](crate::Stage1Unit).
    Stage1,
}

/// Why there is no [`CommonStage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum NoCommonStage {
    /// An endpoint's SMMU is not there.
    #[error("there is no SMMU {index}")]
    NoSmmu {
        /// Which.
        index: usize,
    },
    /// One has no stage 2, and one has no stage 1: no set of tables is walked
    /// by both.
    #[error("SMMU {without_stage2} has no stage 2, and SMMU {without_stage1} no stage 1")]
    Mixed {
        /// The first without stage 2.
        without_stage2: usize,
        /// The first without stage 1.
        without_stage1: usize,
    },
}

impl CommonStage {
    /// Stage 2 if every SMMU of `endpoints` has it, else stage 1 if every one
    /// has that. A domain can be on all of them, so that it is chosen for all.
    ///
    /// # Errors
    /// [`NoCommonStage`].
    pub fn choose(endpoints: &[EndpointRange], smmus: &impl Smmus) -> Result<Self, NoCommonStage> {
        let without = |has: fn(&Features) -> bool| {
            for EndpointRange { smmu: index, .. } in endpoints {
                let has = smmus.at(*index, |smmu| has(smmu.features()));
                if !has.ok_or(NoCommonStage::NoSmmu { index: *index })? {
                    return Ok(Some(*index));
                }
            }
            Ok(None)
        };
        let (two, one) = (without(Features::stage2)?, without(Features::stage1)?);
        match (two, one) {
            (None, _) => Ok(Self::Stage2),
            (_, None) => Ok(Self::Stage1),
            (Some(without_stage2), Some(without_stage1)) => Err(NoCommonStage::Mixed {
                without_stage2,
                without_stage1,
            }),
        }
    }
}
