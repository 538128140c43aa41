#![doc = include_str!("../README.md")]
//!
//! The owner writes its memory at any moment. So an emulated device copies what it
//! needs, each word once, and never has a reference to it.
#![no_std]
#![forbid(unsafe_code)]

mod layout;

pub use layout::Layout;

use portcullis_addr::{Ipa, PhysAddr, Range};

/// An address that is not memory of the owner's, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not memory of the owner's")]
pub struct Outside;

/// Width of an access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

impl Size {
    /// Bytes of the access.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }
}

/// Whether a write to a register is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It took effect as a whole.
    Done,
    /// There is more work than one call does. The owner's CPU is to run its
    /// interrupts and then do the same write again, which carries on: the
    /// instruction must not be counted as executed yet.
    Again,
}

/// Memory of the owner's that cannot change hands while this exists.
///
/// The owner may write it at any moment: each load is one access, and what was
/// loaded is not loaded again. Offsets are bytes from the start and multiples of
/// the access; one that is outside loads 0 and stores nothing.
pub trait Window {
    /// Where it lies.
    fn range(&self) -> Range<Ipa>;

    /// Where `offset` lies for hardware that no translation stands before.
    /// `None` outside.
    fn physical(&self, offset: u64) -> Option<PhysAddr>;

    /// Loads 64 bits.
    fn load(&self, offset: u64) -> u64;

    /// Loads `N` times 64 bits from `offset` on, each once; 0 where not all of
    /// them are inside.
    #[inline]
    fn load_words<const N: usize>(&self, offset: u64) -> [u64; N]
    where
        Self: Sized,
    {
        let bytes = N as u64 * 8;
        let inside = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.range().size());
        core::array::from_fn(|n| {
            if inside {
                self.load(offset.wrapping_add(n as u64 * 8))
            } else {
                0
            }
        })
    }

    /// Stores 64 bits.
    fn store(&self, offset: u64, value: u64);

    /// Stores 32 bits.
    fn store32(&self, offset: u64, value: u32);

    /// What was stored before is seen by the owner before anything that is
    /// stored after, and no later than it could see it if an SMMU had stored
    /// it.
    fn publish(&self, offset: u64, bytes: u64);

    /// What the owner stored, in the order that its write to a register
    /// promises, is what the loads after this see.
    fn refresh(&self, offset: u64, bytes: u64);

    /// Whether a load or a store in any window was answered by an error since
    /// this was last asked: memory that is broken, or where nothing is. What such
    /// a load gave means nothing.
    fn aborted(&self) -> bool;
}
