#![doc = include_str!("../README.md")]
//!
//! The hypervisor and the tests run the same code.
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
