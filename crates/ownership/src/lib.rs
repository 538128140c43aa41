//! The ledger of physical memory: for each 4 KiB page, who owns it, whether it
//! is on its way to another owner, and how many DMA mappings hold it.
//!
//! The ledger is the only place that answers "may this party use this page".
//! Translation tables are built from it and never consulted instead of it. It
//! costs 4 bytes for each page of RAM (0.1 %), and 4 for each 64 KiB, with which
//! a large mapping is counted in few steps.
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
//!
//! ```
//! use core::sync::atomic::AtomicU32;
//! use portcullis_addr::{PhysAddr, Range};
//! use portcullis_ownership::{Bank, Ledger, Owner};
//!
//! let ram = Range::from_size(PhysAddr::new(0x4000_0000), 16 * 4096).unwrap();
//! let entries: Vec<_> = (0..16).map(|_| AtomicU32::new(0)).collect();
//! let groups: Vec<_> = (0..Bank::groups(ram)).map(|_| AtomicU32::new(0)).collect();
//! let banks = [Bank::new(ram, &entries, &groups).unwrap()];
//! let ledger = Ledger::new(&banks).unwrap();
//!
//! ledger.begin(ram, Owner::NOBODY, Owner::HOST).unwrap().commit();
//! let buffer = Range::from_size(ram.start(), 4096).unwrap();
//! ledger.pin(buffer, Owner::HOST).unwrap();
//! assert!(ledger.begin(buffer, Owner::HOST, Owner::HYPERVISOR).is_err());
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod bank;
mod entry;
mod group;
mod ledger;
mod part;
mod runs;
mod sync;

pub use bank::{Bank, LedgerError};
pub use entry::{Entry, Owner, State};
pub use ledger::{Ledger, PinError, Transfer, TransferError, UnpinError};
pub use runs::Runs;
