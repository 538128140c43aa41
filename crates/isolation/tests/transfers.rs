//! The order in which pages leave an owner and come to one, and what a failure leaves.
#![allow(missing_docs)]

mod space;

use portcullis_addr::{Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{
    Invalidate, Ledger, MAX_CALL_BYTES, OwnerSpace, ReceiveError, SpaceError, TableShapes, chunks,
};
use portcullis_memory::Arena;
use portcullis_owner_memory::Layout;
use portcullis_ownership::{Owner, PageState};
use portcullis_pagetable::{Bbm, Geometry, Granule, Invalidation};
use smmuv3_spec::Vmid;
use space::{
    BOTH, FIRMWARE, Fixture, NoTables, OWN, RAM, Recorder, Refused, Space, assert_reach, give,
    range, reach, take,
};

#[test]
fn a_failed_invalidation_loses_the_page_to_both() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            let page = range(RAM + 0x100_0000, PAGE_SIZE);
            let mut recorder = Recorder {
                fail_smmus: true,
                ..Recorder::default()
            };
            assert!(matches!(
                take(space, page, Owner::HYPERVISOR, &mut recorder),
                Err(SpaceError::Invalidation(Refused))
            ));
            let entry = space.ledger().entry(page.start()).unwrap();
            assert_eq!(entry.state(), PageState::Leaving(Owner::HOST));
            assert_eq!(space.dma().walk(Ipa::new(page.start().raw())).ok(), None);
        });
    }
}

/// The page may lie in a block that was being split: then it is out of the
/// tables, but not out of the TLBs.
#[test]
fn no_page_changes_hands_after_a_failed_invalidation() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            let page = range(RAM + 0x100_0000, PAGE_SIZE);
            let mut recorder = Recorder {
                fail_smmus: true,
                ..Recorder::default()
            };
            let _ = take(space, page, Owner::HYPERVISOR, &mut recorder);
            recorder.fail_smmus = false;
            let next = range(RAM + 0x100_1000, PAGE_SIZE);
            assert!(matches!(
                take(space, next, Owner::HYPERVISOR, &mut recorder),
                Err(SpaceError::Unfinished)
            ));
            assert!(matches!(
                give(
                    space,
                    range(OWN, PAGE_SIZE),
                    Owner::HYPERVISOR,
                    &mut recorder
                ),
                Err(SpaceError::Unfinished)
            ));
            let entry = space.ledger().entry(next.start()).unwrap();
            assert_eq!(entry.state(), PageState::Owned(Owner::HOST));
        });
    }
}

fn failing(cpus: bool) -> Recorder {
    Recorder {
        fail_cpus: cpus,
        fail_smmus: !cpus,
        ..Recorder::default()
    }
}

/// Looks into the ledger, and into memory, while it is asked to invalidate.
struct Watcher<'a> {
    ledger: Ledger<'a>,
    page: Range<PhysAddr>,
    asked: u32,
}

impl Watcher<'_> {
    fn look(&mut self) -> Result<(), Refused> {
        self.asked += 1;
        let state = self.ledger.entry(self.page.start()).unwrap().state();
        assert_eq!(
            state,
            PageState::Leaving(Owner::HOST),
            "handed over too early"
        );
        assert!(self.ledger.pin(self.page, Owner::HYPERVISOR).is_err());
        Ok(())
    }
}

impl Invalidate for Watcher<'_> {
    type Error = Refused;

    fn cpus(&mut self, _: Vmid, _: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.look()
    }

    fn smmus(&mut self, _: Vmid, _: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.look()
    }
}

/// The page is neither owner's until both invalidations have completed, and then not before
/// the caller commits.
#[test]
fn no_page_is_handed_over_before_it_is_invalidated() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            let page = range(RAM + 0x100_0000, PAGE_SIZE);
            let ledger = *space.ledger();
            let mut watcher = Watcher {
                ledger,
                page,
                asked: 0,
            };
            let at = Identity.ipa(page);
            let pages = space.release(at, Owner::HYPERVISOR, &mut watcher).unwrap();
            assert_eq!(watcher.asked, 2);
            watcher.look().unwrap();
            pages.commit();
            assert!(ledger.pin(page, Owner::HYPERVISOR).is_ok());
        });
    }
}

