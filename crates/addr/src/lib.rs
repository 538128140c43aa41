#![doc = include_str!("../README.md")]
//!
//! Conversions between address spaces are explicit: [`Identity`] where two spaces are
//! mapped one to one, [`Range::input`] where a device's address is what a stage takes.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod identity;
mod range;

pub use identity::{DeviceInput, Identity};
pub use range::{Range, RangeError};

use core::fmt;

/// Bytes in a 4 KiB page, the unit in which memory is owned.
pub const PAGE_SIZE: u64 = 4096;

/// An address in one address space.
pub trait Address: Copy + Ord + fmt::Debug {
    /// The address `raw`, in bytes from the start of its space.
    fn new(raw: u64) -> Self;

    /// Bytes from the start of the space.
    fn raw(self) -> u64;

    /// `self + bytes`, or `None` past the end of the 64-bit space.
    #[must_use]
    fn checked_add(self, bytes: u64) -> Option<Self> {
        self.raw().checked_add(bytes).map(Self::new)
    }

    /// Whether the address is a multiple of `alignment`, which must be a power
    /// of two; any other value gives `false`.
    #[must_use]
    fn is_aligned(self, alignment: u64) -> bool {
        alignment.is_power_of_two() && self.raw() & (alignment - 1) == 0
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address `raw`, in bytes from the start of its space.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// Bytes from the start of the space.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }
        }

        impl Address for $name {
            fn new(raw: u64) -> Self {
                Self(raw)
            }

            fn raw(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(self, f)
            }
        }

        /// Always with `0x`: an address that reads as a decimal number is a
        /// trap for whoever reads the log.
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A physical address: what reaches the bus after every translation.
    PhysAddr
}
address! {
    /// An intermediate physical address: the output of a host's or guest's
    /// stage 1, the input of stage 2.
    Ipa
}
address! {
    /// An I/O virtual address: what a device puts on its side of the SMMU.
    Iova
}
address! {
    /// A virtual address of a CPU.
    Va
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_refuses_what_is_no_power_of_two() {
        assert!(PhysAddr::new(0x3000).is_aligned(0x1000));
        assert!(!PhysAddr::new(0x3000).is_aligned(0x2000));
        assert!(!PhysAddr::new(0x3000).is_aligned(0x3000));
        assert!(!PhysAddr::new(0).is_aligned(0));
    }

    #[test]
    fn addition_stops_at_the_end_of_the_space() {
        assert_eq!(Ipa::new(u64::MAX).checked_add(1), None);
        assert_eq!(
            Ipa::new(u64::MAX - 1).checked_add(1),
            Some(Ipa::new(u64::MAX))
        );
    }

    #[test]
    fn prints_as_hexadecimal() {
        assert_eq!(format!("{}", Iova::new(0x1000)), "0x1000");
        assert_eq!(format!("{:?}", Iova::new(0x1000)), "Iova(0x1000)");
    }
}
