//! Commands of the Non-secure command queue (IHI 0070, chapter 4) and command
//! queue errors (7.1).

use crate::{Asid, StreamId, SubstreamId, Vmid};

open! {
    /// Command opcodes (4.1.1).
    pub struct Opcode(u8) {
        /// Prefetch configuration.
        PREFETCH_CONFIG = 0x01, "CMD_PREFETCH_CONFIG";
        /// Prefetch translations.
        PREFETCH_ADDR = 0x02, "CMD_PREFETCH_ADDR";
        /// Invalidate one STE.
        CFGI_STE = 0x03, "CMD_CFGI_STE";
        /// Invalidate a range of STEs; with range 31 all configuration.
        CFGI_STE_RANGE = 0x04, "CMD_CFGI_STE_RANGE";
        /// Invalidate one CD.
        CFGI_CD = 0x05, "CMD_CFGI_CD";
        /// Invalidate the CDs of a stream.
        CFGI_CD_ALL = 0x06, "CMD_CFGI_CD_ALL";
        /// Invalidate PARTID maps.
        CFGI_VMS_PIDM = 0x07, "CMD_CFGI_VMS_PIDM";
        /// Stage 1 of a VMID.
        TLBI_NH_ALL = 0x10, "CMD_TLBI_NH_ALL";
        /// Stage 1 of a VMID and ASID.
        TLBI_NH_ASID = 0x11, "CMD_TLBI_NH_ASID";
        /// Stage 1 by address, VMID and ASID.
        TLBI_NH_VA = 0x12, "CMD_TLBI_NH_VA";
        /// Stage 1 by address and VMID.
        TLBI_NH_VAA = 0x13, "CMD_TLBI_NH_VAA";
        /// Everything of EL3; illegal here.
        TLBI_EL3_ALL = 0x18, "CMD_TLBI_EL3_ALL";
        /// EL3 by address; illegal here.
        TLBI_EL3_VA = 0x1a, "CMD_TLBI_EL3_VA";
        /// Everything of EL2.
        TLBI_EL2_ALL = 0x20, "CMD_TLBI_EL2_ALL";
        /// EL2 by ASID.
        TLBI_EL2_ASID = 0x21, "CMD_TLBI_EL2_ASID";
        /// EL2 by address and ASID.
        TLBI_EL2_VA = 0x22, "CMD_TLBI_EL2_VA";
        /// EL2 by address.
        TLBI_EL2_VAA = 0x23, "CMD_TLBI_EL2_VAA";
        /// Both stages of a VMID.
        TLBI_S12_VMALL = 0x28, "CMD_TLBI_S12_VMALL";
        /// Stage 2 by address.
        TLBI_S2_IPA = 0x2a, "CMD_TLBI_S2_IPA";
        /// Everything but EL2.
        TLBI_NSNH_ALL = 0x30, "CMD_TLBI_NSNH_ALL";
        /// Invalidate an endpoint's translation cache.
        ATC_INV = 0x40, "CMD_ATC_INV";
        /// Answer a page request group.
        PRI_RESP = 0x41, "CMD_PRI_RESP";
        /// Resume a stalled transaction.
        RESUME = 0x44, "CMD_RESUME";
        /// Terminate a stream's stalled transactions.
        STALL_TERM = 0x45, "CMD_STALL_TERM";
        /// Wait for everything before.
        SYNC = 0x46, "CMD_SYNC";
    }
}

open! {
    /// `CMDQ_CONS.ERR`: why command processing stopped (7.1).
    pub struct CommandError(u8) {
        /// No error.
        NONE = 0, "CERROR_NONE";
        /// The command is illegal.
        ILL = 1, "CERROR_ILL";
        /// The command could not be fetched.
        ABT = 2, "CERROR_ABT";
        /// A CMD_SYNC could not complete an earlier CMD_ATC_INV.
        ATC_INV_SYNC = 3, "CERROR_ATC_INV_SYNC";
    }
}

