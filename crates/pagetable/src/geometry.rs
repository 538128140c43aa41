//! How many bits go in and out, and how the levels divide them (DDI 0487,
//! D8.2).

use core::fmt;

/// The last lookup level, where a valid descriptor is a page (D8.3, Table
/// D8-48).
pub(crate) const LAST: u8 = 3;

/// The translation granule: size of a page and of every table below the root
/// (D8.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granule {
    /// 4 KiB pages, 512 entries a table, blocks of 2 MiB and 1 GiB.
    Size4K,
    /// 16 KiB pages, 2048 entries a table, blocks of 32 MiB.
    Size16K,
    /// 64 KiB pages, 8192 entries a table, blocks of 512 MiB.
    Size64K,
}

impl Granule {
    /// log2 of the page size in bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }

    /// Bytes in a page and in a table below the root.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Entries of a table below the root.
    #[must_use]
    pub const fn entries(self) -> u64 {
        1 << self.stride()
    }

    /// The `TG0` field of `TCR_ELx`, `VTCR_EL2`, a CD or `STE.S2TG`: 0 for
    /// 4 KiB, 1 for 64 KiB, 2 for 16 KiB. (`TG1` is numbered differently and
    /// not used here.)
    #[must_use]
    pub const fn tg0(self) -> u64 {
        match self {
            Self::Size4K => 0,
            Self::Size64K => 1,
            Self::Size16K => 2,
        }
    }

    /// The `TG` field of a range invalidation, `TLBI R*` or the SMMU's
    /// `CMD_TLBI_*`: 1 for 4 KiB, 2 for 16 KiB, 3 for 64 KiB (Table D8-122).
    #[must_use]
    pub const fn tlbi_tg(self) -> u64 {
        match self {
            Self::Size4K => 1,
            Self::Size16K => 2,
            Self::Size64K => 3,
        }
    }

    /// Address bits that one level resolves.
    pub(crate) const fn stride(self) -> u32 {
        self.shift() - 3
    }

    /// The first level at which a block descriptor exists without the 52-bit
    /// extensions (Table D8-52).
    pub(crate) const fn first_block_level(self) -> u8 {
        match self {
            Self::Size4K => 1,
            Self::Size16K | Self::Size64K => 2,
        }
    }

    /// Entries of a contiguous group at `level`, 1 where there is no such
    /// group (Table D8-104).
    #[must_use]
    pub const fn contiguous_entries(self, level: u8) -> u64 {
        match (self, level) {
            (Self::Size4K, 1..=3) => 16,
            (Self::Size16K, 2) | (Self::Size64K, 2 | 3) => 32,
            (Self::Size16K, 3) => 128,
            _ => 1,
        }
    }
}

/// A shape of translation tables that the architecture allows.
///
/// Levels are numbered as in the architecture: the root is at
/// [`start_level`](Self::start_level), pages are at level 3. Input addresses
/// are up to 48 bits, outputs too; with the 64 KiB granule both may have 52
/// (FEAT_LPA, FEAT_LVA). The 52-bit formats of the smaller granules (FEAT_LPA2)
/// and level -1 are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    granule: Granule,
    input_bits: u8,
    output_bits: u8,
    start_level: u8,
    stage2: bool,
}

