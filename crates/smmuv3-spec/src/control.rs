//! Control, status and queue registers (IHI 0070, 6.3.9 to 6.3.36).

use bitfield_struct::bitfield;

/// `SMMU_CR0` and `SMMU_CR0ACK` (6.3.9, 6.3.10).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr0 {
    /// Translation of Non-secure streams is enabled.
    pub smmuen: bool,
    /// The page request queue is enabled.
    pub priqen: bool,
    /// The event queue is enabled.
    pub eventqen: bool,
    /// The command queue is enabled.
    pub cmdqen: bool,
    /// ATS translated transactions are checked against the stream table.
    pub atschk: bool,
    #[bits(1)]
    __: u8,
    /// VMID wildcard.
    #[bits(3)]
    pub vmw: u8,
    #[bits(1)]
    __: u8,
    /// Device permission table walks are enabled.
    pub dpt_walk_en: bool,
    #[bits(21)]
    __: u32,
}

/// Cacheability of table and queue accesses (6.3.11): Non-cacheable.
pub const CACHE_NC: u8 = 0b00;
/// Cacheability of table and queue accesses (6.3.11): Write-Back.
pub const CACHE_WB: u8 = 0b01;
/// Cacheability of table and queue accesses (6.3.11): Write-Through.
pub const CACHE_WT: u8 = 0b10;
/// Shareability (6.3.11): Non-shareable.
pub const SHARE_NON: u8 = 0b00;
/// Shareability (6.3.11): Outer Shareable.
pub const SHARE_OUTER: u8 = 0b10;
/// Shareability (6.3.11): Inner Shareable.
pub const SHARE_INNER: u8 = 0b11;

/// `SMMU_CR1`: attributes of the SMMU's own accesses (6.3.11).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr1 {
    /// Queues, inner cacheability.
    #[bits(2)]
    pub queue_ic: u8,
    /// Queues, outer cacheability.
    #[bits(2)]
    pub queue_oc: u8,
    /// Queues, shareability.
    #[bits(2)]
    pub queue_sh: u8,
    /// Stream table, inner cacheability.
    #[bits(2)]
    pub table_ic: u8,
    /// Stream table, outer cacheability.
    #[bits(2)]
    pub table_oc: u8,
    /// Stream table, shareability.
    #[bits(2)]
    pub table_sh: u8,
    #[bits(20)]
    __: u32,
}

/// `SMMU_CR2` (6.3.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr2 {
    /// EL2 with E2H.
    pub e2h: bool,
    /// Record C_BAD_STREAMID.
    pub recinvsid: bool,
    /// Private TLB maintenance: broadcasts are ignored.
    pub ptm: bool,
    /// Record configuration errors of ATS requests.
    pub rec_cfg_ats: bool,
    #[bits(28)]
    __: u32,
}

/// `SMMU_GBPA`: what happens while disabled (6.3.14).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gbpa {
    /// Memory type, as in an STE.
    #[bits(4)]
    pub mem_attr: u8,
    /// Override the memory type.
    pub mtcfg: bool,
    #[bits(3)]
    __: u8,
    /// Allocation hints.
    #[bits(4)]
    pub alloccfg: u8,
    /// Shareability of what bypasses.
    #[bits(2)]
    pub shcfg: u8,
    #[bits(2)]
    __: u8,
    /// Privileged or not.
    #[bits(2)]
    pub privcfg: u8,
    /// Instruction or data.
    #[bits(2)]
    pub instcfg: u8,
    /// Abort every transaction.
    pub abort: bool,
    #[bits(10)]
    __: u16,
    /// An update is under way; written as 1 with every update.
    pub update: bool,
}

/// `SMMU_STATUSR` (6.3.13).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Statusr {
    /// Nothing is cached.
    pub dormant: bool,
    #[bits(31)]
    __: u32,
}

/// `SMMU_IRQ_CTRL` and `SMMU_IRQ_CTRLACK` (6.3.16, 6.3.18).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IrqCtrl {
    /// Global error interrupt.
    pub gerror_irqen: bool,
    /// Page request queue interrupt.
    pub priq_irqen: bool,
    /// Event queue interrupt.
    pub eventq_irqen: bool,
    #[bits(29)]
    __: u32,
}