/// `CMD_SYNC` completion signal (4.7.3): none.
pub const SIG_NONE: u8 = 0b00;
/// `CMD_SYNC` completion signal (4.7.3): interrupt or MSI.
pub const SIG_IRQ: u8 = 0b01;
/// `CMD_SYNC` completion signal (4.7.3): wake-up event.
pub const SIG_SEV: u8 = 0b10;

/// `TG` of a TLBI command (4.4.1.1): any granule, neither range nor hint.
pub const TLBI_TG_ANY: u8 = 0b00;
/// `TG` of a TLBI command (4.4.1.1): 4 KiB.
pub const TLBI_TG_4K: u8 = 0b01;
/// `TG` of a TLBI command (4.4.1.1): 16 KiB.
pub const TLBI_TG_16K: u8 = 0b10;
/// `TG` of a TLBI command (4.4.1.1): 64 KiB.
pub const TLBI_TG_64K: u8 = 0b11;

words! {
    /// One command, 16 bytes. Which fields mean something depends on the
    /// opcode; fields of different commands overlap.
    pub struct Command[2] {
        /// See [`Opcode`].
        opcode_bits, with_opcode_bits: u8 @ [7:0];
        /// ATC_INV: for every substream.
        global, with_global: bool @ [9:9];
        /// The stream is Secure; must be 0 here.
        ssec, with_ssec: bool @ [10:10];
        /// The substream is valid.
        ssv, with_ssv: bool @ [11:11];
        /// The substream, where `ssv` says so.
        substream_bits, with_substream_bits: u32 @ [31:12];
        /// The stream, of commands that name one.
        stream_bits, with_stream_bits: u32 @ [63:32];
        /// TLBI: range multiplier minus 1.
        num, with_num: u8 @ [16:12];
        /// TLBI: log2 of the range unit in granules (5 bits unless IDR5.DS).
        scale, with_scale: u8 @ [25:20];
        /// TLBI: VMID.
        vmid_bits, with_vmid_bits: u16 @ [47:32];
        /// TLBI: ASID.
        asid_bits, with_asid_bits: u16 @ [63:48];
        /// RESUME: retry (1) or terminate (0).
        retry, with_retry: bool @ [12:12];
        /// RESUME: terminate with abort.
        abort, with_abort: bool @ [13:13];
        /// SYNC: completion signal.
        cs, with_cs: u8 @ [13:12];
        /// SYNC: shareability of the MSI.
        msh, with_msh: u8 @ [23:22];
        /// SYNC: memory type of the MSI.
        msi_attr, with_msi_attr: u8 @ [27:24];
        /// SYNC: data of the MSI.
        msi_data, with_msi_data: u32 @ [63:32];
        /// CFGI_STE, CFGI_CD, TLBI by address: the last level only.
        leaf, with_leaf: bool @ [64:64];
        /// CFGI_STE_RANGE: log2 of the span, minus 1.
        range, with_range: u8 @ [68:64];
        /// ATC_INV: log2 of the span in pages; 52 is everything.
        atc_size, with_atc_size: u8 @ [69:64];
        /// PREFETCH_ADDR: log2 of the number of translations.
        prefetch_size, with_prefetch_size: u8 @ [68:64];
        /// PREFETCH_ADDR: log2 of the stride in pages.
        prefetch_stride, with_prefetch_stride: u8 @ [73:69];
        /// TLBI: the level is that of 128-bit descriptors.
        ttl128, with_ttl128: bool @ [71:71];
        /// TLBI: level hint.
        ttl, with_ttl: u8 @ [73:72];
        /// TLBI: granule.
        tg, with_tg: u8 @ [75:74];
        /// Address of TLBI, ATC_INV and PREFETCH_ADDR, in bytes.
        address, with_address: addr @ [127:76];
        /// PRI_RESP: group index.
        prg_index, with_prg_index: u16 @ [72:64];
        /// PRI_RESP: 0 failure, 1 invalid request, 2 success.
        resp, with_resp: u8 @ [77:76];
        /// RESUME: token of the stalled transaction.
        stag, with_stag: u16 @ [79:64];
        /// SYNC: address of the MSI.
        msi_address, with_msi_address: addr @ [119:66];
    }
}

