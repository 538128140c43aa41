//! The caches of the unit that walks, and the reads that they spare.

use super::assoc::{Assoc, Key};
use super::tag::Tag;
use super::walk::{ConfigWalk, Group, Walk};
use crate::platform::{Cache, Smmu};
use crate::units::Picos;
use smmuv3_spec::StreamId;

/// Marks the level of an entry that ends a walk.
pub(super) const LEAF: u8 = 0x80;

/// What became of the reads of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charged {
    /// Descriptors of either stage that were read.
    pub descriptors: u32,
    /// Structures of the configuration that were read.
    pub structures: u32,
    /// Reads that a cache spared, of any kind.
    pub held: u32,
}

impl Charged {
    /// All that was read.
    #[must_use]
    pub const fn reads(&self) -> u32 {
        self.descriptors + self.structures
    }

    pub(super) fn add(&mut self, other: Self) {
        self.descriptors += other.descriptors;
        self.structures += other.structures;
        self.held += other.held;
    }
}

/// The caches.
#[derive(Clone, Debug)]
pub struct Caches {
    pub(super) config: Assoc,
    pub(super) stage1: [Assoc; 4],
    pub(super) stage2: [Assoc; 4],
    pub(super) ipa: Assoc,
    inner: bool,
}

/// A cache as a platform has it.
pub(super) fn cache(cache: &Cache) -> Assoc {
    Assoc::new(cache.entries.get().size(), cache.ways.get().size())
}

/// The entry for a stream.
pub(super) fn stream_key(stream: StreamId) -> Key {
    Key::of(Tag::new(None, None), stream.0.into(), 0)
}

impl Caches {
    /// Empty ones.
    #[must_use]
    pub fn new(smmu: &Smmu) -> Self {
        let walks = &smmu.walk_caches;
        let ways = walks.ways.get().size();
        Self {
            config: cache(&smmu.config_cache),
            stage1: walks.stage1.get().map(|e| Assoc::new(e.size(), ways)),
            stage2: walks.stage2.get().map(|e| Assoc::new(e.size(), ways)),
            ipa: cache(&smmu.ipa_cache),
            inner: walks.inner.get(),
        }
    }

    /// Finds out what a stream's configuration is.
    pub fn configure(&mut self, stream: StreamId, tag: Tag, walk: &ConfigWalk) -> Charged {
        let key = stream_key(stream);
        let mut charged = Charged::default();
        if self.config.get(&key).is_some() {
            let groups = walk
                .groups
                .iter()
                .map(|(_, group)| group.stage2.len() as u32);
            charged.held = walk.structures + groups.sum::<u32>();
            return charged;
        }
        charged.structures = walk.structures;
        for (ipa, group) in &walk.groups {
            charged.add(self.translate(tag.stage2_alone(), (*ipa, group), true));
        }
        self.config.put(key, 0, Picos::ZERO);
        charged
    }

    /// Translates an address.
    pub fn walk(&mut self, address: u64, walk: &Walk) -> Charged {
        let mut charged = Charged::default();
        // The deepest descriptor of stage 1 that is held: nothing before it is
        // read, nor translated.
        let held = walk.groups.iter().rposition(|group| {
            group.stage1.is_some_and(|read| {
                let key = Key::of(walk.tag, address, read.shift);
                let level = self.stage1.get_mut(usize::from(read.level));
                level.is_some_and(|level| level.get(&key).is_some())
            })
        });
        let from = held.map_or(0, |at| at + 1);
        let last = walk.groups.iter().rposition(|group| group.stage1.is_some());
        for (at, (group, ipa)) in walk.groups.iter().zip(walk.ipas).enumerate() {
            let stage1 = u32::from(group.stage1.is_some());
            if at < from {
                charged.held += group.stage2.len() as u32 + stage1;
                continue;
            }
            let inner = group.stage1.is_some();
            charged.add(self.translate(walk.tag.stage2_alone(), (ipa, group), inner));
            charged.descriptors += stage1;
            if let Some(read) = group.stage1
                && let Some(level) = self.stage1.get_mut(usize::from(read.level))
            {
                let leaf = if Some(at) == last { LEAF } else { 0 };
                let key = Key::of(walk.tag, address, read.shift);
                level.put(key, read.level | leaf, Picos::ZERO);
            }
        }
        charged
    }

    /// Translates an address of stage 2's; `inner` if it is stage 1's own.
    fn translate(&mut self, tag: Tag, (ipa, group): (u64, &Group), inner: bool) -> Charged {
        let reads = group.stage2.len() as u32;
        if reads == 0 {
            return Charged::default();
        }
        if self.ipa.lookup(tag, ipa).is_some() {
            return Charged {
                held: reads,
                ..Charged::default()
            };
        }
        let cached = self.inner || !inner;
        let mut from = 0;
        if cached {
            let held = group.stage2.iter().rposition(|read| {
                let key = Key::of(tag, ipa, read.shift);
                let level = self.stage2.get_mut(usize::from(read.level));
                level.is_some_and(|level| level.get(&key).is_some())
            });
            from = held.map_or(0, |at| at + 1);
            for (at, read) in group.stage2.iter().enumerate().skip(from) {
                let leaf = if at + 1 == group.stage2.len() {
                    LEAF
                } else {
                    0
                };
                if let Some(level) = self.stage2.get_mut(usize::from(read.level)) {
                    let key = Key::of(tag, ipa, read.shift);
                    level.put(key, read.level | leaf, Picos::ZERO);
                }
            }
        }
        let level = group.stage2.last().map_or(0, |read| read.level);
        self.ipa.put(
            Key::of(tag, ipa, group.stage2_shift),
            level | LEAF,
            Picos::ZERO,
        );
        Charged {
            descriptors: reads - from as u32,
            held: from as u32,
            structures: 0,
        }
    }
}
