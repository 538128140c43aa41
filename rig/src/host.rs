//! A host with an emulated SMMU: what it does to it, what it sees of it, and
//! what must hold whatever it does.

pub(crate) mod check;
pub(crate) mod complete;
pub(crate) mod generate;
mod op;
mod owner;
mod reader;
pub(crate) mod side;
mod stock;
mod window;

pub use op::{BringUp, Entry, HostOp, Width};
pub(crate) use owner::Host;
pub(crate) use side::Emulated;
