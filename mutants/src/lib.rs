//! Deliberate mistakes in the code under test, and whether the rig finds them.
//!
//! A [`Catalogue`] holds small, named changes of the source: an invalidation
//! left out, two stores swapped, a check skipped. None is ever compiled into the
//! product: each is applied to a copy of the tree ([`Tree`]), built there and
//! handed to whatever should find it ([`Hunter`]), the rig if nothing else is
//! said. A mutant that survives is a defect of the rig, or no mistake.
#![forbid(unsafe_code)]

mod catalogue;
mod hunt;
mod process;
mod report;
mod tree;

pub use catalogue::{Catalogue, CatalogueError, Mutant, With};
pub use hunt::{Hunter, Outcome, Search};
pub use report::{Row, markdown, summary, table};
pub use tree::{Tree, workspace_root};
