//! What a table remembers of itself never shows: one that remembers and one that
//! is made to forget all the time answer alike, and have the same in memory.

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Arena, Memory};
use portcullis_pagetable::{
    Bbm, Error, Execute, Geometry, Granule, Invalidation, MemoryType, Stage2, Stage2Attributes,
    Table,
};
use proptest::prelude::*;

const PAGE: u64 = 0x1000;
const RAM: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Never,
};
const ARENA: PhysAddr = PhysAddr::new(0x1_0000_0000);

fn range(start: u64, size: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(start), size).unwrap()
}

fn arena() -> Arena {
    Arena::new(ARENA, 0x40_0000)
}

fn table(arena: &Arena, bbm: Bbm) -> Table<Stage2, &Arena> {
    let geometry = Geometry::stage2(Granule::Size4K, 39, 40).unwrap();
    Table::new(geometry, bbm, arena).unwrap()
}

/// The end of a table is remembered as the end of a mapping only for as long as
/// it is one.
#[test]
fn a_mapping_that_comes_to_reach_across_a_table_is_seen() {
    const END: u64 = 512 * PAGE;
    let last = range(END - PAGE, PAGE);
    let to = PhysAddr::new(0x8000_1000);
    type Join = fn(&mut Table<Stage2, &Arena>);
    // By one page, by several in one table, and in one call.
    let ways: [Join; 3] = [
        |table| {
            let to = PhysAddr::new(0x8000_2000);
            table.map_recorded(range(END, PAGE), to, RAM, true).unwrap();
        },
        |table| {
            let (rest, to) = (range(END, 3 * PAGE), PhysAddr::new(0x8000_2000));
            table.map_recorded(rest, to, RAM, true).unwrap();
        },
        |table| {
            table.unmap_first(range(END - PAGE, PAGE)).unwrap().unwrap();
            let (both, to) = (range(END - PAGE, 2 * PAGE), PhysAddr::new(0x8000_1000));
            table.map_recorded(both, to, RAM, false).unwrap();
        },
    ];
    for join in ways {
        let arena = arena();
        let mut table = table(&arena, Bbm::Level2);
        let (other, elsewhere) = (range(END + 8 * PAGE, PAGE), PhysAddr::new(0x9000_0000));
        table.map_recorded(other, elsewhere, RAM, false).unwrap();
        for _ in 0..2 {
            // Each unmaps what was there, and moves the hint to that table.
            table.unmap_first(last).unwrap();
            table.map_recorded(last, to, RAM, false).unwrap();
            assert!(!table.reaches_across(Ipa::new(END)));
        }
        join(&mut table);
        // Which moves the hint back, whichever way it was.
        table.visit(last, |_, _| ()).unwrap();
        assert!(table.reaches_across(Ipa::new(END)));
    }
}

/// The same of a block, which can come to cover an address that is remembered.
#[test]
fn a_block_that_comes_to_reach_across_is_seen() {
    const GIB: u64 = 1 << 30;
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    let (page, first) = (range(0, PAGE), PhysAddr::new(0x8000_0000));
    table.map_recorded(page, first, RAM, false).unwrap();
    let (block, to) = (range(7 * GIB, GIB), PhysAddr::new(GIB));
    table.map_recorded(block, to, RAM, false).unwrap();
    table.visit(page, |_, _| ()).unwrap();
    let inside = Ipa::new(5 * GIB + 512 * PAGE);
    assert!(!table.reaches_across(inside));
    table.visit(block, |_, _| ()).unwrap();
    table
        .map_recorded(range(5 * GIB, GIB), to, RAM, false)
        .unwrap();
    table.visit(page, |_, _| ()).unwrap();
    assert!(table.reaches_across(inside));
}

/// Entries just cleared are not looked at again, unless something came.
#[test]
fn what_came_where_a_run_was_is_seen() {
    let (run, to) = (range(16 * PAGE, 32 * PAGE), PhysAddr::new(0x8001_1000));
    let far = PhysAddr::new(0x9000_0000);
    // What comes: the first of them and the last, one page and several.
    for (at, pages) in [(16, 1), (47, 1), (47, 2), (14, 3), (20, 4)] {
        let arena = arena();
        let mut table = table(&arena, Bbm::Level2);
        let between = range(at * PAGE, pages * PAGE);
        table.map_recorded(run, to, RAM, false).unwrap();
        table.unmap_first(run).unwrap().unwrap();
        table.map_recorded(run, to, RAM, false).unwrap();
        table.unmap_first(run).unwrap().unwrap();
        table.map_recorded(between, far, RAM, false).unwrap();
        assert!(matches!(
            table.map_recorded(run, to, RAM, false),
            Err(Error::AlreadyMapped { .. })
        ));
        table.unmap_first(between).unwrap().unwrap();
        // One more than was cleared.
        table.map_recorded(run, to, RAM, false).unwrap();
        let behind = range(48 * PAGE, PAGE);
        table.map_recorded(behind, far, RAM, false).unwrap();
        table.unmap_first(run).unwrap().unwrap();
        assert!(matches!(
            table.map_recorded(range(16 * PAGE, 33 * PAGE), to, RAM, false),
            Err(Error::AlreadyMapped { .. })
        ));
    }
}