/// The invalidation that failed is asked for again, of the walkers that failed and of
/// those after them, and then the page changes hands.
#[test]
fn a_failed_invalidation_is_finished_later() {
    for (bbm, cpus) in [
        (Bbm::Level0, false),
        (Bbm::Level2, false),
        (Bbm::Level0, true),
        (Bbm::Level2, true),
    ] {
        Fixture::new(bbm).with(|space| {
            let page = range(RAM + 0x100_0000, PAGE_SIZE);
            let at = Identity.ipa(page);
            let mut recorder = failing(cpus);
            let failed = take(space, page, Owner::HYPERVISOR, &mut recorder);
            assert!(matches!(failed, Err(SpaceError::Invalidation(Refused))));
            // As long as it fails, nothing changes.
            for _ in 0..2 {
                let failed = space.retry_invalidation(&mut recorder).map(drop);
                assert!(matches!(failed, Err(SpaceError::Invalidation(Refused))));
                assert!(space.is_unfinished());
            }
            let mut recorder = Recorder::default();
            let pages = space.retry_invalidation(&mut recorder).unwrap().unwrap();
            assert!(recorder.cpus.iter().any(|range| range.covers(&at)));
            let smmus = recorder.smmus.iter().any(|range| range.covers(&at));
            assert_eq!(smmus, !cpus);
            assert_eq!((pages.range(), pages.to()), (page, Owner::HYPERVISOR));
            pages.commit();
            assert!(!space.is_unfinished());
            assert!(space.retry_invalidation(&mut recorder).unwrap().is_none());
            assert_reach(space, page.start().raw(), false, false);
            // What lies in the same block is reached, and goes on changing hands.
            assert_reach(space, page.end().raw(), true, true);
            let next = range(RAM + 0x100_1000, PAGE_SIZE);
            take(space, next, Owner::HYPERVISOR, &mut recorder).unwrap();
            give(space, page, Owner::HYPERVISOR, &mut recorder).unwrap();
            assert_reach(space, page.start().raw(), true, true);
        });
    }
}

/// Another owner's memory goes on changing hands, whatever became of this one's.
#[test]
fn doubt_is_of_one_owner() {
    Fixture::new(Bbm::Level0).with(|space| {
        let arena = Arena::new(PhysAddr::new(0x20_0000_0000), 1 << 20);
        let mut guest = guest(space, &arena);
        let page = range(RAM + 0x100_0000, PAGE_SIZE);
        let _ = take(space, page, GUEST, &mut failing(false));
        assert!(space.is_unfinished());
        // Pages that left the host before.
        let mut recorder = Recorder::default();
        let transfer = guest
            .ledger()
            .begin(range(OWN, PAGE_SIZE), Owner::HYPERVISOR, GUEST);
        let pages = transfer
            .unwrap()
            .invalidated(&NoTables(range(OWN, PAGE_SIZE)));
        guest
            .receive(pages.unwrap(), Ipa::new(0x8000_0000), &mut recorder)
            .unwrap();
        let at = Range::from_size(Ipa::new(0x8000_0000), PAGE_SIZE).unwrap();
        guest
            .release(at, Owner::HYPERVISOR, &mut recorder)
            .unwrap()
            .commit();
        assert!(!guest.is_unfinished());
        assert!(recorder.vmids.iter().all(|vmid| *vmid == GUEST_VMID));
    });
}

const GUEST: Owner = Owner::guest(0).unwrap();
const GUEST_VMID: Vmid = Vmid(9);

/// A guest that has nothing yet.
fn guest<'a>(host: &Space<'a>, arena: &'a Arena) -> Space<'a> {
    let geometry = Geometry::stage2(Granule::Size4K, 36, 40).unwrap();
    let shapes = TableShapes {
        dma_geometry: geometry,
        cpu_geometry: geometry,
        cpu_bbm: Bbm::Level0,
        dma_bbm: Bbm::Level0,
    };
    OwnerSpace::mapped(*host.ledger(), GUEST, GUEST_VMID, shapes, arena, arena).unwrap()
}

