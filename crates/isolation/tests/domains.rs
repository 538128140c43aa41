//! Domains in front of two SMMUs, one of which fails.

mod world;

use portcullis_addr::{Iova, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, DmaUnit, DomainId, Endpoint, Iommu, Refusal, Request, Reserved, ReservedKind, Step,
};
use portcullis_ownership::Owner;
use world::{A, AT, E, F, HIGH, RAM, SMALL, Shape, World, world};

/// The number of a domain whose SMMU failed is not given out again, so that no
/// stream is left walking tables that were given back.
#[test]
fn what_a_failed_smmu_may_hold_keeps_its_number() {
    world(SMALL, |world| {
        world.attach(0, A).expect("attached");
        world.fail();
        let step = world.domains.reset();
        let _ = world.end(step);
        assert_eq!(world.domains.unit().slot_of(A), None);
        // Whatever becomes of E, it walks tables that are still there.
        let attached = world.attach(0, E);
        let root = world.root_of(1, 5);
        assert_eq!(attached, Err(Refusal::Failed));
        assert_eq!(root, None);
        assert_eq!(world.attach(1, A), Err(Refusal::Failed));
        assert!(world.attach(2, E).is_ok());
        assert!(world.map(2, AT, RAM, 1).is_ok());
    });
}

/// An endpoint that a failed SMMU blocks leaves its domain once, not with each
/// try.
#[test]
fn leaving_a_failed_smmu_is_no_way_to_end_a_domain() {
    world(SMALL, |world| {
        world.attach(0, A).expect("attached");
        world.attach(0, E).expect("attached");
        world.fail();
        let before = world.root_of(1, 5);
        for _ in 0..3 {
            assert!(world.detach(0, A).is_err());
        }
        assert_eq!(world.domains.iter().count(), 1);
        assert_eq!(world.root_of(1, 5), before);
        let bytes = world.arena.bytes_in_use();
        assert!(bytes >= 0x1000);
    });
}

/// 5.13.6.4: after a DETACH behind a fenced SMMU the endpoint is in no domain, and
/// blocked for good; a domain without another ends.
#[test]
fn an_endpoint_behind_a_failed_smmu_leaves_its_domain_once() {
    for others in [false, true] {
        world(SMALL, |world| {
            world.attach(0, A).expect("attached");
            world.map(0, AT, RAM, 1).expect("mapped");
            if others {
                world.attach(0, E).expect("attached");
            }
            world.fail();
            assert_eq!(world.domains.unit().slot_of(A), None, "blocked");
            assert_eq!(world.detach(1, A), Err(Refusal::NoDomain));
            assert_eq!(world.detach(0, A), Err(Refusal::Failed));
            // Nor is it found in there when the SMMU runs again.
            assert_eq!(world.root_of(0, 5), None);
            assert_eq!(world.domains.unit().slot_of(A), None);
            for _ in 0..2 {
                assert_eq!(world.detach(0, A), Err(Refusal::NotAttached));
            }
            if others {
                assert!(world.root_of(1, 5).is_some());
                assert_eq!(world.detach(0, E), Ok(()));
                assert_eq!(world.root_of(1, 5), None);
            }
            // The domain has ended: nothing is asked of it, and no other domain gets what the
            // SMMU may still hold of it, neither number nor memory.
            assert_eq!(world.map(0, AT + PAGE_SIZE, RAM, 1), Err(Refusal::Failed));
            assert_eq!(world.unmap(0, AT, 1), Err(Refusal::Failed));
            assert_eq!(world.attach(0, F), Err(Refusal::Failed));
            assert_eq!(world.count(RAM), 1);
            assert_eq!(world.numbers(), [0]);
            // Another is as any.
            assert_eq!(world.attach(1, E), Ok(()));
            assert_eq!(world.map(1, AT, RAM, 1), Ok(()));
            assert_eq!(world.detach(1, E), Ok(()));
            assert_eq!(world.numbers(), [0]);
        });
    }
}

/// The same when it was to move instead.
#[test]
fn an_endpoint_behind_a_failed_smmu_moves_nowhere() {
    world(SMALL, |world| {
        world.attach(0, A).expect("attached");
        world.attach(0, E).expect("attached");
        world.attach(1, F).expect("attached");
        world.fail();
        // Not even to where it is.
        for domain in [1, 2, 0] {
            assert_eq!(world.attach(domain, A), Err(Refusal::Failed));
        }
        assert_eq!(world.root_of(0, 5), None);
        assert_eq!(world.detach(0, A), Err(Refusal::NotAttached));
        assert_eq!(world.numbers(), [0, 1]);
        // E is the last to leave it.
        assert_eq!(world.detach(0, E), Ok(()));
        assert_eq!(world.attach(0, E), Err(Refusal::Failed));
        assert_eq!(world.detach(1, F), Ok(()));
        assert_eq!(world.numbers(), [0]);
    });
}

