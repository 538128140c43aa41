#![doc = include_str!("../README.md")]
//!
//! [`Iommu`] trusts nothing of what the owner says; [`DmaUnit`] and [`DmaDomain`] are
//! called with what was checked.
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
