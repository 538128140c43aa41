//! What each domain maps and where each endpoint is, as it must be by what was
//! asked for: the oracle's own books of paravirtual mode, which share nothing
//! with the code under test but the words of its requests.

use crate::map::{PAGES, RAM};
use portcullis_addr::PAGE_SIZE;
use portcullis_dma_domain::Access;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) to: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Registers: nobody's page.
    pub(crate) mmio: bool,
}

impl Mapping {
    pub(crate) fn new(start: u64, end: u64, to: u64, access: Access) -> Self {
        let mmio = access.contains(Access::MMIO);
        Self {
            start,
            end,
            to,
            // Registers may only be written.
            read: access.contains(Access::READ) && !mmio,
            write: access.contains(Access::WRITE) || mmio,
            mmio,
        }
    }

    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

/// A translation that a device could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leaf {
    pub(crate) input: u64,
    pub(crate) size: u64,
    pub(crate) output: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// One domain, from its first endpoint to its last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub(crate) id: u32,
    /// By the first address: these are there.
    pub(crate) live: BTreeMap<u64, Mapping>,
    /// Under way, or taken away since the last completed wait: may be there.
    pub(crate) fleeting: Vec<Mapping>,
    /// Of a failure of the hardware: may be there for ever.
    pub(crate) kept: Vec<Mapping>,
    /// The hardware failed it, and it may do nothing any more.
    pub(crate) doubt: bool,
}

impl Book {
    fn all(&self) -> impl Iterator<Item = &Mapping> {
        let rest = self.fleeting.iter().chain(&self.kept);
        self.live.values().chain(rest)
    }

    pub(crate) fn overlapping(&self, start: u64, end: u64) -> Option<&Mapping> {
        let before = self.live.range(..end).next_back();
        before.map(|(_, m)| m).filter(|m| m.overlaps(start, end))
    }

    /// Nobody knows any more what is there of it.
    pub(crate) fn doubt(&mut self) {
        self.doubt = true;
        self.kept
            .extend(std::mem::take(&mut self.live).into_values());
    }

    /// The same, and what was taken away may be in use for ever.
    pub(crate) fn keep(&mut self) {
        self.doubt();
        self.kept.append(&mut self.fleeting);
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Every domain that there ever was.
    pub(crate) all: Vec<Book>,
    /// Those that there are, by number.
    pub(crate) current: BTreeMap<u32, usize>,
    /// Which of [`all`](Self::all) an endpoint is in.
    pub(crate) at: BTreeMap<u32, usize>,
    /// The same while it moves, and after hardware failed to move it.
    pub(crate) also: BTreeSet<(u32, usize)>,
    pub(crate) limbo: BTreeSet<(u32, usize)>,
    /// Memory that stays held for ever.
    pub(crate) lost: Vec<Mapping>,
    /// Memory that nobody uses any more and that is let go of piece by piece,
    /// and how many bytes of it are left.
    releasing: (Vec<Mapping>, u64),
}

/// Bytes that one call lets go of.
const RELEASE: u64 = 16 << 20;

impl Books {
    /// The domain of that number.
    pub(crate) fn book(&self, id: u32) -> Option<&Book> {
        self.current.get(&id).map(|index| &self.all[*index])
    }

    pub(crate) fn book_mut(&mut self, id: u32) -> Option<&mut Book> {
        self.current.get(&id).map(|index| &mut self.all[*index])
    }

    /// Number of the domain that an endpoint is in.
    pub(crate) fn id_of(&self, endpoint: u32) -> Option<u32> {
        self.at.get(&endpoint).map(|index| self.all[*index].id)
    }

    /// A new domain with these doorbells.
    pub(crate) fn create(&mut self, id: u32, doorbells: &[Mapping]) -> usize {
        let live = doorbells.iter().map(|bell| (bell.start, *bell));
        self.all.push(Book {
            id,
            live: live.collect(),
            ..Book::default()
        });
        self.current.insert(id, self.all.len() - 1);
        self.all.len() - 1
    }

