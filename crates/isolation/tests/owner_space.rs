//! An owner's memory against the ledger, address by address, and the order in
//! which pages leave it and come.
#![allow(missing_docs)]

use portcullis_addr::{Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{
    Invalidate, Ledger, MAX_CALL_BYTES, OwnerSpace, ReceiveError, Sharing, ShowError, SpaceError,
    TableShapes, chunks, input_bits,
};
use portcullis_memory::Arena;
use portcullis_owner_memory::Layout;
use portcullis_ownership::{Allotment, Bank, Invalidated, Owner, PageState, Unreachable};
use portcullis_pagetable::{Bbm, Execute, Geometry, Granule, Invalidation, MemoryType};
use smmuv3_spec::Vmid;
use std::sync::atomic::AtomicU32;

const VMID: Vmid = Vmid(1);
const RAM: u64 = 0x4000_0000;
/// More than one entry of level 1: a whole one with the hypervisor in it, a
/// whole one without, and a part of a third.
const RAM_SIZE: u64 = (2 << 30) + (64 << 20);
const UART: u64 = 0x0900_0000;
const SMMU: u64 = 0x0905_0000;
const DOORBELL: u64 = 0x0809_0000;
/// Addresses above RAM that the host is not given.
const GAP: u64 = 0xd000_0000;
/// The hypervisor's memory: its ends are in the middle of 2 MiB blocks.
const OWN: u64 = RAM + 0x20_3000;
const OWN_SIZE: u64 = 0x9_9000;
/// Firmware's, in the middle of a 2 MiB block.
const FIRMWARE: u64 = RAM + 0x60_3000;
const FIRMWARE_SIZE: u64 = 0x2_1000;

fn range(start: u64, size: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), size).unwrap()
}

struct Fixture {
    entries: Vec<AtomicU32>,
    words: Vec<AtomicU32>,
    arena: Arena,
    tables: TableShapes,
}

impl Fixture {
    fn new(bbm: Bbm) -> Self {
        Self {
            entries: (0..RAM_SIZE / PAGE_SIZE)
                .map(|_| AtomicU32::new(0))
                .collect(),
            words: (0..Bank::words(range(RAM, RAM_SIZE)))
                .map(|_| AtomicU32::new(0))
                .collect(),
            arena: Arena::new(PhysAddr::new(0x10_0000_0000), 4 << 20),
            tables: TableShapes {
                dma_geometry: Geometry::stage2(Granule::Size4K, 40, 40).unwrap(),
                cpu_geometry: Geometry::stage2(Granule::Size4K, 40, 40).unwrap(),
                cpu_bbm: bbm,
                dma_bbm: bbm,
            },
        }
    }

    fn with<T>(&self, test: impl FnOnce(&mut Space<'_>) -> T) -> T {
        let banks = [Bank::new(range(RAM, RAM_SIZE), &self.entries, &self.words).unwrap()];
        let ledger = Allotment::new(&banks)
            .unwrap()
            .assign(range(OWN, OWN_SIZE), Owner::NOBODY, Owner::HYPERVISOR)
            .unwrap()
            .assign(
                range(FIRMWARE, FIRMWARE_SIZE),
                Owner::NOBODY,
                Owner::FIRMWARE,
            )
            .unwrap()
            .assign_rest(Owner::NOBODY, Owner::HOST)
            .unwrap()
            .ledger();
        // Around the SMMU's registers, with RAM in the middle of one range, and
        // beyond what the tables can translate.
        let registers = [
            range(SMMU + 0x2_0000, GAP - SMMU - 0x2_0000),
            range(0x0800_1000, SMMU - 0x0800_1000),
            range(0x80_0000_0000, 1 << 40),
        ];
        let mut space = OwnerSpace::identity(
            ledger,
            Owner::HOST,
            VMID,
            self.tables,
            &self.arena,
            &self.arena,
            registers.into_iter(),
            [range(DOORBELL, 64)].into_iter(),
        )
        .unwrap();
        test(&mut space)
    }
}

/// What CPUs and devices reach at an address: its translation, if any.
fn reach(space: &Space<'_>, at: u64) -> (Option<u64>, Option<u64>) {
    let at = Ipa::new(at);
    (
        space.cpu().walk(at).ok().map(|m| m.output.raw()),
        space.dma().walk(at).ok().map(|m| m.output.raw()),
    )
}

/// Asserts for a page that it is where it belongs: with CPUs, devices, or not.
#[track_caller]
fn assert_reach(space: &Space<'_>, at: u64, cpu: bool, dma: bool) {
    assert_eq!(
        reach(space, at),
        (cpu.then_some(at), dma.then_some(at)),
        "at {at:#x}"
    );
}

/// Remembers what was invalidated, and fails when told to.
#[derive(Default)]
struct Recorder {
    cpus: Vec<Range<Ipa>>,
    smmus: Vec<Range<Ipa>>,
    vmids: Vec<Vmid>,
    fail_smmus: bool,
    fail_cpus: bool,
}

#[derive(Debug)]
struct Refused;

impl Invalidate for Recorder {
    type Error = Refused;

