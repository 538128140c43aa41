//! Context descriptors: stage 1 (IHI 0070, 5.3 and 5.4).

words! {
    /// Level 1 context descriptor table entry (5.3).
    pub struct L1Cd[1] {
        /// The descriptor counts.
        v, with_v: bool @ [0:0];
        /// Array of CDs, 4 KiB or 64 KiB aligned.
        l2ptr, with_l2ptr: addr @ [55:12];
    }
}

words! {
    /// Context descriptor (5.4).
    pub struct Cd[8] {
        /// 64 minus the input bits of the lower range.
        t0sz, with_t0sz: u8 @ [5:0];
        /// Granule of the lower range: 0 4 KiB, 1 64 KiB, 2 16 KiB.
        tg0, with_tg0: u8 @ [7:6];
        /// Walks of the lower range, inner cacheability.
        ir0, with_ir0: u8 @ [9:8];
        /// Walks of the lower range, outer cacheability.
        or0, with_or0: u8 @ [11:10];
        /// Walks of the lower range, shareability.
        sh0, with_sh0: u8 @ [13:12];
        /// No walks of the lower range.
        epd0, with_epd0: bool @ [14:14];
        /// Tables are big-endian.
        endi, with_endi: bool @ [15:15];
        /// 64 minus the input bits of the upper range.
        t1sz, with_t1sz: u8 @ [21:16];
        /// Granule of the upper range: 1 16 KiB, 2 4 KiB, 3 64 KiB.
        tg1, with_tg1: u8 @ [23:22];
        /// Walks of the upper range, inner cacheability.
        ir1, with_ir1: u8 @ [25:24];
        /// Walks of the upper range, outer cacheability.
        or1, with_or1: u8 @ [27:26];
        /// Walks of the upper range, shareability.
        sh1, with_sh1: u8 @ [29:28];
        /// No walks of the upper range.
        epd1, with_epd1: bool @ [30:30];
        /// The descriptor counts.
        v, with_v: bool @ [31:31];
        /// Output size, encoded as IDR5.OAS.
        ips, with_ips: u8 @ [34:32];
        /// Access flag faults are disabled.
        affd, with_affd: bool @ [35:35];
        /// Writable is execute-never.
        wxn, with_wxn: bool @ [36:36];
        /// Unprivileged writable is privileged execute-never.
        uwxn, with_uwxn: bool @ [37:37];
        /// Top byte ignored, lower range.
        tbi0, with_tbi0: bool @ [38:38];
        /// Top byte ignored, upper range.
        tbi1, with_tbi1: bool @ [39:39];
        /// Privileged access never.
        pan, with_pan: bool @ [40:40];
        /// Tables are VMSAv8-64.
        aa64, with_aa64: bool @ [41:41];
        /// Hardware update of dirty state.
        hd, with_hd: bool @ [42:42];
        /// Hardware update of access flags.
        ha, with_ha: bool @ [43:43];
        /// Faults stall.
        s, with_s: bool @ [44:44];
        /// Faults are recorded.
        r, with_r: bool @ [45:45];
        /// Terminated transactions abort.
        a, with_a: bool @ [46:46];
        /// ASID is not shared with CPUs.
        aset, with_aset: bool @ [47:47];
        /// ASID that tags the translations.
        asid, with_asid: u16 @ [63:48];
        /// NS of the lower range; ignored for Non-secure streams.
        nscfg0, with_nscfg0: bool @ [64:64];
        /// Hierarchical attributes are disabled, lower range.
        had0, with_had0: bool @ [65:65];
        /// Unprivileged access is prevented, lower range.
        e0pd0, with_e0pd0: bool @ [66:66];
        /// Hardware update of access flags in tables.
        haft, with_haft: bool @ [67:67];
        /// Table of the lower range.
        ttb0, with_ttb0: addr @ [119:68];
        /// Enhanced PAN.
        epan, with_epan: bool @ [123:123];
        /// Hardware use of descriptor bits 59 to 62, lower range.
        hwu0, with_hwu0: u8 @ [127:124];
        /// NS of the upper range; ignored for Non-secure streams.
        nscfg1, with_nscfg1: bool @ [128:128];
        /// Hierarchical attributes are disabled, upper range.
        had1, with_had1: bool @ [129:129];
        /// Unprivileged access is prevented, upper range.
        e0pd1, with_e0pd1: bool @ [130:130];
        /// Attribute index extension.
        aie, with_aie: bool @ [131:131];
        /// Table of the upper range.
        ttb1, with_ttb1: addr @ [183:132];
        /// 52-bit addresses with 4 and 16 KiB granules.
        ds, with_ds: bool @ [186:186];
        /// Permission indirection.
        pie, with_pie: bool @ [187:187];
        /// Hardware use of descriptor bits 59 to 62, upper range.
        hwu1, with_hwu1: u8 @ [191:188];
        /// Memory attributes 0 to 3, as MAIR_EL1.
        mair0, with_mair0: u32 @ [223:192];
        /// Memory attributes 4 to 7.
        mair1, with_mair1: u32 @ [255:224];
        /// Auxiliary attributes 0 to 3.
        amair0, with_amair0: u32 @ [287:256];
        /// Auxiliary attributes 4 to 7.
        amair1, with_amair1: u32 @ [319:288];
        /// Implementation defined.
        impdef, with_impdef: u32 @ [351:320];
        /// MPAM partition.
        partid, with_partid: u16 @ [367:352];
        /// MPAM performance group.
        pmg, with_pmg: u8 @ [375:368];
    }
}
