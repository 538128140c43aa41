//! What an implementation says it can do.

use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};

/// The identification registers of an implementation, and what its registers
/// hold after reset (IHI 0070, 6.3.1 to 6.3.8, 6.3.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// A name for reports.
    pub name: &'static str,
    /// `SMMU_IDR0`.
    pub idr0: Idr0,
    /// `SMMU_IDR1`.
    pub idr1: Idr1,
    /// `SMMU_IDR3`.
    pub idr3: Idr3,
    /// `SMMU_IDR5`.
    pub idr5: Idr5,
    /// `SMMU_IIDR`.
    pub iidr: Iidr,
    /// `SMMU_AIDR`.
    pub aidr: Aidr,
    /// `SMMU_GBPA` after reset.
    pub gbpa: u32,
}

impl Profile {
    /// What QEMU 10 shows on its `virt` machine, `IIDR` of 0 included.
    #[must_use]
    pub const fn qemu() -> Self {
        Self {
            name: "qemu",
            idr0: Idr0::from_bits(0x0d44_101b),
            idr1: Idr1::from_bits(0x0273_0010),
            idr3: Idr3::from_bits(0x1414),
            idr5: Idr5::from_bits(0x74),
            iidr: Iidr::new(),
            aidr: Aidr::new().with_minor(1),
            gbpa: 0x1000,
        }
    }

    /// The least that can isolate: stage 2 alone, pages of 4 KiB, a linear
    /// stream table, 8-bit VMIDs, no range invalidation, and no coherency.
    #[must_use]
    pub const fn minimal() -> Self {
        Self {
            name: "minimal",
            idr0: Idr0::new()
                .with_s2p(true)
                .with_ttf(0b10)
                .with_ttendian(0b10),
            idr1: Idr1::new().with_sidsize(8).with_cmdqs(8).with_eventqs(7),
            idr3: Idr3::new(),
            idr5: Idr5::new().with_oas(2).with_gran4k(true),
            iidr: Iidr::new().with_product_id(0x7ff).with_implementer(0x7f),
            aidr: Aidr::new(),
            gbpa: 0x1000,
        }
    }

    /// The least with stage 1 alone: otherwise as [`minimal`](Self::minimal),
    /// with 8-bit ASIDs. It is not in [`ALL`](Self::ALL), whose stage 2 isolates.
    #[must_use]
    pub const fn stage1() -> Self {
        let minimal = Self::minimal();
        Self {
            name: "stage1",
            idr0: minimal.idr0.with_s2p(false).with_s1p(true),
            ..minimal
        }
    }

    /// Everything that the model does, with 48-bit addresses.
    #[must_use]
    pub const fn full() -> Self {
        Self {
            name: "full",
            idr0: Idr0::new()
                .with_s2p(true)
                .with_ats(true)
                .with_pri(true)
                .with_msi(true)
                .with_s1p(true)
                .with_ttf(0b10)
                .with_cohacc(true)
                .with_httu(2)
                .with_hyp(true)
                .with_asid16(true)
                .with_sev(true)
                .with_vmid16(true)
                .with_cd2l(true)
                .with_ttendian(0b10)
                .with_st_level(1),
            idr1: Idr1::new()
                .with_sidsize(16)
                .with_ssidsize(20)
                .with_cmdqs(19)
                .with_eventqs(19)
                .with_priqs(19)
                .with_attr_perms_ovr(true)
                .with_attr_types_ovr(true),
            idr3: Idr3::new()
                .with_had(true)
                .with_xnx(true)
                .with_fwb(true)
                .with_stt(true)
                .with_ril(true)
                .with_bbml(2)
                .with_e0pd(true),
            idr5: Idr5::new()
                .with_oas(5)
                .with_gran4k(true)
                .with_gran16k(true)
                .with_gran64k(true)
                .with_stall_max(64),
            iidr: Iidr::new().with_product_id(0x7ff).with_implementer(0x7f),
            aidr: Aidr::new().with_minor(2),
            gbpa: 0x1000,
        }
    }

    /// Much like Arm's MMU-600: SMMUv3.1 with both stages, ATS, PRI, hardware
    /// updates and stalls, but no range invalidation, no small tables, and
    /// break-before-make. What it offers of VMSAv8-32 and of broadcast
    /// invalidation is left out.
    #[must_use]
    pub const fn mmu600() -> Self {
        let full = Self::full();
        Self {
            name: "mmu600",
            idr0: full
                .idr0
                .with_term_model(true)
                .with_ats(true)
                .with_pri(true)
                .with_msi(true),
            idr1: full.idr1.with_sidsize(24).with_priqs(19),
            idr3: Idr3::new().with_had(true).with_xnx(true),
            idr5: full.idr5.with_stall_max(256),
            iidr: Iidr::new()
                .with_product_id(0x483)
                .with_variant(2)
                .with_implementer(0x43b),
            aidr: Aidr::new().with_minor(1),
            ..full
        }
    }

    /// Much like Arm's MMU-700: SMMUv3.2 with range invalidation and sizes of
    /// blocks that may change without break-before-make.
    #[must_use]
    pub const fn mmu700() -> Self {
        let full = Self::full();
        Self {
            name: "mmu700",
            idr0: full
                .idr0
                .with_term_model(true)
                .with_ats(true)
                .with_pri(true)
                .with_msi(true),
            idr1: full.idr1.with_sidsize(24).with_priqs(19),
            idr3: Idr3::new()
                .with_had(true)
                .with_xnx(true)
                .with_fwb(true)
                .with_stt(true)
                .with_ril(true)
                .with_bbml(2),
            idr5: full.idr5.with_stall_max(256),
            iidr: Iidr::new()
                .with_product_id(0x487)
                .with_variant(1)
                .with_implementer(0x43b),
            ..full
        }
    }

    /// Every profile with a stage 2.
    pub const ALL: [Self; 5] = [
        Self::qemu(),
        Self::minimal(),
        Self::mmu600(),
        Self::mmu700(),
        Self::full(),
    ];

    /// The profile with this name, see [`Profile::ALL`].
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }

    /// Bits of an output address. Encodings above 52 bits belong to later
    /// versions of the architecture and count as 52.
    #[must_use]
    pub fn output_bits(&self) -> u32 {
        u32::from(self.idr5.output_bits().unwrap_or(52)).min(52)
    }

    /// Bits of an input address of stage 2 (3.4).
    #[must_use]
    pub fn input_bits(&self) -> u32 {
        if self.idr0.ttf() & 1 != 0 {
            self.output_bits().max(40)
        } else {
            self.output_bits()
        }
    }

    /// Bits of an output address of a stage with this `S2PS` or `IPS`, at most
    /// those of the SMMU (5.2, 5.4): reserved values count as the largest.
    pub(crate) fn size_bits(&self, encoded: u8) -> u32 {
        let bits = match encoded {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            // Version 3.0 knows no 52 bits.
            _ if self.aidr.minor() == 0 => 48,
            _ => 52,
        };
        bits.min(self.output_bits())
    }

    pub(crate) fn vmid_bits(&self) -> u32 {
        if self.idr0.vmid16() { 16 } else { 8 }
    }
}
