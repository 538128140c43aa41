//! A load or store as its instruction describes it.

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From memory to registers.
    Load,
    /// From registers to memory.
    Store,
}

/// How much of memory one register is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
    /// 128 bits; a whole SIMD&FP register.
    Quad,
}

impl Width {
    /// The width of `1 << log2` bytes.
    pub(crate) const fn of(log2: u32) -> Option<Self> {
        Some(match log2 {
            0 => Self::Byte,
            1 => Self::Half,
            2 => Self::Word,
            3 => Self::Double,
            4 => Self::Quad,
            _ => return None,
        })
    }

    /// log2 of the bytes.
    #[must_use]
    pub const fn log2(self) -> u32 {
        self as u32
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.log2()
    }
}

/// The registers that data comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// X0 to X30; 31 is the zero register.
    General {
        /// A load repeats the sign of what is narrower than the register.
        signed: bool,
        /// A load writes 64 bits; else 32, and the upper half becomes 0.
        wide: bool,
    },
    /// V0 to V31. A load clears what is above the bytes that it loads.
    Vector,
}

/// How a register that is an offset is widened (DDI 0487, ExtendReg).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// UXTW: the low 32 bits.
    UnsignedWord,
    /// SXTW: the low 32 bits, with their sign.
    SignedWord,
    /// LSL and SXTX: all 64 bits.
    Double,
}

/// What is added to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// A number of bytes.
    Immediate(i64),
    /// A general-purpose register; 31 is the zero register.
    Register {
        /// Its number.
        number: u8,
        /// How it is widened.
        extend: Extend,
        /// By how many bits it is shifted then, at most 4.
        shift: u8,
    },
}

/// When the offset is added, and whether the base register keeps the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// Before the access; the base register stays as it is.
    Offset,
    /// Before the access; the base register gets the sum.
    Pre,
    /// After the access; the base register gets the sum.
    Post,
}

/// What a load or store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which way data goes.
    pub direction: Direction,
    /// Which registers it is about.
    pub file: File,
    /// How much of memory each register is about.
    pub width: Width,
    /// The register at the lower address.
    pub first: u8,
    /// The register after it, of a pair.
    pub second: Option<u8>,
    /// The base register; 31 is the stack pointer.
    pub base: u8,
    /// What is added to it.
    pub offset: Offset,
    /// When that is added.
    pub indexing: Indexing,
}

impl Access {
    /// Bytes of memory that are accessed, at most 32.
    #[must_use]
    pub const fn length(&self) -> u64 {
        let registers = if self.second.is_some() { 2 } else { 1 };
        self.width.bytes() * registers
    }
}