impl Command {
    /// The command that `opcode` names, every parameter 0.
    #[must_use]
    pub const fn new(opcode: Opcode) -> Self {
        Self([opcode.0 as u64, 0])
    }

    /// What the command is.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        Opcode(self.opcode_bits())
    }

    /// The stream that the command names.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        StreamId(self.stream_bits())
    }

    /// The substream that the command names, where valid.
    #[must_use]
    pub const fn substream(&self) -> Option<SubstreamId> {
        if self.ssv() {
            Some(SubstreamId(self.substream_bits()))
        } else {
            None
        }
    }

    /// The VMID of a TLBI command.
    #[must_use]
    pub const fn vmid(&self) -> Vmid {
        Vmid(self.vmid_bits())
    }

    /// The ASID of a TLBI command.
    #[must_use]
    pub const fn asid(&self) -> Asid {
        Asid(self.asid_bits())
    }

    const fn of_stream(opcode: Opcode, stream: StreamId) -> Self {
        Self::new(opcode).with_stream_bits(stream.0)
    }

    const fn with_substream(self, substream: Option<SubstreamId>) -> Self {
        match substream {
            Some(s) => self.with_ssv(true).with_substream_bits(s.0),
            None => self,
        }
    }

    /// `CMD_PREFETCH_CONFIG` (4.2.1).
    #[must_use]
    pub const fn prefetch_config(stream: StreamId, substream: Option<SubstreamId>) -> Self {
        Self::of_stream(Opcode::PREFETCH_CONFIG, stream).with_substream(substream)
    }

    /// `CMD_PREFETCH_ADDR` (4.2.2): 2^`size` translations from `address`, one
    /// every 2^`stride` pages of 4 KiB.
    #[must_use]
    pub const fn prefetch_addr(
        stream: StreamId,
        substream: Option<SubstreamId>,
        address: u64,
        size: u8,
        stride: u8,
    ) -> Self {
        Self::of_stream(Opcode::PREFETCH_ADDR, stream)
            .with_substream(substream)
            .with_address(address)
            .with_prefetch_size(size)
            .with_prefetch_stride(stride)
    }

    /// `CMD_CFGI_STE` (4.3.1); `leaf` spares the level 1 descriptor.
    #[must_use]
    pub const fn cfgi_ste(stream: StreamId, leaf: bool) -> Self {
        Self::of_stream(Opcode::CFGI_STE, stream).with_leaf(leaf)
    }

    /// `CMD_CFGI_STE_RANGE` (4.3.2): the aligned 2^(`range`+1) streams around
    /// `stream`.
    #[must_use]
    pub const fn cfgi_ste_range(stream: StreamId, range: u8) -> Self {
        Self::of_stream(Opcode::CFGI_STE_RANGE, stream).with_range(range)
    }

    /// `CMD_CFGI_ALL` (4.3.6).
    #[must_use]
    pub const fn cfgi_all() -> Self {
        Self::cfgi_ste_range(StreamId(0), 31)
    }

    /// `CMD_CFGI_CD` (4.3.3); the substream is an index, valid or not.
    #[must_use]
    pub const fn cfgi_cd(stream: StreamId, substream: SubstreamId, leaf: bool) -> Self {
        Self::of_stream(Opcode::CFGI_CD, stream)
            .with_substream_bits(substream.0)
            .with_leaf(leaf)
    }

    /// `CMD_CFGI_CD_ALL` (4.3.4).
    #[must_use]
    pub const fn cfgi_cd_all(stream: StreamId) -> Self {
        Self::of_stream(Opcode::CFGI_CD_ALL, stream)
    }

    /// `CMD_TLBI_NH_ALL` (4.4.2.1).
    #[must_use]
    pub const fn tlbi_nh_all(vmid: Vmid) -> Self {
        Self::new(Opcode::TLBI_NH_ALL).with_vmid_bits(vmid.0)
    }

    /// `CMD_TLBI_NH_ASID` (4.4.2.2).
    #[must_use]
    pub const fn tlbi_nh_asid(vmid: Vmid, asid: Asid) -> Self {
        Self::new(Opcode::TLBI_NH_ASID)
            .with_vmid_bits(vmid.0)
            .with_asid_bits(asid.0)
    }

    /// `CMD_TLBI_NH_VA` (4.4.2.4); range fields are added by the caller.
    #[must_use]
    pub const fn tlbi_nh_va(vmid: Vmid, asid: Asid, address: u64, leaf: bool) -> Self {
        Self::new(Opcode::TLBI_NH_VA)
            .with_vmid_bits(vmid.0)
            .with_asid_bits(asid.0)
            .with_address(address)
            .with_leaf(leaf)
    }

    /// `CMD_TLBI_NH_VAA` (4.4.2.3).
    #[must_use]
    pub const fn tlbi_nh_vaa(vmid: Vmid, address: u64, leaf: bool) -> Self {
        Self::new(Opcode::TLBI_NH_VAA)
            .with_vmid_bits(vmid.0)
            .with_address(address)
            .with_leaf(leaf)
    }

    /// `CMD_TLBI_EL2_ALL` (4.4.2.7); illegal unless `IDR0.HYP`.
    #[must_use]
    pub const fn tlbi_el2_all() -> Self {
        Self::new(Opcode::TLBI_EL2_ALL)
    }

    /// `CMD_TLBI_S12_VMALL` (4.4.3.2).
    #[must_use]
    pub const fn tlbi_s12_vmall(vmid: Vmid) -> Self {
        Self::new(Opcode::TLBI_S12_VMALL).with_vmid_bits(vmid.0)
    }

    /// `CMD_TLBI_S2_IPA` (4.4.3.1), one address, any granule.
    #[must_use]
    pub const fn tlbi_s2_ipa(vmid: Vmid, address: u64, leaf: bool) -> Self {
        Self::new(Opcode::TLBI_S2_IPA)
            .with_vmid_bits(vmid.0)
            .with_address(address)
            .with_leaf(leaf)
    }

    /// `CMD_TLBI_NSNH_ALL` (4.4.4.1).
    #[must_use]
    pub const fn tlbi_nsnh_all() -> Self {
        Self::new(Opcode::TLBI_NSNH_ALL)
    }

    /// `CMD_ATC_INV` (4.5.1): 2^`size` pages of 4 KiB around `address`; 52 is
    /// everything.
    #[must_use]
    pub const fn atc_inv(
        stream: StreamId,
        substream: Option<SubstreamId>,
        global: bool,
        address: u64,
        size: u8,
    ) -> Self {
        Self::of_stream(Opcode::ATC_INV, stream)
            .with_substream(substream)
            .with_global(global)
            .with_address(address)
            .with_atc_size(size)
    }

    /// `CMD_PRI_RESP` (4.5.2).
    #[must_use]
    pub const fn pri_resp(
        stream: StreamId,
        substream: Option<SubstreamId>,
        prg_index: u16,
        resp: u8,
    ) -> Self {
        Self::of_stream(Opcode::PRI_RESP, stream)
            .with_substream(substream)
            .with_prg_index(prg_index)
            .with_resp(resp)
    }

    /// `CMD_RESUME` (4.7.1); `abort` counts only when not retried.
    #[must_use]
    pub const fn resume(stream: StreamId, stag: u16, retry: bool, abort: bool) -> Self {
        Self::of_stream(Opcode::RESUME, stream)
            .with_stag(stag)
            .with_retry(retry)
            .with_abort(abort)
    }

    /// `CMD_STALL_TERM` (4.7.2).
    #[must_use]
    pub const fn stall_term(stream: StreamId) -> Self {
        Self::of_stream(Opcode::STALL_TERM, stream)
    }

    /// `CMD_SYNC` (4.7.3) with the completion signal `cs` and no MSI.
    #[must_use]
    pub const fn sync(cs: u8) -> Self {
        Self::new(Opcode::SYNC).with_cs(cs)
    }
}
