//! Which way to give a host its IOMMU costs less, and by how much: the real code
//! of this project on an SMMU whose time is modelled. See `lab/README.md`.
//!
//! - [`platform`], [`scenario`], [`description`] and [`measured`] are what people write
//!   or measure, [`import`] takes what the benchmark measured;
//! - [`machine`] runs the real driver, domains, tables and emulation on the model;
//! - [`timing`] is what is modelled: caches, walks, queues;
//! - [`sim`] runs a scenario on a platform, in one mode; [`sweep`] runs many and
//!   draws them; [`published`] compares with what others measured;
//! - [`trace`] reads what a host mapped and unmapped, as the hypervisor recorded it,
//!   and [`replay`] does it again in any mode;
//! - [`score`] says what of it is better, and [`advice`] how sure that is.
#![forbid(unsafe_code)]

pub mod advice;
pub mod description;
pub mod import;
pub mod input;
pub mod machine;
pub mod measured;
pub mod platform;
pub mod published;
pub mod replay;
pub mod scenario;
pub mod score;
pub mod sim;
pub mod sweep;
pub mod timing;
pub mod trace;
pub mod units;
