//! Which bits of a register mean something (IHI 0070, 6.3).

use crate::Profile;
use smmuv3_spec::reg;

/// Bits of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout<T> {
    /// Bits that SMMUv3.0 to 3.2 give a meaning. The others are RES0: software
    /// must write zero.
    pub(crate) defined: T,
    /// Those of them that an SMMU with these ID registers keeps. Software
    /// learns from a read that it has no others, so writing them is no error.
    pub(crate) kept: T,
}

/// Where the 64-bit register is that `offset` is a half of.
pub(crate) fn wide_base(offset: u32) -> Option<u32> {
    let base = offset & !7;
    matches!(
        base,
        reg::STRTAB_BASE
            | reg::CMDQ_BASE
            | reg::EVENTQ_BASE
            | reg::PRIQ_BASE
            | reg::GERROR_IRQ_CFG0
            | reg::EVENTQ_IRQ_CFG0
            | reg::PRIQ_IRQ_CFG0
    )
    .then_some(base)
}

/// `bits` if `on`.
fn only(on: bool, bits: u32) -> u32 {
    if on { bits } else { 0 }
}

impl Layout<u64> {
    /// Of the 64-bit register at `offset`.
    pub(crate) fn wide(offset: u32, profile: &Profile) -> Self {
        // Address bits above OAS are RES0 (6.3.21, 6.3.24, 6.3.26).
        let above = !0u64 << profile.output_bits().min(56) & 0x00ff_ffff_ffff_ffff;
        let (idr0, idr1) = (profile.idr0, profile.idr1);
        let (bits, present) = match offset {
            reg::STRTAB_BASE => (0x40ff_ffff_ffff_ffc0, !idr1.tables_preset()),
            reg::CMDQ_BASE | reg::EVENTQ_BASE => (0x40ff_ffff_ffff_ffff, !idr1.queues_preset()),
            reg::PRIQ_BASE => (0x40ff_ffff_ffff_ffff, idr0.pri() && !idr1.queues_preset()),
            reg::PRIQ_IRQ_CFG0 => (0x00ff_ffff_ffff_fffc, idr0.msi() && idr0.pri()),
            _ => (0x00ff_ffff_ffff_fffc, idr0.msi()),
        };
        let defined = bits & !above;
        let kept = if present { defined } else { 0 };
        Self { defined, kept }
    }
}

impl Layout<u32> {
    /// Of the 32-bit register at `offset`, `kept` being 0 where nothing can be
    /// written.
    pub(crate) fn narrow(offset: u32, profile: &Profile) -> Self {
        let (idr0, idr1) = (profile.idr0, profile.idr1);
        let (msi, pri) = (idr0.msi(), idr0.pri());
        let two_levels = idr0.st_level() != 0;
        let (defined, kept) = match offset {
            reg::CR0 => (
                0x1df,
                0b1101 | only(pri, 2) | only(idr0.ats(), 0x10) | only(idr0.vmw(), 0x1c0),
            ),
            reg::CR1 => (0xfff, 0xfff),
            reg::CR2 => (
                0xf,
                0b10 | only(idr0.hyp(), 1) | only(idr0.btm(), 4) | only(idr0.atsrecerr(), 8),
            ),
            reg::GBPA => (0x801f_3f1f, 0x801f_3f1f),
            reg::IRQ_CTRL => (0b111, 0b101 | only(pri, 2)),
            reg::GERRORN => (0x1fd, gerror_bits(profile)),
            reg::STRTAB_BASE_CFG => {
                let bits = 0x3f | only(two_levels, 0x3_07c0);
                (0x3_07ff, only(!idr1.tables_preset(), bits))
            }
            reg::CMDQ_PROD => (0xf_ffff, 0xf_ffff),
            reg::CMDQ_CONS => (0x7f0f_ffff, 0x7f0f_ffff),
            reg::EVENTQ_PROD | reg::EVENTQ_CONS => (0x800f_ffff, 0x800f_ffff),
            reg::PRIQ_PROD | reg::PRIQ_CONS => (0x800f_ffff, only(pri, 0x800f_ffff)),
            reg::GERROR_IRQ_CFG1 | reg::EVENTQ_IRQ_CFG1 => (u32::MAX, only(msi, u32::MAX)),
            reg::GERROR_IRQ_CFG2 | reg::EVENTQ_IRQ_CFG2 => (0x3f, only(msi, 0x3f)),
            reg::PRIQ_IRQ_CFG1 => (u32::MAX, only(msi && pri, u32::MAX)),
            reg::PRIQ_IRQ_CFG2 => (0x8000_003f, only(msi && pri, 0x8000_003f)),
            // Read-only, so that a write says nothing; or what belongs to the
            // implementation or the Secure side (6.2.1).
            reg::IDR0..=reg::AIDR
            | reg::CR0ACK
            | reg::STATUSR
            | reg::AGBPA
            | reg::IRQ_CTRLACK
            | reg::GERROR
            | 0x0e00..=0x0eff
            | 0x0fd0..=0x3fff
            | 0x8000..=0xffff => (u32::MAX, 0),
            // ATOS, VATOS (6.3.37 to 6.3.44), which no profile has.
            0x0100..=0x011f | 0x0180 => (u32::MAX, 0),
            _ => (0, 0),
        };
        Self { defined, kept }
    }
}

/// The errors that an SMMU with these ID registers can have (6.3.19).
pub(crate) fn gerror_bits(profile: &Profile) -> u32 {
    let (msi, pri) = (profile.idr0.msi(), profile.idr0.pri());
    0x105 | only(pri, 0x08) | only(msi, 0xb0) | only(msi && pri, 0x40)
}
