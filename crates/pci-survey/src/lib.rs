//! Finds PCI functions that no SMMU holds back although the device tree says
//! that one does.
//!
//! A PCI host bridge has its functions' DMA translated, but a function need not
//! use the bus for it. A virtio device without `VIRTIO_F_ACCESS_PLATFORM` takes
//! the addresses that its driver gives it for physical ones (virtio 1.2, 6.1 and
//! 2.2), and who emulates it does as well: its DMA is in nobody's tables. That
//! can be read from its configuration space, before anything drives it.
//!
//! [`survey`] looks at every function behind a host bridge. Nothing need be set
//! up for that: bridges get bus numbers for as long as it lasts, feature bits are
//! read through the window that virtio keeps in configuration space for firmware
//! that cannot place BARs (`VIRTIO_PCI_CAP_PCI_CFG`, 4.1.4.9), and everything that
//! was written is put back.
#![no_std]
#![forbid(unsafe_code)]

mod bridge;
mod root;
mod virtio;

pub use bridge::{BUS_LIMIT, DEPTH_LIMIT, SAVED_LIMIT, Survey, survey};
pub use root::{SLOTS, Slot, root_slots};
pub use virtio::{Finding, Kind};

use core::fmt;

/// A function of a bus, by the number that its bus has during the survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// The bus.
    pub bus: u8,
    /// Device in bits 7:3 and function in bits 2:0.
    pub devfn: u8,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, function) = (self.devfn >> 3, self.devfn & 7);
        write!(f, "{:02x}:{device:02x}.{function}", self.bus)
    }
}

/// The configuration space behind one host bridge, as firmware found it.
///
/// What is read is not trusted: any function may answer with anything, and
/// otherwise at the next read.
pub trait ConfigSpace {
    /// Reads the 32 bits at `offset`, a multiple of 4 below 256; all ones where
    /// no function is.
    fn read(&self, function: Function, offset: u8) -> u32;
    /// Writes 32 bits likewise.
    fn write(&self, function: Function, offset: u8, value: u32);
}