    fn cpus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.cpus.extend(plan.range());
        self.vmids.push(vmid);
        if self.fail_cpus { Err(Refused) } else { Ok(()) }
    }

    fn smmus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.smmus.extend(plan.range());
        self.vmids.push(vmid);
        if self.fail_smmus {
            Err(Refused)
        } else {
            Ok(())
        }
    }
}

type Space<'a> = OwnerSpace<'a, &'a Arena, &'a Arena>;

/// Takes all of `range` away from the owner.
fn take(
    space: &mut Space<'_>,
    range: Range<PhysAddr>,
    to: Owner,
    recorder: &mut Recorder,
) -> Result<(), SpaceError<Refused>> {
    chunks(range).try_for_each(|part| {
        let pages = space.release(Identity.ipa(part), to, recorder)?;
        pages.commit();
        Ok(())
    })
}

/// Evidence of pages of an owner without tables.
struct NoTables(Range<PhysAddr>);

impl Invalidated for NoTables {
    fn pages(&self) -> Range<PhysAddr> {
        self.0
    }
}

/// Gives all of `range` to the owner, where it is.
fn give<'a>(
    space: &mut Space<'a>,
    range: Range<PhysAddr>,
    from: Owner,
    recorder: &mut Recorder,
) -> Result<(), SpaceError<Refused>> {
    chunks(range).try_for_each(|part| {
        let transfer = space.ledger().begin(part, from, space.owner());
        let transfer = transfer.map_err(SpaceError::Ledger)?;
        let pages: Unreachable<'a> = transfer.invalidated(&NoTables(part)).unwrap();
        let at = Identity.ipa(part).start();
        let received = space.receive(pages, at, recorder);
        received.map_err(|ReceiveError { error, pages }| {
            pages.into_iter().for_each(Unreachable::give_back);
            error
        })
    })
}

const BOTH: [Bbm; 2] = [Bbm::Level0, Bbm::Level2];

#[test]
fn every_page_is_where_it_belongs() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            // Around the hypervisor page by page, elsewhere with large steps.
            let near = (OWN - (1 << 20)..OWN + (2 << 20)).step_by(PAGE_SIZE as usize);
            let far = (RAM..RAM + RAM_SIZE).step_by(0x11_1000);
            for page in near.chain(far) {
                let host = !range(OWN, OWN_SIZE).contains(PhysAddr::new(page));
                assert_reach(space, page, host, host);
            }
            let around = FIRMWARE - 0x1_0000..FIRMWARE + FIRMWARE_SIZE + 0x1_0000;
            for page in around.step_by(PAGE_SIZE as usize) {
                let host = !range(FIRMWARE, FIRMWARE_SIZE).contains(PhysAddr::new(page));
                assert_reach(space, page, host, host);
            }
            // Registers are the CPUs' only, the doorbell is both's.
            assert_reach(space, UART, true, false);
            assert_reach(space, DOORBELL, true, true);
            assert_reach(space, DOORBELL + PAGE_SIZE, true, false);
            assert_reach(space, DOORBELL - PAGE_SIZE, true, false);
            for page in (SMMU..SMMU + 0x2_0000).step_by(PAGE_SIZE as usize) {
                assert_reach(space, page, false, false);
            }
            assert_reach(space, SMMU - PAGE_SIZE, true, false);
            assert_reach(space, SMMU + 0x2_0000, true, false);
            assert_reach(space, 0x0800_0000, false, false);
            assert_reach(space, 0x0800_1000, true, false);
            // The end of RAM and of the input range.
            assert_reach(space, RAM + RAM_SIZE, true, false);
            assert_reach(space, (1 << 40) - PAGE_SIZE, true, false);
            // What nobody speaks of.
            assert_reach(space, GAP - PAGE_SIZE, true, false);
            for page in [0, 0x07ff_f000, GAP, 0x7f_ffff_f000] {
                assert_reach(space, page, false, false);
            }
            assert_eq!(reach(space, 1 << 40), (None, None));
        });
    }
}

