//! The stream table (IHI 0070, 3.3): its shape, where entries are, and how
//! their words are stored. `stream.rs` says in which order an entry changes,
//! `stream_range.rs` does so for many streams, and `shared_tables.rs` has
//! second-level tables that many streams share.

use crate::Features;
use crate::smmu::Config;
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{FMT_LINEAR, FMT_TWO_LEVEL, StrtabBaseCfg};
use smmuv3_spec::ste::{L1Std, Ste};

pub(crate) mod shared_tables;
mod stream;
mod stream_range;

/// log2 of the most entries that a table may have, whatever the configuration
/// says.
const MAX_ENTRIES_LOG2: u8 = 20;

/// Shape of a stream table (IHI 0070, 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of StreamID bits that the table covers.
    pub(crate) bits: u8,
    /// Number of StreamID bits of the second level, if there is one: 6, 8 or
    /// 10.
    pub(crate) split: Option<u8>,
}

impl Shape {
    /// Chooses two levels wherever the SMMU offers them, also for few streams.
    /// QEMU keeps decoding two levels once it has seen them, so an earlier
    /// owner's choice would survive a linear table.
    pub(crate) fn choose(features: &Features, config: &Config) -> Self {
        let bits = features.stream_bits();
        let l1_log2 = config.l1_log2.min(MAX_ENTRIES_LOG2);
        if !features.two_level() {
            return Self {
                bits: bits.min(config.linear_log2).min(MAX_ENTRIES_LOG2),
                split: None,
            };
        }
        // The smallest second level whose first level is not too large. Streams
        // beyond the largest second level stay out of range and abort.
        let split = [6, 8]
            .into_iter()
            .find(|split| bits.saturating_sub(*split) <= l1_log2)
            .unwrap_or(10);
        Self {
            bits: bits.min(l1_log2 + split),
            split: Some(split),
        }
    }

    /// Bytes of the table that STRTAB_BASE points to: a power of two of at
    /// least 64, which is its alignment too (6.3.24).
    pub(crate) fn bytes(self) -> u64 {
        match self.split {
            None => Ste::SIZE << self.bits,
            Some(split) => (L1Std::SIZE << self.bits.saturating_sub(split)).max(64),
        }
    }

    pub(crate) fn register(self) -> StrtabBaseCfg {
        let cfg = StrtabBaseCfg::new().with_log2size(self.bits);
        match self.split {
            None => cfg.with_fmt(FMT_LINEAR),
            Some(split) => cfg.with_fmt(FMT_TWO_LEVEL).with_split(split),
        }
    }

    pub(crate) fn contains(self, stream: StreamId) -> bool {
        u64::from(stream.0) >> self.bits == 0
    }
}

/// A stream table in memory.
pub(crate) struct StreamTable {
    pub(crate) base: PhysAddr,
    pub(crate) shape: Shape,
}

/// Where the entry of a stream is.
pub(crate) enum EntryPlace {
    /// The address of the entry.
    At(PhysAddr),
    /// There is no second-level table: the level 1 descriptor at `l1` is
    /// invalid.
    NoTable { l1: PhysAddr },
}

impl StreamTable {
    /// The address of the level 1 descriptor of `stream`, in a table of two
    /// levels.
    pub(crate) fn descriptor(&self, stream: StreamId) -> PhysAddr {
        let index = u64::from(stream.0) >> self.shape.split.unwrap_or(0);
        PhysAddr::new(self.base.raw() + index * L1Std::SIZE)
    }

    /// Finds the entry of `stream`. The table must [contain](Shape::contains)
    /// it.
    pub(crate) fn find(&self, mem: &impl Memory, stream: StreamId) -> EntryPlace {
        let l1 = self.descriptor(stream);
        let stream = u64::from(stream.0);
        let Some(split) = self.shape.split else {
            return EntryPlace::At(PhysAddr::new(self.base.raw() + stream * Ste::SIZE));
        };
        let descriptor = L1Std([mem.load(l1)]);
        if descriptor.span() == 0 {
            return EntryPlace::NoTable { l1 };
        }
        let index = stream & ((1 << split) - 1);
        EntryPlace::At(PhysAddr::new(descriptor.l2ptr() + index * Ste::SIZE))
    }
}

impl StreamTable {
    /// Frees all second-level tables, each once. `shared` are those that
    /// several descriptors may point to. The caller has made sure that the SMMU
    /// does not read the table any more.
    pub(crate) fn free_second_levels(
        &self,
        mem: &(impl Memory + Allocator),
        shared: impl Iterator<Item = PhysAddr> + Clone,
    ) {
        let Some(split) = self.shape.split else {
            return;
        };
        for offset in (0..self.shape.bytes()).step_by(L1Std::SIZE as usize) {
            let l1 = PhysAddr::new(self.base.raw() + offset);
            let descriptor = L1Std([mem.load(l1)]);
            mem.store(l1, 0);
            let l2 = PhysAddr::new(descriptor.l2ptr());
            if descriptor.span() != 0 && !shared.clone().any(|shared| shared == l2) {
                mem.free(l2, Ste::SIZE << split);
            }
        }
        for l2 in shared {
            mem.free(l2, Ste::SIZE << split);
        }
    }
}

/// Makes every entry of a table abort. The SMMU must not be able to see the
/// table yet.
pub(crate) fn fill_with_abort(mem: &impl Memory, at: PhysAddr, bytes: u64) {
    for offset in (0..bytes).step_by(Ste::SIZE as usize) {
        store_words(mem, PhysAddr::new(at.raw() + offset), &Ste::ABORT, 0..8);
    }
    mem.publish(at, bytes);
}

/// Stores the given words of an entry, with one 64-bit store each.
pub(crate) fn store_words(
    mem: &impl Memory,
    at: PhysAddr,
    entry: &Ste,
    words: core::ops::Range<usize>,
) {
    for word in words {
        mem.store(PhysAddr::new(at.raw() + word as u64 * 8), entry.0[word]);
    }
}

/// Loads an entry. Only this driver writes it, so it does not change meanwhile.
pub(crate) fn load_entry(mem: &impl Memory, at: PhysAddr) -> Ste {
    let mut entry = Ste::default();
    for (index, word) in entry.0.iter_mut().enumerate() {
        *word = mem.load(PhysAddr::new(at.raw() + index as u64 * 8));
    }
    entry
}
