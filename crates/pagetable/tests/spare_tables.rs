//! Pages that become a block, and the table that is kept for it.

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Arena, Memory};
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2, Stage2Attributes, Table,
};
use std::cell::Cell;

const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
const TO: u64 = 0x8000_0000;
const RAM: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Never,
};

/// An arena that can be made to have nothing left.
struct Scarce {
    arena: Arena,
    left: Cell<u64>,
}

impl Scarce {
    fn new() -> Self {
        Self {
            arena: Arena::new(PhysAddr::new(0x1_0000_0000), 0x2000_0000 / 8),
            left: Cell::new(u64::MAX),
        }
    }

    fn pages(&self) -> u64 {
        self.arena.bytes_in_use() / PAGE
    }
}

impl Memory for &Scarce {
    fn load(&self, at: PhysAddr) -> u64 {
        self.arena.load(at)
    }
    fn store(&self, at: PhysAddr, value: u64) {
        self.arena.store(at, value);
    }
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.arena.publish(at, bytes);
    }
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.arena.refresh(at, bytes);
    }
}

impl Allocator for &Scarce {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.left.set(self.left.get().checked_sub(1)?);
        self.arena.allocate(bytes)
    }
    fn free(&self, at: PhysAddr, bytes: u64) {
        self.left.set(self.left.get().saturating_add(1));
        self.arena.free(at, bytes);
    }
}

type Pages<'a> = Table<Stage2, &'a Scarce>;

fn range(start: u64, size: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(start), size).unwrap()
}

fn table(memory: &Scarce, bbm: Bbm) -> Pages<'_> {
    let geometry = Geometry::stage2(Granule::Size4K, 39, 40).unwrap();
    Table::new(geometry, bbm, memory).unwrap()
}

fn map(table: &mut Pages<'_>, start: u64, size: u64) {
    let to = PhysAddr::new(TO + start);
    table
        .map_recorded(range(start, size), to, RAM, false)
        .unwrap();
}

fn is_block(table: &Pages<'_>, at: u64) -> bool {
    table.walk(Ipa::new(at)).is_ok_and(|m| m.size == BLOCK)
}

/// The level-2 entry of a block, by a walk of this test.
fn raw(table: &Pages<'_>, at: u64) -> u64 {
    let memory = table.memory();
    let l1 = memory.load(PhysAddr::new(table.root().raw() + (at >> 30) * 8));
    let l2 = l1 & 0xffff_ffff_f000;
    memory.load(PhysAddr::new(l2 + (at >> 21 & 511) * 8))
}

/// Pages in an order that jumps about.
fn fill(table: &mut Pages<'_>, block: u64) {
    for index in 0..512 {
        map(table, block + (index * 37 % 512) * PAGE, PAGE);
    }
}

fn take(table: &mut Pages<'_>, start: u64, size: u64) -> Range<Ipa> {
    let taken = table.unmap_first(range(start, size)).unwrap().unwrap();
    assert_eq!(taken.output.raw(), TO + taken.range.start().raw());
    assert_eq!(taken.attributes, RAM);
    table.complete(taken.plan).unwrap();
    taken.range
}

#[test]
fn pages_that_come_one_by_one_become_a_block() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    for index in 0..512 {
        assert!(!is_block(&table, 0));
        map(&mut table, BLOCK + (index * 37 % 512) * PAGE, PAGE);
    }
    // Not the table either that was reached last.
    let mut levels = Vec::new();
    let page = range(BLOCK + PAGE, PAGE);
    table
        .visit(page, |_, mapping| levels.push(mapping.level))
        .unwrap();
    assert_eq!(levels, [2]);
    // Table D8-51: XN (54), output, AF, SH, S2AP, MemAttr, block; and bit 58.
    let block = 0x0040_0000_0000_07fd | 1 << 58;
    assert_eq!(raw(&table, BLOCK), (TO + BLOCK) | block);
    let mapping = table.walk(Ipa::new(2 * BLOCK - PAGE)).unwrap();
    assert_eq!((mapping.level, mapping.contiguous), (2, false));
    assert_eq!(mapping.output.raw(), TO + 2 * BLOCK - PAGE);
    assert_eq!(mapping.attributes, RAM);
    // Root, level 2, level 3: the index of a few needs none.
    assert_eq!(memory.pages(), 3);
    for index in 512..=1024 {
        assert!(!table.reaches_across(Ipa::new(index * PAGE)), "{index}");
        assert_eq!(
            table.reaches_across(Ipa::new(index * PAGE + 8)),
            index < 1024
        );
    }
    let mut seen = Vec::new();
    table
        .visit(range(BLOCK, BLOCK), |at, mapping| {
            seen.push((at.raw(), mapping.size));
        })
        .unwrap();
    assert_eq!(seen, [(BLOCK, BLOCK)]);
}