#[test]
fn attributes_fit_what_is_behind() {
    Fixture::new(Bbm::Level0).with(|space| {
        let cpu = |at| space.cpu().walk(Ipa::new(at)).unwrap().attributes;
        assert_eq!(cpu(RAM).memory, MemoryType::Normal);
        assert_ne!(cpu(UART).memory, MemoryType::Normal);
        let doorbell = space.dma().walk(Ipa::new(DOORBELL)).unwrap().attributes;
        assert_eq!(doorbell.memory, MemoryType::Device);
        assert!(doorbell.write && !doorbell.read);
    });
}

#[test]
fn sharing_needs_level_2_on_both_sides() {
    let mut tables = Fixture::new(Bbm::Level2).tables;
    assert_eq!(tables.sharing(), Sharing::Shared);
    tables.cpu_bbm = Bbm::Level1;
    assert_eq!(tables.sharing(), Sharing::Separate);
}

/// Registers above what the SMMUs reach are the CPUs' all the same, on a machine
/// whose CPUs have more address bits: the root is at another level there (DDI 0487,
/// D8.2: 40 bits start at level 1 with two tables, 44 at level 0).
#[test]
fn cpus_may_reach_further_than_devices() {
    let mut fixture = Fixture::new(Bbm::Level2);
    fixture.tables.cpu_geometry = Geometry::stage2(Granule::Size4K, 44, 44).unwrap();
    assert_eq!(fixture.tables.sharing(), Sharing::Separate);
    fixture.with(|space| {
        assert_reach(space, RAM, true, true);
        assert_reach(space, 0x80_0000_0000, true, false);
        assert_reach(space, 0x17f_ffff_f000, true, false);
        assert_reach(space, 0x180_0000_0000, false, false);
    });
    Fixture::new(Bbm::Level2).with(|space| {
        assert_reach(space, 0xff_ffff_f000, true, false);
        assert_reach(space, 0x100_0000_0000, false, false);
    });
}

#[test]
fn a_page_leaves_both_views_and_comes_back() {
    for bbm in BOTH {
        let fixture = Fixture::new(bbm);
        fixture.with(|space| {
            let page = range(RAM + 0x100_0000, PAGE_SIZE);
            let mut recorder = Recorder::default();
            take(space, page, Owner::HYPERVISOR, &mut recorder).unwrap();
            assert_reach(space, page.start().raw(), false, false);
            assert_reach(space, page.end().raw(), true, true);
            assert_reach(space, page.start().raw() - PAGE_SIZE, true, true);
            // Each side was told about at least the page.
            let ipa = Identity.ipa(page);
            assert!(recorder.cpus.iter().any(|r| r.covers(&ipa)));
            assert!(recorder.smmus.iter().any(|r| r.covers(&ipa)));
            assert!(!space.is_ram(Identity.ipa(page).start()));

            give(space, page, Owner::HYPERVISOR, &mut recorder).unwrap();
            assert_reach(space, page.start().raw(), true, true);
            assert!(space.is_ram(Identity.ipa(page).start()));
        });
    }
}