/// A reset blocks it for good, too.
#[test]
fn after_a_reset_nothing_is_left_of_an_endpoint_behind_a_failed_smmu() {
    world(SMALL, |world| {
        world.attach(1, A).expect("attached");
        world.attach(0, E).expect("attached");
        world.fail();
        let step = world.domains.reset();
        let _ = world.end(step);
        assert_eq!(world.root_of(0, 5), None);
        assert_eq!(world.detach(1, A), Err(Refusal::NotAttached));
        assert_eq!(world.numbers(), [1]);
    });
}

#[test]
fn an_endpoint_that_cannot_come_harms_nobody() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        world.fail();
        assert_eq!(world.attach(0, A), Err(Refusal::Failed));
        world.map(0, AT, RAM, 1).expect("mapped");
        world.unmap(0, AT, 1).expect("unmapped");
        assert_eq!(world.count(RAM), 0);
        world.map(0, AT, RAM, 1).expect("mapped again");
    });
}

/// A domain begins with an endpoint. One that was made for an endpoint that did
/// not come is gone, whatever becomes of the domain that it has left.
#[test]
fn no_domain_is_left_of_an_endpoint_that_did_not_come() {
    for others in [false, true] {
        world(SMALL, |world| {
            world.attach(0, A).expect("attached");
            world.map(0, AT, RAM, 1).expect("mapped");
            if others {
                world.attach(0, E).expect("attached");
            }
            world.stall();
            let before = world.domains.counts().refused;
            assert_eq!(world.attach(1, A), Err(Refusal::Failed));
            assert_eq!(world.domains.counts().refused, before + 1);
            // What the SMMU may hold of the old one keeps its number.
            assert_eq!(world.numbers(), [0]);
            assert_eq!(world.domains.unit().slot_of(A), None);
            assert_eq!(world.map(1, AT, RAM, 1), Err(Refusal::NoDomain));
            assert_eq!(world.attach(1, A), Err(Refusal::Failed));
            assert_eq!(world.numbers(), [0]);
            assert_eq!(world.attach(1, F), Ok(()));
            assert_eq!(world.map(1, AT, RAM + PAGE_SIZE, 1), Ok(()));
        });
    }
}

/// The wait that ends a domain may be the one in which another fails.
#[test]
fn a_domain_ends_although_another_fails_meanwhile() {
    world(SMALL, |world| {
        world.attach(0, A).expect("attached");
        world.attach(1, E).expect("attached");
        for (domain, page) in [(0, RAM), (1, RAM + PAGE_SIZE)] {
            world.map(domain, AT, page, 1).expect("mapped");
        }
        assert_eq!(world.unmap_later(0, AT, 1), Step::AfterSync);
        world.fail();
        assert_eq!(world.detach(1, E), Ok(()));
        assert_eq!(world.numbers(), [0]);
        assert_eq!(world.attach(1, E), Ok(()));
        // The wait for the other domain reports it.
        assert!(world.domains.sync().is_err());
        assert_eq!(world.count(RAM), 1);
    });
}

#[test]
fn one_that_failed_is_no_reason_for_others_to_fail() {
    world(SMALL, |world| {
        for (domain, endpoint) in [(0, A), (1, E), (2, F)] {
            world.attach(domain, endpoint).expect("attached");
            let page = RAM + u64::from(domain) * PAGE_SIZE;
            world.map(domain, AT, page, 1).expect("mapped");
        }
        world.fail();
        assert_eq!(world.unmap(0, AT, 1), Err(Refusal::Failed));
        // Nobody knows who uses it.
        assert_eq!(world.count(RAM), 1);
        for _ in 0..2 {
            assert_eq!(world.unmap_later(1, AT, 1), Step::AfterSync);
            assert_eq!(world.unmap_later(2, AT, 1), Step::AfterSync);
            assert_eq!(world.domains.sync(), Ok(()));
            for domain in [1, 2] {
                let page = RAM + u64::from(domain) * PAGE_SIZE;
                assert_eq!(world.count(page), 0);
                world.map(domain, AT, page, 1).expect("mapped");
            }
        }
    });
}

