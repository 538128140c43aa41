//! The atomics that the ledger is made of.
//!
//! `--cfg loom` puts those of loom in their place, which run a test under every
//! order of events that the memory model allows (`tests/loom.rs`). It is never
//! set in a product.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
