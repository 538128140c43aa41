//! Which processor it is (MIDR_EL1), and what that part is known for.
//!
//! The lists are those of Linux' `arch/arm64/kernel/cpu_errata.c` and `proton-pack.c`,
//! as far as EL2 of this image does what they are about.

/// MIDR_EL1 (DDI 0487, MIDR_EL1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Midr(pub u64);

const ARM: u64 = 0x41;

/// Implementer and part number of Arm's own.
mod arm {
    pub const A57: u64 = 0xd07;
    pub const A72: u64 = 0xd08;
    pub const A73: u64 = 0xd09;
    pub const A75: u64 = 0xd0a;
    pub const A76: u64 = 0xd0b;
    pub const N1: u64 = 0xd0c;
    pub const A77: u64 = 0xd0d;
    pub const A76AE: u64 = 0xd0e;
    pub const V1: u64 = 0xd40;
    pub const A78: u64 = 0xd41;
    pub const A78AE: u64 = 0xd42;
    pub const X1: u64 = 0xd44;
    pub const A710: u64 = 0xd47;
    pub const X2: u64 = 0xd48;
    pub const N2: u64 = 0xd49;
    pub const A78C: u64 = 0xd4b;
    pub const X1C: u64 = 0xd4c;
    pub const A715: u64 = 0xd4d;
    pub const X3: u64 = 0xd4e;
    pub const V2: u64 = 0xd4f;
    pub const A720: u64 = 0xd81;
    pub const A720AE: u64 = 0xd89;
}

impl Midr {
    const fn implementer(self) -> u64 {
        self.0 >> 24 & 0xff
    }

    const fn part(self) -> u64 {
        self.0 >> 4 & 0xfff
    }

    /// Variant and revision, as r1p2 is 0x12.
    const fn revision(self) -> u64 {
        self.0 >> 16 & 0xf0 | self.0 & 0xf
    }

    const fn is_arm(self, part: u64) -> bool {
        self.implementer() == ARM && self.part() == part
    }

    /// Cortex-A57 834220, up to r1p2: a translation fault of stage 2 is reported
    /// where stage 1 faults and the access crosses a page.
    #[must_use]
    pub const fn reports_false_stage_2_faults(self) -> bool {
        self.is_arm(arm::A57) && self.revision() <= 0x12
    }

    /// Cortex-A77 1508412, up to r1p0: reading PAR_EL1 and an exclusive or
    /// non-cacheable access may wait for each other for ever, unless barriers
    /// surround the read.
    #[must_use]
    pub const fn needs_barriers_around_par(self) -> bool {
        self.is_arm(arm::A77) && self.revision() <= 0x10
    }

    /// What ACTLR_EL2 is to be, which says which registers of the part's own EL1 may
    /// write, where it is `now`. Arm's parts since Cortex-A76 have the activity
    /// monitors among them, which only count; what other parts have there is not
    /// known here.
    #[must_use]
    pub const fn actlr_el2(self, now: u64) -> u64 {
        const AMEN: u64 = 1 << 4;
        match (self.implementer(), self.part()) {
            (ARM, arm::A57 | arm::A72 | arm::A73) => 0,
            (ARM, _) => now & AMEN,
            _ => now,
        }
    }
}

/// How EL2 forgets the branch history of a lower exception level (Spectre-BHB), so
/// that its own branches are not led by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchHistory {
    /// Nothing is to be done: the part has no such history, or drops it on every
    /// exception to a higher level.
    Harmless,
    /// CLRBHB (FEAT_CLRBHB).
    Clear,
    /// As many taken branches as fill the history.
    Loop(u8),
    /// A call of firmware (SMCCC_ARCH_WORKAROUND_3).
    Firmware,
}

/// The identification registers that say so.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryIds {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
}

