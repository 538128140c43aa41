//! Memory that CPUs and the GIC share, with or without coherency.

use crate::bus::Bus;
use crate::draw::Draw;
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

/// A word that a CPU's cache holds.
#[derive(Clone, Copy)]
struct Line {
    value: u64,
    dirty: bool,
}

#[derive(Default)]
struct Contents {
    banks: Vec<(u64, Vec<u64>)>,
    cache: BTreeMap<u64, Line>,
    /// Accesses outside the banks.
    outside: Vec<u64>,
}

impl Contents {
    fn word(&mut self, at: u64) -> Option<&mut u64> {
        if !at.is_multiple_of(8) {
            return None;
        }
        self.banks.iter_mut().find_map(|(base, words)| {
            let index = at.checked_sub(*base)? / 8;
            words.get_mut(usize::try_from(index).ok()?)
        })
    }

    fn clean(&mut self, at: u64) {
        if let Some(line) = self.cache.get_mut(&at)
            && line.dirty
        {
            line.dirty = false;
            let value = line.value;
            if let Some(word) = self.word(at) {
                *word = value;
            }
        }
    }
}

/// Memory. A CPU's side is [`Memory`], the GIC's is [`Bus`].
///
/// Without coherency, a CPU's store stays in its cache until
/// [`publish`](Memory::publish) covers it or [`evict`](Self::evict) happens to
/// write it back, and a word that was loaded once is not loaded again before
/// [`refresh`](Memory::refresh). A cache line here is one word.
pub struct Ram {
    coherent: bool,
    contents: Mutex<Contents>,
}

impl Ram {
    /// Zeroed banks, whose ends are multiples of 8.
    #[must_use]
    pub fn new(banks: impl IntoIterator<Item = Range<u64>>, coherent: bool) -> Self {
        let bank = |bank: Range<u64>| {
            let words = usize::try_from((bank.end - bank.start) / 8).unwrap_or(0);
            (bank.start, vec![0; words])
        };
        Self {
            coherent,
            contents: Mutex::new(Contents {
                banks: banks.into_iter().map(bank).collect(),
                ..Contents::default()
            }),
        }
    }

    fn with<T>(&self, with: impl FnOnce(&mut Contents) -> T) -> T {
        let mut contents = self
            .contents
            .lock()
            .unwrap_or_else(|lock| lock.into_inner());
        with(&mut contents)
    }

    /// A CPU's cache writes back some of what is dirty, as it may at any time.
    pub fn evict(&self, seed: u64) {
        let mut draw = Draw::new(seed);
        self.with(|contents| {
            let dirty = contents.cache.iter().filter(|(_, line)| line.dirty);
            let some: Vec<_> = dirty.map(|(at, _)| *at).collect();
            for at in some {
                if draw.once_in(2) {
                    contents.clean(at);
                }
            }
        });
    }

    /// Addresses outside memory that a CPU used since the last call.
    pub fn take_outside(&self) -> Vec<u64> {
        self.with(|contents| std::mem::take(&mut contents.outside))
    }
}

impl Memory for Ram {
    fn load(&self, at: PhysAddr) -> u64 {
        let at = at.raw();
        self.with(|contents| {
            if let Some(line) = contents.cache.get(&at) {
                return line.value;
            }
            let Some(value) = contents.word(at).copied() else {
                contents.outside.push(at);
                return u64::MAX;
            };
            if !self.coherent {
                contents.cache.insert(
                    at,
                    Line {
                        value,
                        dirty: false,
                    },
                );
            }
            value
        })
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let at = at.raw();
        self.with(|contents| {
            let coherent = self.coherent;
            match contents.word(at) {
                None => contents.outside.push(at),
                Some(word) if coherent => *word = value,
                Some(_) => {
                    contents.cache.insert(at, Line { value, dirty: true });
                }
            }
        });
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.store(at, new);
        Ok(found)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        let range = at.raw() & !7..at.raw().saturating_add(bytes);
        self.with(|contents| {
            let covered: Vec<_> = contents.cache.range(range).map(|(at, _)| *at).collect();
            for at in covered {
                contents.clean(at);
            }
        });
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        let range = at.raw() & !7..at.raw().saturating_add(bytes);
        self.with(|contents| {
            let covered: Vec<_> = contents.cache.range(range).map(|(at, _)| *at).collect();
            for at in covered {
                contents.clean(at);
                contents.cache.remove(&at);
            }
        });
    }
}

impl Bus for Ram {
    fn read(&self, at: u64) -> Option<u64> {
        self.with(|contents| contents.word(at).copied())
    }

    fn write(&self, at: u64, value: u64) -> bool {
        self.with(|contents| match contents.word(at) {
            Some(word) => {
                *word = value;
                true
            }
            None => false,
        })
    }
}
