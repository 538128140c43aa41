//! VMSAv8-64 translation tables for CPUs and SMMUs (DDI 0487, D8).
#![no_std]
#![forbid(unsafe_code)]

mod descend;
mod descriptor;
mod edit;
mod error;
mod format;
mod geometry;
mod map;
mod plan;
mod share;
mod table;
mod untrusted;
mod walk;

pub use error::Error;
pub use format::{
    Access, El1Attributes, El2Attributes, Execute, Format, MAIR, MemoryType, Reserved, Stage1El1,
    Stage1El2, Stage2, Stage2Attributes,
};
pub use geometry::{Geometry, GeometryError, Granule};
pub use plan::Invalidation;
pub use table::{Bbm, Table};
pub use untrusted::{
    Fetch, Hostile, Permissions, Requested, Translation, UntrustedFault, walk_untrusted,
};
pub use walk::{Fault, MappedRange, Mapping, Mappings, View};
