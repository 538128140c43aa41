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
//! - A page changes owner in two steps. Between [`Ledger::begin`] and
//!   [`Transfer::commit`] the old translations are removed and invalidated, on
//!   every SMMU and CPU. A [`Transfer`] dropped in between leaves its pages
//!   *leaving*: lost to both sides, which is the safe way to fail.
//!
//! Every operation on a range changes all of its pages or none, and may run on
//! several CPUs at once: each entry changes by compare-and-exchange. Those that
//! overlap may refuse each other for a moment, where either alone would do.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod bank;
mod entry;
mod ledger;
mod runs;
mod span;
mod sync;
mod word;

pub use bank::{Bank, LedgerError};
pub use entry::{Entry, Owner, State};
pub use ledger::{Ledger, PinError, Transfer, TransferError, UnpinError};
pub use runs::Runs;
