//! VMSAv8-64 translation tables for every user in a hypervisor that owns the
//! SMMU: EL2 stage 1, stage 2 of CPUs, stage 1 and stage 2 of an SMMU (DDI 0487,
//! D8; the SMMU uses the same formats, IHI 0070, 3.4).
//!
//! ```
//! use portcullis_addr::{Ipa, PhysAddr, Range};
//! use portcullis_memory::Arena;
//! use portcullis_pagetable::{
//!     Bbm, Execute, Geometry, Granule, MemoryType, Stage2, Stage2Attributes, Table,
//! };
//!
//! let memory = Arena::new(PhysAddr::new(0x4000_0000), 0x10_0000);
//! let geometry = Geometry::stage2(Granule::Size4K, 40, 40)?;
//! assert_eq!((geometry.t0sz(), geometry.sl0(), geometry.root_tables()), (24, 1, 2));
//!
//! let mut table = Table::<Stage2, _>::new(geometry, Bbm::Level0, &memory)?;
//! let ram = Range::new(Ipa::new(0x4000_0000), Ipa::new(0x8000_0000))?;
//! let attributes = Stage2Attributes {
//!     memory: MemoryType::Normal,
//!     read: true,
//!     write: true,
//!     execute: Execute::Always,
//! };
//! table.map(ram, PhysAddr::new(0x4000_0000), attributes)?;
//! assert_eq!(table.walk(Ipa::new(0x4000_1000))?.size, 0x4000_0000);
//!
//! // One page goes: the block of 1 GiB becomes tables, in two steps.
//! let page = Range::from_size(Ipa::new(0x4000_1000), 0x1000)?;
//! let plan = table.unmap(page)?;
//! assert_eq!(plan.range(), Some(ram));
//! assert!(plan.is_broken());
//! // ... invalidate plan.range() on every CPU and SMMU, and wait ...
//! table.complete(plan).expect("the plan is of this table");
//! assert!(table.walk(Ipa::new(0x4000_1000)).is_err());
//! assert_eq!(table.walk(Ipa::new(0x4000_2000))?.size, 0x1000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Promises
//!
//! - **One store at a time.** After every single store, a walker finds for each
//!   address the old translation, the new one, or a fault; addresses outside the
//!   request keep theirs, except where a block or a contiguous group has to be
//!   broken. New tables are published before the store that links them.
//! - **Nothing half done.** An operation that returns an error has changed
//!   nothing. It first looks at the range, then reserves every table it will
//!   need, and then cannot fail.
//! - **Break-before-make** (D8.17.1). Where an entry may not be replaced
//!   directly, the operation writes the new entry as an invalid descriptor, and
//!   [`Table::complete`] makes it valid. What has to be invalidated in between
//!   is the [`Invalidation`] that the operation returns. Only one such change
//!   can be under way in a table.
//! - **Freed after invalidation.** Tables that were taken out are on a list in
//!   the plan, which costs no memory: the link is in the first entry of each, as
//!   an invalid descriptor. `complete` frees them.
//! - **Concurrency.** One mutator at a time, by `&mut`; whoever shares a table
//!   puts a lock around it. Hardware walkers may be active at any time, and so
//!   may walks through a [`View`], except while `complete` or
//!   [`destroy`](Table::destroy) frees tables: the lock that keeps views out of
//!   these is the caller's.
//! - **A hint that is never stale.** With 4 KiB pages a [`Table`] remembers the
//!   last table that one entry was mapped in, unmapped from or visited in, and
//!   forgets it before a descriptor of a table changes. That is why a `Table`
//!   is `Send` (if its memory is) but not `Sync`; a [`View`] has no hint and is
//!   both.
//! - **No recursion deeper than the levels**, no heap, no panic reachable from
//!   the arguments.
//!
//! The tables must be written by this crate alone. For tables that somebody else
//! writes there is [`walk_untrusted`].
//!
//! # What is not here
//!
//! The 52-bit formats of FEAT_LPA2 (52-bit outputs and inputs exist with 64 KiB
//! pages), level -1, blocks of the 52-bit formats, VMSAv9-128, `HCR_EL2.FWB`,
//! indirect permissions, and hardware management of the access flag and the dirty
//! state. At level 1 of the support for changing block sizes the `nT` bit is not
//! used ([`Bbm::Level1`]).
//!
//! Pages are joined again by [`Table::map_whole`] alone, and at [`Bbm::Level2`]
//! alone: into contiguous groups, and with 4 KiB pages from there into a block of
//! 2 MiB. Blocks are joined into groups where each was mapped as one, and never
//! into a block of 1 GiB; tables of the other granules are not joined. In a
//! table that [shares](Table::lend) something, groups are all.
#![no_std]
#![forbid(unsafe_code)]

mod descend;
mod descriptor;
mod edit;
mod error;
mod format;
mod geometry;
mod hint;
mod kept;
mod map;
mod plan;
mod share;
mod table;
mod untrusted;
mod walk;
mod whole;

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
pub use whole::Taken;
