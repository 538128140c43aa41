//! What a TLB may hold when it never lets go of anything by itself.

use crate::watcher::Watcher;
use portcullis_addr::{Ipa, PhysAddr};
use portcullis_memory::Memory;
use portcullis_pagetable::{Invalidation, Stage2, Table};
use std::collections::{BTreeMap, BTreeSet};

/// What a page maps to, and whether it begins a mapping.
pub type Book = BTreeMap<u64, (u64, bool)>;

const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
/// Blocks from address 0 on that are looked at, all in one table of level 2.
const BLOCKS: u64 = 5;

/// A block, page or contiguous group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Leaf {
    start: u64,
    size: u64,
    level: u8,
    to: u64,
}

/// For 4 KiB pages and tables that start at level 1.
pub struct Stale {
    leaves: BTreeSet<Leaf>,
    /// Tables of pages, with the first address each is for.
    tables: BTreeSet<(u64, u64)>,
}

impl Stale {
    pub fn new() -> Self {
        Self {
            leaves: BTreeSet::new(),
            tables: BTreeSet::new(),
        }
    }

    /// Takes in everything that is there now.
    pub fn look(&mut self, table: &Table<Stage2, &Watcher>) {
        for block in 0..BLOCKS {
            let mut at = block * BLOCK;
            while at < (block + 1) * BLOCK {
                let Ok(mapping) = table.walk(Ipa::new(at)) else {
                    at += PAGE;
                    continue;
                };
                let to = mapping.output.raw();
                let (size, level) = (mapping.size, mapping.level);
                let mut keep = |size: u64| {
                    let before = at & (size - 1);
                    self.leaves.insert(Leaf {
                        start: at - before,
                        size,
                        level,
                        to: to - before,
                    });
                };
                keep(size);
                if mapping.contiguous {
                    keep(size * 16);
                }
                at += size;
            }
        }
        let load = |at| table.memory().load(PhysAddr::new(at));
        let level1 = load(table.root().raw());
        if level1 & 3 == 3 {
            for block in 0..BLOCKS {
                let level2 = load((level1 & 0xffff_ffff_f000) + block * 8);
                if level2 & 3 == 3 {
                    self.tables
                        .insert((block * BLOCK, level2 & 0xffff_ffff_f000));
                }
            }
        }
    }

    /// Invalidations by address as a plan asks for them (IHI 0070, 4.4; DDI
    /// 0487, D8.17.5): one for each stride, for that level if it names one, and
    /// of leaves alone if that is enough.
    pub fn invalidate(&mut self, plan: &Invalidation<Ipa>) {
        let Some(range) = plan.range() else {
            return;
        };
        let (lo, hi, stride) = (range.start().raw(), range.end().raw(), plan.stride());
        // The first of the addresses that is not before `start`.
        let hit = |start: u64, size: u64| {
            let first = lo + start.saturating_sub(lo).next_multiple_of(stride);
            first < hi && first < start + size
        };
        self.leaves.retain(|leaf| {
            let level = plan.level().is_none_or(|level| level == leaf.level);
            !(level && hit(leaf.start, leaf.size))
        });
        if !plan.leaf_only() {
            self.tables.retain(|(start, _)| !hit(*start, BLOCK));
        }
    }

    /// Nothing that is still held says anything but what is mapped.
    pub fn check(&self, watcher: &Watcher, book: &Book) {
        let to = |at: u64| book.get(&(at / PAGE)).map(|(to, _)| *to);
        for leaf in &self.leaves {
            for at in (0..leaf.size).step_by(PAGE as usize) {
                assert_eq!(to(leaf.start + at), Some(leaf.to + at), "{leaf:x?}");
            }
        }
        for &(start, table) in &self.tables {
            assert!(
                watcher.live.borrow().contains_key(&table),
                "the table for {start:#x} is in use"
            );
            for index in 0..512 {
                let entry = watcher.arena.load(PhysAddr::new(table + index * 8));
                if entry & 1 != 0 {
                    let at = start + index * PAGE;
                    assert_eq!(entry & 3, 3);
                    assert_eq!(to(at), Some(entry & 0xffff_ffff_f000), "{at:#x}");
                }
            }
        }
    }
}
