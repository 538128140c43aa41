//! The owner's stream table, as its SMMU would walk it (IHI 0070, 3.3.1, 5.1,
//! 6.3.24 and 6.3.25).
//!
//! The owner writes the table at any moment. Every word is loaded once for each
//! decision, and nothing of the table is kept.

use crate::{Ids, Outside, Platform};
use portcullis_addr::Ipa;
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{FMT_TWO_LEVEL, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::{L1Std, Ste};

/// Place and shape of the owner's stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerTable {
    base: u64,
    /// Address bits that count.
    mask: u64,
    /// StreamID bits covered, at most 32.
    bits: u8,
    /// StreamID bits of the second level, where there is one: 6, 8 or 10.
    split: Option<u8>,
}

/// What the owner's SMMU would find for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The stream is out of range, or its level 1 descriptor says that there is
    /// nothing: C_BAD_STREAMID (7.3.3).
    Nothing,
    /// A fetch at this address aborts, since it is not memory of the owner's:
    /// F_STE_FETCH (7.3.4).
    Unreachable(Ipa),
    /// A copy of the entry.
    Entry(Ste),
}

/// What neighbouring streams have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The last stream of the stretch.
    pub last: StreamId,
    /// What the streams up to it have.
    pub kind: Entries,
}

/// Where the entries of a [`Stretch`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// [`Found::Nothing`] for all of them.
    Nothing,
    /// [`Found::Unreachable`] for all of them: their level 1 descriptor.
    Unreachable(Ipa),
    /// One after the other; this is the address of the first.
    At(Ipa),
}

impl OwnerTable {
    /// The table that `STRTAB_BASE` and `STRTAB_BASE_CFG` describe.
    ///
    /// Reserved encodings behave as the text says: FMT as linear, SPLIT as 6.
    /// The base is aligned by the literal LOG2SIZE, the range is limited by
    /// SIDSIZE as well (6.3.24, 6.3.25). Address bits beyond the output size do
    /// not count, neither here nor in descriptors: an SMMU may do so or fail the
    /// fetch (3.4.3), and registers need not keep them.
    #[must_use]
    pub fn new(ids: &Ids, base: StrtabBase, cfg: StrtabBaseCfg) -> Self {
        let log2 = u32::from(cfg.log2size());
        let two = ids.idr0.st_level() == 0b01 && cfg.fmt() == FMT_TWO_LEVEL;
        let split = two.then(|| match cfg.split() {
            split @ (8 | 10) => split,
            _ => 6,
        });
        // The lowest address bit that counts.
        let lowest = match split {
            None => log2 + 6,
            Some(split) => (log2 + 3).saturating_sub(u32::from(split)).max(6),
        };
        let address = base.addr_6() << 6;
        let mask = ids.address_mask();
        Self {
            base: address & mask & u64::MAX.checked_shl(lowest).unwrap_or(0),
            mask,
            bits: cfg.log2size().min(ids.idr1.sidsize()).min(32),
            split,
        }
    }

    /// Whether the table covers `stream` at all (7.3.3).
    #[must_use]
    pub fn contains(&self, stream: StreamId) -> bool {
        u64::from(stream.0) >> self.bits == 0
    }

    /// The first and last of the streams that share a level 1 descriptor with
    /// `stream`; `stream` alone in a linear table.
    #[must_use]
    pub fn leaf(&self, stream: StreamId) -> (StreamId, StreamId) {
        let split = self.split.unwrap_or(0);
        let last = last_in_block(stream.0, split);
        (StreamId(last.0 & !((1 << split) - 1)), last)
    }

    /// What the streams from `first` on have in common; one level 1 descriptor
    /// is loaded at most.
    pub fn stretch(&self, platform: &impl Platform, first: StreamId) -> Stretch {
        if !self.contains(first) {
            return Stretch {
                last: StreamId(u32::MAX),
                kind: Entries::Nothing,
            };
        }
        let end = last_in_block(0, self.bits);
        let Some(split) = self.split else {
            return Stretch {
                last: end,
                kind: entry_location(self.base, u64::from(first.0)),
            };
        };
        let leaf = last_in_block(first.0, split).min(end);
        let Entries::At(l1) = array_location(self.base, u64::from(first.0) >> split, L1Std::SIZE)
        else {
            return Stretch {
                last: leaf,
                kind: Entries::Nothing,
            };
        };
        let mut word = [0];
        let kind = match platform.read(l1, &mut word) {
            Err(Outside) => Entries::Unreachable(l1),
            Ok(()) => return self.entry_run_of_descriptor(first, leaf, split, L1Std(word)),
        };
        Stretch { last: leaf, kind }
    }

    /// The streams of `descriptor` from `first` on.
    fn entry_run_of_descriptor(
        &self,
        first: StreamId,
        leaf: StreamId,
        split: u8,
        descriptor: L1Std,
    ) -> Stretch {
        let nothing = Stretch {
            last: leaf,
            kind: Entries::Nothing,
        };
        let span = descriptor.span();
        // 0 and 12 to 31 are invalid, and so is more than SPLIT allows (5.1,
        // 7.3.3). SPLIT is 10 at most.
        if span == 0 || span > split + 1 {
            return nothing;
        }
        let log2 = span - 1;
        let index = u64::from(first.0) & ((1 << split) - 1);
        if index >> log2 != 0 {
            return nothing;
        }
        // The SMMU aligns the array to its size (5.1).
        let base = descriptor.l2ptr() & self.mask & !((Ste::SIZE << log2) - 1);
        Stretch {
            last: last_in_block(first.0, log2).min(leaf),
            kind: entry_location(base, index),
        }
    }

    /// What an SMMU would find for `stream`; at most one level 1 descriptor and
    /// one entry are loaded.
    pub fn find(&self, platform: &impl Platform, stream: StreamId) -> Found {
        match self.stretch(platform, stream).kind {
            Entries::Nothing => Found::Nothing,
            Entries::Unreachable(l1) => Found::Unreachable(l1),
            Entries::At(at) => fetch(platform, at),
        }
    }
}

/// Copies the entry at `at`, each of its words once.
pub fn fetch(platform: &impl Platform, at: Ipa) -> Found {
    let mut words = [0; 8];
    match platform.read(at, &mut words) {
        Ok(()) => Found::Entry(Ste(words)),
        Err(Outside) => Found::Unreachable(at),
    }
}

/// The last of the 2^`log2` aligned streams around `stream`.
fn last_in_block(stream: u32, log2: u8) -> StreamId {
    StreamId(stream | ((1u64 << log2.min(32)) - 1) as u32)
}

fn entry_location(base: u64, index: u64) -> Entries {
    array_location(base, index, Ste::SIZE)
}

/// `base` has 56 bits and `index` 32, so this does not overflow; if it did,
/// nothing would be found.
fn array_location(base: u64, index: u64, size: u64) -> Entries {
    index
        .checked_mul(size)
        .and_then(|offset| base.checked_add(offset))
        .map_or(Entries::Nothing, |at| Entries::At(Ipa::new(at)))
}
