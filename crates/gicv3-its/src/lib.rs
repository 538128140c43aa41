#![doc = include_str!("../README.md")]
//!
//! The hypervisor and the tests run the same code.
#![no_std]
#![forbid(unsafe_code)]

mod command;
mod commands;
mod devices;
mod emulator;
mod ids;
mod its;
mod jobs;
mod lpis;
mod owner_table;
mod physical;
mod platform;
mod redistributor;
pub mod reg;
mod register_writes;

pub use command::{COMMAND_BYTES, Command, Event};
pub use devices::Mapping;
pub use emulator::{Emulator, ITS_LIMIT, RdWrite};
pub use ids::{CollectionId, DeviceId, EventId, FIRST_LPI, Lpi, RedistributorId, Target};
pub use its::{COLLECTIONS, Counts, DEVICE_RANGE_LIMIT, DeviceRange};
pub use lpis::{HIGHEST_PRIORITY, LpiCount, Row};
pub use physical::{DeviceTable, Fault, Physical, TakeOverError, quiesce, table_bytes};
pub use platform::{Clock, Platform, Registers, Report, Share, TableMemory};
pub use portcullis_owner_memory::{Outside, Progress, Size, Window};
pub use redistributor::{
    LpiError, REDISTRIBUTOR_LIMIT, quiesce_lpis, read_without_lpis, write_without_lpis,
};
