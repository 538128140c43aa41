//! From a StreamID to what happens to its traffic (IHI 0070, 3.3, 5.1, 5.2, 5.2.2).

use crate::Profile;
use crate::context::CdTable;
use crate::smmu::Smmu;
use crate::stage2::Regime;
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{FMT_TWO_LEVEL, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::{Config, L1Std, Ste};

/// What an entry says, once checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Abort without an event.
    Abort,
    /// The entry is invalid or ILLEGAL.
    Bad,
    /// Output is input.
    Bypass,
    /// Stage 1 alone, by the context descriptor of the transaction.
    Stage1 {
        /// Where context descriptors are.
        cds: CdTable,
    },
    /// Stage 2 alone.
    Stage2(Regime),
    /// Stage 1, then stage 2.
    Nested {
        /// Where context descriptors are: IPAs.
        cds: CdTable,
        /// What translates every address of stage 1, and its output.
        stage2: Regime,
    },
    /// Legal, but VMSAv8-32 tables, which this model does not do.
    NotModelled,
}

/// Where the entry of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The StreamID is outside the table.
    Outside,
    /// At this address.
    At(u64),
    /// Behind the level 1 descriptor with this index, at this address.
    Behind {
        /// Index in the first level.
        index: u64,
        /// Address of the descriptor.
        at: u64,
    },
}

impl Plan {
    pub(crate) fn of(ste: &Ste, profile: &Profile) -> Self {
        if !ste.v() {
            return Self::Bad;
        }
        let config = ste.config();
        if !config.passes() {
            return Self::Abort;
        }
        let (one, two) = (config.stage1(), config.stage2());
        if one && !profile.idr0.s1p() || two && !profile.idr0.s2p() {
            return Self::Bad;
        }
        if !one && !two {
            return Self::Bypass;
        }
        if bad_ats(ste, profile) {
            return Self::Bad;
        }
        let cds = if one {
            let Some(cds) = CdTable::of(ste, profile) else {
                return Self::Bad;
            };
            Some(cds)
        } else {
            None
        };
        if !two {
            return cds.map_or(Self::Bad, |cds| Self::Stage1 { cds });
        }
        if !ste.s2aa64() && profile.idr0.ttf() & 0b01 != 0 {
            return Self::NotModelled;
        }
        match (Regime::of(ste, profile), cds) {
            (None, _) => Self::Bad,
            (Some(regime), None) => Self::Stage2(regime),
            (Some(stage2), Some(cds)) => Self::Nested { cds, stage2 },
        }
    }
}

/// What `EATS` makes ILLEGAL (5.2, 5.2.2).
fn bad_ats(ste: &Ste, profile: &Profile) -> bool {
    if !profile.idr0.ats() {
        return false;
    }
    let config = ste.config();
    match ste.eats() {
        0b01 => config.stage2() && ste.s2s(),
        0b10 => config != Config::NESTED || ste.s2s() || profile.idr0.ns1ats(),
        _ => false,
    }
}

impl Smmu {
    fn table_config(&self) -> StrtabBaseCfg {
        StrtabBaseCfg::from(self.regs.strtab_base_cfg)
    }

    /// StreamID bits that the second level of the stream table resolves, if it
    /// has one; what is reserved in SPLIT behaves as 6 (6.3.25).
    pub(crate) fn split(&self) -> Option<u8> {
        let cfg = self.table_config();
        let two_levels = cfg.fmt() == FMT_TWO_LEVEL && self.profile.idr0.st_level() != 0;
        let split = match cfg.split() {
            split @ (8 | 10) => split,
            _ => 6,
        };
        two_levels.then_some(split)
    }

    /// The stream table's place for a stream.
    pub(crate) fn place(&self, stream: StreamId) -> Place {
        let base = StrtabBase::from(self.regs.strtab_base).addr_6() << 6;
        // SIDSIZE limits the StreamIDs, but not what the base is aligned to
        // (6.3.24, 6.3.25).
        let log2 = self.table_config().log2size();
        let stream = u64::from(stream.0);
        if stream >> log2.min(self.profile.idr1.sidsize()).min(32) != 0 {
            return Place::Outside;
        }
        let below = |bits: u8| u64::MAX.checked_shl(bits.into()).unwrap_or(0);
        let Some(split) = self.split() else {
            return Place::At((base & below(log2 + 6)) + stream * Ste::SIZE);
        };
        let index = stream >> split;
        let aligned = base & below(log2.saturating_sub(split) + 3) & below(6);
        Place::Behind {
            index,
            at: aligned + index * L1Std::SIZE,
        }
    }

    /// The entries that a level 1 descriptor leads to, if it is valid.
    pub(crate) fn array(&self, word: u64) -> Option<std::ops::Range<u64>> {
        let first = self.behind(word, StreamId(0))?;
        Some(first..first + (Ste::SIZE << (L1Std([word]).span() - 1)))
    }

    /// Where the entry is if the level 1 descriptor is `word`; `None` when it
    /// has none for this stream (5.1.1).
    pub(crate) fn behind(&self, word: u64, stream: StreamId) -> Option<u64> {
        let l1 = L1Std([word]);
        let (span, split) = (l1.span(), self.split()?);
        if span == 0 || span > 11 || span > split + 1 {
            return None;
        }
        let index = u64::from(stream.0) & ((1 << split) - 1);
        if index >> (span - 1) != 0 {
            return None;
        }
        let bytes = Ste::SIZE << (span - 1);
        let reach = (1 << self.profile.output_bits()) - 1;
        Some((l1.l2ptr() & !(bytes - 1) & reach) + index * Ste::SIZE)
    }
}
