//! The stream table (IHI 0070, 5.1 and 5.2).

words! {
    /// Level 1 stream table descriptor (5.1).
    pub struct L1Std[1] {
        /// 0: invalid; n in 1..=11: points to 2^(n-1) STEs.
        span, with_span: u8 @ [4:0];
        /// Address of the array of STEs, aligned to its size.
        l2ptr, with_l2ptr: addr @ [55:6];
    }
}

open! {
    /// What happens to a stream's traffic (`STE.Config`, 5.2). Encodings with
    /// bit 2 clear all abort.
    pub struct Config(u8) {
        /// Abort, no event.
        ABORT = 0b000, "abort";
        /// Both stages bypassed.
        BYPASS = 0b100, "bypass";
        /// Stage 1 only.
        S1 = 0b101, "s1";
        /// Stage 2 only.
        S2 = 0b110, "s2";
        /// Stage 1, then stage 2.
        NESTED = 0b111, "nested";
    }
}

impl Config {
    /// Whether traffic passes at all.
    #[must_use]
    pub const fn passes(self) -> bool {
        self.0 & 0b100 != 0
    }

    /// Whether stage 1 translates.
    #[must_use]
    pub const fn stage1(self) -> bool {
        self.0 & 0b101 == 0b101
    }

    /// Whether stage 2 translates.
    #[must_use]
    pub const fn stage2(self) -> bool {
        self.0 & 0b110 == 0b110
    }
}

