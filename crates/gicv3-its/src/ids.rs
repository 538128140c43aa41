//! The numbers of the architecture, each a type of its own (IHI 0069, 5.1).

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($type:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $type);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

number! {
    /// Which device wrote to the doorbell. The interconnect adds it to the
    /// write; a device tree says which devices have which (`msi-map`,
    /// `msi-parent`). It is not a StreamID, and may differ from it.
    DeviceId(u32)
}

number! {
    /// What a device writes to the doorbell: one of its interrupts.
    EventId(u32)
}

number! {
    /// A locality-specific peripheral interrupt by its INTID, 8192 or more.
    Lpi(u32)
}

number! {
    /// A collection: events of one collection go to one redistributor.
    CollectionId(u16)
}

number! {
    /// A redistributor by its index: the CPU that it belongs to, in the order
    /// in which the caller lists them.
    RedistributorId(u8)
}

impl RedistributorId {
    /// The value for no redistributor: it is larger than every index.
    pub(crate) const NONE: u8 = u8::MAX;

    /// The byte that says which one, or that there is none.
    #[inline]
    pub(crate) fn byte(this: Option<Self>) -> u8 {
        this.map_or(Self::NONE, |this| this.0)
    }

    /// The inverse of [`byte`](Self::byte).
    #[inline]
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        (byte != Self::NONE).then_some(Self(byte))
    }
}

/// A redistributor as commands name it (RDbase): the field in bits 51:16 of the
/// word, in place. It holds a physical address where `GITS_TYPER.PTA` is 1,
/// else `GICR_TYPER.Processor_Number` from bit 16 on (IHI 0069, 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(u64);

impl Target {
    const MASK: u64 = 0x000f_ffff_ffff_0000;

    /// The field of a command's word, whatever the other bits of the word are.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word & Self::MASK)
    }

    /// The redistributor with this `GICR_TYPER.Processor_Number`.
    #[must_use]
    pub const fn processor(number: u16) -> Self {
        Self((number as u64) << 16)
    }

    /// The redistributor whose RD frame starts at `address`, a multiple of
    /// 64 KiB.
    #[must_use]
    pub const fn address(address: u64) -> Self {
        Self(address & Self::MASK)
    }

    /// The bits, in place in the word.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// The first LPI (IHI 0069, 2.2).
pub const FIRST_LPI: u32 = 8192;
