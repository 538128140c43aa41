#![doc = include_str!("../README.md")]
//!
//! # Promises
//!
//! - **One store at a time.** After every single store, a walker finds for each
//!   address the old translation, the new one, or a fault; addresses outside the
//!   request keep theirs, except where a block or a contiguous group has to be
//!   broken. New tables are published before the store that links them.
//! - **Nothing half done.** An operation that returns an error has changed
//!   nothing. It first walks the range and counts the tables that it will need,
//!   then reserves them, and then cannot fail.
//! - **Break-before-make** (D8.17.1). Where an entry may not be replaced
//!   directly, the operation writes the new entry as an invalid descriptor, and
//!   [`Table::complete`] makes it valid. What has to be invalidated in between
//!   is the [`Invalidation`] that the operation returns. Only one such change
//!   can be under way in a table.
//! - **Freed after invalidation.** Tables that were taken out are on a list in
//!   the plan, which costs no memory: the link is in the first entry of each, as
//!   an invalid descriptor. `complete` frees them.
//! - **Concurrency.** One mutator at a time, by `&mut`; threads that share a
//!   table put a lock around it. Hardware walkers may be active at any time,
//!   and so may walks through a [`View`], except while `complete` or
//!   [`destroy`](Table::destroy) frees tables. The caller's lock keeps views
//!   out of these.
//! - **A walk cache that is never stale.** With 4 KiB pages a [`Table`]
//!   remembers the last table that one entry was mapped in, unmapped from or
//!   visited in, and forgets it before a table descriptor changes. That is why
//!   a `Table` is `Send` (if its memory is) but not `Sync`; a [`View`] has no
//!   walk cache and is both.
//! - **No recursion deeper than the levels**, no heap, no panic reachable from
//!   the arguments.
//!
//! The tables must be written by this crate alone. For tables that another
//! owner writes there is [`walk_untrusted`].
//!
//! # What is joined
//!
//! Only [`Table::map_recorded`] joins pages, and only at [`Bbm::Level2`]: into
//! contiguous groups, and with 4 KiB pages further into a block of 2 MiB.
//! Blocks are joined into groups if each was mapped as one, and never into a
//! block of 1 GiB; tables of the other granules are not joined. A table with
//! [shared](Table::share) sub-trees only joins pages into groups. At level 1 of
//! the support for changing block sizes, the `nT` bit is not used
//! ([`Bbm::Level1`]).
#![no_std]
#![forbid(unsafe_code)]

mod descent;
mod descriptor;
mod edit;
mod error;
mod format;
mod geometry;
mod map;
mod mapping_starts;
mod plan;
mod shared_subtrees;
mod spare_tables;
mod table;
mod untrusted_walk;
mod walk;
mod walk_cache;

pub use error::Error;
pub use format::{
    Access, El1Attributes, El2Attributes, Execute, Format, MAIR, MemoryType, Reserved, Stage1El1,
    Stage1El2, Stage2, Stage2Attributes,
};
pub use geometry::{Geometry, GeometryError, Granule};
pub use mapping_starts::UnmappedRun;
pub use plan::Invalidation;
pub use table::{Bbm, Table};
pub use untrusted_walk::{
    AccessRequest, Fetch, Permissions, Translation, UntrustedFault, UntrustedFormat, walk_untrusted,
};
pub use walk::{Fault, MappedRange, Mapping, Mappings, View};