#[test]
fn larger_requests_become_a_block_and_keep_where_they_begin() {
    // Groups that come complete, and some that do not; the last one makes it.
    let cuts = [0, 16, 17, 40, 48, 64, 256, 400, 511, 512];
    for last in 0..cuts.len() - 1 {
        let memory = Scarce::new();
        let mut table = table(&memory, Bbm::Level2);
        let order = (0..cuts.len() - 1).filter(|i| *i != last).chain([last]);
        for index in order {
            assert!(!is_block(&table, 0));
            let (start, end) = (cuts[index] * PAGE, cuts[index + 1] * PAGE);
            map(&mut table, start, end - start);
        }
        assert!(is_block(&table, 0), "{last}");
        for page in 0..512 {
            let begins = cuts.contains(&page);
            assert_eq!(table.reaches_across(Ipa::new(page * PAGE)), !begins);
        }
        table.destroy();
        assert_eq!(memory.pages(), 0);
    }
}

#[test]
fn a_request_over_the_end_of_a_table_joins_both() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    map(&mut table, 0, BLOCK - PAGE);
    map(&mut table, BLOCK + PAGE, BLOCK - PAGE);
    map(&mut table, BLOCK - PAGE, 2 * PAGE);
    assert!(is_block(&table, 0) && is_block(&table, BLOCK));
    // The first page of the second goes on with one of the first.
    for page in 0..1024 {
        let begins = [0, 511, 513].contains(&page);
        assert_eq!(table.reaches_across(Ipa::new(page * PAGE)), !begins);
    }
    let taken = take(&mut table, BLOCK - PAGE, 2 * PAGE);
    assert_eq!(taken, range(BLOCK - PAGE, PAGE));
    let taken = take(&mut table, BLOCK, PAGE);
    assert_eq!(taken, range(BLOCK, PAGE));
    assert!(!is_block(&table, 0) && !is_block(&table, BLOCK));
}

#[test]
fn groups_that_come_complete_over_the_end_of_a_table_join_both() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    let group = 16 * PAGE;
    map(&mut table, 0, BLOCK - group);
    map(&mut table, BLOCK + group, BLOCK - group);
    map(&mut table, BLOCK - group, 2 * group);
    assert!(is_block(&table, 0) && is_block(&table, BLOCK));
}

#[test]
fn a_part_of_a_block_goes_without_memory_and_in_one_plan() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    fill(&mut table, BLOCK);
    memory.left.set(0);
    let page = range(BLOCK + 100 * PAGE, PAGE);
    let taken = table.unmap_first(page).unwrap().unwrap();
    assert_eq!(taken.range, page);
    assert_eq!(taken.output.raw(), TO + BLOCK + 100 * PAGE);
    // Block and pages, and whatever leads there, may be cached.
    assert_eq!(taken.plan.range(), Some(range(BLOCK, BLOCK)));
    assert_eq!((taken.plan.level(), taken.plan.stride()), (None, PAGE));
    assert!(!taken.plan.leaf_only() && !taken.plan.is_broken());
    table.complete(taken.plan).unwrap();
    assert_eq!(memory.pages(), 3);
    for index in 0..512 {
        let found = table.walk(Ipa::new(BLOCK + index * PAGE));
        assert_eq!(found.is_ok(), index != 100);
        assert!(!table.reaches_across(Ipa::new(BLOCK + index * PAGE)));
    }
    // And back again.
    map(&mut table, BLOCK + 100 * PAGE, PAGE);
    assert!(is_block(&table, BLOCK));
}

#[test]
fn several_mappings_of_a_block_go_as_one_run() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    fill(&mut table, 0);
    fill(&mut table, BLOCK);
    // From inside one into the next: up to the end of its table.
    let all = (BLOCK - 20 * PAGE, 60 * PAGE);
    assert_eq!(take(&mut table, all.0, all.1), range(all.0, 20 * PAGE));
    assert!(is_block(&table, BLOCK));
    assert_eq!(take(&mut table, all.0, all.1), range(BLOCK, 40 * PAGE));
    assert!(table.unmap_first(range(all.0, all.1)).unwrap().is_none());
    for page in 0..1024 {
        let gone = (492..552).contains(&page);
        assert_eq!(table.walk(Ipa::new(page * PAGE)).is_err(), gone, "{page}");
    }
}

