//! What one call does at most, and what it must not do before something else is done.
#![allow(missing_docs)]

mod world;

use portcullis_addr::{Iova, Ipa, PAGE_SIZE, Range};
use portcullis_dma_domain::{Access, DomainId, Iommu, Refusal, Request, Step};
use world::{AT, E, RAM, SMALL, World, world};

/// Pages of 34 MiB: more than two calls let go of.
const MANY: u64 = 0x2200;
const BLOCK: u64 = 0x200;
/// Where they lie, in the second bank.
const THERE: u64 = RAM + 0x20_0000;
/// Where one more page is mapped, and its memory in the first bank.
const OTHER: u64 = AT + 0x1000_0000;

fn to_its_end(world: &mut World<'_>, mut step: Step) -> Step {
    while step == Step::More {
        step = world.domains.go_on();
    }
    step
}

/// How many of the pages are counted as mapped.
fn counted(world: &World<'_>) -> u64 {
    let pages = (0..MANY).map(|page| THERE + page * PAGE_SIZE);
    pages.filter(|page| world.count(*page) != 0).count() as u64
}

/// Everything is mapped, and then the large mapping is taken away, but for its count.
fn taken_away(world: &mut World<'_>) {
    world.attach(0, E).unwrap();
    world.map(0, AT, THERE, MANY).unwrap();
    world.map(0, OTHER, RAM, 1).unwrap();
    let step = world.unmap_later(0, AT, MANY);
    assert_eq!(to_its_end(world, step), Step::AfterSync);
    assert_eq!(counted(world), MANY);
    assert_eq!(world.domains.sync(), Ok(()));
}

/// A call lets go of 16 MiB, or a little more; the next ones of the rest.
#[test]
fn a_call_lets_go_of_a_bounded_number_of_pages() {
    world(SMALL, |world| {
        taken_away(world);
        let mut left = counted(world);
        assert!(left >= MANY - 9 * BLOCK, "{left}");
        for _ in 0..2 {
            let step = world.unmap_later(0, AT, 1);
            assert_eq!(to_its_end(world, step), Step::AfterSync);
            let now = counted(world);
            assert!(left - now <= 9 * BLOCK, "{left} {now}");
            left = now;
        }
        assert_eq!(left, 0);
    });
}

/// While pages that are invalidated are still to be let go of, those of the next request
/// are not put among them: they are invalidated first.
#[test]
fn what_is_not_invalidated_is_not_let_go_of_with_what_is() {
    world(SMALL, |world| {
        taken_away(world);
        let step = world.unmap_later(0, OTHER, 1);
        assert_eq!(to_its_end(world, step), Step::AfterSync);
        for _ in 0..3 {
            assert_eq!(world.count(RAM), 1, "it may be in use until the next sync");
            let nothing = world.unmap_later(0, AT, 1);
            assert_eq!(to_its_end(world, nothing), Step::AfterSync);
        }
        assert_eq!(world.domains.sync(), Ok(()));
        assert_eq!(world.count(RAM), 0);
        assert_eq!(counted(world), 0);
    });
}

/// A request that begins while another is under way is refused, and harms it not.
#[test]
fn one_request_at_a_time() {
    world(SMALL, |world| {
        world.attach(0, E).unwrap();
        let mut step = world.domains.begin(Request::Map {
            domain: DomainId(0),
            iova: Range::from_size(Iova::new(AT), MANY * PAGE_SIZE).unwrap(),
            to: Ipa::new(THERE),
            access: Access::READ,
        });
        assert_eq!(step, Step::More);
        let mut turns = 0;
        while step == Step::More {
            let other = world.unmap_later(0, AT, MANY);
            assert_eq!(other, Step::Done(Err(Refusal::Failed)));
            step = world.domains.go_on();
            turns += 1;
        }
        assert_eq!((step, counted(world)), (Step::Done(Ok(())), MANY));
        assert!(turns > 0);
        assert_eq!(world.unmap(0, AT, MANY), Ok(()));
        let nothing = world.unmap_later(0, AT, 1);
        assert_eq!(to_its_end(world, nothing), Step::AfterSync);
    });
}
