//! Mappings that go only as a whole, against a plain map of pages.

mod stale;
mod watcher;

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Arena, Memory};
use portcullis_pagetable::{
    Bbm, Error, Execute, Format, Geometry, Granule, Invalidation, MemoryType, Stage2,
    Stage2Attributes, Table,
};
use proptest::prelude::*;
use stale::{Book, Stale};
use watcher::{Probe, Watcher};

const PAGE: u64 = 0x1000;
const RAM: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Never,
};

fn range(start: u64, size: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(start), size).unwrap()
}

fn table(arena: &Arena, bbm: Bbm) -> Table<Stage2, &Arena> {
    let geometry = Geometry::stage2(Granule::Size4K, 39, 40).unwrap();
    Table::new(geometry, bbm, arena).unwrap()
}

fn arena() -> Arena {
    Arena::new(PhysAddr::new(0x1_0000_0000), 0x40_0000)
}

#[test]
fn single_pages_that_belong_together_get_the_hint_one_by_one() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    // In any order, the last of the sixteen makes the group.
    for index in [3, 0, 15, 7, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14] {
        assert!(!table.walk(Ipa::new(0x3000)).is_ok_and(|m| m.contiguous));
        let at = index * PAGE;
        let to = PhysAddr::new(0x8000_0000 + at);
        table.map_recorded(range(at, PAGE), to, RAM, false).unwrap();
    }
    for index in 0..16 {
        let mapping = table.walk(Ipa::new(index * PAGE)).unwrap();
        assert!(mapping.contiguous, "{index}");
        assert_eq!(mapping.output, PhysAddr::new(0x8000_0000 + index * PAGE));
        assert!(!table.reaches_across(Ipa::new(index * PAGE)));
    }
    // One goes alone, and the other fifteen lose the hint in the same plan.
    let taken = table.unmap_first(range(5 * PAGE, PAGE)).unwrap().unwrap();
    assert_eq!(taken.plan.range(), Some(range(0, 16 * PAGE)));
    assert!(!taken.plan.is_broken());
    assert_eq!(taken.range, range(5 * PAGE, PAGE));
    assert_eq!(taken.output, PhysAddr::new(0x8000_5000));
    table.complete(taken.plan).unwrap();
    assert!(!table.walk(Ipa::new(0)).unwrap().contiguous);
    assert!(table.walk(Ipa::new(5 * PAGE)).is_err());
}

#[test]
fn nothing_is_joined_where_the_hardware_would_notice() {
    for bbm in [Bbm::Level0, Bbm::Level1] {
        let arena = arena();
        let mut table = table(&arena, bbm);
        for index in 0..16 {
            let to = PhysAddr::new(0x8000_0000 + index * PAGE);
            table
                .map_recorded(range(index * PAGE, PAGE), to, RAM, false)
                .unwrap();
        }
        assert!(!table.walk(Ipa::new(0)).unwrap().contiguous);
    }
}

#[test]
fn the_bit_of_a_mapping_is_57() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    table
        .map_recorded(
            range(PAGE, 3 * PAGE),
            PhysAddr::new(0x8000_0000),
            RAM,
            false,
        )
        .unwrap();
    let l2 = arena.load(table.root()) & 0xffff_ffff_f000;
    let l3 = arena.load(PhysAddr::new(l2)) & 0xffff_ffff_f000;
    let entries: Vec<u64> = (0..5)
        .map(|i| arena.load(PhysAddr::new(l3 + i * 8)))
        .collect();
    // Table D8-52: XN (54), AF, SH, S2AP, MemAttr, page.
    let page = 0x0040_0000_0000_07ff;
    assert_eq!(
        entries,
        [
            0,
            0x8000_0000 | page,
            0x8000_1000 | page | 1 << 57,
            0x8000_2000 | page | 1 << 57,
            0
        ]
    );
}

#[derive(Clone, Debug)]
enum Op {
    Map {
        at: u64,
        pages: u64,
        to: u64,
        rest: bool,
    },
    /// Maps what is not mapped in a block, in pieces that end at the cuts, each
    /// a step after the one before.
    Fill {
        block: u64,
        cuts: Vec<u64>,
        step: u64,
    },
    Unmap {
        at: u64,
        pages: u64,
    },
}

