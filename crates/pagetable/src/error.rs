//! Why a change to a table was refused.

use core::fmt;
use portcullis_addr::{Address, PhysAddr};

/// Why an operation on a [`Table`](crate::Table) was refused. The tables are
/// then exactly as they were, and nothing was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<A> {
    /// The geometry is for the other stage.
    WrongStage,
    /// The range or the output address is not a multiple of the granule.
    Misaligned,
    /// The range ends past the input addresses of the geometry.
    InputTooLarge,
    /// The output ends past the output addresses of the geometry.
    OutputTooLarge,
    /// Something is already mapped inside the range to map.
    AlreadyMapped {
        /// The first such address.
        address: A,
    },
    /// Nothing is mapped at an address whose attributes were to change.
    NotMapped {
        /// The first such address.
        address: A,
    },
    /// The range reaches into tables that belong to another
    /// [`Table`](crate::Table).
    Borrowed {
        /// The first such address.
        address: A,
    },
    /// The entry to borrow is not a table, or not a shared one.
    NotShared {
        /// The first such address.
        address: A,
    },
    /// The two tables do not have the same geometry.
    DifferentGeometry,
    /// There is no such level in these tables.
    Level {
        /// Level asked for.
        level: u8,
    },
    /// An earlier change has entries that become valid only in
    /// [`Table::complete`](crate::Table::complete), which was not called yet.
    Unfinished,
    /// The allocator has no memory left.
    OutOfMemory,
    /// The allocator gave memory that a table descriptor cannot name.
    TableOutOfReach {
        /// The address of that memory. It was freed.
        at: PhysAddr,
    },
}

impl<A: Address> fmt::Display for Error<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongStage => f.write_str("the geometry is for the other translation stage"),
            Self::Misaligned => f.write_str("an address is not a multiple of the granule"),
            Self::InputTooLarge => f.write_str("the range ends past the input address size"),
            Self::OutputTooLarge => f.write_str("the output ends past the output address size"),
            Self::AlreadyMapped { address } => {
                write!(f, "{:#x} is mapped already", address.raw())
            }
            Self::NotMapped { address } => write!(f, "{:#x} is not mapped", address.raw()),
            Self::Borrowed { address } => {
                write!(f, "{:#x} lies in tables of another owner", address.raw())
            }
            Self::NotShared { address } => {
                write!(f, "the table for {:#x} is not shared", address.raw())
            }
            Self::DifferentGeometry => f.write_str("the two tables differ in geometry"),
            Self::Level { level } => write!(f, "level {level} is not possible here"),
            Self::Unfinished => f.write_str("an earlier change has not been completed"),
            Self::OutOfMemory => f.write_str("no memory left for a table"),
            Self::TableOutOfReach { at } => {
                write!(f, "no table descriptor can name the memory at {at}")
            }
        }
    }
}

impl<A: Address> core::error::Error for Error<A> {}
