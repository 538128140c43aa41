//! Identification registers (IHI 0070, 6.3.1 to 6.3.8).

use bitfield_struct::bitfield;

/// `SMMU_IDR0` (6.3.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr0 {
    /// Stage 2 is implemented.
    pub s2p: bool,
    /// Stage 1 is implemented.
    pub s1p: bool,
    /// Table formats: bit 0 VMSAv8-32 LPAE, bit 1 VMSAv8-64.
    #[bits(2)]
    pub ttf: u8,
    /// Accesses to tables and queues are I/O-coherent.
    pub cohacc: bool,
    /// Broadcast TLB maintenance reaches this SMMU.
    pub btm: bool,
    /// Hardware update: 0 none, 1 access flag, 2 also dirty, 3 also table AF.
    #[bits(2)]
    pub httu: u8,
    /// The DORMANT hint of STATUSR is implemented.
    pub dormhint: bool,
    /// The EL2 translation regimes are implemented.
    pub hyp: bool,
    /// PCIe ATS is supported.
    pub ats: bool,
    /// Split-stage (stage 1 only) ATS is not supported.
    pub ns1ats: bool,
    /// 16-bit ASIDs.
    pub asid16: bool,
    /// Message signalled interrupts.
    pub msi: bool,
    /// Sends wake-up events to CPUs.
    pub sev: bool,
    /// Address translation operations by register.
    pub atos: bool,
    /// PCIe page requests.
    pub pri: bool,
    /// VMID wildcard matching.
    pub vmw: bool,
    /// 16-bit VMIDs.
    pub vmid16: bool,
    /// Two-level context descriptor tables.
    pub cd2l: bool,
    /// A page with translation operations for virtual machines.
    pub vatos: bool,
    /// Table endianness: 0 either, 2 little only, 3 big only.
    #[bits(2)]
    pub ttendian: u8,
    /// Configuration errors of ATS requests can be recorded.
    pub atsrecerr: bool,
    /// 0 stall and terminate, 1 terminate only, 2 stall forced.
    #[bits(2)]
    pub stall_model: u8,
    /// Terminating is always by abort.
    pub term_model: bool,
    /// Stream table: 0 linear, 1 also two levels.
    #[bits(2)]
    pub st_level: u8,
    #[bits(1)]
    __: u8,
    /// Realm Management Extension.
    pub rme_impl: bool,
    #[bits(1)]
    __: u8,
}

/// `SMMU_IDR1` (6.3.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr1 {
    /// Bits of a StreamID, 0 to 32.
    #[bits(6)]
    pub sidsize: u8,
    /// Bits of a SubstreamID, 0 to 20.
    #[bits(5)]
    pub ssidsize: u8,
    /// Largest page request queue, log2 of entries, at most 19.
    #[bits(5)]
    pub priqs: u8,
    /// Largest event queue, log2 of entries, at most 19.
    #[bits(5)]
    pub eventqs: u8,
    /// Largest command queue, log2 of entries, at most 19.
    #[bits(5)]
    pub cmdqs: u8,
    /// Incoming permissions can be overridden.
    pub attr_perms_ovr: bool,
    /// Incoming memory attributes can be overridden.
    pub attr_types_ovr: bool,
    /// Preset bases are relative to the SMMU's registers.
    pub rel: bool,
    /// Queue bases are fixed by the implementation.
    pub queues_preset: bool,
    /// The stream table base is fixed by the implementation.
    pub tables_preset: bool,
    /// Enhanced command queues.
    pub ecmdq: bool,
}

/// `SMMU_IDR3` (6.3.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr3 {
    #[bits(2)]
    __: u8,
    /// Hierarchical attribute disable.
    pub had: bool,
    /// Page-based hardware attributes.
    pub pbha: bool,
    /// Execute-never by privilege at stage 2.
    pub xnx: bool,
    /// Page requests of a stream with a substream carry it.
    pub pps: bool,
    #[bits(1)]
    __: u8,
    /// Memory partitioning and monitoring.
    pub mpam: bool,
    /// Stage 2 can force write-back.
    pub fwb: bool,
    /// Small translation tables.
    pub stt: bool,
    /// Range TLB invalidation and level hints.
    pub ril: bool,
    /// Break-before-make level, 0 to 2.
    #[bits(2)]
    pub bbml: u8,
    /// Unprivileged access prevention by half.
    pub e0pd: bool,
    /// Table walks to Device memory become Normal Non-cacheable.
    pub ptwnnc: bool,
    /// Device permission table.
    pub dpt: bool,
    #[bits(16)]
    __: u16,
}

/// `SMMU_IDR6`, where [`Idr1::ecmdq`] (6.3.45).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr6 {
    #[bits(16)]
    __: u16,
    /// log2 of the queues of a Command queue control page, at most 8.
    #[bits(4)]
    pub queues_log2: u8,
    #[bits(4)]
    __: u8,
    /// log2 of the pages, at most 8.
    #[bits(4)]
    pub pages_log2: u8,
    #[bits(4)]
    __: u8,
}

/// `SMMU_IDR5` (6.3.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr5 {
    /// Output address size, see [`Idr5::output_bits`].
    #[bits(3)]
    pub oas: u8,
    #[bits(1)]
    __: u8,
    /// 4 KiB granule.
    pub gran4k: bool,
    /// 16 KiB granule.
    pub gran16k: bool,
    /// 64 KiB granule.
    pub gran64k: bool,
    /// 52-bit addresses with 4 and 16 KiB granules.
    pub ds: bool,
    /// 128-bit descriptors.
    pub d128: bool,
    #[bits(1)]
    __: u8,
    /// Virtual address size: 0 48 bits, 1 52 bits, 2 56 bits.
    #[bits(2)]
    pub vax: u8,
    #[bits(4)]
    __: u8,
    /// Largest number of stalled transactions.
    #[bits(16)]
    pub stall_max: u16,
}

impl Idr5 {
    /// Bits of an output address; `None` for a reserved encoding (6.3.6).
    #[must_use]
    pub const fn output_bits(&self) -> Option<u8> {
        match self.oas() {
            0 => Some(32),
            1 => Some(36),
            2 => Some(40),
            3 => Some(42),
            4 => Some(44),
            5 => Some(48),
            6 => Some(52),
            7 => Some(56),
            _ => None,
        }
    }
}

/// `SMMU_IIDR`: who made it (6.3.7).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Iidr {
    /// JEP106 code of the implementer; 0x43b is Arm.
    #[bits(12)]
    pub implementer: u16,
    /// Minor revision.
    #[bits(4)]
    pub revision: u8,
    /// Major revision.
    #[bits(4)]
    pub variant: u8,
    /// The product.
    #[bits(12)]
    pub product_id: u16,
}

/// `SMMU_AIDR`: the version of the architecture (6.3.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aidr {
    /// 0 is SMMUv3.0, 1 SMMUv3.1 and so on.
    #[bits(4)]
    pub minor: u8,
    /// 0 for every SMMUv3.
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}
