//! What a leaf descriptor says besides its address: one format for each user
//! of tables (DDI 0487, D8.3.1.2, D8.4, D8.6).

use crate::descriptor::{AF, SH_INNER};
use core::fmt;
use portcullis_addr::{Address, Iova, Ipa, PhysAddr, Va};

/// `MAIR_EL2`, or the `MAIR0`/`MAIR1` fields of a CD, that the stage-1 formats
/// rely on: attribute 0 is Device-nGnRE (0x04), 1 is Normal write-back,
/// read- and write-allocate (0xff), 2 is Normal non-cacheable (0x44)
/// (`MAIR_EL2` in D24.2; D8.6.1).
pub const MAIR: u64 = 0x44_ff_04;

/// Kind of memory behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryType {
    /// Device-nGnRE. Never executable in stage 1.
    Device,
    /// Normal, inner and outer write-back cacheable.
    Normal,
    /// Normal, inner and outer non-cacheable.
    NormalNonCacheable,
}

/// The accesses that stage 1 allows. Memory that is both writable and
/// executable cannot be expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
    /// Reads and instruction fetches.
    ReadExecute,
}

/// Attributes of EL2 stage 1 (E2H = 0: a single privilege level).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct El2Attributes {
    /// Kind of memory.
    pub memory: MemoryType,
    /// Allowed accesses. [`Access::ReadExecute`] of [`MemoryType::Device`] is
    /// written, and read back, as [`Access::ReadOnly`]: a speculative fetch
    /// could otherwise reach a device.
    pub access: Access,
}

/// Attributes of stage 1 in the format of EL1&0, which an SMMU's stage 1 uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct El1Attributes {
    /// Kind of memory.
    pub memory: MemoryType,
    /// Allowed accesses; for [`MemoryType::Device`] see [`El2Attributes`].
    pub access: Access,
    /// Whether unprivileged accesses (EL0, a device without the privileged
    /// marker) are allowed too. Instruction fetches are then unprivileged
    /// only.
    pub unprivileged: bool,
    /// Whether the entry belongs to one ASID (`nG`).
    pub not_global: bool,
}

/// Which exception levels stage 2 lets fetch instructions (D8.4.2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Execute {
    /// No exception level.
    Never,
    /// EL1 and EL0.
    Always,
    /// EL1 only. Needs FEAT_XNX; without it the hardware reads
    /// [`Never`](Self::Never).
    PrivilegedOnly,
    /// EL0 only. Needs FEAT_XNX; without it the hardware reads
    /// [`Always`](Self::Always).
    UnprivilegedOnly,
}

/// Attributes of stage 2, encoded for `HCR_EL2.FWB` = 0 (`STE.S2FWB` = 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2Attributes {
    /// Strongest kind of memory that stage 1 can get (D8.6.5).
    pub memory: MemoryType,
    /// Whether reads are allowed.
    pub read: bool,
    /// Whether writes are allowed.
    pub write: bool,
    /// The exception levels that may fetch instructions.
    pub execute: Execute,
}

/// A descriptor holds an encoding that the architecture reserves or that this
/// crate never writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Stage1El2 {}
    impl Sealed for super::Stage1El1 {}
    impl Sealed for super::Stage2 {}
}

/// A descriptor format, with the address spaces it translates between.
pub trait Format: sealed::Sealed + Copy + PartialEq + fmt::Debug {
    /// Addresses that are translated.
    type Input: Address;
    /// The addresses that they are translated to.
    type Output: Address;
    /// The attributes of a mapping.
    type Attributes: Copy + PartialEq + fmt::Debug;

    /// Whether the format is of stage 2.
    const STAGE2: bool;
    /// Bits that cannot change between two valid descriptors: memory type,
    /// shareability and `nG` (D8.17.1, R WHZWS).
    const BREAK: u64;
    /// Mask of the bits that [`encode`](Self::encode) sets.
    const MASK: u64;

