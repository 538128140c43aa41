//! The SMMU: from an access to the time at which its translation is known.

use super::assoc::{Assoc, Key};
use super::caches::{Caches, Charged, LEAF, cache};
use super::memo::Memo;
use crate::machine::stream;
use crate::platform::{Smmu, nanos};
use crate::units::Picos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A translation buffer unit.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub(super) micro: Assoc,
    pub(super) main: Assoc,
}

/// What things take.
#[derive(Clone, Copy, Debug)]
struct Times {
    micro: Picos,
    main: Picos,
    link: Picos,
    config: Picos,
    walk: Picos,
    ipa: Picos,
    read: Picos,
}

/// How a translation was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the small TLB.
    Micro,
    /// In the large one.
    Main,
    /// By a walk, of which that was left to read.
    Walk(Charged),
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// When it is known.
    pub at: Picos,
    /// How it was found.
    pub outcome: Outcome,
}

/// The SMMU.
#[derive(Clone, Debug)]
pub struct Unit {
    pub(super) buffers: Vec<Buffer>,
    pub(super) caches: Caches,
    times: Times,
    /// When each walker is free.
    slots: BinaryHeap<Reverse<Picos>>,
    contiguous: bool,
}

impl Unit {
    /// One that holds nothing. `descriptor` is what a read of memory takes it.
    #[must_use]
    pub fn new(smmu: &Smmu, descriptor: Picos) -> Self {
        let buffer = Buffer {
            micro: cache(&smmu.micro_tlb),
            main: cache(&smmu.main_tlb),
        };
        let slots = smmu.walk_slots.get().size();
        Self {
            buffers: vec![buffer; smmu.buffer_units.get().size()],
            caches: Caches::new(smmu),
            times: Times {
                micro: smmu.cycles(&smmu.micro_tlb.cycles),
                main: smmu.cycles(&smmu.main_tlb.cycles),
                link: smmu.cycles(&smmu.link_cycles),
                config: smmu.cycles(&smmu.config_cache.cycles),
                walk: smmu.cycles(&smmu.walk_caches.cycles),
                ipa: smmu.cycles(&smmu.ipa_cache.cycles),
                read: descriptor,
            },
            slots: std::iter::repeat_n(Reverse(Picos::ZERO), slots).collect(),
            contiguous: smmu.contiguous.get(),
        }
    }

    /// As a platform has it.
    #[must_use]
    pub fn of(platform: &crate::platform::Platform) -> Self {
        Self::new(&platform.smmu, nanos(&platform.memory.descriptor_ns))
    }

    /// Translates an access that comes at `now`; `None` where it does not pass.
    pub fn translate(
        &mut self,
        memo: &mut Memo<'_>,
        initiator: usize,
        address: u64,
        now: Picos,
    ) -> Option<Translated> {
        let count = self.buffers.len();
        let buffer = self.buffers.get_mut(initiator % count)?;
        let mut at = now + self.times.micro;
        if let Some(tag) = memo.tag(initiator) {
            if let Some((_, ready)) = buffer.micro.lookup(tag, address) {
                return Some(Translated {
                    at: at.max(ready),
                    outcome: Outcome::Micro,
                });
            }
            at += self.times.main;
            if let Some((key, ready)) = buffer.main.lookup(tag, address) {
                buffer.micro.put(key, LEAF | 3, ready);
                return Some(Translated {
                    at: at.max(ready),
                    outcome: Outcome::Main,
                });
            }
        } else {
            at += self.times.main;
        }
        let (config, walk) = memo.walk(initiator, address)?;
        let mut charged = self.caches.configure(stream(initiator), walk.tag, config);
        charged.add(self.caches.walk(address, walk));
        // Waits for a walker, and keeps it until the last read is back.
        let Reverse(free) = self.slots.pop()?;
        let look = self.times.config + self.times.walk + self.times.ipa;
        let start = (at + self.times.link).max(free);
        let end = start + look + self.times.read.times(charged.reads().into());
        self.slots.push(Reverse(end));
        let at = end + self.times.link;
        let shift = if self.contiguous {
            walk.group_shift
        } else {
            walk.shift
        };
        let key = Key::of(walk.tag, address, shift);
        let level = walk.level | LEAF;
        buffer.main.put(key, level, at);
        buffer.micro.put(key, level, at);
        Some(Translated {
            at,
            outcome: Outcome::Walk(charged),
        })
    }
}
