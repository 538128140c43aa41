//! What domains hold of memory, whatever is mapped where: mappings of many sizes,
//! whose addresses and memory need not agree, alone and several at once.

mod world;

use portcullis_addr::PAGE_SIZE;
use portcullis_dma_domain::{Iommu, Refusal};
use proptest::prelude::*;
use std::collections::BTreeMap;
use world::{A, E, HIGH, RAM, SMALL, World, world};

/// All pages of RAM.
const PAGES: u64 = 0x200 + HIGH;
/// Pages of a block.
const BLOCK: u64 = 512;

#[derive(Clone, Debug)]
enum Ask {
    /// Pages from an address on, as pages, to a page of RAM.
    Map(u64, u64, u64),
    /// A mapping by its number, and those that follow it, so many.
    Unmap(usize, usize),
    /// The only endpoint leaves, and comes back: all mappings end.
    Close,
}

/// Pages, near what is a multiple of a block, and of a group.
fn near(blocks: u64) -> impl Strategy<Value = u64> {
    let inside = prop_oneof![
        4 => Just(0u64),
        1 => Just(1u64),
        1 => Just(511u64),
        2 => (0..32u64).prop_map(|n| n * 16),
        2 => 0..BLOCK,
    ];
    (0..blocks, inside).prop_map(|(block, inside)| block * BLOCK + inside)
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 1..20u64,
        2 => (1..40u64).prop_map(|n| n * 16),
        2 => (1..4u64).prop_map(|n| n * BLOCK),
        2 => 1..3 * BLOCK,
        1 => (8..18u64).prop_map(|n| n * BLOCK),
        1 => 8 * BLOCK - 40..8 * BLOCK + 40,
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let map = (near(24), near(19), count());
    prop_oneof![
        12 => map.prop_map(|(at, to, count)| Ask::Map(at, to, count)),
        6 => (0..32usize, 1..4usize).prop_map(|(first, count)| Ask::Unmap(first, count)),
        1 => Just(Ask::Close),
    ]
}

/// Mappings by their first page of address: the first page of RAM, and how many.
type Mappings = BTreeMap<u64, (u64, u64)>;

/// The first page that is not counted as often as it is mapped.
fn differs(world: &World<'_>, mappings: &Mappings) -> Option<(u64, u32)> {
    let mut expected = vec![0; PAGES as usize];
    for (to, count) in mappings.values() {
        for page in *to..to + count {
            expected[page as usize] += 1;
        }
    }
    (0..PAGES).find_map(|page| {
        let count = world.count(RAM + page * PAGE_SIZE);
        (count != expected[page as usize]).then_some((page, count))
    })
}

/// What is not used any more is let go of in parts.
fn settle(world: &mut World<'_>) {
    for _ in 0..8 {
        world.domains.sync().expect("it works");
    }
}

fn run(world: &mut World<'_>, asks: &[Ask]) -> Result<(), TestCaseError> {
    let mut mappings = Mappings::new();
    world.attach(0, E).expect("attached");
    for ask in asks {
        match *ask {
            Ask::Map(at, to, count) => {
                let overlaps = mappings
                    .iter()
                    .any(|(from, (_, pages))| *from < at + count && at < from + pages);
                // The banks touch.
                let is_ram = to + count <= PAGES;
                let expected = match (is_ram, overlaps) {
                    (false, _) => Err(Refusal::NotOwned),
                    (_, true) => Err(Refusal::AlreadyMapped),
                    _ => Ok(()),
                };
                let mapped = world.map(0, at * PAGE_SIZE, RAM + to * PAGE_SIZE, count);
                prop_assert_eq!(mapped, expected);
                if mapped.is_ok() {
                    mappings.insert(at, (to, count));
                }
            }
            Ask::Unmap(first, count) if !mappings.is_empty() => {
                let first = first % mappings.len();
                let gone: Vec<_> = mappings.iter().skip(first).take(count).collect();
                let (from, (last, (_, size))) = (*gone[0].0, gone[gone.len() - 1]);
                let end = last + size;
                let unmapped = world.unmap(0, from * PAGE_SIZE, end - from);
                prop_assert_eq!(unmapped, Ok(()));
                mappings.retain(|at, _| !(from..end).contains(at));
            }
            Ask::Unmap(..) => {}
            Ask::Close => {
                world.detach(0, E).expect("detached");
                world.attach(0, E).expect("attached again");
                mappings.clear();
            }
        }
        settle(world);
        prop_assert_eq!(differs(world, &mappings), None);
    }
    world.detach(0, E).expect("detached");
    settle(world);
    prop_assert_eq!(differs(world, &Mappings::new()), None);
    prop_assert_eq!(world.domains.counts().lost_pages, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn each_page_counts_as_often_as_it_is_mapped(asks in prop::collection::vec(ask(), 1..24)) {
        let mut result = Ok(());
        world(SMALL, |world| result = run(world, &asks));
        result?;
    }
}

/// Sizes that take several pieces and several calls, at every kind of distance
/// between addresses and memory.
#[test]
fn large_mappings_leave_nothing_behind() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        for (at, to) in [
            (0, 0),
            (0, 16),
            (0, 5),
            (511, 0),
            (1, 1),
            (40, 24),
            (496, 511),
        ] {
            for count in [513, 1024, 4096, 8 * BLOCK + 100, 17 * BLOCK] {
                let (at, to) = (BLOCK + at, BLOCK + to);
                world
                    .map(0, at * PAGE_SIZE, RAM + to * PAGE_SIZE, count)
                    .expect("mapped");
                assert_eq!(differs(world, &[(at, (to, count))].into()), None);
                // Refused late, and undone.
                for ahead in [100, BLOCK] {
                    let before = (at - ahead) * PAGE_SIZE;
                    let size = ahead + 1 + count / 2;
                    let refused = world.map(0, before, RAM + to * PAGE_SIZE, size);
                    assert_eq!(refused, Err(Refusal::AlreadyMapped));
                    assert_eq!(differs(world, &[(at, (to, count))].into()), None);
                }
                world.unmap(0, at * PAGE_SIZE, count).expect("unmapped");
                settle(world);
                assert_eq!(differs(world, &Mappings::new()), None, "{at} {to} {count}");
            }
        }
        assert_eq!(world.domains.counts().lost_pages, 0);
        world.attach(1, A).expect("attached");
    });
}