words! {
    /// Stream table entry (5.2). Fields of Secure and Realm streams and of
    /// 128-bit descriptors are left out: this is the Non-secure interface of
    /// SMMUv3.0 to 3.2, plus what a later one must see as zero.
    pub struct Ste[8] {
        /// Valid. 0: abort with C_BAD_STE, all else ignored.
        v, with_v: bool @ [0:0];
        /// See [`Config`].
        config_bits, with_config_bits: u8 @ [3:1];
        /// Format of the CD table: 0 linear, 1 two levels of 4 KiB leaves, 2
        /// of 64 KiB leaves.
        s1fmt, with_s1fmt: u8 @ [5:4];
        /// CD or CD table; an IPA where stage 2 translates.
        s1contextptr, with_s1contextptr: addr @ [55:6];
        /// log2 of the number of CDs; 0: one CD, no substreams.
        s1cdmax, with_s1cdmax: u8 @ [63:59];
        /// Traffic without substream: 0 terminate, 1 bypass stage 1, 2 use
        /// substream 0.
        s1dss, with_s1dss: u8 @ [65:64];
        /// Inner cacheability of CD fetches.
        s1cir, with_s1cir: u8 @ [67:66];
        /// Outer cacheability of CD fetches.
        s1cor, with_s1cor: u8 @ [69:68];
        /// Shareability of CD fetches.
        s1csh, with_s1csh: u8 @ [71:70];
        /// Hardware use of stage 2 descriptor bits 59 to 62.
        s2hwu, with_s2hwu: u8 @ [75:72];
        /// Destructive reads are allowed.
        dre, with_dre: bool @ [76:76];
        /// log2 of the span of identical STEs.
        cont, with_cont: u8 @ [80:77];
        /// Directed cache prefetch is allowed.
        dcp, with_dcp: bool @ [81:81];
        /// Page request auto-responses carry a substream.
        ppar, with_ppar: bool @ [82:82];
        /// Events of the stream may be merged.
        mev, with_mev: bool @ [83:83];
        /// Free for software.
        sw_reserved, with_sw_reserved: u8 @ [87:84];
        /// Stage 1 permission indirection.
        s1pie, with_s1pie: bool @ [88:88];
        /// Stage 2 forces write-back.
        s2fwb, with_s2fwb: bool @ [89:89];
        /// Stage 1 selects the MPAM PARTID.
        s1mpam, with_s1mpam: bool @ [90:90];
        /// Stage 1 must not stall.
        s1stalld, with_s1stalld: bool @ [91:91];
        /// ATS: 0 off, 1 full, 2 split stage.
        eats, with_eats: u8 @ [93:92];
        /// Stream world: 0 EL1, 2 EL2.
        strw, with_strw: u8 @ [95:94];
        /// Memory type when overridden.
        memattr, with_memattr: u8 @ [99:96];
        /// Override the memory type.
        mtcfg, with_mtcfg: bool @ [100:100];
        /// Allocation hints.
        alloccfg, with_alloccfg: u8 @ [104:101];
        /// Shareability: 1 is "use incoming".
        shcfg, with_shcfg: u8 @ [109:108];
        /// NS attribute; ignored for Non-secure streams.
        nscfg, with_nscfg: u8 @ [111:110];
        /// Privilege override.
        privcfg, with_privcfg: u8 @ [113:112];
        /// Instruction or data override.
        instcfg, with_instcfg: u8 @ [115:114];
        /// Implementation defined.
        impdef1, with_impdef1: u16 @ [127:116];
        /// VMID that tags the translations.
        s2vmid, with_s2vmid: u16 @ [143:128];
        /// Implementation defined.
        impdef2, with_impdef2: u16 @ [159:144];
        /// 64 minus the IPA bits of stage 2.
        s2t0sz, with_s2t0sz: u8 @ [165:160];
        /// Start level of stage 2, as VTCR_EL2.SL0.
        s2sl0, with_s2sl0: u8 @ [167:166];
        /// Stage 2 walks, inner cacheability.
        s2ir0, with_s2ir0: u8 @ [169:168];
        /// Stage 2 walks, outer cacheability.
        s2or0, with_s2or0: u8 @ [171:170];
        /// Stage 2 walks, shareability.
        s2sh0, with_s2sh0: u8 @ [173:172];
        /// Stage 2 granule: 0 4 KiB, 1 64 KiB, 2 16 KiB.
        s2tg, with_s2tg: u8 @ [175:174];
        /// Stage 2 output size, encoded as IDR5.OAS.
        s2ps, with_s2ps: u8 @ [178:176];
        /// Stage 2 tables are VMSAv8-64.
        s2aa64, with_s2aa64: bool @ [179:179];
        /// Stage 2 tables are big-endian.
        s2endi, with_s2endi: bool @ [180:180];
        /// Stage 2 access flag faults are disabled.
        s2affd, with_s2affd: bool @ [181:181];
        /// Stage 1 walks to Device memory fault.
        s2ptw, with_s2ptw: bool @ [182:182];
        /// Hardware update of stage 2 dirty state.
        s2hd, with_s2hd: bool @ [183:183];
        /// Hardware update of stage 2 access flags.
        s2ha, with_s2ha: bool @ [184:184];
        /// Stage 2 faults stall.
        s2s, with_s2s: bool @ [185:185];
        /// Stage 2 faults are recorded.
        s2r, with_s2r: bool @ [186:186];
        /// Hardware update of access flags in stage 2 tables.
        s2haft, with_s2haft: bool @ [187:187];
        /// Stage 2 permission indirection.
        s2pie, with_s2pie: bool @ [188:188];
        /// Stage 2 permission overlay.
        s2poe, with_s2poe: bool @ [189:189];
        /// Device permission table VMID match.
        dpt_vmatch, with_dpt_vmatch: u8 @ [191:190];
        /// Secure streams: NS of walks.
        s2nsw, with_s2nsw: bool @ [192:192];
        /// Secure streams: NS of outputs.
        s2nsa, with_s2nsa: bool @ [193:193];
        /// Bit 2 of the start level.
        s2sl0_2, with_s2sl0_2: bool @ [194:194];
        /// 52-bit addresses with 4 and 16 KiB granules.
        s2ds, with_s2ds: bool @ [195:195];
        /// Stage 2 translation table.
        s2ttb, with_s2ttb: addr @ [247:196];
        /// Implementation defined.
        impdef4, with_impdef4: u16 @ [271:256];
        /// MPAM partition.
        partid, with_partid: u16 @ [287:272];
        /// Secure streams: input size.
        s_s2t0sz, with_s_s2t0sz: u8 @ [293:288];
        /// Secure streams: start level.
        s_s2sl0, with_s_s2sl0: u8 @ [295:294];
        /// Secure streams: granule.
        s_s2tg, with_s_s2tg: u8 @ [303:302];
        /// MPAM performance group.
        pmg, with_pmg: u8 @ [327:320];
        /// MPAM PARTID space.
        mpam_ns, with_mpam_ns: bool @ [328:328];
        /// Virtual machine structure.
        vmsptr, with_vmsptr: addr @ [375:332];
        /// Secure streams: NS of walks of the Secure table.
        s2sw, with_s2sw: bool @ [384:384];
        /// Secure streams: NS of outputs of the Secure table.
        s2sa, with_s2sa: bool @ [385:385];
        /// Secure streams: stage 2 table.
        s_s2ttb, with_s_s2ttb: addr @ [439:388];
    }
}

impl Ste {
    /// The entry that aborts without an event: valid, `Config` abort (5.2).
    pub const ABORT: Self = Self([1, 0, 0, 0, 0, 0, 0, 0]);

    /// What happens to the stream's traffic, if the entry is valid.
    #[must_use]
    pub const fn config(&self) -> Config {
        Config(self.config_bits())
    }

    /// With `Config` replaced.
    #[must_use]
    pub const fn with_config(self, config: Config) -> Self {
        self.with_config_bits(config.0)
    }
}

/// `STE.S2TG`, `CD.TG0` (5.2, 5.4): 4 KiB.
pub const TG_4K: u8 = 0b00;
/// `STE.S2TG`, `CD.TG0` (5.2, 5.4): 64 KiB.
pub const TG_64K: u8 = 0b01;
/// `STE.S2TG`, `CD.TG0` (5.2, 5.4): 16 KiB.
pub const TG_16K: u8 = 0b10;
/// `STE.EATS` (5.2): no ATS.
pub const EATS_OFF: u8 = 0b00;
/// `STE.EATS` (5.2): answers are IPAs, and translated accesses pass stage 2.
pub const EATS_SPLIT: u8 = 0b10;
/// `STE.SHCFG` (5.2): use the incoming shareability.
pub const SHCFG_INCOMING: u8 = 0b01;
