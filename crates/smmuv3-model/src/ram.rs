//! Memory as several observers see it.
//!
//! Every word has the value that the CPU stored last and the value that has
//! provably reached the SMMU. Between a store and the publication that covers
//! it, the SMMU may see either, word by word.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const WORDS: usize = 512;

#[derive(Clone)]
struct Page {
    stored: [u64; WORDS],
    seen: [u64; WORDS],
}

/// Physical memory. Addresses outside its banks abort.
pub struct Ram {
    banks: Vec<Range<u64>>,
    pages: BTreeMap<u64, Box<Page>>,
    pending: BTreeSet<u64>,
    coherent: bool,
}

impl Ram {
    /// Zeroed memory in `banks`. Where the SMMU is `coherent`, publishing
    /// anything publishes everything that was stored before; else only the
    /// bytes that are named.
    #[must_use]
    pub fn new(banks: impl IntoIterator<Item = Range<u64>>, coherent: bool) -> Self {
        Self {
            banks: banks.into_iter().collect(),
            pages: BTreeMap::new(),
            pending: BTreeSet::new(),
            coherent,
        }
    }

    /// Whether all 8 bytes at `at` are memory.
    #[must_use]
    pub fn contains(&self, at: u64) -> bool {
        self.banks
            .iter()
            .any(|bank| bank.start <= at && at.checked_add(8).is_some_and(|end| end <= bank.end))
    }

    fn slot(at: u64) -> (u64, usize) {
        (at >> 12, (at >> 3) as usize % WORDS)
    }

    /// What the CPU reads at `at`; `None` outside memory or if misaligned.
    #[must_use]
    pub fn load(&self, at: u64) -> Option<u64> {
        if !at.is_multiple_of(8) || !self.contains(at) {
            return None;
        }
        let (page, word) = Self::slot(at);
        Some(self.pages.get(&page).map_or(0, |page| page.stored[word]))
    }

    /// What the SMMU has seen for certain at `at`, and what it may see.
    pub(crate) fn views(&self, at: u64) -> Option<(u64, u64)> {
        if !at.is_multiple_of(8) || !self.contains(at) {
            return None;
        }
        let (page, word) = Self::slot(at);
        Some(
            self.pages
                .get(&page)
                .map_or((0, 0), |page| (page.seen[word], page.stored[word])),
        )
    }

    fn page(&mut self, page: u64) -> &mut Page {
        self.pages.entry(page).or_insert_with(|| {
            Box::new(Page {
                stored: [0; WORDS],
                seen: [0; WORDS],
            })
        })
    }

    /// Stores as a CPU does. `false` outside memory.
    pub(crate) fn store(&mut self, at: u64, value: u64) -> bool {
        if !at.is_multiple_of(8) || !self.contains(at) {
            return false;
        }
        let (index, word) = Self::slot(at);
        let page = self.page(index);
        page.stored[word] = value;
        if page.seen[word] == value {
            self.pending.remove(&at);
        } else {
            self.pending.insert(at);
        }
        true
    }

    /// Publishes what was stored to `at .. at + bytes`.
    pub(crate) fn publish(&mut self, at: u64, bytes: u64) {
        let range = if self.coherent {
            0..u64::MAX
        } else {
            at & !7..at.saturating_add(bytes)
        };
        let done: Vec<u64> = self.pending.range(range).copied().collect();
        for at in done {
            let (index, word) = Self::slot(at);
            let page = self.page(index);
            page.seen[word] = page.stored[word];
            self.pending.remove(&at);
        }
    }

    /// Stores a word that every observer sees at once, as the SMMU's own
    /// writes are and as memory is when it is handed out. `false` outside
    /// memory.
    pub fn settle(&mut self, at: u64, value: u64) -> bool {
        if !self.store(at, value) {
            return false;
        }
        let (index, word) = Self::slot(at);
        self.page(index).seen[word] = value;
        self.pending.remove(&at);
        true
    }
}
