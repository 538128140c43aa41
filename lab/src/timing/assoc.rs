//! A set-associative cache of translations of any size.

use super::tag::Tag;
use crate::units::Picos;

/// What an entry translates: the `2^shift` bytes from `page << shift` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose.
    pub tag: Tag,
    /// Input address without the bits below `shift`.
    pub page: u64,
    /// log2 of the bytes.
    pub shift: u32,
}

impl Key {
    /// The entry of this size that has `address`.
    #[must_use]
    pub const fn of(tag: Tag, address: u64, shift: u32) -> Self {
        Self {
            tag,
            page: address >> shift,
            shift,
        }
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.page << self.shift
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        1 << self.shift
    }

    fn hash(&self) -> u64 {
        let mixed = self.page ^ self.tag.raw() << 20 ^ u64::from(self.shift) << 58;
        mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    /// Level of the descriptor that it is made from.
    level: u8,
    /// From when on it can be used.
    ready: Picos,
    /// When it was used last.
    used: u64,
}

/// The cache. Which set an entry belongs to is hashed from all of its key; what
/// was not used for longest gives way.
#[derive(Clone, Debug)]
pub struct Assoc {
    sets: usize,
    ways: usize,
    entries: Vec<Option<Entry>>,
    clock: u64,
    /// How many entries there are of each size, by log2.
    sizes: [u32; 64],
    /// The sizes of which there are any: one bit each.
    present: u64,
}

/// Caches of more entries than this are searched as if they were sets of 16: a
/// search through all of them would take longer than it is worth.
const SEARCHED: usize = 64;

impl Assoc {
    /// `ways` of 0: fully associative, up to 64 entries; what is larger has sets
    /// of 16.
    #[must_use]
    pub fn new(entries: usize, ways: usize) -> Self {
        let ways = match ways {
            0 if entries <= SEARCHED => entries,
            0 => 16,
            ways => ways.min(entries),
        };
        let sets = entries.checked_div(ways).unwrap_or(0);
        Self {
            sets,
            ways,
            entries: vec![None; sets * ways],
            clock: 0,
            sizes: [0; 64],
            present: 0,
        }
    }

    fn set(&self, key: &Key) -> std::ops::Range<usize> {
        // The upper bits are the best of a multiplicative hash.
        let set = ((u128::from(key.hash()) * self.sets as u128) >> 64) as usize;
        set * self.ways..(set + 1) * self.ways
    }

    fn find(&self, key: &Key) -> Option<usize> {
        if self.sets == 0 || self.present >> key.shift & 1 == 0 {
            return None;
        }
        let mut set = self.set(key);
        set.find(|at| {
            let entry = self.entries.get(*at);
            matches!(entry, Some(Some(entry)) if entry.key == *key)
        })
    }

    /// From when on `key` can be used, if it is there.
    pub fn get(&mut self, key: &Key) -> Option<Picos> {
        let at = self.find(key)?;
        self.clock += 1;
        let entry = self.entries.get_mut(at)?.as_mut()?;
        entry.used = self.clock;
        Some(entry.ready)
    }

    /// The entry of any size that has `address`.
    pub fn lookup(&mut self, tag: Tag, address: u64) -> Option<(Key, Picos)> {
        let mut left = self.present;
        while left != 0 {
            let key = Key::of(tag, address, left.trailing_zeros());
            if let Some(ready) = self.get(&key) {
                return Some((key, ready));
            }
            left &= left - 1;
        }
        None
    }