/// Shared tables, a block that both have, and what is no whole entry.
#[test]
fn a_range_across_all_kinds_of_entries_leaves_and_comes_back() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            let gib = 1 << 30;
            let across = range(RAM + gib - 0x20_0000, gib + 0x40_0000);
            let mut recorder = Recorder::default();
            take(space, across, Owner::NOBODY, &mut recorder).unwrap();
            let (start, end) = (across.start().raw(), across.end().raw());
            for page in (start..end).step_by(0x10_1000) {
                assert_reach(space, page, false, false);
            }
            assert_reach(space, end - PAGE_SIZE, false, false);
            assert_reach(space, start - PAGE_SIZE, true, true);
            assert_reach(space, end, true, true);
            let told = |ranges: &[Range<Ipa>], at| ranges.iter().any(|r| r.contains(Ipa::new(at)));
            for at in [start, start + gib, end - PAGE_SIZE] {
                assert!(told(&recorder.cpus, at) && told(&recorder.smmus, at));
            }
            give(space, across, Owner::NOBODY, &mut recorder).unwrap();
            for page in (start - PAGE_SIZE..=end).step_by(0x10_1000) {
                assert_reach(space, page, true, true);
            }
        });
    }
}

#[test]
fn sharing_saves_the_tables_of_one_side() {
    let used = |bbm| {
        let fixture = Fixture::new(bbm);
        fixture.with(|_| fixture.arena.bytes_in_use())
    };
    assert!(used(Bbm::Level2) < used(Bbm::Level0));
}

#[test]
fn a_whole_block_of_the_root_leaves_and_comes_back() {
    for bbm in BOTH {
        Fixture::new(bbm).with(|space| {
            let block = range(RAM + 0x80_0000, 0x40_0000);
            let mut recorder = Recorder::default();
            take(space, block, Owner::NOBODY, &mut recorder).unwrap();
            for page in (block.start().raw()..block.end().raw()).step_by(PAGE_SIZE as usize) {
                assert_reach(space, page, false, false);
            }
            give(space, block, Owner::NOBODY, &mut recorder).unwrap();
            assert_reach(space, block.start().raw(), true, true);
        });
    }
}

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

#[test]
fn input_bits_reach_registers_and_ram() {
    assert_eq!(input_bits(PhysAddr::new(0x8000_0000), 48), 40);
    assert_eq!(input_bits(PhysAddr::new(1 << 40), 48), 40);
    assert_eq!(input_bits(PhysAddr::new((1 << 40) + 1), 48), 42);
    assert_eq!(input_bits(PhysAddr::new(0x8000_0000), 36), 36);
}

#[test]
fn a_shown_page_is_read_by_cpus_alone() {
    for bbm in [Bbm::Level0, Bbm::Level2] {
        Fixture::new(bbm).with(|space| {
            space.show(Ipa::new(SMMU), PhysAddr::new(OWN)).unwrap();
            let mapping = space.cpu().walk(Ipa::new(SMMU)).unwrap();
            assert_eq!(mapping.output.raw(), OWN);
            assert_eq!(mapping.attributes.memory, MemoryType::Device);
            assert!(mapping.attributes.read && !mapping.attributes.write);
            assert_eq!(mapping.attributes.execute, Execute::Never);
            // Neither its neighbour nor a device, neither here nor there.
            assert_reach(space, SMMU + PAGE_SIZE, false, false);
            assert_eq!(reach(space, SMMU).1, None);
            assert_reach(space, OWN, false, false);
        });
    }
}

#[test]
fn only_pages_of_ours_are_shown_and_only_where_nothing_is() {
    Fixture::new(Bbm::Level2).with(|space| {
        let at = Ipa::new(SMMU);
        for page in [RAM, UART, OWN + OWN_SIZE] {
            let page = PhysAddr::new(page);
            assert_eq!(space.show(at, page), Err(ShowError::NotOurs(page)));
        }
        for at in [UART, RAM, SMMU + 1] {
            assert!(matches!(
                space.show(Ipa::new(at), PhysAddr::new(OWN)),
                Err(ShowError::Table(_))
            ));
        }
        assert_reach(space, SMMU, false, false);
    });
}
