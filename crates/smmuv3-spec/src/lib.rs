#![doc = include_str!("../README.md")]
//!
//! # Layout
//!
//! Structures in memory are arrays of 64-bit words in the order in which the
//! SMMU reads them (always little-endian, IHI 0070 3.1); a field is named by the
//! bit numbers that the architecture text gives for the whole structure.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod cd;
pub mod command;
pub mod control;
pub mod ecmdq;
pub mod event;
pub mod id;
pub mod pri;
pub mod reg;
pub mod ste;

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

number! {
    /// Names a stream: an index into the stream table (IHI 0070, 3.2).
    StreamId(u32)
}
number! {
    /// Names an address space within a stream (a PASID): an index into its
    /// table of context descriptors; 20 bits at most (IHI 0070, 3.2).
    SubstreamId(u32)
}
number! {
    /// Tags the translations of one virtual machine (IHI 0070, 3.17); 8 bits
    /// unless `IDR0.VMID16`.
    Vmid(u16)
}
number! {
    /// Tags the translations of one address space within a [`Vmid`]
    /// (IHI 0070, 3.17); 8 bits unless `IDR0.ASID16`.
    Asid(u16)
}