/// Most of it near each other, so that groups and blocks come about.
fn op() -> impl Strategy<Value = Op> {
    let at = prop_oneof![0u64..40, 500u64..530, 1020u64..1030, Just(512)];
    let pages = prop_oneof![4 => 1u64..3, 2 => 1u64..40, 1 => Just(512u64), 1 => 500u64..1100];
    // Either in step with the addresses, so that things join, or not.
    let to = prop_oneof![4 => Just(0u64), 1 => Just(1u64), 1 => Just(512u64)];
    let cut = prop_oneof![1u64..512, (0u64..32).prop_map(|group| group * 16)];
    let cuts = proptest::collection::vec(cut, 0..30);
    prop_oneof![
        3 => (at.clone(), pages.clone(), to, any::<bool>()).prop_map(|(at, pages, to, rest)| Op::Map {
            at,
            pages,
            to,
            rest
        }),
        2 => (0u64..3, cuts, 0u64..64).prop_map(|(block, cuts, step)| Op::Fill {
            block,
            cuts,
            step: 2 * step + 1,
        }),
        3 => (at, pages).prop_map(|(at, pages)| Op::Unmap { at, pages }),
    ]
}

/// The pieces of a block that [`Op::Fill`] maps, in its order.
fn pieces(book: &Book, block: u64, cuts: &[u64], step: u64) -> Vec<(u64, u64)> {
    let start = block * 512;
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for page in start..start + 512 {
        if book.contains_key(&page) {
            continue;
        }
        match pieces.last_mut() {
            Some((at, pages)) if *at + *pages == page && !cuts.contains(&(page - start)) => {
                *pages += 1;
            }
            _ => pieces.push((page, 1)),
        }
    }
    // An odd step visits each place of a power of two once.
    let places = pieces.len().next_power_of_two() as u64;
    let place = |n| (n * step % places) as usize;
    let order = (0..places).filter_map(|n| pieces.get(place(n)));
    order.copied().collect()
}

fn crosses(book: &Book, page: u64) -> bool {
    book.get(&page).is_some_and(|(_, first)| !first)
}

/// Everything that is looked at.
struct World<'a> {
    watcher: &'a Watcher,
    table: Table<Stage2, &'a Watcher>,
    book: Book,
    stale: Stale,
    level2: bool,
}