    /// Adds an entry from a descriptor of `level`.
    pub fn put(&mut self, key: Key, level: u8, ready: Picos) {
        if self.sets == 0 {
            return;
        }
        self.clock += 1;
        let entry = Entry {
            key,
            level,
            ready,
            used: self.clock,
        };
        if let Some(at) = self.find(&key) {
            self.entries[at] = Some(entry);
            return;
        }
        let set = self.set(&key);
        let oldest = set.min_by_key(|at| match self.entries.get(*at) {
            Some(Some(entry)) => entry.used,
            _ => 0,
        });
        if let Some(at) = oldest {
            self.remove(at);
            self.entries[at] = Some(entry);
            self.sizes[key.shift as usize % 64] += 1;
            self.present |= 1 << key.shift;
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(entry) = self.entries[at].take() {
            let count = &mut self.sizes[entry.key.shift as usize % 64];
            *count -= 1;
            if *count == 0 {
                self.present &= !(1 << entry.key.shift);
            }
        }
    }

    /// Removes every entry of which `gone` says so, by its key and level.
    pub fn retain_not(&mut self, gone: impl Fn(&Key, u8) -> bool) {
        if self.present == 0 {
            return;
        }
        for at in 0..self.entries.len() {
            if matches!(&self.entries[at], Some(entry) if gone(&entry.key, entry.level)) {
                self.remove(at);
            }
        }
    }

    /// The same for entries with `tag` that have an address from `start` to
    /// `last`.
    pub fn drop_range(
        &mut self,
        tag: Tag,
        (start, last): (u64, u64),
        gone: impl Fn(&Key, u8) -> bool,
    ) {
        let mut left = self.present;
        while left != 0 {
            let shift = left.trailing_zeros();
            left &= left - 1;
            let (first, end) = (start >> shift, last >> shift);
            if end - first >= self.entries.len() as u64 {
                return self.retain_not(|key, level| {
                    let touches = key.start() <= last && start <= key.start() + (key.size() - 1);
                    key.tag == tag && touches && gone(key, level)
                });
            }
            for page in first..=end {
                let key = Key { tag, page, shift };
                if let Some(at) = self.find(&key)
                    && matches!(&self.entries[at], Some(entry) if gone(&key, entry.level))
                {
                    self.remove(at);
                }
            }
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sizes.iter().map(|count| *count as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smmuv3_spec::Vmid;

    fn tag(vmid: u16) -> Tag {
        Tag::new(Some(Vmid(vmid)), None)
    }

    #[test]
    fn holds_as_many_as_it_has_and_the_oldest_goes() {
        let mut cache = Assoc::new(4, 0);
        for page in 0..4 {
            cache.put(Key::of(tag(1), page << 12, 12), 3, Picos(page));
        }
        // Page 0 was used last.
        assert_eq!(cache.get(&Key::of(tag(1), 0, 12)), Some(Picos(0)));
        cache.put(Key::of(tag(1), 4 << 12, 12), 3, Picos(9));
        assert_eq!(cache.len(), 4);
        assert_eq!(cache.get(&Key::of(tag(1), 1 << 12, 12)), None);
        assert!(cache.get(&Key::of(tag(1), 0, 12)).is_some());
        assert_eq!(cache.get(&Key::of(tag(2), 0, 12)), None);
    }

    #[test]
    fn finds_entries_of_any_size() {
        let mut cache = Assoc::new(64, 4);
        cache.put(Key::of(tag(1), 0x20_0000, 21), 2, Picos(5));
        cache.put(Key::of(tag(1), 0x1000, 12), 3, Picos(6));
        let found = cache.lookup(tag(1), 0x3f_f000).map(|(key, _)| key.shift);
        assert_eq!(found, Some(21));
        assert_eq!(
            cache.lookup(tag(1), 0x1fff).map(|(key, _)| key.shift),
            Some(12)
        );
        assert_eq!(cache.lookup(tag(1), 0x2000), None);
    }

    #[test]
    fn a_range_takes_what_it_touches_and_nothing_else() {
        for last in [0x4fff, 0x00ff_ffff] {
            let mut cache = Assoc::new(64, 4);
            for page in 0..8u64 {
                cache.put(Key::of(tag(1), page << 12, 12), 3, Picos::ZERO);
                cache.put(Key::of(tag(2), page << 12, 12), 3, Picos::ZERO);
            }
            let before = cache.len();
            assert_eq!(before, 16);
            cache.drop_range(tag(1), (0x3000, last), |_, level| level == 3);
            let there = |page: u64| cache.find(&Key::of(tag(1), page << 12, 12)).is_some();
            assert!(there(2) && !there(3) && !there(4));
            assert_eq!(there(5), last == 0x4fff);
            cache.drop_range(tag(2), (0, last), |_, level| level == 2);
            let others =
                (0..8).filter(|page| cache.find(&Key::of(tag(2), page << 12, 12)).is_some());
            assert_eq!(others.count(), 8);
        }
    }

    #[test]
    fn nothing_fits_no_cache() {
        let mut cache = Assoc::new(0, 4);
        cache.put(Key::of(tag(1), 0, 12), 3, Picos::ZERO);
        assert!(cache.is_empty());
        assert_eq!(cache.lookup(tag(1), 0), None);
    }
}