impl BranchHistory {
    /// What this part needs.
    #[must_use]
    pub const fn of(midr: Midr, ids: HistoryIds) -> Self {
        // CSV2 of 3: FEAT_CSV2_3. ECBHB: FEAT_ECBHB. CLRBHB: FEAT_CLRBHB.
        if ids.pfr0 >> 56 & 0xf >= 3 || ids.mmfr1 >> 60 & 0xf != 0 {
            return Self::Harmless;
        }
        if ids.isar2 >> 28 & 0xf != 0 {
            return Self::Clear;
        }
        match (midr.implementer(), midr.part()) {
            (ARM, arm::X3 | arm::V2) => Self::Loop(132),
            (ARM, arm::A715 | arm::A720 | arm::A720AE) => Self::Loop(38),
            (
                ARM,
                arm::A78
                | arm::A78AE
                | arm::A78C
                | arm::X1
                | arm::X1C
                | arm::A710
                | arm::X2
                | arm::N2
                | arm::V1,
            ) => Self::Loop(32),
            (ARM, arm::A76 | arm::A76AE | arm::A77 | arm::N1) => Self::Loop(24),
            (ARM, arm::A57 | arm::A72) => Self::Loop(8),
            (ARM, arm::A73 | arm::A75) => Self::Firmware,
            // Kryo 4xx Gold, AmpereOne, HIP09.
            (0x51, 0x804) => Self::Loop(24),
            (0xc0, 0xac3) => Self::Loop(11),
            (0x48, 0xd02) => Self::Loop(132),
            _ => Self::Harmless,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A57: Midr = Midr(0x411f_d070);
    const A72: Midr = Midr(0x410f_d083);
    const A76: Midr = Midr(0x414f_d0b1);
    const A77: Midr = Midr(0x411f_d0d0);
    const N1: Midr = Midr(0x414f_d0c1);
    const AMPERE: Midr = Midr(0xc00f_ac30);

    #[test]
    fn errata_end_with_a_revision() {
        assert!(A57.reports_false_stage_2_faults());
        assert!(Midr(0x411f_d072).reports_false_stage_2_faults());
        assert!(!Midr(0x411f_d073).reports_false_stage_2_faults());
        assert!(!A72.reports_false_stage_2_faults());
        assert!(A77.needs_barriers_around_par());
        assert!(Midr(0x410f_d0d2).needs_barriers_around_par());
        assert!(!Midr(0x411f_d0d1).needs_barriers_around_par());
        assert!(!A76.needs_barriers_around_par());
    }

    #[test]
    fn the_hosts_way_to_registers_of_the_part_is_closed() {
        assert_eq!(A57.actlr_el2(u64::MAX), 0);
        assert_eq!(A72.actlr_el2(0x73), 0);
        assert_eq!(A76.actlr_el2(u64::MAX), 1 << 4);
        assert_eq!(N1.actlr_el2(0), 0);
        assert_eq!(AMPERE.actlr_el2(0x1234), 0x1234);
    }

    #[test]
    fn history_by_part() {
        let none = HistoryIds::default();
        for (midr, needed) in [
            (A57, BranchHistory::Loop(8)),
            (A72, BranchHistory::Loop(8)),
            (A76, BranchHistory::Loop(24)),
            (N1, BranchHistory::Loop(24)),
            (Midr(0x410f_d490), BranchHistory::Loop(32)),
            (Midr(0x410f_d4f0), BranchHistory::Loop(132)),
            (AMPERE, BranchHistory::Loop(11)),
            (Midr(0x410f_d0a0), BranchHistory::Firmware),
            // Cortex-A53, and QEMU's max.
            (Midr(0x410f_d034), BranchHistory::Harmless),
            (Midr(0x000f_0510), BranchHistory::Harmless),
        ] {
            assert_eq!(BranchHistory::of(midr, none), needed, "{midr:x?}");
        }
    }

    #[test]
    fn history_by_feature_comes_first() {
        let clear = HistoryIds {
            isar2: 1 << 28,
            ..HistoryIds::default()
        };
        assert_eq!(BranchHistory::of(A76, clear), BranchHistory::Clear);
        for safe in [
            HistoryIds {
                pfr0: 3 << 56,
                ..clear
            },
            HistoryIds {
                mmfr1: 1 << 60,
                ..clear
            },
        ] {
            assert_eq!(BranchHistory::of(A76, safe), BranchHistory::Harmless);
        }
        // CSV2_2 is about other things.
        let csv2 = HistoryIds {
            pfr0: 2 << 56,
            ..HistoryIds::default()
        };
        assert_eq!(BranchHistory::of(A76, csv2), BranchHistory::Loop(24));
    }
}