impl World<'_> {
    fn check(&mut self) {
        self.watcher.probes.borrow_mut().clear();
        for page in 0..2200 {
            let at = Ipa::new(page * PAGE);
            let found = self.watcher.walk(at.raw()).map(|(to, _)| to);
            let expected = self.book.get(&page).map(|(to, _)| *to);
            assert_eq!(found, expected, "page {page}");
            let across = crosses(&self.book, page);
            assert_eq!(self.table.reaches_across(at), across, "page {page}");
        }
        self.stale.check(self.watcher, &self.book);
        self.stale.look(&self.table);
    }

    /// Before an operation on some pages: what may be seen there while it runs.
    /// Elsewhere nothing changes.
    fn probe(&self, at: u64, pages: u64, to: Option<u64>) {
        let end = at + pages;
        let mut near = vec![at, at + pages / 2, end - 1];
        for edge in [at, end - 1] {
            near.extend([edge.saturating_sub(1), edge + 1]);
            for size in [16, 512] {
                let start = edge / size * size;
                near.extend([
                    start.saturating_sub(1),
                    start,
                    start + size - 1,
                    start + size,
                ]);
            }
        }
        near.sort_unstable();
        near.dedup();
        let bits = Stage2::encode(RAM);
        let probe = |page| {
            let old = self.book.get(&page).map(|(to, _)| (*to, bits));
            let inside = (at..end).contains(&page);
            let new = match to {
                Some(to) if inside => Some((to + (page - at) * PAGE, bits)),
                _ => old,
            };
            Probe {
                address: page * PAGE,
                old,
                // What is there already is refused.
                new: old.or(new),
                // Without level 2, a group faults for a moment.
                may_fault: to.is_none() && (inside || !self.level2),
            }
        };
        *self.watcher.probes.borrow_mut() = near.into_iter().map(probe).collect();
    }

    fn map(&mut self, at: u64, pages: u64, to: u64, rest: bool) {
        // A rest goes on with what ends there, as it was mapped.
        let rest = rest && at > 0 && self.book.contains_key(&(at - 1));
        let out = 0x8000_0000 + (at + to) * PAGE;
        let free = (at..at + pages).all(|page| !self.book.contains_key(&page));
        let whole = range(at * PAGE, pages * PAGE);
        self.probe(at, pages, Some(out));
        let used = self.watcher.arena.bytes_in_use();
        match self
            .table
            .map_recorded(whole, PhysAddr::new(out), RAM, rest)
        {
            Ok(()) => {
                assert!(free);
                for page in 0..pages {
                    let first = page == 0 && !rest;
                    self.book.insert(at + page, (out + page * PAGE, first));
                }
            }
            Err(Error::AlreadyMapped { .. }) => assert!(!free),
            Err(Error::OutOfMemory) => {
                assert_eq!(self.watcher.arena.bytes_in_use(), used);
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// What is cached after the invalidation agrees with what is there now, and
    /// is so before anything is freed, and after it.
    fn complete(&mut self, plan: Invalidation<Ipa>) {
        self.stale.invalidate(&plan);
        self.stale.check(self.watcher, &self.book);
        // With level 2, nobody else is disturbed for a moment.
        assert!(!self.level2 || !plan.is_broken());
        self.table.complete(plan).unwrap();
        self.stale.check(self.watcher, &self.book);
    }

    fn sweep(&mut self, spared: Option<Range<Ipa>>) {
        if let Some(plan) = self.table.sweep(spared).unwrap() {
            self.complete(plan);
        }
    }

    fn unmap(&mut self, at: u64, pages: u64) {
        let end = at + pages;
        if crosses(&self.book, at) || crosses(&self.book, end) {
            return;
        }
        let mut from = at;
        while from < end {
            let left = range(from * PAGE, (end - from) * PAGE);
            self.probe(from, end - from, None);
            self.sweep(Some(left));
            // Whatever memory there is: nothing here needs any.
            let Some(taken) = self.table.unmap_first(left).unwrap() else {
                break;
            };
            let first = taken.range.start().raw() / PAGE;
            let last = taken.range.end().raw() / PAGE;
            assert!(first >= from && last <= end);
            assert!((from..first).all(|page| !self.book.contains_key(&page)));
            for page in first..last {
                let (to, _) = self.book.remove(&page).expect("was mapped");
                assert_eq!(to, taken.output.raw() + (page - first) * PAGE);
            }
            self.complete(taken.plan);
            from = last;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn it_is_a_map_of_pages(
        ops in proptest::collection::vec(op(), 1..40),
        level2 in prop_oneof![3 => Just(true), 1 => Just(false)],
        tables in prop_oneof![3 => Just(1000u64), 1 => 1u64..9],
    ) {
        let watcher = Watcher::new(0x40_0000, tables);
        let geometry = Geometry::stage2(Granule::Size4K, 39, 40).unwrap();
        let bbm = if level2 { Bbm::Level2 } else { Bbm::Level0 };
        let table = Table::new(geometry, bbm, &watcher).unwrap();
        let root = table.root().raw();
        watcher.tables.set(Some((geometry, root, Stage2::MASK)));
        let (book, stale) = (Book::new(), Stale::new());
        let mut world = World { watcher: &watcher, table, book, stale, level2 };
        for op in ops {
            match op {
                Op::Map { at, pages, to, rest } => world.map(at, pages, to, rest),
                Op::Fill { block, cuts, step } => {
                    for (at, pages) in pieces(&world.book, block, &cuts, step) {
                        world.map(at, pages, 0, false);
                    }
                }
                Op::Unmap { at, pages } => world.unmap(at, pages),
            }
            world.check();
        }
        let World { mut table, .. } = world;
        while let Some(taken) = table.unmap_first(range(0, 1 << 39)).unwrap() {
            table.complete(taken.plan).unwrap();
            if let Some(plan) = table.sweep(Some(taken.range)).unwrap() {
                table.complete(plan).unwrap();
            }
        }
        if let Some(plan) = table.sweep(None).unwrap() {
            table.complete(plan).unwrap();
        }
        // The root alone is left.
        prop_assert_eq!(watcher.arena.bytes_in_use(), PAGE);
    }
}
