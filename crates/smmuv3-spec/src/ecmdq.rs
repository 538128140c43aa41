//! Enhanced Command Queues: registers of their pages and of the queues (IHI 0070,
//! 6.2.5, 6.3.49 and 6.3.107 to 6.3.109).

use bitfield_struct::bitfield;

/// Bytes of a Command queue control page.
pub const PAGE_BYTES: u64 = 0x1_0000;

/// Bytes from one `SMMU_CMDQ_CONTROL_PAGE_BASE<n>` to the next.
pub const CONTROL_STRIDE: u32 = 32;

/// `SMMU_ECMDQ_PROD<n>`, 32 bits, from the start of a queue's registers.
pub const PROD: u32 = 0x8;

/// `SMMU_ECMDQ_CONS<n>`, 32 bits, from the start of a queue's registers.
pub const CONS: u32 = 0xc;

/// `SMMU_CMDQ_CONTROL_PAGE_BASE<n>` (6.3.49).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ControlPageBase {
    /// The queues are registers of the SMMU.
    pub preset: bool,
    /// Size of the page; 1 is 64 KiB.
    #[bits(2)]
    pub granule: u8,
    #[bits(13)]
    __: u16,
    /// Bits 55:16 of the page's offset from page 0.
    #[bits(40)]
    pub addr_16: u64,
    #[bits(8)]
    __: u8,
}

/// `SMMU_ECMDQ_PROD<n>` (6.3.108).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Prod {
    /// Write index with its wrap bit.
    #[bits(20)]
    pub wr: u32,
    #[bits(3)]
    __: u8,
    /// Acknowledges an error.
    pub errack: bool,
    #[bits(7)]
    __: u8,
    /// The queue is to be enabled.
    pub en: bool,
}

/// `SMMU_ECMDQ_CONS<n>` (6.3.109).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cons {
    /// Read index with its wrap bit.
    #[bits(20)]
    pub rd: u32,
    #[bits(3)]
    __: u8,
    /// Toggles at an error.
    pub err: bool,
    /// The reason of the error.
    #[bits(3)]
    pub err_reason: u8,
    #[bits(4)]
    __: u8,
    /// The queue is enabled.
    pub enack: bool,
}