    /// The attribute bits of a block or page, without type, address and
    /// contiguous bit.
    fn encode(attributes: Self::Attributes) -> u64;

    /// Decodes the attribute bits of a block or page.
    ///
    /// # Errors
    /// [`Reserved`] for bits that [`encode`](Self::encode) never gives.
    fn decode(descriptor: u64) -> Result<Self::Attributes, Reserved>;
}

const ATTR_INDX: u64 = 0b111 << 2;
const ATTR_INDX_LOW: u64 = 0b011 << 2;
const NON_SECURE: u64 = 1 << 5;
const AP1: u64 = 1 << 6;
const AP2: u64 = 1 << 7;
const SH: u64 = 0b11 << 8;
const NG: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
const PXN: u64 = 1 << 53;
const XN: u64 = 1 << 54;

impl MemoryType {
    #[inline(always)]
    const fn attr_indx(self) -> u64 {
        match self {
            Self::Device => 0,
            Self::Normal => 1 << 2,
            Self::NormalNonCacheable => 2 << 2,
        }
    }

    /// Bit 2 of the index has been checked to be 0.
    #[inline(always)]
    const fn from_attr_indx(descriptor: u64) -> Result<Self, Reserved> {
        match (descriptor as u8 & ATTR_INDX_LOW as u8) >> 2 {
            0 => Ok(Self::Device),
            1 => Ok(Self::Normal),
            2 => Ok(Self::NormalNonCacheable),
            _ => Err(Reserved),
        }
    }
}

/// Device memory is never executable, even if the caller asks for it.
#[inline(always)]
const fn effective(memory: MemoryType, access: Access) -> Access {
    match (memory, access) {
        (MemoryType::Device, Access::ReadExecute) => Access::ReadOnly,
        _ => access,
    }
}

#[inline(always)]
const fn stage1_access(read_only: bool, never: bool) -> Result<Access, Reserved> {
    // The number of the variant is then the two bits, inverted.
    match (!never as u8) << 1 | !read_only as u8 {
        0 => Ok(Access::ReadOnly),
        1 => Ok(Access::ReadWrite),
        2 => Ok(Access::ReadExecute),
        _ => Err(Reserved),
    }
}

/// EL2 stage 1 with a single range of addresses and E2H = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage1El2 {}

impl Format for Stage1El2 {
    type Input = Va;
    type Output = PhysAddr;
    type Attributes = El2Attributes;

    const STAGE2: bool = false;
    const BREAK: u64 = ATTR_INDX | SH;
    const MASK: u64 = ATTR_INDX | NON_SECURE | AP1 | AP2 | SH | AF | NG | DBM | PXN | XN;

    #[inline(always)]
    fn encode(attributes: El2Attributes) -> u64 {
        // AP[1] is RES1 where there is one privilege level (Table D8-52).
        let fixed = AF | SH_INNER | AP1 | attributes.memory.attr_indx();
        fixed
            | match effective(attributes.memory, attributes.access) {
                Access::ReadOnly => AP2 | XN,
                Access::ReadWrite => XN,
                Access::ReadExecute => AP2,
            }
    }

    #[inline(always)]
    fn decode(descriptor: u64) -> Result<El2Attributes, Reserved> {
        let fixed = Self::MASK & !(ATTR_INDX_LOW | AP2 | XN);
        if descriptor & fixed != AF | SH_INNER | AP1 {
            return Err(Reserved);
        }
        let memory = MemoryType::from_attr_indx(descriptor);
        let access = stage1_access(descriptor & AP2 != 0, descriptor & XN != 0);
        match (memory, access) {
            (Ok(memory), Ok(access)) => Ok(El2Attributes { memory, access }),
            _ => Err(Reserved),
        }
    }
}

/// Stage 1 in the format of EL1&0, as an SMMU's context descriptor uses it.
///
/// The output is an [`Ipa`]. Where no stage 2 follows it is the physical
/// address, and the caller says so by converting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage1El1 {}