/// An address that is in no table of the hint's, and then in it.
#[test]
fn a_mapping_that_comes_to_reach_across_elsewhere_is_seen() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    const THERE: u64 = 512 * PAGE;
    let (here, at) = (range(0, PAGE), THERE + 8 * PAGE);
    for one in [here, range(THERE, PAGE)] {
        let to = PhysAddr::new(0x9000_0000 + one.start().raw());
        table.map_recorded(one, to, RAM, false).unwrap();
    }
    table.visit(here, |_, _| ()).unwrap();
    assert!(!table.reaches_across(Ipa::new(at)));
    let both = range(at - PAGE, 2 * PAGE);
    let to = PhysAddr::new(0x8000_1000);
    table.map_recorded(both, to, RAM, false).unwrap();
    table.visit(here, |_, _| ()).unwrap();
    assert!(table.reaches_across(Ipa::new(at)));
    // Not even an address that is no page's.
    assert!(table.reaches_across(Ipa::new(at + 1)));
}

/// A page comes around an address that it does not begin at.
#[test]
fn a_page_that_comes_around_an_address_reaches_across_it() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    let to = |page| PhysAddr::new(0x8000_0000 + page * PAGE);
    table
        .map_recorded(range(0, PAGE), to(0), RAM, false)
        .unwrap();
    // So that the cache is for the pages around it.
    table.visit(range(0, PAGE), |_, _| ()).unwrap();
    assert!(!table.reaches_across(Ipa::new(8 * PAGE + 8)));
    table
        .map_recorded(range(8 * PAGE, PAGE), to(8), RAM, false)
        .unwrap();
    assert!(table.reaches_across(Ipa::new(8 * PAGE + 8)));
    assert!(!table.reaches_across(Ipa::new(8 * PAGE)));
}

#[test]
fn who_borrows_remembers_nothing_of_the_owner() {
    let shared = range(512 * PAGE, 512 * PAGE);
    let arena = arena();
    let (mut owner, mut user) = (table(&arena, Bbm::Level2), table(&arena, Bbm::Level2));
    let plan = owner.share(shared, 2).unwrap();
    owner.complete(plan).unwrap();
    user.borrow(&owner, shared, 2).unwrap();
    let own = range(0, PAGE);
    let to = PhysAddr::new(0x9000_0000);
    user.map_recorded(own, to, RAM, false).unwrap();
    user.visit(own, |_, _| ()).unwrap();
    let at = shared.start().raw() + 8 * PAGE;
    assert!(!user.reaches_across(Ipa::new(at)));
    let to = PhysAddr::new(0x8000_1000);
    let both = range(at - PAGE, 2 * PAGE);
    owner.map_recorded(both, to, RAM, false).unwrap();
    assert!(user.reaches_across(Ipa::new(at)));
    // Nor does he take away what is the owner's.
    assert!(matches!(
        user.unmap_first(shared),
        Err(Error::Borrowed { .. })
    ));
    assert!(owner.walk(Ipa::new(at)).is_ok());
}

#[derive(Clone, Debug)]
enum Op {
    MapWhole(u64, u64, u64, bool),
    Map(u64, u64, u64),
    Take(u64, u64),
    Sweep(Option<u64>),
    Unmap(u64, u64),
    Protect(u64, u64),
    Split(u64, u64, u8),
    /// What came out of all this goes back.
    Complete,
    /// Moves the hint.
    Visit(u64),
    Ask(u64),
}

/// A page of one of four tables, few of them often.
fn place() -> impl Strategy<Value = u64> {
    let inside = prop_oneof![
        4 => 5u64..11,
        1 => 500u64..512,
        1 => (0u64..32).prop_map(|group| group * 16),
        1 => 0u64..512
    ];
    (0u64..4, inside).prop_map(|(table, inside)| table * 512 + inside)
}

