//! Memory as several observers see it.
//!
//! Every word has the value that the CPU stored last and the value that has
//! provably reached the SMMU. Between a store and the publication that covers
//! it, the SMMU may see either, word by word. Without coherency the other
//! direction is loose too: what a device or the SMMU wrote is hidden from the
//! CPU by its own cache until it refreshes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

const WORDS: usize = 512;
/// Banks up to this many pages are indexed by page number.
const FLAT: u64 = 1 << 20;

#[derive(Clone)]
struct Page {
    stored: [u64; WORDS],
    seen: [u64; WORDS],
}

/// The pages of a bank that were ever written.
enum Pages {
    Flat(Vec<Option<Box<Page>>>),
    Sparse(BTreeMap<u64, Box<Page>>),
}

struct Bank {
    range: Range<u64>,
    pages: Pages,
}

impl Bank {
    fn new(range: Range<u64>) -> Self {
        let last = range.end.saturating_sub(1) >> 12;
        let count = last.saturating_sub(range.start >> 12).saturating_add(1);
        let pages = if count <= FLAT {
            Pages::Flat(vec![None; usize::try_from(count).unwrap_or(0)])
        } else {
            Pages::Sparse(BTreeMap::new())
        };
        Self { range, pages }
    }

    fn holds(&self, at: u64, bytes: u64) -> bool {
        self.range.start <= at
            && at
                .checked_add(bytes)
                .is_some_and(|end| end <= self.range.end)
    }

    fn get(&self, at: u64) -> Option<&Page> {
        let page = (at >> 12) - (self.range.start >> 12);
        match &self.pages {
            Pages::Flat(list) => list.get(page as usize)?.as_deref(),
            Pages::Sparse(tree) => tree.get(&page).map(Box::as_ref),
        }
    }

    fn get_mut(&mut self, at: u64) -> Option<&mut Page> {
        let page = (at >> 12) - (self.range.start >> 12);
        let blank = || {
            Box::new(Page {
                stored: [0; WORDS],
                seen: [0; WORDS],
            })
        };
        match &mut self.pages {
            Pages::Flat(list) => {
                let slot = list.get_mut(page as usize)?;
                Some(slot.get_or_insert_with(blank))
            }
            Pages::Sparse(tree) => Some(tree.entry(page).or_insert_with(blank)),
        }
    }
}

struct Inner {
    banks: Vec<Bank>,
    /// Words that were stored and not published.
    pending: BTreeSet<u64>,
    /// Words that a device wrote, with what the CPU's cache still says.
    hidden: BTreeMap<u64, u64>,
    coherent: bool,
}

impl Inner {
    /// The page of an aligned word of memory, `None` if it was never written.
    fn word(&self, at: u64) -> Option<Option<&Page>> {
        if !at.is_multiple_of(8) {
            return None;
        }
        let bank = self.banks.iter().find(|bank| bank.holds(at, 8))?;
        Some(bank.get(at))
    }

    fn word_mut(&mut self, at: u64) -> Option<&mut Page> {
        if !at.is_multiple_of(8) {
            return None;
        }
        let bank = self.banks.iter_mut().find(|bank| bank.holds(at, 8))?;
        bank.get_mut(at)
    }
}

fn slot(at: u64) -> usize {
    (at >> 3) as usize % WORDS
}

/// Physical memory. Addresses outside its banks abort. A clone is another
/// handle to the same memory, for another SMMU that is attached to it.
#[derive(Clone)]
pub struct Ram(Rc<RefCell<Inner>>);

