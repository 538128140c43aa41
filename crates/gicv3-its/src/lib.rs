//! The interrupt translation service (ITS) of a GICv3 that a host or guest sees
//! (IHI 0069, chapter 5), on top of a physical one that belongs to EL2.
//!
//! A GIC is a bus master. It reads and writes memory at addresses that software
//! gives it: device, collection and interrupt translation tables, the command
//! queue, and each redistributor's configuration and pending tables. No SMMU and
//! no stage 2 is in between. So every physical address of that kind is EL2's
//! here, and what an owner writes is never one:
//!
//! - [`Emulator`] is what an owner sees: its registers, and commands that are
//!   copied once, understood by an allow-list, and built anew.
//! - [`quiesce`] and [`quiesce_lpis`] end what firmware or an earlier kernel left
//!   running, before memory for tables is chosen.
//! - The owner's tables are in its own memory, and only EL2's CPU reads and
//!   writes them, as far as they are the owner's.
//!
//! Everything that the crate touches goes through traits: [`Platform`] is the
//! owner's machine, [`Registers`] a frame of the physical GIC's, [`TableMemory`]
//! and [`Share`] are memory of EL2's. The hypervisor and the tests run the same
//! code.
#![no_std]
#![forbid(unsafe_code)]

mod command;
mod commands;
mod device;
mod emulator;
mod id;
mod jobs;
mod lpi;
mod owner_table;
mod physical;
mod platform;
mod redistributor;
pub mod reg;
mod run;
mod unit;

pub use command::{COMMAND_BYTES, Command, Event};
pub use device::Mapping;
pub use emulator::{Emulator, ITS_LIMIT, RdWrite};
pub use id::{CollectionId, DeviceId, EventId, FIRST_LPI, Lpi, RedistributorId, Target};
pub use lpi::{HIGHEST_PRIORITY, LpiCount, Row};
pub use physical::{DeviceTable, Fault, Physical, TakeOverError, quiesce, table_bytes};
pub use platform::{Clock, Platform, Registers, Report, Share, TableMemory};
pub use portcullis_owner_memory::{Outside, Progress, Size, Window};
pub use redistributor::{
    LpiError, REDISTRIBUTOR_LIMIT, quiesce_lpis, read_without_lpis, write_without_lpis,
};
pub use unit::{COLLECTIONS, Counts, DEVICE_RANGE_LIMIT, DeviceRange};