fn op() -> impl Strategy<Value = Op> {
    let pages = prop_oneof![
        4 => Just(1u64),
        3 => 1u64..4,
        1 => 1u64..40,
        1 => Just(512u64),
        1 => 1u64..1100
    ];
    let span = || (place(), pages.clone());
    // One address again and again, with whatever in between.
    let asked = prop::sample::select(vec![8u64, 520, 520, 520, 1024]);
    // In step with the addresses or not.
    let off = prop::sample::select(vec![0u64, 0, 0, 1, 512]);
    prop_oneof![
        5 => (span(), off.clone(), any::<bool>())
            .prop_map(|((at, pages), off, rest)| Op::MapWhole(at, pages, off, rest)),
        1 => (0u64..4).prop_map(|table| Op::MapWhole(table * 512, 512, 0, false)),
        1 => (span(), off).prop_map(|((at, pages), off)| Op::Map(at, pages, off)),
        4 => span().prop_map(|(at, pages)| Op::Take(at, pages)),
        1 => prop::option::of(place()).prop_map(Op::Sweep),
        1 => span().prop_map(|(at, pages)| Op::Unmap(at, pages)),
        1 => span().prop_map(|(at, pages)| Op::Protect(at, pages)),
        1 => (span(), 2u8..4).prop_map(|((at, pages), level)| Op::Split(at, pages, level)),
        3 => Just(Op::Complete),
        4 => place().prop_map(Op::Visit),
        6 => asked.prop_map(Op::Ask),
    ]
}

/// One table, its memory, and what is to be completed.
struct One<'a> {
    table: Table<Stage2, &'a Arena>,
    plans: Vec<Invalidation<Ipa>>,
}

impl One<'_> {
    /// Has it forget what it remembers: whatever begins to change a table does.
    fn forget(&mut self) {
        assert!(self.table.split(range(1 << 50, PAGE), 3).is_err());
    }

    fn keep(&mut self, plan: Result<Invalidation<Ipa>, Error<Ipa>>) -> String {
        plan.map(|plan| {
            let text = format!("{:?} {:?}", plan.range(), plan.level());
            self.plans.push(plan);
            text
        })
        .unwrap_or_else(|error| error.to_string())
    }

    /// What it answers.
    fn perform(&mut self, op: &Op) -> String {
        let pages = |at: u64, count: u64| range(at * PAGE, count * PAGE);
        let to = |at: u64, off: u64| PhysAddr::new(0x8000_0000 + (at + off) * PAGE);
        let read_only = Stage2Attributes {
            write: false,
            ..RAM
        };
        match *op {
            Op::MapWhole(at, count, off, rest) => {
                let done = self
                    .table
                    .map_recorded(pages(at, count), to(at, off), RAM, rest);
                format!("{done:?}")
            }
            Op::Map(at, count, off) => {
                format!("{:?}", self.table.map(pages(at, count), to(at, off), RAM))
            }
            Op::Take(at, count) => match self.table.unmap_first(pages(at, count)) {
                Ok(Some(taken)) => {
                    let text = format!("{:?} {:?}", taken.range, taken.output);
                    text + &self.keep(Ok(taken.plan))
                }
                other => format!("{:?}", other.map(|_| ())),
            },
            Op::Sweep(at) => match self.table.sweep(at.map(|at| pages(at, 1))) {
                Ok(Some(plan)) => self.keep(Ok(plan)),
                other => format!("{:?}", other.map(|_| ())),
            },
            Op::Unmap(at, count) => {
                let plan = self.table.unmap(pages(at, count));
                self.keep(plan)
            }
            Op::Protect(at, count) => {
                let plan = self.table.protect(pages(at, count), read_only);
                self.keep(plan)
            }
            Op::Split(at, count, level) => {
                let plan = self.table.split(pages(at, count), level);
                self.keep(plan)
            }
            Op::Complete => {
                for plan in self.plans.drain(..) {
                    self.table.complete(plan).unwrap();
                }
                String::new()
            }
            Op::Visit(at) => {
                let mut seen = Vec::new();
                let done = self.table.visit(pages(at, 1), |at, mapping| {
                    seen.push((at, mapping.output, mapping.size, mapping.contiguous));
                });
                format!("{done:?} {seen:?}")
            }
            Op::Ask(at) => format!("{}", self.table.reaches_across(Ipa::new(at * PAGE))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn one_that_forgets_answers_alike(
        level2 in prop::bool::weighted(0.7),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let bbm = if level2 { Bbm::Level2 } else { Bbm::Level0 };
        // Few tables, so that some requests have none.
        let arenas = [(); 2].map(|()| Arena::new(ARENA, 24 * PAGE));
        let [mut one, mut other] = [0, 1].map(|index| One {
            table: table(&arenas[index], bbm),
            plans: Vec::new(),
        });
        for (number, op) in ops.iter().enumerate() {
            other.forget();
            prop_assert_eq!(one.perform(op), other.perform(op), "{}: {:?}", number, op);
        }
        for word in 0..24 * PAGE / 8 {
            let at = PhysAddr::new(ARENA.raw() + word * 8);
            prop_assert_eq!(arenas[0].load(at), arenas[1].load(at));
        }
    }
}
