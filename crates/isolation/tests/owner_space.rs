//! An owner's memory against the ledger, address by address.
#![allow(missing_docs)]

mod space;

use portcullis_addr::{Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{Sharing, ShowError, input_bits};
use portcullis_ownership::Owner;
use portcullis_pagetable::{Bbm, Execute, Geometry, Granule, MemoryType};
use space::{
    BOTH, DOORBELL, FIRMWARE, FIRMWARE_SIZE, Fixture, GAP, OWN, OWN_SIZE, RAM, RAM_SIZE, Recorder,
    SMMU, UART, assert_reach, give, range, reach, take,
};

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