/// Why a [`Geometry`] could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The input has fewer than 25 bits, which needs FEAT_TTST, or more than
    /// 48 (52 with 64 KiB pages).
    InputBits {
        /// Bits asked for.
        bits: u8,
    },
    /// The output size is none of 32, 36, 40, 42, 44, 48 and, with 64 KiB
    /// pages, 52.
    OutputBits {
        /// Bits asked for.
        bits: u8,
    },
    /// A stage-2 input wider than the physical address size of the hardware
    /// (D8.1.6).
    InputExceedsOutput {
        /// Input bits asked for.
        input: u8,
        /// Output bits given.
        output: u8,
    },
    /// The start level cannot resolve that many input bits: it would need more
    /// than 16 tables side by side, or leave nothing to index.
    StartLevel {
        /// Level asked for.
        level: u8,
    },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputBits { bits } => write!(
                f,
                "{bits} input address bits are not possible: 25 to 48, or to 52 with 64 KiB pages"
            ),
            Self::OutputBits { bits } => write!(
                f,
                "{bits} output address bits are not possible: 32, 36, 40, 42, 44, 48, or 52 with 64 KiB pages"
            ),
            Self::InputExceedsOutput { input, output } => write!(
                f,
                "a stage-2 input of {input} bits is wider than the {output} bits of the hardware"
            ),
            Self::StartLevel { level } => {
                write!(
                    f,
                    "the walk cannot start at level {level} for this input size"
                )
            }
        }
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// Tables of stage 1: the start level follows from the input size alone
    /// (D8.2.8.1, D8.2.9.1, D8.2.10.1), and no tables are concatenated.
    ///
    /// `input_bits` is 64 - `T0SZ`; `output_bits` is what `TCR_ELx.PS`/`IPS`
    /// will say.
    ///
    /// # Errors
    /// [`GeometryError::InputBits`] or [`GeometryError::OutputBits`].
    pub const fn stage1(
        granule: Granule,
        input_bits: u8,
        output_bits: u8,
    ) -> Result<Self, GeometryError> {
        if let Err(error) = Self::check_bits(granule, input_bits, output_bits) {
            return Err(error);
        }
        let mut level = LAST;
        while input_bits as u32 > Self::shift_of(granule, level) + granule.stride() {
            // 64 KiB and 52 bits: level 1 is the first there is, and its table
            // is larger (Table D8-37). Other sizes end before.
            if granule.first_level() == level {
                break;
            }
            level -= 1;
        }
        Ok(Self {
            granule,
            input_bits,
            output_bits,
            start_level: level,
            stage2: false,
        })
    }

    /// Tables of stage 2 with the fewest levels: the walk starts as deep as up
    /// to 16 concatenated tables allow (D8.2.2, R HRSBS). With 4 KiB pages that
    /// is never level 3, whose `SL0` encoding needs FEAT_TTST; with 16 KiB
    /// pages and 48 bits it is the combination that is required (R DXBSH).
    ///
    /// `ipa_bits` is 64 - `T0SZ`; `pa_bits` is the physical address size of the
    /// hardware (`ID_AA64MMFR0_EL1.PARange`, `SMMU_IDR5.OAS`), or less.
    ///
    /// # Errors
    /// [`GeometryError::InputBits`], [`GeometryError::OutputBits`] or
    /// [`GeometryError::InputExceedsOutput`].
    pub const fn stage2(
        granule: Granule,
        ipa_bits: u8,
        pa_bits: u8,
    ) -> Result<Self, GeometryError> {
        let mut level = if matches!(granule, Granule::Size4K) {
            LAST - 1
        } else {
            LAST
        };
        loop {
            match Self::stage2_from_level(granule, ipa_bits, pa_bits, level) {
                Err(GeometryError::StartLevel { .. }) if level > granule.first_level() => {
                    level -= 1;
                }
                other => return other,
            }
        }
    }

    /// Tables of stage 2 whose walk starts at `start_level`, where more than
    /// one is possible (Tables D8-21 to D8-41).
    ///
    /// # Errors
    /// As [`stage2`](Self::stage2), and [`GeometryError::StartLevel`] when that
    /// level would need more than 16 tables or would resolve no bit.
    pub const fn stage2_from_level(
        granule: Granule,
        ipa_bits: u8,
        pa_bits: u8,
        start_level: u8,
    ) -> Result<Self, GeometryError> {
        if let Err(error) = Self::check_bits(granule, ipa_bits, pa_bits) {
            return Err(error);
        }
        if ipa_bits > pa_bits {
            return Err(GeometryError::InputExceedsOutput {
                input: ipa_bits,
                output: pa_bits,
            });
        }
        let error = Err(GeometryError::StartLevel { level: start_level });
        if start_level < granule.first_level() || start_level > LAST {
            return error;
        }
        // SL0 for level 3 with 4 KiB pages exists only with FEAT_TTST.
        if matches!(granule, Granule::Size4K) && start_level == LAST {
            return error;
        }
        let shift = Self::shift_of(granule, start_level);
        // One table resolves 1 to `stride` bits, 16 of them four more.
        if (ipa_bits as u32) <= shift || ipa_bits as u32 > shift + granule.stride() + 4 {
            return error;
        }
        // A start level that only large physical addresses have (SL0 is
        // reserved otherwise; AArch64.S2InvalidSL in the pseudocode).
        let needs = match (granule, start_level) {
            (Granule::Size4K, 0) | (Granule::Size64K, 1) => 44,
            (Granule::Size16K, 1) => 42,
            _ => 0,
        };
        if pa_bits < needs {
            return error;
        }
        Ok(Self {
            granule,
            input_bits: ipa_bits,
            output_bits: pa_bits,
            start_level,
            stage2: true,
        })
    }

    const fn check_bits(granule: Granule, input: u8, output: u8) -> Result<(), GeometryError> {
        let most = if matches!(granule, Granule::Size64K) {
            52
        } else {
            48
        };
        if input < 25 || input > most {
            return Err(GeometryError::InputBits { bits: input });
        }
        match output {
            32 | 36 | 40 | 42 | 44 | 48 => Ok(()),
            52 if most == 52 => Ok(()),
            bits => Err(GeometryError::OutputBits { bits }),
        }
    }

    const fn shift_of(granule: Granule, level: u8) -> u32 {
        granule.shift() + (LAST - level) as u32 * granule.stride()
    }

    /// The granule.
    #[must_use]
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Bits of an input address.
    #[must_use]
    pub const fn input_bits(&self) -> u8 {
        self.input_bits
    }

    /// Bits of an output address and of a table's address.
    #[must_use]
    pub const fn output_bits(&self) -> u8 {
        self.output_bits
    }

    /// Level of the root, 0 to 3.
    #[must_use]
    pub const fn start_level(&self) -> u8 {
        self.start_level
    }

    /// Whether these are tables of stage 2.
    #[must_use]
    pub const fn is_stage2(&self) -> bool {
        self.stage2
    }

    /// First input address that is too large.
    #[must_use]
    pub const fn input_end(&self) -> u64 {
        1 << self.input_bits
    }

    /// First output address that is too large.
    #[must_use]
    pub const fn output_end(&self) -> u64 {
        1 << self.output_bits
    }

    /// `T0SZ` of `TCR_ELx`, `VTCR_EL2`, a CD, or `STE.S2T0SZ`.
    #[must_use]
    pub const fn t0sz(&self) -> u64 {
        64 - self.input_bits as u64
    }

    /// `TG0`, see [`Granule::tg0`].
    #[must_use]
    pub const fn tg0(&self) -> u64 {
        self.granule.tg0()
    }

    /// `SL0` of `VTCR_EL2`, `STE.S2SL0`: which level the number names depends
    /// on the granule. 4 KiB: 2 - level; 16 and 64 KiB: 3 - level (`VTCR_EL2`
    /// in D24.2). Without meaning for stage 1.
    #[must_use]
    pub const fn sl0(&self) -> u64 {
        match self.granule {
            // Level 3 is never chosen with 4 KiB pages in stage 2; for stage 1
            // the number is not used.
            Granule::Size4K => 2u64.saturating_sub(self.start_level as u64),
            Granule::Size16K | Granule::Size64K => (LAST - self.start_level) as u64,
        }
    }

    /// The output size field: `PS` of `TCR_EL2` and `VTCR_EL2`, `IPS` of a CD,
    /// `STE.S2PS`.
    #[must_use]
    pub const fn ps(&self) -> u64 {
        match self.output_bits {
            32 => 0,
            36 => 1,
            40 => 2,
            42 => 3,
            44 => 4,
            48 => 5,
            _ => 6,
        }
    }

    /// Entries of the root, of all concatenated tables together.
    #[must_use]
    pub const fn root_entries(&self) -> u64 {
        1 << (self.input_bits as u32 - self.level_shift(self.start_level))
    }

    /// Tables that lie side by side at the root, 1 to 16 (D8.2.2).
    #[must_use]
    pub const fn root_tables(&self) -> u64 {
        let entries = self.root_entries() / self.granule.entries();
        // The 52-bit root of stage 1 is one large table, not several.
        if entries == 0 || !self.stage2 {
            1
        } else {
            entries
        }
    }

    /// Bytes of the root, and its alignment: at least 64, which is what a base
    /// register can hold (D8.2.5.2, R VCLZN for concatenated tables).
    #[must_use]
    pub const fn root_bytes(&self) -> u64 {
        let bytes = self.root_entries() * 8;
        if bytes < 64 { 64 } else { bytes }
    }

    /// Bytes that one entry of a table at `level` translates; levels above 3
    /// count as 3.
    #[must_use]
    pub const fn level_bytes(&self, level: u8) -> u64 {
        1 << self.level_shift(level)
    }

    /// log2 of [`level_bytes`](Self::level_bytes).
    #[must_use]
    pub const fn level_shift(&self, level: u8) -> u32 {
        let level = if level > LAST { LAST } else { level };
        Self::shift_of(self.granule, level)
    }

    /// First level at which these tables may hold a block or page.
    #[must_use]
    pub const fn first_leaf_level(&self) -> u8 {
        let first = self.granule.first_block_level();
        if first < self.start_level {
            self.start_level
        } else {
            first
        }
    }
}

impl Granule {
    /// The first level the granule has: 0, or 1 with 64 KiB pages.
    pub(crate) const fn first_level(self) -> u8 {
        match self {
            Self::Size64K => 1,
            Self::Size4K | Self::Size16K => 0,
        }
    }
}
