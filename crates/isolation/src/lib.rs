//! Who reaches which memory: joins the ledger, the translation tables and
//! whatever caches translations.
//!
//! [`OwnerSpace`] is the memory of one owner as stage 2 has it: of its CPUs and of its
//! devices. An owner sees the machine as it is, as a host does, or has each page at an
//! address of its own, as a guest does. Both tables are made from the [`Ledger`], and a
//! page leaves them only in the order that the ledger asks for: unmapped, invalidated
//! everywhere, then handed over.
//!
//! [`OwnerSpace::show`] adds pages that the owner's CPUs may only read, for nested
//! mode. [`invalidate_smmus`] reaches every SMMU, for [`Invalidate::smmus`].
//!
//! [`Vmids`] gives out what tags the translations of all of them.
//!
//! [`Domains`] is what paravirtual mode gives an owner: domains that it maps its
//! pages into, in front of any kind of IOMMU. [`StageUnit`] and [`StageDomain`]
//! are that for SMMUs, in one stage: stage 2, or where there is none, stage 1.
#![no_std]
#![forbid(unsafe_code)]

mod domains;
mod mapped_pages;
mod owner_space;
mod slots;
mod smmu_domain;
mod smmu_unit;
mod smmus;
mod stage;
mod vmids;

pub use domains::{Counts, Domains, Trouble};
pub use mapped_pages::MappedPages;
pub use owner_space::{
    Invalidate, MAX_CALL_BYTES, OwnerSpace, ReceiveError, Sharing, ShowError, SpaceError,
    TableShapes, chunks, input_bits,
};
pub use portcullis_ownership::Ledger;
pub use slots::{Directory, NoMore, Slot, SlotBlock, SlotMemory, Slots};
pub use smmu_domain::{SMMU_LIMIT, SmmuDomain, Smmus, Stage1Domain, StageDomain};
pub use smmu_unit::{EndpointRange, SmmuUnit, SmmuUnitConfig, Stage1Unit, StageUnit};
pub use smmus::{SmmuError, invalidate_smmus};
pub use stage::{CommonStage, NoCommonStage, Stage};
pub use vmids::{RetiredVmids, VmidRange, Vmids, VmidsInvalidated};
