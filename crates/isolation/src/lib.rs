//! Who reaches which memory: joins the ledger, the translation tables and
//! whatever caches translations.
//!
//! [`HostSpace`] is the identity mode. The host sees memory where it is; its
//! CPUs reach its own RAM and the registers that it is given, its devices reach
//! its own RAM and the MSI doorbells, and nothing else. Both sets of tables are made from the [`Ledger`], and a page leaves
//! them only in the order that the ledger asks for: unmapped, invalidated
//! everywhere, then handed over.
//!
//! [`HostSpace::show`] adds pages that the host's CPUs may only read, for nested
//! mode. [`invalidate_smmus`] reaches every SMMU, for [`Invalidate::smmus`].
//!
//! [`Domains`] is what paravirtual mode gives an owner: domains that it maps its
//! pages into, in front of any kind of IOMMU. [`StageUnit`] and [`StageDomain`]
//! are that for SMMUs, in one stage: stage 2, or where there is none, stage 1.
#![no_std]
#![forbid(unsafe_code)]

mod domains;
mod host;
mod shown;
mod slots;
mod smmu_domain;
mod smmu_unit;
mod smmus;
mod stage;
mod windows;

pub use domains::{Counts, Domains, Trouble};
pub use host::{HostError, HostSpace, HostTables, Invalidate, Sharing, input_bits};
pub use portcullis_ownership::Ledger;
pub use shown::ShowError;
pub use slots::{Chunk, Directory, NoMore, Slot, SlotMemory, Slots};
pub use smmu_domain::{SMMU_LIMIT, SmmuDomain, Smmus, Stage1Domain, StageDomain};
pub use smmu_unit::{EndpointRange, SmmuUnit, SmmuUnitConfig, Stage1Unit, StageUnit};
pub use smmus::{SmmuError, invalidate_smmus};
pub use stage::{CommonStage, NoCommonStage, Stage};
pub use windows::Windows;
