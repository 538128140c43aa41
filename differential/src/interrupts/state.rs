//! What can be seen of either side.

use super::layout::{
    COLLECTIONS, DEVICES, EVENTS, ITT_STRIDE, ITTS, NAMED, PER_PAGE, SECOND, SLOTS, WIDE,
    WIDE_DEVICE, WIDE_EVENTS, itt,
};
use gicv3_its::reg;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What an event is mapped to: LPI and collection.
pub type Mapping = (u32, u16);

/// What a redistributor's registers read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redistributor {
    /// `GICR_CTLR.EnableLPIs`.
    pub enabled: bool,
    /// `GICR_PROPBASER`.
    pub propbaser: u64,
    /// `GICR_PENDBASER`.
    pub pendbaser: u64,
}

/// What a side shows after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// `GITS_CTLR`.
    pub control: u32,
    /// `GITS_CBASER`.
    pub cbaser: u64,
    /// `GITS_CWRITER`.
    pub cwriter: u64,
    /// `GITS_CREADR`.
    pub creadr: u64,
    /// `GITS_BASER0` and `GITS_BASER1`.
    pub baser: [u64; 2],
    /// The redistributors.
    pub redistributors: Vec<Redistributor>,
    /// The device table: bits of EventID, and which interrupt translation table.
    pub devices: BTreeMap<u32, (u8, u64)>,
    /// The interrupt translation tables, by number and event.
    pub tables: BTreeMap<(u64, u32), Mapping>,
    /// Which events are in force, by device. On QEMU that is what the tables say.
    pub events: BTreeMap<(u32, u32), Mapping>,
    /// The collection table.
    pub collections: BTreeMap<u16, usize>,
    /// Which LPIs are pending, by redistributor.
    pub pending: BTreeSet<(usize, u32)>,
}

/// `GITS_CTLR.Enabled`.
pub const ENABLED: u32 = 1;
/// `GITS_CTLR.Quiescent`.
pub const QUIESCENT: u32 = 1 << 31;

impl State {
    /// The ITS is enabled.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.control & ENABLED != 0
    }

    /// Both show the same, but for two bits: `GITS_CTLR.Quiescent` of an ITS that is
    /// enabled, and `GICR_PENDBASER.PTZ`, which QEMU lets be read.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let plain = |state: &Self| {
            let mut state = state.clone();
            if state.enabled() {
                state.control &= !QUIESCENT;
            }
            for one in &mut state.redistributors {
                one.pendbaser &= !reg::PENDBASER_PTZ;
            }
            // What a table has that is in force nowhere is seen when it comes in
            // force.
            state.tables.clear();
            state
        };
        plain(self) == plain(other)
    }

    /// What the tables say is mapped.
    #[must_use]
    pub fn in_tables(&self) -> BTreeMap<(u32, u32), Mapping> {
        let devices = self.devices.iter();
        let events = devices.flat_map(|(device, (bits, slot))| {
            let end = 1u32.checked_shl((*bits).into()).unwrap_or(u32::MAX);
            let own = self.tables.range((*slot, 0)..(*slot, end));
            own.map(|((_, event), mapping)| ((*device, *event), *mapping))
        });
        events.collect()
    }

    /// Where the interrupts of a collection go.
    #[must_use]
    pub fn route(&self, icid: u16) -> Option<usize> {
        self.collections.get(&icid).copied()
    }
}

/// How a side keeps its tables. The architecture leaves that to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Ours, `crates/gicv3-its/src/owner_table.rs`.
    Ours,
    /// QEMU's.
    Qemu,
}

/// Bits `first + bits - 1` to `first` of a word.
fn field(word: u64, first: u32, bits: u32) -> u64 {
    word >> first & ((1 << bits) - 1)
}

impl Format {
    /// Bytes of an entry of an interrupt translation table.
    #[must_use]
    pub fn itt_entry(self) -> u64 {
        match self {
            Self::Ours => 8,
            Self::Qemu => 12,
        }
    }

    fn valid(self, word: u64) -> bool {
        match self {
            Self::Ours => word >> 63 != 0,
            Self::Qemu => word & 1 != 0,
        }
    }

    fn device(self, word: u64) -> (u8, u64) {
        let (bits, at) = match self {
            Self::Ours => (field(word, 0, 5), word & 0x000f_ffff_ffff_ff00),
            Self::Qemu => (field(word, 1, 5), field(word, 6, 44) << 8),
        };
        // Truncation: 5 bits.
        (bits as u8 + 1, at.wrapping_sub(ITTS) / ITT_STRIDE)
    }

    fn collection(self, word: u64) -> usize {
        match self {
            Self::Ours => field(word, 16, 36) as usize,
            Self::Qemu => field(word, 1, 16) as usize,
        }
    }

    fn mapping(self, word: u64) -> Mapping {
        // Truncation: 32 bits at most, and 16.
        match self {
            Self::Ours => (word as u32, field(word, 32, 16) as u16),
            Self::Qemu => (field(word, 2, 24) as u32, field(word, 32, 16) as u16),
        }
    }

    /// The stretches of memory that hold a side's tables, in the order in which
    /// [`decode`](Self::decode) wants them.
    #[must_use]
    pub fn stretches(self, two_levels: bool) -> [(u64, u64); 5] {
        let devices = if two_levels { SECOND } else { DEVICES };
        let entry = self.itt_entry();
        let wide = |events: &Range<u32>| {
            let at = itt(WIDE) + u64::from(events.start) * entry;
            (at, u64::from(events.end - events.start) * entry)
        };
        [
            (devices, u64::from(PER_PAGE) * 8),
            (COLLECTIONS, u64::from(PER_PAGE) * 8),
            (itt(0), SLOTS * ITT_STRIDE),
            wide(&WIDE_EVENTS[0]),
            wide(&WIDE_EVENTS[1]),
        ]
    }

    /// Takes in what the stretches hold.
    pub fn decode(self, state: &mut State, memory: &[Vec<u64>; 5]) {
        let [devices, collections, itts, wide @ ..] = memory;
        let valid = |(_, word): &(usize, &u64)| self.valid(**word);
        let devices = devices.iter().enumerate().filter(valid);
        state.devices = devices
            .map(|(id, word)| (id as u32, self.device(*word)))
            .collect();
        let collections = collections.iter().enumerate().filter(valid);
        state.collections = collections
            .map(|(id, word)| (id as u16, self.collection(*word)))
            .collect();
        for (slot, words) in (0..).zip(itts.chunks_exact(ITT_STRIDE as usize / 8)) {
            self.table(state, slot, 0..EVENTS, words);
        }
        for (events, words) in WIDE_EVENTS.into_iter().zip(wide) {
            self.table(state, WIDE, events, words);
        }
    }

    /// Takes in entries of an interrupt translation table.
    fn table(self, state: &mut State, slot: u64, events: Range<u32>, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (event, entry) in events.zip(bytes.chunks_exact(self.itt_entry() as usize)) {
            let entry = entry.first_chunk().copied().unwrap_or_default();
            let word = u64::from_le_bytes(entry);
            if self.valid(word) {
                state.tables.insert((slot, event), self.mapping(word));
            }
        }
    }
}

/// Which interrupt translation tables a device has.
#[must_use]
pub fn slots(device: u32) -> Option<[u64; 2]> {
    let index = NAMED.iter().position(|named| *named == device)? as u64;
    let second = match device {
        WIDE_DEVICE => WIDE,
        _ => 2 * index + 1,
    };
    Some([2 * index, second])
}
