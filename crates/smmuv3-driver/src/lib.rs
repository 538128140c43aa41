#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod command_queue;
mod ecmdq;
mod errata;
mod error;
mod event_queue;
mod features;
mod fence;
mod issued_commands;
mod nested_vmids;
mod output_queues;
mod own_stage1;
mod page_zero;
mod pri_queue;
mod range_commands;
mod smmu;
mod stage1;
mod stage2;
mod stream_table;
mod takeover;
mod translation;
mod wait;

pub use attributes::Attributes;
pub use ecmdq::{CommandPages, EcmdqError};
pub use errata::Quirks;
pub use error::{Error, InitError, Wait};
pub use event_queue::{Drained, Event, GlobalErrors};
pub use features::{Features, ProbeError};
pub use fence::{FenceError, fence};
pub use issued_commands::Msi;
pub use output_queues::Answer;
pub use own_stage1::{OwnStage1, OwnStage1Error, STAGE1_VMID};
pub use page_zero::in_page_0;
pub use range_commands::RangeCommands;
pub use smmu::{Config, Smmu, Stats};
pub use stage1::{Stage1, Stage1Error};
pub use stage2::{Granule, Stage2, Stage2Error};
pub use translation::{RangeTranslation, Translation};

/// Access to the registers of one SMMU.
///
/// Offsets are bytes from the start of page 0 and aligned to the access; every
/// access reaches the device once, in program order with the others.
pub trait Registers {
    /// Reads 32 bits.
    fn read32(&self, offset: u32) -> u32;
    /// Writes 32 bits.
    fn write32(&self, offset: u32, value: u32);
    /// Reads 64 bits.
    fn read64(&self, offset: u32) -> u64;
    /// Writes 64 bits.
    fn write64(&self, offset: u32, value: u64);
}

impl<T: Registers + ?Sized> Registers for &T {
    #[inline]
    fn read32(&self, offset: u32) -> u32 {
        (**self).read32(offset)
    }
    #[inline]
    fn write32(&self, offset: u32, value: u32) {
        (**self).write32(offset, value);
    }
    #[inline]
    fn read64(&self, offset: u32) -> u64 {
        (**self).read64(offset)
    }
    #[inline]
    fn write64(&self, offset: u32, value: u64) {
        (**self).write64(offset, value);
    }
}

/// The clock that limits waits.
pub trait Clock {
    /// Microseconds since some fixed point; never runs backwards.
    fn now_us(&self) -> u64;
    /// Called between two polls.
    fn relax(&self);
}

impl<T: Clock + ?Sized> Clock for &T {
    #[inline]
    fn now_us(&self) -> u64 {
        (**self).now_us()
    }
    #[inline]
    fn relax(&self) {
        (**self).relax();
    }
}