/// Memory that the host donates is at another address for the guest, is neither the
/// host's nor its devices' any more, and comes back dirty.
#[test]
fn a_guest_has_pages_at_addresses_of_its_own() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            let arena = Arena::new(PhysAddr::new(0x20_0000_0000), 1 << 20);
            let mut guest = guest(space, &arena);
            let mut recorder = Recorder::default();
            let memory = range(RAM + 0x100_3000, 5 * PAGE_SIZE);
            let at = Range::from_size(Ipa::new(0x8000_1000), memory.size()).unwrap();
            let pages = space
                .release(Identity.ipa(memory), GUEST, &mut recorder)
                .unwrap();
            // Neither to another owner, nor where the pages of a chunk would not be whole.
            let refused = space.receive(pages, Identity.ipa(memory).start(), &mut recorder);
            let ReceiveError { error, pages } = refused.unwrap_err();
            assert!(matches!(error, SpaceError::NotOnePiece(_)));
            let refused = guest.receive(pages.unwrap(), Ipa::new(0x8000_1800), &mut recorder);
            let ReceiveError { error, pages } = refused.unwrap_err();
            assert!(matches!(error, SpaceError::NotOneChunk(_)));
            recorder.vmids.clear();
            guest
                .receive(pages.unwrap(), at.start(), &mut recorder)
                .unwrap();
            assert_eq!(recorder.vmids, [], "what was absent is cached nowhere");

            for page in 0..5 {
                let (ipa, physical) = (
                    at.start().raw() + page * PAGE_SIZE,
                    memory.start().raw() + page * PAGE_SIZE,
                );
                assert_eq!(reach(&guest, ipa), (Some(physical), Some(physical)));
                assert_reach(space, physical, false, false);
                assert!(guest.is_ram(Ipa::new(ipa)) && !space.is_ram(Ipa::new(physical)));
                let entry = guest.ledger().entry(PhysAddr::new(physical)).unwrap();
                assert_eq!(entry.state(), PageState::Owned(GUEST));
            }
            // Where it has memory, and where it has none, or not in one piece.
            let page = Range::from_size(Ipa::new(0x8000_2000), PAGE_SIZE).unwrap();
            let physical = Range::from_size(PhysAddr::new(RAM + 0x100_4000), PAGE_SIZE);
            assert_eq!(guest.resolve(page), physical.ok());
            let outside = Range::from_size(Ipa::new(RAM + 0x100_3000), PAGE_SIZE).unwrap();
            assert_eq!(guest.resolve(outside), None);
            let refused = guest.release(at, Owner::HOST, &mut recorder).map(drop);
            assert!(matches!(refused, Err(SpaceError::NotOnePiece(_))));
            // Where it has a page already, it gets no other.
            let other = range(RAM + 0x200_0000, PAGE_SIZE);
            let pages = space
                .release(Identity.ipa(other), GUEST, &mut recorder)
                .unwrap();
            let refused = guest
                .receive(pages, page.start(), &mut recorder)
                .unwrap_err();
            assert!(matches!(refused.error, SpaceError::Table(_)));
            refused.pages.unwrap().give_back();

            recorder.vmids.clear();
            let back = guest.release(page, Owner::HOST, &mut recorder).unwrap();
            assert!(!recorder.vmids.is_empty());
            assert!(recorder.vmids.iter().all(|vmid| *vmid == GUEST_VMID));
            assert_eq!(reach(&guest, page.start().raw()), (None, None));
            let physical = back.range();
            back.commit_dirty();
            assert!(space.ledger().pin(physical, Owner::HOST).is_err());
        });
    }
}

/// One call changes what one table of pages maps, at most.
#[test]
fn no_call_crosses_a_chunk() {
    Fixture::new(Bbm::Level2).with(|space| {
        let mut recorder = Recorder::default();
        let start = RAM + 0x100_0000;
        for (from, size) in [
            (start + MAX_CALL_BYTES - PAGE_SIZE, 2 * PAGE_SIZE),
            (start, MAX_CALL_BYTES + PAGE_SIZE),
            (start + 1, PAGE_SIZE),
            (start, PAGE_SIZE - 1),
        ] {
            let at = Identity.ipa(range(from, size));
            let refused = space.release(at, Owner::NOBODY, &mut recorder).map(drop);
            assert!(matches!(refused, Err(SpaceError::NotOneChunk(_))));
        }
        assert!(recorder.cpus.is_empty() && recorder.smmus.is_empty());
        let parts: Vec<_> =
            chunks(range(start - PAGE_SIZE, MAX_CALL_BYTES + 2 * PAGE_SIZE)).collect();
        let sizes: Vec<_> = parts.iter().map(Range::size).collect();
        assert_eq!(sizes, [PAGE_SIZE, MAX_CALL_BYTES, PAGE_SIZE]);
    });
}

#[test]
fn pages_that_devices_hold_and_pages_of_others_stay() {
    Fixture::new(Bbm::Level2).with(|space| {
        let page = range(RAM + 0x100_0000, PAGE_SIZE);
        let mut recorder = Recorder::default();
        space.ledger().pin(page, Owner::HOST).unwrap();
        assert!(matches!(
            take(space, page, Owner::HYPERVISOR, &mut recorder),
            Err(SpaceError::Ledger(_))
        ));
        assert_reach(space, page.start().raw(), true, true);
        assert!(matches!(
            take(space, range(OWN, PAGE_SIZE), Owner::NOBODY, &mut recorder),
            Err(SpaceError::Ledger(_))
        ));
        assert!(matches!(
            give(space, range(OWN, PAGE_SIZE), Owner::NOBODY, &mut recorder),
            Err(SpaceError::Ledger(_))
        ));
        assert_reach(space, OWN, false, false);
        // Nobody pins firmware's memory, and the host neither gives nor gets it.
        let firmware = range(FIRMWARE, PAGE_SIZE);
        assert!(space.ledger().pin(firmware, Owner::HOST).is_err());
        assert!(!space.is_ram(Identity.ipa(firmware).start()));
        for owner in [Owner::HYPERVISOR, Owner::NOBODY] {
            assert!(matches!(
                take(space, firmware, owner, &mut recorder),
                Err(SpaceError::Ledger(_))
            ));
            assert!(matches!(
                give(space, firmware, owner, &mut recorder),
                Err(SpaceError::Ledger(_))
            ));
        }
        assert_reach(space, FIRMWARE, false, false);
        assert!(recorder.cpus.is_empty() && recorder.smmus.is_empty());
    });
}