impl Format for Stage1El1 {
    type Input = Iova;
    type Output = Ipa;
    type Attributes = El1Attributes;

    const STAGE2: bool = false;
    const BREAK: u64 = ATTR_INDX | SH | NG;
    const MASK: u64 = Stage1El2::MASK;

    #[inline(always)]
    fn encode(attributes: El1Attributes) -> u64 {
        let mut bits = AF | SH_INNER | attributes.memory.attr_indx();
        if attributes.unprivileged {
            bits |= AP1;
        }
        if attributes.not_global {
            bits |= NG;
        }
        bits | match effective(attributes.memory, attributes.access) {
            Access::ReadOnly => AP2 | XN | PXN,
            Access::ReadWrite => XN | PXN,
            Access::ReadExecute if attributes.unprivileged => AP2 | PXN,
            Access::ReadExecute => AP2 | XN,
        }
    }

    #[inline(always)]
    fn decode(descriptor: u64) -> Result<El1Attributes, Reserved> {
        let fixed = Self::MASK & !(ATTR_INDX_LOW | AP1 | AP2 | NG | PXN | XN);
        if descriptor & fixed != AF | SH_INNER {
            return Err(Reserved);
        }
        let unprivileged = descriptor & AP1 != 0;
        // Only the level that may access at all may also fetch.
        let (fetch, other) = if unprivileged { (XN, PXN) } else { (PXN, XN) };
        if descriptor & other == 0 {
            return Err(Reserved);
        }
        Ok(El1Attributes {
            memory: MemoryType::from_attr_indx(descriptor)?,
            access: stage1_access(descriptor & AP2 != 0, descriptor & fetch != 0)?,
            unprivileged,
            not_global: descriptor & NG != 0,
        })
    }
}

/// Stage 2 of a CPU or an SMMU. A device's [`Iova`] that only stage 2
/// translates is an [`Ipa`] here, and the caller says so by converting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage2 {}

const MEM_ATTR: u64 = 0b1111 << 2;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;

impl Format for Stage2 {
    type Input = Ipa;
    type Output = PhysAddr;
    type Attributes = Stage2Attributes;

    const STAGE2: bool = true;
    const BREAK: u64 = MEM_ATTR | SH;
    const MASK: u64 = MEM_ATTR | S2AP_READ | S2AP_WRITE | SH | AF | NG | DBM | PXN | XN;

    #[inline(always)]
    fn encode(attributes: Stage2Attributes) -> u64 {
        let memory = match attributes.memory {
            MemoryType::Device => 0b0001 << 2,
            MemoryType::Normal => 0b1111 << 2,
            MemoryType::NormalNonCacheable => 0b0101 << 2,
        };
        let execute = match attributes.execute {
            Execute::Always => 0,
            Execute::UnprivilegedOnly => PXN,
            Execute::Never => XN,
            Execute::PrivilegedOnly => XN | PXN,
        };
        let read = if attributes.read { S2AP_READ } else { 0 };
        let write = if attributes.write { S2AP_WRITE } else { 0 };
        AF | SH_INNER | memory | execute | read | write
    }

    #[inline(always)]
    fn decode(descriptor: u64) -> Result<Stage2Attributes, Reserved> {
        if descriptor & (SH | AF | NG | DBM) != SH_INNER | AF {
            return Err(Reserved);
        }
        Ok(Stage2Attributes {
            memory: match (descriptor & MEM_ATTR) >> 2 {
                0b0001 => MemoryType::Device,
                0b1111 => MemoryType::Normal,
                0b0101 => MemoryType::NormalNonCacheable,
                _ => return Err(Reserved),
            },
            read: descriptor & S2AP_READ != 0,
            write: descriptor & S2AP_WRITE != 0,
            execute: match (descriptor & XN != 0, descriptor & PXN != 0) {
                (false, false) => Execute::Always,
                (false, true) => Execute::UnprivilegedOnly,
                (true, false) => Execute::Never,
                (true, true) => Execute::PrivilegedOnly,
            },
        })
    }
}
