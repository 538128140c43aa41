//! What an ITS holds.

use std::collections::{BTreeMap, BTreeSet};

/// `GITS_BASER<n>.Valid` and `GITS_CBASER.Valid`.
pub(crate) const VALID: u64 = 1 << 63;
/// `GITS_BASER<n>.Indirect`.
pub(crate) const INDIRECT: u64 = 1 << 62;

/// A device that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) itt: u64,
    /// Bits of its EventIDs.
    pub(crate) bits: u32,
}

/// An event that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) lpi: u32,
    pub(crate) collection: u16,
}

/// What an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Device(u32),
    Event(u32, u32),
    Collection(u16),
}

impl Key {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Device(_) => "device table entry",
            Self::Event(..) => "interrupt translation entry",
            Self::Collection(_) => "collection table entry",
        }
    }
}

/// A message may still be translated as it was before a command, until a SYNC of
/// the redistributor that it was sent to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale {
    pub(crate) event: (u32, u32),
    pub(crate) lpi: u32,
    pub(crate) cpu: usize,
}

/// One ITS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Its {
    pub(crate) enabled: bool,
    /// Polls until it is quiescent, while it is not although disabled.
    pub(crate) quiescing: Option<u32>,
    pub(crate) cbaser: u64,
    pub(crate) cwriter: u64,
    pub(crate) creadr: u64,
    pub(crate) stalled: bool,
    pub(crate) baser: [u64; 8],
    /// What the commands came to. Memory has it too, at the latest when the ITS
    /// is quiescent.
    pub(crate) devices: BTreeMap<u32, Device>,
    pub(crate) events: BTreeMap<(u32, u32), Event>,
    pub(crate) collections: BTreeMap<u16, usize>,
    /// Entries that are cached, so that memory is not looked at.
    pub(crate) held: BTreeSet<Key>,
    /// Those of them that memory does not have as yet.
    pub(crate) dirty: BTreeSet<Key>,
    /// Valid entries of first levels that were seen, by register and index.
    pub(crate) level1: BTreeMap<(usize, u64), u64>,
    pub(crate) stale: Vec<Stale>,
    /// Events whose mapping need not be in force before a SYNC of this
    /// redistributor.
    pub(crate) young: BTreeMap<(u32, u32), usize>,
}

impl Its {
    /// Disabled, and memory has everything.
    pub(crate) fn is_quiescent(&self) -> bool {
        !self.enabled && self.quiescing.is_none()
    }

    /// Bytes of the command queue.
    pub(crate) fn queue_bytes(&self) -> u64 {
        ((self.cbaser & 0xff) + 1) * 4096
    }

    /// Where the command queue is.
    pub(crate) fn queue_at(&self) -> u64 {
        self.cbaser & 0x000f_ffff_ffff_f000
    }
}
