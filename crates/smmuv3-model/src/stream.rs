//! From a StreamID to what happens to its traffic (IHI 0070, 3.3, 5.1, 5.2).

use crate::Profile;
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
    /// Stage 2.
    Stage2(Regime),
    /// Stage 1, which this model does not do.
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
        if config.stage1() && !profile.idr0.s1p() || config.stage2() && !profile.idr0.s2p() {
            return Self::Bad;
        }
        match config {
            Config::BYPASS => Self::Bypass,
            Config::S2 => Regime::of(ste, profile).map_or(Self::Bad, Self::Stage2),
            _ => Self::NotModelled,
        }
    }
}

impl Smmu {
    fn table_config(&self) -> StrtabBaseCfg {
        StrtabBaseCfg::from(self.regs.strtab_base_cfg)
    }

    /// The stream table's place for a stream.
    pub(crate) fn place(&self, stream: StreamId) -> Place {
        let cfg = self.table_config();
        let base = StrtabBase::from(self.regs.strtab_base).addr_6() << 6;
        let bits = cfg.log2size().min(self.profile.idr1.sidsize());
        let stream = u64::from(stream.0);
        if stream >> bits.min(32) != 0 {
            return Place::Outside;
        }
        // The base is aligned to the table by ignoring bits (6.3.24).
        if cfg.fmt() != FMT_TWO_LEVEL || self.profile.idr0.st_level() == 0 {
            let bytes = Ste::SIZE << bits;
            return Place::At((base & !(bytes - 1)) + stream * Ste::SIZE);
        }
        let bytes = (L1Std::SIZE << bits.saturating_sub(cfg.split())).max(64);
        let index = stream >> cfg.split();
        Place::Behind {
            index,
            at: (base & !(bytes - 1)) + index * L1Std::SIZE,
        }
    }

    /// Where the entry is if the level 1 descriptor is `word`; `None` when it
    /// has none for this stream (5.1.1).
    pub(crate) fn behind(&self, word: u64, stream: StreamId) -> Option<u64> {
        let l1 = L1Std([word]);
        let (span, split) = (l1.span(), self.table_config().split());
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
