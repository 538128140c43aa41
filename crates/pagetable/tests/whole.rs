//! Mappings that go only as a whole, against a plain map of pages.

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Arena, Memory};
use portcullis_pagetable::{
    Bbm, Error, Execute, Geometry, Granule, MemoryType, Stage2, Stage2Attributes, Table,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

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
        table.map_whole(range(at, PAGE), to, RAM, false).unwrap();
    }
    for index in 0..16 {
        let mapping = table.walk(Ipa::new(index * PAGE)).unwrap();
        assert!(mapping.contiguous, "{index}");
        assert_eq!(mapping.output, PhysAddr::new(0x8000_0000 + index * PAGE));
        assert!(!table.reaches_across(Ipa::new(index * PAGE)));
    }
    // One goes alone, and the other fifteen lose the hint in the same plan.
    let taken = table.take_first(range(5 * PAGE, PAGE)).unwrap().unwrap();
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
                .map_whole(range(index * PAGE, PAGE), to, RAM, false)
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
        .map_whole(
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
    Unmap {
        at: u64,
        pages: u64,
    },
}

/// Most of it near each other, so that groups and blocks come about.
fn op() -> impl Strategy<Value = Op> {
    let at = prop_oneof![0u64..40, 500u64..530, 1020u64..1030];
    let pages = prop_oneof![4 => 1u64..3, 2 => 1u64..40, 1 => Just(512u64), 1 => 500u64..1100];
    // Either in step with the addresses, so that things join, or not.
    let to = prop_oneof![4 => Just(0u64), 1 => Just(1u64), 1 => Just(512u64)];
    prop_oneof![
        (at.clone(), pages.clone(), to, any::<bool>()).prop_map(|(at, pages, to, rest)| Op::Map {
            at,
            pages,
            to,
            rest
        }),
        (at, pages).prop_map(|(at, pages)| Op::Unmap { at, pages }),
    ]
}

/// What a page maps to, and whether it begins a mapping.
type Book = BTreeMap<u64, (u64, bool)>;

fn crosses(book: &Book, page: u64) -> bool {
    book.get(&page).is_some_and(|(_, first)| !first)
}

fn check(table: &Table<Stage2, &Arena>, book: &Book) {
    for page in 0..2200 {
        let at = Ipa::new(page * PAGE);
        let found = table.walk(at).ok().map(|mapping| mapping.output.raw());
        assert_eq!(found, book.get(&page).map(|(to, _)| *to), "page {page}");
        assert_eq!(table.reaches_across(at), crosses(book, page), "page {page}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn it_is_a_map_of_pages(ops in proptest::collection::vec(op(), 1..40), level2: bool) {
        let arena = arena();
        let bbm = if level2 { Bbm::Level2 } else { Bbm::Level0 };
        let mut table = table(&arena, bbm);
        let mut book = Book::new();
        for op in ops {
            match op {
                Op::Map { at, pages, to, rest } => {
                    // A rest goes on with what ends there, as it was mapped.
                    let rest = rest && at > 0 && book.contains_key(&(at - 1));
                    let out = 0x8000_0000 + (at + to) * PAGE;
                    let free = (at..at + pages).all(|page| !book.contains_key(&page));
                    let result =
                        table.map_whole(range(at * PAGE, pages * PAGE), PhysAddr::new(out), RAM, rest);
                    match result {
                        Ok(()) => {
                            prop_assert!(free);
                            for page in 0..pages {
                                let first = page == 0 && !rest;
                                book.insert(at + page, (out + page * PAGE, first));
                            }
                        }
                        Err(Error::AlreadyMapped { .. }) => prop_assert!(!free),
                        Err(other) => panic!("{other}"),
                    }
                }
                Op::Unmap { at, pages } => {
                    let end = at + pages;
                    if crosses(&book, at) || crosses(&book, end) {
                        continue;
                    }
                    let mut from = at;
                    while from < end {
                        let left = range(from * PAGE, (end - from) * PAGE);
                        if let Some(plan) = table.sweep(Some(left)).unwrap() {
                            table.complete(plan).unwrap();
                        }
                        let Some(taken) = table.take_first(left).unwrap() else { break };
                        let first = taken.range.start().raw() / PAGE;
                        let last = taken.range.end().raw() / PAGE;
                        prop_assert!(first >= from && last <= end);
                        prop_assert!((from..first).all(|page| !book.contains_key(&page)));
                        for page in first..last {
                            let (to, _) = book.remove(&page).expect("was mapped");
                            prop_assert_eq!(to, taken.output.raw() + (page - first) * PAGE);
                        }
                        // With level 2, nobody else is disturbed for a moment.
                        prop_assert!(!level2 || !taken.plan.is_broken());
                        table.complete(taken.plan).unwrap();
                        from = last;
                    }
                }
            }
            check(&table, &book);
        }
        while let Some(taken) = table.take_first(range(0, 1 << 39)).unwrap() {
            table.complete(taken.plan).unwrap();
            if let Some(plan) = table.sweep(Some(taken.range)).unwrap() {
                table.complete(plan).unwrap();
            }
        }
        if let Some(plan) = table.sweep(None).unwrap() {
            table.complete(plan).unwrap();
        }
        // The root alone is left.
        prop_assert_eq!(arena.bytes_in_use(), PAGE);
    }
}
