//! The host's view against the ledger, address by address, and the order in
//! which pages leave it.
#![allow(missing_docs)]

use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{
    HostError, HostSpace, HostTables, Invalidate, Ledger, Sharing, ShowError, input_bits,
};
use portcullis_memory::Arena;
use portcullis_ownership::{Bank, Owner, State};
use portcullis_pagetable::{Bbm, Execute, Geometry, Granule, Invalidation, MemoryType};
use std::sync::atomic::AtomicU32;

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
    tables: HostTables,
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
            tables: HostTables {
                geometry: Geometry::stage2(Granule::Size4K, 40, 40).unwrap(),
                cpu_geometry: Geometry::stage2(Granule::Size4K, 40, 40).unwrap(),
                cpu_bbm: bbm,
                dma_bbm: bbm,
            },
        }
    }

    fn with<T>(&self, test: impl FnOnce(&mut HostSpace<'_, &Arena, &Arena>) -> T) -> T {
        let banks = [Bank::new(range(RAM, RAM_SIZE), &self.entries, &self.words).unwrap()];
        let ledger = Ledger::new(&banks).unwrap();
        ledger
            .begin(range(OWN, OWN_SIZE), Owner::NOBODY, Owner::HYPERVISOR)
            .unwrap()
            .commit();
        ledger
            .begin(
                range(FIRMWARE, FIRMWARE_SIZE),
                Owner::NOBODY,
                Owner::FIRMWARE,
            )
            .unwrap()
            .commit();
        for run in ledger.runs(Owner::NOBODY) {
            ledger
                .begin(run, Owner::NOBODY, Owner::HOST)
                .unwrap()
                .commit();
        }
        // Around the SMMU's registers, with RAM in the middle of one range, and
        // beyond what the tables can translate.
        let registers = [
            range(SMMU + 0x2_0000, GAP - SMMU - 0x2_0000),
            range(0x0800_1000, SMMU - 0x0800_1000),
            range(0x80_0000_0000, 1 << 40),
        ];
        let mut space = HostSpace::new(
            ledger,
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
fn reach(space: &HostSpace<'_, &Arena, &Arena>, at: u64) -> (Option<u64>, Option<u64>) {
    let at = Ipa::new(at);
    (
        space.cpu().walk(at).ok().map(|m| m.output.raw()),
        space.dma().walk(at).ok().map(|m| m.output.raw()),
    )
}

/// Asserts for a page that it is where it belongs: with CPUs, devices, or not.
#[track_caller]
fn assert_reach(space: &HostSpace<'_, &Arena, &Arena>, at: u64, cpu: bool, dma: bool) {
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
    fail_smmus: bool,
}

#[derive(Debug)]
struct Refused;

impl Invalidate for Recorder {
    type Error = Refused;

    fn cpus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.cpus.extend(plan.range());
        Ok(())
    }

    fn smmus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.smmus.extend(plan.range());
        if self.fail_smmus {
            Err(Refused)
        } else {
            Ok(())
        }
    }
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
            space.take(page, Owner::HYPERVISOR, &mut recorder).unwrap();
            assert_reach(space, page.start().raw(), false, false);
            assert_reach(space, page.end().raw(), true, true);
            assert_reach(space, page.start().raw() - PAGE_SIZE, true, true);
            // Each side was told about at least the page.
            let ipa: Range<Ipa> = page.identity();
            assert!(recorder.cpus.iter().any(|r| r.covers(&ipa)));
            assert!(recorder.smmus.iter().any(|r| r.covers(&ipa)));
            assert!(!space.is_host_ram(page.start()));

            space.give(page, Owner::HYPERVISOR, &mut recorder).unwrap();
            assert_reach(space, page.start().raw(), true, true);
            assert!(space.is_host_ram(page.start()));
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
            space.take(across, Owner::NOBODY, &mut recorder).unwrap();
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
            space.give(across, Owner::NOBODY, &mut recorder).unwrap();
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
            space.take(block, Owner::NOBODY, &mut recorder).unwrap();
            for page in (block.start().raw()..block.end().raw()).step_by(PAGE_SIZE as usize) {
                assert_reach(space, page, false, false);
            }
            space.give(block, Owner::NOBODY, &mut recorder).unwrap();
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
                space.take(page, Owner::HYPERVISOR, &mut recorder),
                Err(HostError::Invalidation(Refused))
            ));
            let entry = space.ledger().entry(page.start()).unwrap();
            assert_eq!(entry.state(), State::Leaving);
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
            let _ = space.take(page, Owner::HYPERVISOR, &mut recorder);
            recorder.fail_smmus = false;
            let next = range(RAM + 0x100_1000, PAGE_SIZE);
            assert!(matches!(
                space.take(next, Owner::HYPERVISOR, &mut recorder),
                Err(HostError::InDoubt)
            ));
            assert!(matches!(
                space.give(next, Owner::HYPERVISOR, &mut recorder),
                Err(HostError::InDoubt)
            ));
            let entry = space.ledger().entry(next.start()).unwrap();
            assert_eq!((entry.owner(), entry.state()), (Owner::HOST, State::Owned));
        });
    }
}

#[test]
fn pages_that_devices_hold_and_pages_of_others_stay() {
    Fixture::new(Bbm::Level2).with(|space| {
        let page = range(RAM + 0x100_0000, PAGE_SIZE);
        let mut recorder = Recorder::default();
        space.ledger().pin(page, Owner::HOST).unwrap();
        assert!(matches!(
            space.take(page, Owner::HYPERVISOR, &mut recorder),
            Err(HostError::Ledger(_))
        ));
        assert_reach(space, page.start().raw(), true, true);
        assert!(matches!(
            space.take(range(OWN, PAGE_SIZE), Owner::NOBODY, &mut recorder),
            Err(HostError::Ledger(_))
        ));
        assert!(matches!(
            space.give(range(OWN, PAGE_SIZE), Owner::NOBODY, &mut recorder),
            Err(HostError::Ledger(_))
        ));
        assert_reach(space, OWN, false, false);
        // Nobody pins firmware's memory, and the host neither gives nor gets it.
        let firmware = range(FIRMWARE, PAGE_SIZE);
        assert!(space.ledger().pin(firmware, Owner::HOST).is_err());
        assert!(!space.is_host_ram(firmware.start()));
        for owner in [Owner::HYPERVISOR, Owner::NOBODY] {
            assert!(matches!(
                space.take(firmware, owner, &mut recorder),
                Err(HostError::Ledger(_))
            ));
            assert!(matches!(
                space.give(firmware, owner, &mut recorder),
                Err(HostError::Ledger(_))
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
