//! The translation of a stream, and how an entry changes into another.

use crate::{Attributes, Error, Features, OwnStage1, Stage1, Stage2};
use smmuv3_spec::Vmid;
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::{Config, Ste};

/// What the SMMU does with the traffic of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// The traffic aborts, without an event.
    Abort,
    /// The traffic aborts, and the SMMU records C_BAD_STE, as for an invalid or
    /// illegal entry.
    Invalid,
    /// A stage 2 alone.
    Stage2 {
        /// The tables that are walked.
        stage2: Stage2,
        /// Overrides of the attributes that the device sends.
        attributes: Attributes,
    },
    /// A stage 1 of the hypervisor alone, for an SMMU without stage 2.
    Stage1 {
        /// The tables that are walked.
        stage1: OwnStage1,
        /// Overrides of the attributes that the device sends.
        attributes: Attributes,
    },
    /// The stage 1 of a host or guest on top of a stage 2.
    Nested {
        /// The stage 1 fields of the owner's entry.
        stage1: Stage1,
        /// The tables that are walked.
        stage2: Stage2,
        /// Overrides of the attributes that the device sends.
        attributes: Attributes,
    },
}

/// A translation that many streams can get at once, see
/// [`Smmu::set_range`](crate::Smmu::set_range).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeTranslation {
    /// As [`Translation::Abort`].
    Abort,
    /// As [`Translation::Invalid`].
    Invalid,
    /// As [`Translation::Stage2`].
    Stage2 {
        /// The tables that are walked.
        stage2: Stage2,
        /// Overrides of the attributes that the devices send.
        attributes: Attributes,
    },
}

impl From<RangeTranslation> for Translation {
    fn from(range_translation: RangeTranslation) -> Self {
        match range_translation {
            RangeTranslation::Abort => Self::Abort,
            RangeTranslation::Invalid => Self::Invalid,
            RangeTranslation::Stage2 { stage2, attributes } => Self::Stage2 { stage2, attributes },
        }
    }
}

impl From<Stage2> for Translation {
    fn from(stage2: Stage2) -> Self {
        Self::Stage2 {
            stage2,
            attributes: Attributes::INCOMING,
        }
    }
}

impl Translation {
    /// The stream table entry for this translation.
    ///
    /// # Errors
    /// [`Error::Stage1`], [`Error::OwnStage1`], [`Error::Stage2`].
    pub(crate) fn entry(&self, features: &Features) -> Result<Ste, Error> {
        Ok(match self {
            Self::Abort => Ste::ABORT,
            Self::Invalid => Ste::default(),
            Self::Stage2 { stage2, attributes } => {
                attributes.apply(stage2.entry(features)?, features)
            }
            Self::Stage1 { stage1, attributes } => {
                attributes.apply(stage1.entry(features)?, features)
            }
            Self::Nested {
                stage1,
                stage2,
                attributes,
            } => attributes.apply(stage1.entry(stage2, features)?, features),
        })
    }

    /// The VMID, if both stages translate.
    pub(crate) fn nested_vmid(&self) -> Option<Vmid> {
        match self {
            Self::Nested { stage2, .. } => Some(stage2.vmid),
            _ => None,
        }
    }
}

/// Whether traffic passes under an entry.
pub(crate) fn passes(entry: &Ste) -> bool {
    entry.v() && entry.config().passes()
}

/// The command that drops all TLB entries that a stream with this entry could
/// use.
///
/// For a stage 1 of the hypervisor, this drops all ASIDs: the entry does not
/// contain the ASID, the command for both stages is illegal without a stage 2
/// (4.4.3.2), and streams are attached rarely.
pub(crate) fn tlbi_for(entry: &Ste) -> Command {
    let vmid = Vmid(entry.s2vmid());
    if entry.config().stage2() {
        Command::tlbi_s12_vmall(vmid)
    } else {
        Command::tlbi_nh_all(vmid)
    }
}