#[test]
fn a_whole_block_goes_with_its_table_after_the_invalidation() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    for block in 0..3 {
        fill(&mut table, block * BLOCK);
    }
    memory.left.set(0);
    // Two in the range, one at a time.
    let taken = table.unmap_first(range(0, 2 * BLOCK)).unwrap().unwrap();
    assert_eq!(taken.range, range(0, BLOCK));
    assert_eq!(taken.output.raw(), TO);
    assert_eq!(raw(&table, 0), 0);
    assert_eq!(taken.plan.range(), Some(range(0, BLOCK)));
    assert_eq!((taken.plan.level(), taken.plan.stride()), (None, PAGE));
    assert!(!taken.plan.leaf_only() && !taken.plan.is_broken());
    assert_eq!(memory.pages(), 5);
    table.complete(taken.plan).unwrap();
    assert_eq!(memory.pages(), 4);
    // One block, as a request of exactly its size, with a hint for its table.
    table.visit(range(BLOCK, BLOCK), |_, _| ()).unwrap();
    let taken = table.unmap_first(range(BLOCK, BLOCK)).unwrap().unwrap();
    assert!(!taken.plan.leaf_only());
    table.complete(taken.plan).unwrap();
    assert_eq!(memory.pages(), 3);
    assert_eq!(take(&mut table, 2 * BLOCK, BLOCK), range(2 * BLOCK, BLOCK));
    assert_eq!(memory.pages(), 1);
}

#[test]
fn the_general_operations_know_kept_tables() {
    let read_only = Stage2Attributes {
        write: false,
        ..RAM
    };
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    for block in 0..4 {
        fill(&mut table, block * BLOCK);
    }
    memory.left.set(0);
    // A hole beside a block: refused, and the block is untouched.
    let refused = table.protect(range(3 * BLOCK + PAGE, BLOCK), read_only);
    assert!(refused.is_err() && is_block(&table, 3 * BLOCK));
    // Level 2 is what it is at.
    let plan = table.split(range(0, 4 * BLOCK), 2).unwrap();
    assert!(plan.is_empty() && is_block(&table, 0));
    let plan = table.split(range(0, BLOCK), 3).unwrap();
    assert_eq!(plan.range(), Some(range(0, BLOCK)));
    table.complete(plan).unwrap();
    assert!(!table.walk(Ipa::new(0)).unwrap().contiguous);
    let plan = table.protect(range(BLOCK, 2 * BLOCK), read_only).unwrap();
    assert_eq!(plan.range(), Some(range(BLOCK, 2 * BLOCK)));
    assert!(!plan.leaf_only() && !plan.is_broken());
    table.complete(plan).unwrap();
    for page in 512..1536 {
        let mapping = table.walk(Ipa::new(page * PAGE)).unwrap();
        assert_eq!(mapping.attributes, read_only);
    }
    // All of it, one block still being one, and the table of level 2 inside
    // the range as a whole.
    let plan = table.unmap(range(0, 1 << 31)).unwrap();
    assert_eq!(plan.range(), Some(range(0, 1 << 30)));
    table.complete(plan).unwrap();
    assert_eq!(memory.pages(), 1);
}

#[test]
fn exactly_one_block_is_unmapped_with_its_table() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    fill(&mut table, 0);
    fill(&mut table, BLOCK);
    map(&mut table, 2 * BLOCK, BLOCK);
    let plan = table.unmap(range(BLOCK, BLOCK)).unwrap();
    assert!(!plan.leaf_only());
    table.complete(plan).unwrap();
    assert_eq!(memory.pages(), 3);
    // A run of blocks, the first of which has one.
    let plan = table.unmap(range(0, 3 * BLOCK)).unwrap();
    table.complete(plan).unwrap();
    assert_eq!(memory.pages(), 1);
}

#[test]
fn what_does_not_belong_together_stays_pages() {
    let memory = Scarce::new();
    let odd = Stage2Attributes {
        write: false,
        ..RAM
    };
    // One group elsewhere; one read-only; all shifted by a group; a hole.
    for case in 0..4u64 {
        let mut table = table(&memory, Bbm::Level2);
        for group in 0..32u64 {
            let mut to = TO + group * 16 * PAGE;
            let mut attributes = RAM;
            match (case, group) {
                (0, 9) => to += BLOCK,
                (1, 9) => attributes = odd,
                (2, _) => to += 16 * PAGE,
                (3, 9) => continue,
                _ => {}
            }
            let range = range(group * 16 * PAGE, 16 * PAGE);
            table
                .map_recorded(range, PhysAddr::new(to), attributes, false)
                .unwrap();
        }
        assert!(table.walk(Ipa::new(0)).unwrap().contiguous);
        assert!(!is_block(&table, 0), "{case}");
        table.destroy();
    }
}