#[test]
fn nothing_is_mapped_in_a_domain_that_failed() {
    world(SMALL, |world| {
        world.attach(0, A).expect("attached");
        world.map(0, AT, RAM, 1).expect("mapped");
        world.fail();
        assert_eq!(world.unmap(0, AT, 1), Err(Refusal::Failed));
        let (elsewhere, page) = (AT + 16 * PAGE_SIZE, RAM + PAGE_SIZE);
        assert_eq!(world.map(0, elsewhere, page, 1), Err(Refusal::Failed));
        assert_eq!(world.count(page), 0);
        assert_eq!(world.unmap(0, elsewhere, 1), Err(Refusal::Failed));
        // Nor in one that there is not.
        assert_eq!(world.map(1, AT, page, 1), Err(Refusal::NoDomain));
        assert_eq!(world.unmap(1, AT, 1), Err(Refusal::NoDomain));
        assert_eq!(world.count(page), 0);
    });
}

/// More runs than are held for one completion, none of them beside another.
#[test]
fn what_cannot_be_held_is_waited_for_first() {
    const RUNS: u64 = 100;
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        let places = |n: u64| [AT + n * PAGE_SIZE, RAM + 2 * n * PAGE_SIZE];
        for [at, to] in (0..RUNS).map(places) {
            world.map(0, at, to, 1).expect("mapped");
        }
        let mut steps = 0;
        for [at, _] in (0..RUNS).map(places) {
            let mut step = world.unmap_later(0, at, 1);
            while step == Step::More {
                step = world.domains.go_on();
            }
            assert_eq!(step, Step::AfterSync);
            steps += 1;
        }
        assert_eq!(world.domains.sync(), Ok(()));
        for [_, to] in (0..RUNS).map(places) {
            assert_eq!(world.count(to), 0);
        }
        assert_eq!((steps, world.domains.counts().lost_pages), (RUNS, 0));
    });
}

/// Two mappings may be one run in the tables and lie in two banks.
#[test]
fn banks_that_touch_are_let_go_of_apart() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        let border = RAM + 0x20_0000;
        world.map(0, AT, border - PAGE_SIZE, 1).expect("mapped");
        world.map(0, AT + PAGE_SIZE, border, 1).expect("mapped");
        world.unmap(0, AT, 2).expect("unmapped");
        assert_eq!(world.count(border - PAGE_SIZE), 0);
        assert_eq!(world.count(border), 0);
        assert_eq!(world.domains.counts().lost_pages, 0);
    });
}

/// Nothing tells the owner where one bank ends and the next begins.
#[test]
fn a_mapping_may_lie_in_banks_that_touch() {
    const BLOCK: u64 = 0x20_0000;
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        let border = RAM + BLOCK;
        // Two pages, whole groups, blocks at addresses as those of memory and at
        // others, and all of RAM, in many pieces.
        for (at, to, count) in [
            (AT, border - PAGE_SIZE, 2),
            (AT + 0x5000, border - 0x2_3000, 0x50),
            (AT + BLOCK - 0x1000, border - 0x1000, 2),
            (2 * BLOCK, border - BLOCK, 0x400),
            (2 * BLOCK + PAGE_SIZE, border - BLOCK, 0x400),
            (2 * BLOCK, RAM, 0x200 + HIGH),
        ] {
            world.map(0, at, to, count).expect("mapped");
            let pages = (0..0x200 + HIGH).map(|page| RAM + page * PAGE_SIZE);
            let inside = to..to + count * PAGE_SIZE;
            for page in pages.clone() {
                let held = inside.contains(&page);
                assert_eq!(world.count(page), u32::from(held), "{page:#x}");
            }
            let (_, slot) = world.domains.iter().next().expect("a domain");
            for offset in [0, count / 2, count - 1].map(|page| page * PAGE_SIZE) {
                let leaf = slot.domain().table().walk(Ipa::new(at + offset));
                let output = leaf.expect("mapped").output.raw();
                assert_eq!(output, to + offset);
            }
            world.unmap(0, at, count).expect("unmapped");
            // Many pages are let go of with the next calls.
            for _ in 0..3 {
                world.domains.sync().expect("completed");
            }
            for page in pages {
                assert_eq!(world.count(page), 0, "{page:#x}");
            }
        }
        assert_eq!(world.domains.counts().lost_pages, 0);
    });
}

