//! More domains than always have room.
//!
//! What a host needs so many for, and public sources: `testbed/tests/many_groups.rs`.

mod world;

use portcullis_addr::PAGE_SIZE;
use portcullis_dma_domain::{DomainId, Endpoint, Iommu, Refusal, Step};
use portcullis_isolation::Trouble;
use std::collections::BTreeSet;
use world::{AT, RAM, SMALL, Shape, world};

/// Room for 520 domains: eight at once, 128 pieces of four.
const MANY: Shape = Shape {
    domains: 1000,
    first: 8,
    pieces: 128,
    directories: 1,
    bytes: 0x200_0000,
    doorbells: &[0x808_0000],
};

fn page(domain: u32) -> u64 {
    RAM + u64::from(domain) * PAGE_SIZE
}

/// Each of 512 groups has a domain of its own, with a page of its own.
#[test]
fn each_of_512_groups_has_its_own_domain() {
    world(MANY, |world| {
        for group in 0..512 {
            world.attach(group, Endpoint(group)).expect("attached");
            world.map(group, AT, page(group), 1).expect("mapped");
        }
        let roots: BTreeSet<_> = (0..512).map(|group| world.root_of(0, group)).collect();
        assert_eq!(roots.len(), 512);
        assert!(!roots.contains(&None));
        assert_eq!(world.pieces.get(), 2);
        let numbers: Vec<_> = world.domains.iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, (0..512).collect::<Vec<_>>());
        // An unmapping in one takes nothing from the others.
        for group in (0..512).step_by(7) {
            world.unmap(group, AT, 1).expect("unmapped");
        }
        for group in 0..512 {
            let held = u32::from(group % 7 != 0);
            assert_eq!(world.count(page(group)), held, "page of {group}");
        }
    });
}

/// The newcomer is refused, for want of memory for it; the others work on, and
/// one that ends makes room.
#[test]
fn a_full_machine_refuses_the_newcomer_alone() {
    world(MANY, |world| {
        for group in 0..520 {
            world.attach(group, Endpoint(group)).expect("attached");
        }
        let late = Endpoint(600);
        assert_eq!(world.attach(520, late), Err(Refusal::NoMemory));
        assert_eq!(
            world.domains.take_trouble(),
            Some(Trouble::NoRoom(DomainId(520), late))
        );
        assert_eq!(world.root_of(0, 600), None);
        for group in [0, 7, 8, 519] {
            world.map(group, AT, page(group), 1).expect("mapped");
        }
        // A piece is given back when the last domain in it ends.
        for group in 8..11 {
            world.detach(group, Endpoint(group)).expect("detached");
            assert_eq!(world.pieces.get(), 0);
        }
        world.detach(11, Endpoint(11)).expect("detached");
        assert_eq!(world.pieces.get(), 1);
        world.attach(520, late).expect("attached");
        assert_eq!(world.attach(1000, Endpoint(0)), Err(Refusal::BadDomain));
    });
}

/// Memory for tables may be used up where that for the domain is not.
#[test]
fn what_was_taken_for_a_domain_that_fails_is_given_back() {
    let little = 9 * 3 * PAGE_SIZE;
    let shape = Shape {
        bytes: little,
        ..MANY
    };
    world(shape, |world| {
        let made = (0..20).take_while(|group| world.attach(*group, Endpoint(*group)).is_ok());
        assert_eq!(made.count(), 9);
        assert_eq!(world.pieces.get(), MANY.pieces - 1);
        world.detach(8, Endpoint(8)).expect("detached");
        assert_eq!(world.pieces.get(), MANY.pieces);
        assert_eq!(world.attach(600, Endpoint(20)), Ok(()));
        // Which would be in a piece of its own.
        assert_eq!(world.attach(700, Endpoint(21)), Err(Refusal::NoMemory));
        assert_eq!(world.pieces.get(), MANY.pieces - 1);
    });
}

/// An endpoint moves between domains wherever these are kept.
#[test]
fn an_endpoint_moves_between_pieces() {
    world(MANY, |world| {
        let endpoint = Endpoint(3);
        for (from, to) in [(0, 1), (1, 9), (9, 10), (10, 80), (80, 2)] {
            world.attach(from, endpoint).expect("attached");
            world.map(from, AT, page(from), 1).expect("mapped");
            world.attach(to, endpoint).expect("moved");
            assert_eq!(world.count(page(from)), 0, "from {from} to {to}");
            assert_eq!(world.domains.iter().count(), 1);
        }
        assert_eq!(world.pieces.get(), MANY.pieces);
    });
}

/// More domains have something taken away than are waited for together.
#[test]
fn one_completion_for_many_domains() {
    world(MANY, |world| {
        for group in 0..100 {
            world.attach(group, Endpoint(group)).expect("attached");
            world.map(group, AT, page(group), 1).expect("mapped");
        }
        for group in 0..100 {
            let mut step = world.unmap_later(group, AT, 1);
            while step == Step::More {
                step = world.domains.go_on();
            }
            assert_eq!(step, Step::AfterSync);
        }
        // Also where nothing was mapped, and nothing is held for it.
        for group in 0..100 {
            assert_eq!(world.unmap_later(group, AT, 1), Step::AfterSync);
        }
        assert_eq!(world.domains.sync(), Ok(()));
        for group in 0..100 {
            assert_eq!(world.count(page(group)), 0);
            world.map(group, AT, page(group), 1).expect("mapped again");
        }
    });
}

#[test]
fn a_reset_finds_every_domain() {
    a_reset_ends(&[0, 7, 8, 300, 511, 519]);
    // With nothing in the last of the places that are always there.
    a_reset_ends(&[0, 300]);
    a_reset_ends(&[519]);
}

fn a_reset_ends(groups: &[u32]) {
    world(MANY, |world| {
        for group in groups.iter().copied() {
            world.attach(group, Endpoint(group)).expect("attached");
            world.map(group, AT, page(group), 1).expect("mapped");
        }
        let step = world.domains.reset();
        assert_eq!(world.end(step), Ok(()));
        assert_eq!(world.domains.iter().count(), 0);
        assert_eq!(world.pieces.get(), MANY.pieces);
        for group in groups.iter().copied() {
            assert_eq!(world.count(page(group)), 0);
            assert_eq!(world.root_of(0, group), None);
        }
    });
}

#[test]
fn without_more_memory_there_are_as_many_as_have_room() {
    world(SMALL, |world| {
        assert_eq!(world.domains.limits().domains, (0, 3));
        for group in 0..4 {
            world.attach(group, Endpoint(group)).expect("attached");
        }
        assert_eq!(world.attach(4, Endpoint(4)), Err(Refusal::BadDomain));
    });
}