/// Whether two entries have the same effect.
pub(crate) fn have_same_effect(a: &Ste, b: &Ste) -> bool {
    match (passes(a), passes(b)) {
        (true, true) => a == b,
        // Two entries that abort differ only in whether there is an event.
        (false, false) => a.v() == b.v(),
        _ => false,
    }
}

/// Whether a fault under this entry may stall (5.2, 5.5).
pub(crate) fn may_stall(entry: &Ste, features: &Features) -> bool {
    let by_stage1 = entry.config().stage1() && !entry.s1stalld();
    passes(entry) && features.stalls() && (features.stall_forced() || by_stage1)
}

/// The bits of the first two words that the SMMU ignores in an entry that lets
/// traffic pass (5.2). All other bits count as used.
fn ignored(entry: &Ste) -> [u64; 2] {
    let all = Ste([u64::MAX; 8]);
    if !entry.config().stage1() {
        // Fields with an S1 prefix.
        let stage2 = all
            .with_s1fmt(0)
            .with_s1contextptr(0)
            .with_s1cdmax(0)
            .with_s1dss(0)
            .with_s1cir(0)
            .with_s1cor(0)
            .with_s1csh(0)
            .with_s1stalld(false);
        [!stage2.0[0], !stage2.0[1]]
    } else if entry.s1cdmax() == 0 {
        let single = all.with_s1fmt(0).with_s1dss(0);
        [!single.0[0], !single.0[1]]
    } else {
        [0, 0]
    }
}

/// How an entry that lets traffic pass changes into another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The entries are the same.
    None,
    /// One store makes the change, that of `word`. Before it, the other one of
    /// the first two words may become `prepared`, which has no effect yet.
    /// After it, that word gets its value from the target.
    OneStore { word: usize, prepared: u64 },
    /// Only the VMID (word 2) changes.
    Vmid,
    /// The stream has to abort in between.
    ThroughAbort,
}

impl Change {
    /// Finds how `from` changes into `to`. Both let traffic pass.
    ///
    /// Without an abort in between, transactions that stalled under `from` stay
    /// stalled, so the owner that answers them must still have the stream.
    pub(crate) fn between(from: &Ste, to: &Ste, features: &Features) -> Self {
        if from == to {
            return Self::None;
        }
        let abandoned = may_stall(from, features)
            && (!may_stall(to, features) || from.config().stage1() && !to.config().stage1());
        let differs = |word: usize| from.0[word] != to.0[word];
        // Descriptors are cached by stream, perhaps in part (3.21.3, 5.4.1): the
        // ASID of one could meet the tables of the other, and what that leaves
        // in the TLB would be found by every stream of the ASID. Under a stage 2
        // it would be its owner's alone.
        let descriptor = from.s1contextptr() != to.s1contextptr();
        let mixed = descriptor && from.config() == Config::S1 && to.config() == Config::S1;
        if abandoned || mixed || (3..8).any(differs) {
            return Self::ThroughAbort;
        }
        if differs(2) {
            // Not so where the VMID stays, since its TLB entries would mix.
            let vmid = from.s2vmid() != to.s2vmid() && !differs(0) && !differs(1);
            return if vmid { Self::Vmid } else { Self::ThroughAbort };
        }
        let (free, unread) = (ignored(from), ignored(to));
        // `from` with the bits of `to` wherever `from` ignores them.
        let prepared = [0, 1].map(|w| from.0[w] & !free[w] | to.0[w] & free[w]);
        let left = [0, 1].map(|w| (prepared[w] ^ to.0[w]) & !unread[w] != 0);
        match left {
            [true, true] => Self::ThroughAbort,
            [true, false] => Self::OneStore {
                word: 0,
                prepared: prepared[1],
            },
            // If no used bit is left, any order is correct.
            [false, _] => Self::OneStore {
                word: 1,
                prepared: prepared[0],
            },
        }
    }
}