/// What was counted in one bank is let go of when the other refuses.
#[test]
fn of_a_mapping_in_two_banks_all_is_held_or_nothing() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        let border = RAM + 0x20_0000;
        let pages = |at| Range::from_size(PhysAddr::new(at), PAGE_SIZE).expect("a page");
        for theirs in [border - 0x3000, border, border + 0x3000] {
            let taken = world
                .ledger
                .begin(pages(theirs), Owner::HOST, Owner::NOBODY);
            let across = world.map(0, AT, border - 0x3000, 7);
            assert_eq!(across, Err(Refusal::NotOwned), "{theirs:#x}");
            for page in 0..7 {
                assert_eq!(world.count(border - 0x3000 + page * PAGE_SIZE), 0);
            }
            taken.expect("the host's").cancel();
        }
        // Past the last of them is no RAM.
        let end = border + HIGH * PAGE_SIZE;
        assert_eq!(world.map(0, AT, end - PAGE_SIZE, 2), Err(Refusal::NotOwned));
        assert_eq!(
            world.map(0, AT, RAM - PAGE_SIZE, 0x300),
            Err(Refusal::NotOwned)
        );
        assert_eq!(world.count(border), 0);
        world.map(0, AT, border - 0x3000, 7).expect("mapped");
        assert_eq!(world.domains.counts().lost_pages, 0);
    });
}

/// A table that was taken out and one that comes in its place are not in a walk
/// cache together.
#[test]
fn no_table_comes_where_one_is_about_to_go() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        world.map(0, 0x3f_f000, RAM, 1).expect("mapped");
        world.map(0, 0x60_0000, RAM, 1).expect("mapped");
        world.map(0, 0x60_1000, RAM, 1).expect("mapped");
        assert_eq!(world.unmap_later(0, 0x3f_f000, 1), Step::AfterSync);
        // The table of the first goes with the second.
        assert_eq!(world.unmap_later(0, 0x60_0000, 1), Step::AfterSync);
        let syncs = world.domains.counts().syncs;
        world.map(0, 0x20_0000, RAM, 1).expect("mapped");
        assert_eq!(world.domains.counts().syncs, syncs + 1);
    });
}

/// An interrupt controller may lie where no device can address it.
#[test]
fn a_doorbell_out_of_reach_is_the_owners_to_map() {
    let doorbells = &[0x80_0000_0000];
    world(Shape { doorbells, ..SMALL }, |world| {
        world.attach(0, E).expect("attached");
        assert_eq!(world.domains.reserved(E, 0), None::<Reserved>);
        let request = Request::Map {
            domain: DomainId(0),
            iova: Range::from_size(Iova::new(0x800_0000), PAGE_SIZE).expect("a range"),
            to: Ipa::new(0x80_0000_0000),
            access: Access::WRITE | Access::MMIO,
        };
        assert_eq!(world.ask(request), Ok(()));
    });
}

/// 5.13.6.6.2: what lies in a range goes, wherever that ends, unless a mapping
/// is cut.
#[test]
fn the_ends_of_what_is_unmapped_may_lie_anywhere_outside_of_mappings() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        let (second, third) = (AT + 2 * PAGE_SIZE, AT + 4 * PAGE_SIZE);
        let both = |world: &mut World<'_>| {
            world.map(0, AT, RAM, 1).expect("mapped");
            let two = RAM + 8 * PAGE_SIZE;
            world.map(0, second, two, 2).expect("mapped");
        };
        let held = |world: &World<'_>| {
            let pages = [0, 8, 9].map(|page| world.count(RAM + page * PAGE_SIZE));
            (pages[0], pages[1], pages[2])
        };
        both(world);
        for (start, end) in [
            (AT + 1, second),
            (AT, AT + 0x800),
            (AT + 8, AT + 16),
            (AT - 1, second + 1),
            (AT, third - 1),
            (second + PAGE_SIZE, third + 1),
            (second + PAGE_SIZE + 1, 1 << 40),
            (1, second + PAGE_SIZE),
        ] {
            let cut = world.unmap_between(0, start, end);
            assert_eq!(cut, Err(Refusal::WouldSplit), "{start:#x}..{end:#x}");
            assert_eq!(held(world), (1, 1, 1), "nothing is removed");
        }
        // There need be nothing, nor a whole page, nor an address that there is.
        for (start, end) in [
            (AT + PAGE_SIZE, second),
            (AT + PAGE_SIZE + 1, second),
            (AT + PAGE_SIZE + 8, AT + PAGE_SIZE + 16),
            (third + 1, third + PAGE_SIZE - 1),
            (1 << 39, 1 << 40),
            ((1 << 39) - 1, (1 << 39) + 1),
            (u64::MAX - 1, u64::MAX),
        ] {
            let nothing = world.unmap_between(0, start, end);
            assert_eq!(nothing, Ok(()), "{start:#x}..{end:#x}");
            assert_eq!(held(world), (1, 1, 1));
            let nowhere = world.unmap_between(1, start, end);
            assert_eq!(nowhere, Err(Refusal::NoDomain));
        }
        for (start, end, left) in [
            (AT - 1, AT + PAGE_SIZE + 1, (0, 1, 1)),
            (AT + PAGE_SIZE + 1, third + 1, (1, 0, 0)),
            (AT, u64::MAX, (0, 0, 0)),
            (1, (1 << 39) + 5, (0, 0, 0)),
        ] {
            let done = world.unmap_between(0, start, end);
            assert_eq!(done, Ok(()), "{start:#x}..{end:#x}");
            assert_eq!(held(world), left, "{start:#x}..{end:#x}");
            world.unmap_between(0, 0, u64::MAX).expect("unmapped");
            both(world);
        }
    });
}