    /// A domain is gone, with all that was in it.
    pub(crate) fn close(&mut self, index: usize) {
        let book = &mut self.all[index];
        let id = book.id;
        if self.current.get(&id) == Some(&index) {
            self.current.remove(&id);
        }
        if book.doubt {
            // What is still there of it stays for ever.
            book.keep();
        } else {
            book.live.clear();
            book.fleeting.clear();
        }
    }

    /// Which domains an endpoint may translate by.
    pub(crate) fn of(&self, endpoint: u32) -> BTreeSet<usize> {
        let more = self.also.iter().chain(&self.limbo);
        let more = more.filter(|(e, _)| *e == endpoint).map(|(_, at)| *at);
        self.at
            .get(&endpoint)
            .copied()
            .into_iter()
            .chain(more)
            .collect()
    }

    /// The first address of `leaf` at which it is nothing that the domains of
    /// `among` map.
    pub(crate) fn first_wrong(&self, among: &BTreeSet<usize>, leaf: &Leaf) -> Option<u64> {
        let end = leaf.input + leaf.size;
        let mut at = leaf.input;
        while at < end {
            let to = leaf.output + (at - leaf.input);
            let fits = |m: &&Mapping| {
                m.start <= at
                    && at < m.end
                    && m.to + (at - m.start) == to
                    && (m.read || !leaf.read)
                    && (m.write || !leaf.write)
            };
            let mut mappings = among.iter().flat_map(|index| self.all[*index].all());
            at = match mappings.find(fits) {
                Some(mapping) => mapping.end,
                None => return Some(at),
            };
        }
        None
    }

    /// What the domains of `among` may lead to: outputs.
    pub(crate) fn outputs(&self, among: &BTreeSet<usize>) -> Vec<Range<u64>> {
        let all = among.iter().flat_map(|index| self.all[*index].all());
        all.map(|m| m.to..m.to + (m.end - m.start)).collect()
    }

    /// Everything that was taken away is in use no more: it is let go of, now or
    /// with the next calls.
    pub(crate) fn release(&mut self) {
        let mut gone = Vec::new();
        for book in &mut self.all {
            gone.append(&mut book.fleeting);
        }
        gone.retain(|m| !m.mmio);
        self.releasing.1 += gone.iter().map(|m| m.end - m.start).sum::<u64>();
        self.releasing.0.append(&mut gone);
        self.release_more();
    }

    /// One call more.
    pub(crate) fn release_more(&mut self) {
        self.releasing.1 = self.releasing.1.saturating_sub(RELEASE);
        if self.releasing.1 == 0 {
            self.releasing.0.clear();
        }
    }

    /// How often each page of RAM is held for mappings, at least and at most.
    pub(crate) fn holds(&self) -> Vec<(u32, u32)> {
        let mut pages = vec![(0, 0); PAGES as usize];
        let mut add = |m: &Mapping, least: u32| {
            if m.mmio {
                return;
            }
            let to = m.to + (m.end - m.start);
            let first = m.to.saturating_sub(RAM.start) / PAGE_SIZE;
            let last = to.saturating_sub(RAM.start) / PAGE_SIZE;
            let inside = first.min(PAGES) as usize..last.min(PAGES) as usize;
            for page in &mut pages[inside] {
                *page = (page.0 + least, page.1 + 1);
            }
        };
        for book in &self.all {
            book.live.values().for_each(|m| add(m, 1));
            book.fleeting.iter().for_each(|m| add(m, 0));
            book.kept.iter().for_each(|m| add(m, 0));
        }
        self.releasing.0.iter().for_each(|m| add(m, 0));
        self.lost.iter().for_each(|m| add(m, 1));
        pages
    }

    /// Bytes of tables that these domains need at most, each with a root of so
    /// many bytes. One table that is empty may stay in each with the one above it,
    /// since a driver that unmaps its last page often maps another one soon.
    pub(crate) fn table_bytes(&self, root: u64) -> u64 {
        let bytes = |index: &usize| {
            let live = self.all[*index].live.values();
            let mut tables = BTreeSet::new();
            for m in live {
                for shift in [21, 30] {
                    tables.extend((m.start >> shift..=(m.end - 1) >> shift).map(|n| (shift, n)));
                }
            }
            root + (tables.len() as u64 + 2) * PAGE_SIZE
        };
        self.current.values().map(bytes).sum()
    }
}