impl Ram {
    /// Zeroed memory in `banks`. Where the SMMUs are `coherent`, publishing
    /// anything publishes everything that was stored before, and a CPU sees
    /// at once what they write; else only the bytes that are named are
    /// published or refreshed.
    #[must_use]
    pub fn new(banks: impl IntoIterator<Item = Range<u64>>, coherent: bool) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            banks: banks.into_iter().map(Bank::new).collect(),
            pending: BTreeSet::new(),
            hidden: BTreeMap::new(),
            coherent,
        })))
    }

    /// Whether all 8 bytes at `at` are memory.
    #[must_use]
    pub fn contains(&self, at: u64) -> bool {
        let inner = self.0.borrow();
        inner.banks.iter().any(|bank| bank.holds(at, 8))
    }

    /// What the CPU reads at `at`; `None` outside memory or if misaligned.
    #[must_use]
    pub fn load(&self, at: u64) -> Option<u64> {
        let inner = self.0.borrow();
        let page = inner.word(at)?;
        if let Some(old) = inner.hidden.get(&at) {
            return Some(*old);
        }
        Some(page.map_or(0, |page| page.stored[slot(at)]))
    }

    /// What the SMMU has seen for certain at `at`, and what it may see.
    pub(crate) fn views(&self, at: u64) -> Option<(u64, u64)> {
        let inner = self.0.borrow();
        let page = inner.word(at)?;
        Some(page.map_or((0, 0), |page| (page.seen[slot(at)], page.stored[slot(at)])))
    }

    /// Stores as a CPU does. `false` outside memory.
    pub(crate) fn store(&mut self, at: u64, value: u64) -> bool {
        let inner = &mut *self.0.borrow_mut();
        let Some(page) = inner.word_mut(at) else {
            return false;
        };
        page.stored[slot(at)] = value;
        if page.seen[slot(at)] == value {
            inner.pending.remove(&at);
        } else {
            inner.pending.insert(at);
        }
        inner.hidden.remove(&at);
        true
    }

    /// Publishes what was stored to `at .. at + bytes`.
    pub(crate) fn publish(&mut self, at: u64, bytes: u64) {
        let inner = &mut *self.0.borrow_mut();
        let done: Vec<u64> = if inner.coherent {
            std::mem::take(&mut inner.pending).into_iter().collect()
        } else {
            let range = at & !7..at.saturating_add(bytes).max(at & !7);
            let done: Vec<u64> = inner.pending.range(range).copied().collect();
            for at in &done {
                inner.pending.remove(at);
            }
            done
        };
        for at in done {
            if let Some(page) = inner.word_mut(at) {
                page.seen[slot(at)] = page.stored[slot(at)];
            }
        }
    }

    /// Makes the CPU read `at .. at + bytes` from memory: an invalidate of its
    /// cache. What it stored there and did not publish is kept (a cache line
    /// may be cleaned at any time, so software must not rely on losing it).
    pub fn refresh(&mut self, at: u64, bytes: u64) {
        let inner = &mut *self.0.borrow_mut();
        if inner.hidden.is_empty() {
            return;
        }
        let range = at & !7..at.saturating_add(bytes).max(at & !7);
        let done: Vec<u64> = inner.hidden.range(range).map(|(at, _)| *at).collect();
        for at in done {
            inner.hidden.remove(&at);
        }
    }

    /// Stores as a device or the SMMU does: every device sees it at once, a
    /// CPU that is not coherent once it refreshes. `false` outside memory.
    pub(crate) fn device_store(&mut self, at: u64, value: u64) -> bool {
        let inner = &mut *self.0.borrow_mut();
        let Some(page) = inner.word_mut(at) else {
            return false;
        };
        let old = page.stored[slot(at)];
        page.stored[slot(at)] = value;
        page.seen[slot(at)] = value;
        inner.pending.remove(&at);
        if !inner.coherent {
            inner.hidden.entry(at).or_insert(old);
        }
        true
    }

    /// The same with the 32 bits at `at`; what the CPU stored beside them stays
    /// as unpublished as it was.
    pub(crate) fn device_store32(&mut self, at: u64, value: u32) -> bool {
        let (word, shift) = (at & !7, 8 * (at & 4));
        if !at.is_multiple_of(4) {
            return false;
        }
        let inner = &mut *self.0.borrow_mut();
        let Some(page) = inner.word_mut(word) else {
            return false;
        };
        let put = |old: u64| old & !(0xffff_ffff << shift) | u64::from(value) << shift;
        let (seen, old) = (page.seen[slot(word)], page.stored[slot(word)]);
        page.seen[slot(word)] = put(seen);
        page.stored[slot(word)] = put(old);
        if put(seen) == put(old) {
            inner.pending.remove(&word);
        }
        if !inner.coherent {
            inner.hidden.entry(word).or_insert(old);
        }
        true
    }

    /// What devices read at `at`: what reached memory for certain.
    pub(crate) fn device_load(&self, at: u64) -> Option<u64> {
        self.views(at).map(|(seen, _)| seen)
    }

    /// Stores a word that every observer sees at once, as memory is when it is
    /// handed out. `false` outside memory.
    pub fn settle(&mut self, at: u64, value: u64) -> bool {
        let inner = &mut *self.0.borrow_mut();
        let Some(page) = inner.word_mut(at) else {
            return false;
        };
        page.stored[slot(at)] = value;
        page.seen[slot(at)] = value;
        inner.pending.remove(&at);
        inner.hidden.remove(&at);
        true
    }
}
