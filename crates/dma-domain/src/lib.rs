//! The two lines between a paravirtual front end and whatever translates DMA.
//!
//! ```text
//!   virtio-iommu-device            requests of the owner: rings, registers
//!        │  Iommu                  domains and endpoints by number
//!   isolation::Domains             policy: who owns which page, what is mapped
//!        │  DmaUnit, DmaDomain     spaces of IOVAs; everything is checked
//!   an SMMU, another IOMMU         tables and invalidation
//! ```
//!
//! [`Iommu`] is what a front end such as virtio-iommu speaks to; it trusts
//! nothing of what the owner says. [`DmaUnit`] and [`DmaDomain`] are what an
//! implementation for one kind of IOMMU has to offer; nothing here is of Arm.
#![no_std]
#![forbid(unsafe_code)]

mod domain;
mod iommu;

pub use domain::{
    Access, AttachError, CreateError, DmaDomain, DmaUnit, FlushError, FlushFirst, MapError, Mapped,
};
pub use iommu::{
    DomainId, Endpoint, Iommu, Limits, Refusal, Request, Reserved, ReservedKind, Step, SyncError,
};
