#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bus;
mod cache;
mod command;
mod draw;
mod execute;
mod gic;
mod inner;
mod its;
mod its_registers;
mod lpi;
mod profile;
mod quiesce;
mod ram;
mod redistributor;
mod redistributor_registers;
mod regions;
mod tables;
mod violation;

pub use bus::{Access, Bus, MemoryBus};
pub use command::{Command, CommandError, Refused};
pub use gic::{Counts, Fault, Gic, Ignored, Message};
pub use profile::{Caching, OnError, Pace, Profile, TableFormat, TableKind};
pub use ram::Ram;
pub use violation::Violation;
