//! Entries between the ITS's caches and memory.

use crate::bus::Bus;
use crate::inner::Inner;
use crate::its::Key;
use crate::profile::Caching;
use crate::tables::{Place, encode};
use crate::violation::Violation;

impl<B: Bus> Inner<B> {
    /// What the entry of `key` says if all is well; 0 where nothing is mapped.
    fn value(&self, its: usize, key: Key) -> u64 {
        let unit = &self.units[its];
        match key {
            Key::Device(id) => unit.devices.get(&id).map_or(0, |device| device.value()),
            Key::Event(id, event) => {
                let event = unit.events.get(&(id, event));
                event.map_or(0, |event| event.value())
            }
            Key::Collection(id) => {
                let cpu = unit.collections.get(&id);
                cpu.map_or(0, |cpu| 1 | (*cpu as u64) << 1)
            }
        }
    }

    /// Looks an entry up: in the cache, else in memory, which must have it.
    pub(crate) fn look(&mut self, its: usize, key: Key) {
        if self.units[its].held.contains(&key) {
            return;
        }
        let Place::At(at, bytes) = self.place(its, key) else {
            return;
        };
        let expected = encode(its, key, self.value(its, key), bytes);
        let found = self.read_bytes(at, bytes, key.what());
        if found != expected {
            let word = |bytes: &[u8]| {
                let word = bytes.first_chunk::<8>();
                word.map_or(0, |word| u64::from_le_bytes(*word))
            };
            self.violate(Violation::Changed {
                what: format!("{} {key:x?} of ITS {its}", key.what()),
                at,
                found: word(&found),
                expected: word(&expected),
            });
            self.garbage(at..at.saturating_add(bytes));
        }
        if self.holds() {
            self.units[its].held.insert(key);
        }
    }

    /// An entry has changed: into the cache, or into memory.
    pub(crate) fn put(&mut self, its: usize, key: Key) {
        if self.holds() {
            self.units[its].held.insert(key);
            self.units[its].dirty.insert(key);
        } else {
            self.store(its, key);
        }
    }

    fn store(&mut self, its: usize, key: Key) {
        self.units[its].dirty.remove(&key);
        if let Place::At(at, bytes) = self.place(its, key) {
            let entry = encode(its, key, self.value(its, key), bytes);
            self.write_bytes(at, &entry, key.what());
        }
    }

    /// Writes back what is dirty and drops what is cached of a device's events.
    pub(crate) fn flush_events(&mut self, its: usize, id: u32) {
        let keys = Key::Event(id, 0)..=Key::Event(id, u32::MAX);
        let dirty: Vec<_> = self.units[its].dirty.range(keys).copied().collect();
        for key in dirty {
            self.store(its, key);
        }
        let of_device = |key: &Key| matches!(key, Key::Event(device, _) if *device == id);
        self.units[its].held.retain(|key| !of_device(key));
    }

    /// Writes back all and drops all.
    pub(crate) fn flush(&mut self, its: usize) {
        let dirty: Vec<_> = self.units[its].dirty.iter().copied().collect();
        for key in dirty {
            self.store(its, key);
        }
        let unit = &mut self.units[its];
        unit.held.clear();
        unit.stale.clear();
        unit.young.clear();
    }

    /// Something that an ITS may do at any time while it is enabled.
    pub(crate) fn stir(&mut self, its: usize) {
        if !self.units[its].enabled || self.profile.caching == Caching::None {
            return;
        }
        let random = self.profile.caching == Caching::Random;
        match self.draw.below(6) {
            // Some of what is dirty goes to memory.
            0 | 1 => {
                let dirty = self.units[its].dirty.len() as u64;
                let nth = self.draw.below(dirty) as usize;
                if let Some(key) = self.units[its].dirty.iter().nth(nth).copied() {
                    self.store(its, key);
                }
            }
            // Something clean is dropped.
            2 if random => {
                let unit = &self.units[its];
                let clean: Vec<_> = unit.held.difference(&unit.dirty).copied().collect();
                let nth = self.draw.below(clean.len() as u64) as usize;
                if let Some(key) = clean.get(nth) {
                    self.units[its].held.remove(key);
                }
            }
            // An entry is written again as it is.
            3 => {
                if let Some(key) = self.any_mapped(its) {
                    self.look(its, key);
                    self.store(its, key);
                }
            }
            // What is mapped, or any other entry, is read ahead of its use.
            4 => {
                if let Some(key) = self.any_mapped(its) {
                    self.look(its, key);
                }
            }
            _ => {
                let device = self.draw.below(1 << self.profile.device_bits.min(10)) as u32;
                self.look(its, Key::Device(device));
                let collection = self.draw.below(self.rds.len() as u64 * 2) as u16;
                self.look(its, Key::Collection(collection));
            }
        }
    }

    fn any_mapped(&mut self, its: usize) -> Option<Key> {
        let unit = &self.units[its];
        let counts = [
            unit.devices.len(),
            unit.events.len(),
            unit.collections.len(),
        ];
        let which = self.draw.below(3) as usize;
        let nth = self.draw.below(counts[which] as u64) as usize;
        let unit = &self.units[its];
        match which {
            0 => unit.devices.keys().nth(nth).map(|id| Key::Device(*id)),
            1 => unit
                .events
                .keys()
                .nth(nth)
                .map(|(id, event)| Key::Event(*id, *event)),
            _ => unit
                .collections
                .keys()
                .nth(nth)
                .map(|id| Key::Collection(*id)),
        }
    }
}
