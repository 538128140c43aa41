//! What is modelled of an SMMU: which reads its caches spare, how long the others
//! take, and what waits for what.
//!
//! The reads of each walk come from the model, for the tables that the real code
//! wrote; what caches lose comes from the commands that the real code sent.

mod assoc;
mod caches;
mod drop;
mod memo;
mod queue;
mod stats;
mod tag;
mod turns;
mod unit;
mod walk;

pub use assoc::{Assoc, Key};
pub use caches::{Caches, Charged};
pub use memo::Memo;
pub use queue::Queue;
pub use stats::{Distribution, Totals, Translations};
pub use tag::Tag;
pub use turns::Turns;
pub use unit::{Outcome, Translated, Unit};
pub use walk::{ConfigWalk, Group, Read, Walk};