#[test]
fn nothing_is_joined_where_the_hardware_would_notice() {
    for bbm in [Bbm::Level0, Bbm::Level1] {
        let memory = Scarce::new();
        let mut table = table(&memory, bbm);
        for group in 0..32 {
            map(&mut table, group * 16 * PAGE, 16 * PAGE);
        }
        assert!(table.walk(Ipa::new(0)).unwrap().contiguous);
        assert!(!is_block(&table, 0));
    }
}

#[test]
fn tables_that_are_lent_stay() {
    // The table itself, and one further up.
    for (size, level) in [(BLOCK, 2), (1 << 30, 1)] {
        let memory = Scarce::new();
        let mut table = table(&memory, Bbm::Level2);
        let plan = table.share(range(0, size), level).unwrap();
        table.complete(plan).unwrap();
        fill(&mut table, 0);
        assert!(table.walk(Ipa::new(0)).unwrap().contiguous);
        assert!(!is_block(&table, 0), "{level}");
    }
}

#[test]
fn a_block_can_be_lent_as_its_table() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    fill(&mut table, 0);
    let plan = table.share(range(0, BLOCK), 2).unwrap();
    assert_eq!(plan.range(), Some(range(0, BLOCK)));
    table.complete(plan).unwrap();
    assert!(!is_block(&table, 0));
    table.destroy();
    assert_eq!(memory.pages(), 0);
}

#[test]
fn without_memory_the_pages_stay() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    // The index of these needs none.
    for block in 0..24 {
        map(&mut table, block * BLOCK, PAGE);
        memory.left.set(0);
        map(&mut table, block * BLOCK + PAGE, BLOCK - PAGE);
        assert!(is_block(&table, block * BLOCK));
        memory.left.set(1);
    }
    let last = 24 * BLOCK;
    map(&mut table, last, PAGE);
    assert_eq!(memory.left.get(), 0);
    for page in 1..512 {
        map(&mut table, last + page * PAGE, PAGE);
    }
    assert!(!is_block(&table, last));
    assert!(table.walk(Ipa::new(last)).unwrap().contiguous);
    assert_eq!(memory.pages(), 2 + 25);
    // Where there is some, there is one page more, less than a twentieth.
    let plan = table.unmap(range(last, PAGE)).unwrap();
    table.complete(plan).unwrap();
    memory.left.set(1);
    map(&mut table, last, PAGE);
    assert!(is_block(&table, last));
    assert_eq!(memory.pages(), 2 + 25 + 1);
}

/// More than the index has room for.
#[test]
fn an_index_that_is_full_is_no_error() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    let blocks: Vec<u64> = (0..3200).map(|n| n * BLOCK).collect();
    for &block in &blocks {
        map(&mut table, block, 256 * PAGE);
        map(&mut table, block + 256 * PAGE, 256 * PAGE);
    }
    let joined = |table: &Pages<'_>| blocks.iter().filter(|b| is_block(table, **b)).count();
    assert_eq!(joined(&table), 24 + 8 * 384);
    // Root, level 2, level 3, and the index, 1/384 of these.
    assert_eq!(memory.pages(), 1 + 7 + 3200 + 8);
    memory.left.set(0);
    // Every third, so that the pages of the index have holes.
    for &block in blocks.iter().step_by(3) {
        assert_eq!(take(&mut table, block, BLOCK), range(block, BLOCK));
    }
    for &block in &blocks {
        let middle = table.reaches_across(Ipa::new(block + 256 * PAGE));
        let inside = table.reaches_across(Ipa::new(block + 255 * PAGE));
        let there = !(block / BLOCK).is_multiple_of(3);
        assert_eq!((middle, inside), (false, there), "{block:#x}");
    }
    memory.left.set(u64::MAX);
    for &block in blocks.iter().step_by(3) {
        map(&mut table, block, 256 * PAGE);
        map(&mut table, block + 256 * PAGE, 256 * PAGE);
    }
    assert_eq!(joined(&table), 24 + 8 * 384);
    memory.left.set(0);
    for &block in blocks.iter().rev() {
        assert_eq!(take(&mut table, block, BLOCK), range(block, BLOCK));
    }
    if let Some(plan) = table.sweep(None).unwrap() {
        table.complete(plan).unwrap();
    }
    assert_eq!(memory.pages(), 1);
}

#[test]
fn a_table_that_is_given_up_frees_all_it_kept() {
    let memory = Scarce::new();
    let mut table = table(&memory, Bbm::Level2);
    for block in (0..30).chain([511, 512, 1024]) {
        fill(&mut table, block * BLOCK);
    }
    table.destroy();
    assert_eq!(memory.pages(), 0);
}
