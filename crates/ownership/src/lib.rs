#![doc = include_str!("../README.md")]
//!
//! # What it keeps
//!
//! The ledger is the only place that answers "may this party use this page".
//! Translation tables are built from it and never consulted instead of it. It
//! costs 4 bytes for each page of RAM (0.1 %), and 4 for each 64 KiB and each 2 MiB
//! (0.006 %), with which a large mapping is counted in few steps.
//!
//! Two rules are kept here and nowhere else:
//! - A page that a device can reach (DMA count above 0) does not change owner:
//!   [`Ledger::begin`] refuses it, and [`Ledger::pin`] refuses a page on the
//!   move.
//! - A page changes owner in three steps. After [`Ledger::begin`] the old translations
//!   are removed and invalidated, on every SMMU and CPU; [evidence](Invalidated) of that
//!   turns the [`Transfer`] into a [`Unreachable`], which alone can be committed. What is
//!   dropped in between leaves its pages *leaving*: lost to both sides, which is the safe
//!   way to fail.
//!
//! A page can also be *shared* between the host and one other owner, and be *dirty*:
//! no owner has it before the hypervisor has overwritten it ([`PageState`]).
//!
//! Every operation on a range changes all of its pages or none, and may run on
//! several CPUs at once: each entry changes by compare-and-exchange. Those that
//! overlap may refuse each other for a moment, where either alone would do.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod allotment;
mod bank;
mod entry;
mod error;
mod ledger;
mod owner;
mod runs;
mod span;
mod state;
mod sync;
mod transfer;
mod word;

pub use allotment::Allotment;
pub use bank::{Bank, LedgerError};
pub use entry::Entry;
pub use error::{PinError, TransferError, UnpinError};
pub use ledger::Ledger;
pub use owner::Owner;
pub use runs::Runs;
pub use state::PageState;
pub use transfer::{Invalidated, NotCovered, Scrub, Transfer, Unreachable};