/// `SMMU_GERROR` and `SMMU_GERRORN`: an error is active where the two differ
/// (6.3.19, 6.3.20).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gerror {
    /// A command could not be processed.
    pub cmdq_err: bool,
    #[bits(1)]
    __: u8,
    /// An event record could not be written; events may be lost.
    pub eventq_abt_err: bool,
    /// A page request record could not be written.
    pub priq_abt_err: bool,
    /// The MSI of a CMD_SYNC was aborted.
    pub msi_cmdq_abt_err: bool,
    /// The MSI of the event queue was aborted.
    pub msi_eventq_abt_err: bool,
    /// The MSI of the page request queue was aborted.
    pub msi_priq_abt_err: bool,
    /// The MSI of a global error was aborted.
    pub msi_gerror_abt_err: bool,
    /// Service failure mode: the SMMU has stopped.
    pub sfm_err: bool,
    /// An enhanced command queue failed.
    pub cmdqp_err: bool,
    /// A device permission table lookup failed.
    pub dpt_err: bool,
    #[bits(21)]
    __: u32,
}

/// `SMMU_*_IRQ_CFG2` (6.3.23, 6.3.32, 6.3.36).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IrqCfg2 {
    /// Memory type of the MSI write.
    #[bits(4)]
    pub mem_attr: u8,
    /// Shareability of the MSI write.
    #[bits(2)]
    pub sh: u8,
    #[bits(25)]
    __: u32,
    /// Page request queue only: interrupt on the last request of a group.
    pub lo: bool,
}

/// `SMMU_STRTAB_BASE` (6.3.24).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct StrtabBase {
    #[bits(6)]
    __: u8,
    /// Address bits [55:6], shifted down by 6.
    #[bits(50)]
    pub addr_6: u64,
    #[bits(6)]
    __: u8,
    /// Read-allocate hint.
    pub ra: bool,
    #[bits(1)]
    __: u8,
}

/// Stream table format (6.3.25): one array of STEs.
pub const FMT_LINEAR: u8 = 0b00;
/// Stream table format (6.3.25): an array of descriptors that point to arrays
/// of STEs.
pub const FMT_TWO_LEVEL: u8 = 0b01;

/// `SMMU_STRTAB_BASE_CFG` (6.3.25).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StrtabBaseCfg {
    /// StreamID bits covered.
    #[bits(6)]
    pub log2size: u8,
    /// StreamID bits resolved by the second level: 6, 8 or 10.
    #[bits(5)]
    pub split: u8,
    #[bits(5)]
    __: u8,
    /// [`FMT_LINEAR`] or [`FMT_TWO_LEVEL`].
    #[bits(2)]
    pub fmt: u8,
    #[bits(14)]
    __: u16,
}

/// `SMMU_CMDQ_BASE`, `SMMU_EVENTQ_BASE`, `SMMU_PRIQ_BASE` (6.3.26, 6.3.29,
/// 6.3.33).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueBase {
    /// log2 of the number of entries.
    #[bits(5)]
    pub log2size: u8,
    /// Address bits [55:5], shifted down by 5.
    #[bits(51)]
    pub addr_5: u64,
    #[bits(6)]
    __: u8,
    /// Allocate hint (read for commands, write for the others).
    pub alloc: bool,
    #[bits(1)]
    __: u8,
}

/// `SMMU_CMDQ_CONS` (6.3.28).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmdqCons {
    /// Index with its wrap bit above it.
    #[bits(20)]
    pub rd: u32,
    #[bits(4)]
    __: u8,
    /// Why command processing stopped, see
    /// [`CommandError`](crate::command::CommandError).
    #[bits(7)]
    pub err: u8,
    #[bits(1)]
    __: u8,
}

/// `SMMU_EVENTQ_PROD`, `SMMU_PRIQ_PROD`: an overflow is unacknowledged while
/// `overflow` differs from the same bit of the CONS register, where it is
/// called OVACKFLG (7.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct OutputIndex {
    /// Index with its wrap bit above it.
    #[bits(20)]
    pub index: u32,
    #[bits(11)]
    __: u16,
    /// OVFLG in PROD, OVACKFLG in CONS.
    pub overflow: bool,
}