/// What was found of an address within a page holds for as long as the page is
/// not mapped.
#[test]
fn a_page_that_comes_around_an_end_is_cut_by_it() {
    world(SMALL, |world| {
        world.attach(0, E).expect("attached");
        let (beside, end) = (AT + PAGE_SIZE, AT + 8);
        world.map(0, beside, RAM, 1).expect("mapped");
        for _ in 0..3 {
            let nothing = world.unmap_between(0, AT - PAGE_SIZE, end);
            assert_eq!(nothing, Ok(()));
            world.map(0, AT, RAM + PAGE_SIZE, 1).expect("mapped");
            let cut = world.unmap_between(0, AT - PAGE_SIZE, end);
            assert_eq!(cut, Err(Refusal::WouldSplit));
            assert_eq!(world.count(RAM + PAGE_SIZE), 1);
            world.unmap(0, AT, 1).expect("unmapped");
        }
    });
}

/// It is nothing that the owner mapped.
#[test]
fn a_doorbell_is_not_cut_and_stays() {
    let doorbells = &[0x800_0000];
    world(Shape { doorbells, ..SMALL }, |world| {
        world.attach(0, E).expect("attached");
        let below = 0x800_0000 - PAGE_SIZE;
        for (start, end) in [
            (below, 0x800_0800),
            (below - 1, 0x800_1000),
            (0x800_0001, 0x900_0000),
            (0x800_0004, 0x800_0008),
        ] {
            world.map(0, below, RAM, 1).expect("mapped");
            assert_eq!(world.unmap_between(0, start, end), Ok(()), "{start:#x}");
            let gone = start <= below;
            assert_eq!(world.count(RAM), u32::from(!gone), "{start:#x}");
            let (_, slot) = world.domains.iter().next().expect("a domain");
            assert!(slot.domain().table().walk(Ipa::new(0x800_0000)).is_ok());
            world.unmap(0, below, 1).expect("unmapped");
        }
    });
}

/// 5.13.6.8.1.2: one MSI region for an endpoint at most. Messages of every
/// interrupt controller arrive all the same.
#[test]
fn of_several_doorbells_one_is_for_messages_and_all_work() {
    let doorbells = &[0x800_0000, 0x80_0000_0000, 0x900_0040, 0x880_0000];
    world(Shape { doorbells, ..SMALL }, |world| {
        let fixed = [0x800_0000, 0x900_0000, 0x880_0000];
        let told: Vec<_> = (0..8)
            .map_while(|index| world.domains.reserved(E, index))
            .map(|one| (one.range.start().raw(), one.range.size(), one.kind))
            .collect();
        let page = |n: usize, kind| (fixed[n], PAGE_SIZE, kind);
        let others = [1, 2].map(|n| page(n, ReservedKind::Reserved));
        assert_eq!(told[..1], [page(0, ReservedKind::Msi)]);
        assert_eq!(told[1..], others);
        assert_eq!(world.domains.reserved(Endpoint(2 * 0x400), 0), None);

        world.attach(0, E).expect("attached");
        let leads = |world: &World<'_>, at| {
            let (_, slot) = world.domains.iter().next().expect("a domain");
            let leaf = slot.domain().table().walk(Ipa::new(at));
            leaf.ok().map(|leaf| leaf.output.raw())
        };
        for (n, doorbell) in (0..).zip(fixed) {
            // A driver that has no mapping for it reaches it where it is.
            assert_eq!(leads(world, doorbell), Some(doorbell));
            let here = world.map(0, doorbell, RAM, 1);
            assert_eq!(here, Err(Refusal::OutOfRange));
            // One that wants one gets it.
            let at = AT + n * PAGE_SIZE;
            let request = Request::Map {
                domain: DomainId(0),
                iova: Range::from_size(Iova::new(at), PAGE_SIZE).expect("a range"),
                to: Ipa::new(doorbell),
                access: Access::WRITE | Access::MMIO,
            };
            assert_eq!(world.ask(request), Ok(()));
            assert_eq!(leads(world, at), Some(doorbell));
        }
    });
}
