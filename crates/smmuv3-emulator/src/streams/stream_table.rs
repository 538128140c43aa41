//! Walks of the owner's stream table (IHI 0070, 3.3.1, 5.1, 6.3.24 and 6.3.25).
//!
//! The owner may write the table at any moment. So every word is loaded once
//! for each decision, and no content of the table is kept.

use crate::{Ids, Outside, Platform};
use portcullis_addr::Ipa;
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{FMT_TWO_LEVEL, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::{L1Std, Ste};

/// Address and format of the owner's stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerTable {
    base: u64,
    /// Mask of the address bits in use.
    mask: u64,
    /// Number of StreamID bits that the table covers, at most 32.
    bits: u8,
    /// Number of StreamID bits of the second level, if there is one: 6, 8 or
    /// 10.
    split: Option<u8>,
}

/// What a walk of the stream table finds for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableWalk {
    /// No entry: the stream is out of range, or its level 1 descriptor is
    /// invalid. This is C_BAD_STREAMID (7.3.3).
    NoEntry,
    /// A fetch at this address aborts because it is not the owner's memory.
    /// This is F_STE_FETCH (7.3.4).
    Unreachable(Ipa),
    /// A copy of the entry.
    Entry(Ste),
}

/// A run of neighbouring streams whose entries are found the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRun {
    /// The last stream of the run.
    pub last: StreamId,
    /// Where their entries are.
    pub kind: EntryLocation,
}

/// Where the entries of a run of streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryLocation {
    /// None of them has an entry: [`TableWalk::NoEntry`].
    NoEntry,
    /// Their level 1 descriptor, at this address, cannot be fetched:
    /// [`TableWalk::Unreachable`].
    Unreachable(Ipa),
    /// Their entries follow each other; the first is at this address.
    At(Ipa),
}

impl OwnerTable {
    /// The table that `STRTAB_BASE` and `STRTAB_BASE_CFG` describe.
    ///
    /// Reserved encodings behave as the text says: FMT as linear, SPLIT as 6.
    /// The base is aligned by the literal LOG2SIZE; the range is also limited
    /// by SIDSIZE (6.3.24, 6.3.25). Address bits beyond the output size are
    /// ignored, here and in descriptors: an SMMU may ignore them or fail the
    /// fetch (3.4.3), and registers need not keep them.
    #[must_use]
    pub fn new(ids: &Ids, base: StrtabBase, cfg: StrtabBaseCfg) -> Self {
        let log2 = u32::from(cfg.log2size());
        let two = ids.idr0.st_level() == 0b01 && cfg.fmt() == FMT_TWO_LEVEL;
        let split = two.then(|| match cfg.split() {
            split @ (8 | 10) => split,
            _ => 6,
        });
        // The lowest address bit in use.
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

    /// Whether the table covers `stream` (7.3.3).
    #[must_use]
    pub fn contains(&self, stream: StreamId) -> bool {
        u64::from(stream.0) >> self.bits == 0
    }

    /// The first and last stream that share a level 1 descriptor with `stream`;
    /// only `stream` in a linear table.
    #[must_use]
    pub fn descriptor_streams(&self, stream: StreamId) -> (StreamId, StreamId) {
        let split = self.split.unwrap_or(0);
        let last = last_in_block(stream.0, split);
        (StreamId(last.0 & !((1 << split) - 1)), last)
    }

    /// The run of streams that starts at `first`. At most one level 1
    /// descriptor is loaded.
    pub fn entry_run(&self, platform: &impl Platform, first: StreamId) -> EntryRun {
        if !self.contains(first) {
            return EntryRun {
                last: StreamId(u32::MAX),
                kind: EntryLocation::NoEntry,
            };
        }
        let end = last_in_block(0, self.bits);
        let Some(split) = self.split else {
            return EntryRun {
                last: end,
                kind: entry_location(self.base, u64::from(first.0)),
            };
        };
        let leaf = last_in_block(first.0, split).min(end);
        let EntryLocation::At(l1) =
            array_location(self.base, u64::from(first.0) >> split, L1Std::SIZE)
        else {
            return EntryRun {
                last: leaf,
                kind: EntryLocation::NoEntry,
            };
        };
        let mut word = [0];
        let kind = match platform.read(l1, &mut word) {
            Err(Outside) => EntryLocation::Unreachable(l1),
            Ok(()) => return self.entry_run_of_descriptor(first, leaf, split, L1Std(word)),
        };
        EntryRun { last: leaf, kind }
    }

    /// The run of streams that starts at `first`, from their level 1
    /// descriptor.
    fn entry_run_of_descriptor(
        &self,
        first: StreamId,
        leaf: StreamId,
        split: u8,
        descriptor: L1Std,
    ) -> EntryRun {
        let nothing = EntryRun {
            last: leaf,
            kind: EntryLocation::NoEntry,
        };
        let span = descriptor.span();
        // A span of 0 or 12 to 31 is invalid, and so is a span larger than
        // SPLIT allows (5.1, 7.3.3). SPLIT is 10 at most.
        if span == 0 || span > split + 1 {
            return nothing;
        }
        let log2 = span - 1;
        let index = u64::from(first.0) & ((1 << split) - 1);
        if index >> log2 != 0 {
            return nothing;
        }
        // The SMMU aligns the second-level table to its size (5.1).
        let base = descriptor.l2ptr() & self.mask & !((Ste::SIZE << log2) - 1);
        EntryRun {
            last: last_in_block(first.0, log2).min(leaf),
            kind: entry_location(base, index),
        }
    }

    /// Walks the table for `stream`. At most one level 1 descriptor and one
    /// entry are loaded.
    pub fn find(&self, platform: &impl Platform, stream: StreamId) -> TableWalk {
        match self.entry_run(platform, stream).kind {
            EntryLocation::NoEntry => TableWalk::NoEntry,
            EntryLocation::Unreachable(l1) => TableWalk::Unreachable(l1),
            EntryLocation::At(at) => read_ste(platform, at),
        }
    }
}

/// Copies the entry at `at`. Each of its words is loaded once.
pub fn read_ste(platform: &impl Platform, at: Ipa) -> TableWalk {
    let mut words = [0; 8];
    match platform.read(at, &mut words) {
        Ok(()) => TableWalk::Entry(Ste(words)),
        Err(Outside) => TableWalk::Unreachable(at),
    }
}

/// The last stream of the aligned block of 2^`log2` streams that `stream` is
/// in.
fn last_in_block(stream: u32, log2: u8) -> StreamId {
    StreamId(stream | ((1u64 << log2.min(32)) - 1) as u32)
}

fn entry_location(base: u64, index: u64) -> EntryLocation {
    array_location(base, index, Ste::SIZE)
}

/// `base` has 56 bits and `index` 32, so this does not overflow. If it did, no
/// entry would be found.
fn array_location(base: u64, index: u64, size: u64) -> EntryLocation {
    index
        .checked_mul(size)
        .and_then(|offset| base.checked_add(offset))
        .map_or(EntryLocation::NoEntry, |at| EntryLocation::At(Ipa::new(at)))
}
