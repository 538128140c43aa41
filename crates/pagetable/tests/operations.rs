//! What the operations do, step by step.

use portcullis_addr::{Ipa, PhysAddr, Range, Va};
use portcullis_memory::Arena;
use portcullis_pagetable::{
    Access, Bbm, El2Attributes, Error, Execute, Fault, Geometry, Granule, MemoryType, Stage1El2,
    Stage2, Stage2Attributes, Table,
};

const RW: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Always,
};
const RO: Stage2Attributes = Stage2Attributes { write: false, ..RW };

fn arena() -> Arena {
    Arena::new(PhysAddr::new(0x4000_0000), 0x100_0000)
}

fn range(start: u64, size: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(start), size).unwrap()
}

fn table(arena: &Arena, bbm: Bbm) -> Table<Stage2, &Arena> {
    let geometry = Geometry::stage2(Granule::Size4K, 40, 40).unwrap();
    Table::new(geometry, bbm, arena).unwrap()
}

#[test]
fn the_largest_blocks_are_used() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level0);
    // 1 GiB - 2 MiB - 4 KiB .. 3 GiB: a page, a block of 2 MiB, two of 1 GiB.
    let start = 0x4000_0000 - 0x20_1000;
    table
        .map(range(start, 0xc000_0000 - start), PhysAddr::new(start), RW)
        .unwrap();
    for (at, size, level) in [
        (start, 0x1000, 3),
        (start + 0x1000, 0x20_0000, 2),
        (0x4000_0000, 0x4000_0000, 1),
        (0xbfff_ffff, 0x4000_0000, 1),
    ] {
        let found = table.walk(Ipa::new(at)).unwrap();
        assert_eq!((found.size, found.level), (size, level), "{at:#x}");
        assert_eq!(found.output, PhysAddr::new(at));
        assert_eq!(found.attributes, RW);
    }
    assert_eq!(
        table.walk(Ipa::new(start - 1)),
        Err(Fault::Translation { level: 3 })
    );
    assert_eq!(
        table.walk(Ipa::new(0xc000_0000)),
        Err(Fault::Translation { level: 1 })
    );
    let all: Vec<_> = table.mappings().collect();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].range, range(start, 0xc000_0000 - start));
}

#[test]
fn a_refused_map_changes_nothing() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level0);
    table
        .map(range(0x80_0000, 0x1000), PhysAddr::new(0), RW)
        .unwrap();
    let used = arena.bytes_in_use();
    assert_eq!(
        table.map(range(0x1000, 0x100_0000), PhysAddr::new(0x1000), RW),
        Err(Error::AlreadyMapped {
            address: Ipa::new(0x80_0000)
        })
    );
    assert_eq!(arena.bytes_in_use(), used);
    assert_eq!(table.mappings().count(), 1);
}

#[test]
fn unmapping_all_gives_all_tables_back() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level0);
    let root = arena.bytes_in_use();
    table
        .map(range(0x1000, 0x4000_0000), PhysAddr::new(0x3000), RW)
        .unwrap();
    assert!(arena.bytes_in_use() > root + 512 * 4096);
    let plan = table.unmap(range(0, 0x1_0000_0000)).unwrap();
    assert!(!plan.leaf_only());
    table.complete(plan).unwrap();
    assert_eq!(arena.bytes_in_use(), root);
    table.destroy();
    assert_eq!(arena.bytes_in_use(), 0);
}

/// The hint must be 0 where entries of several levels changed.
#[test]
fn a_plan_over_two_levels_names_none() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    table
        .map(range(0, 0x20_2000), PhysAddr::new(0), RW)
        .unwrap();
    let plan = table.unmap(range(0, 0x20_1000)).unwrap();
    // A block and a page; the other page keeps the table.
    assert!(plan.leaf_only());
    assert_eq!(plan.level(), None);
    table.complete(plan).unwrap();
}

#[test]
fn a_block_is_split_in_two_steps_without_bbm_support() {
    for bbm in [Bbm::Level0, Bbm::Level1, Bbm::Level2] {
        let arena = arena();
        let mut table = table(&arena, bbm);
        table
            .map(range(0, 0x4000_0000), PhysAddr::new(0), RW)
            .unwrap();
        let plan = table.unmap(range(0x1000, 0x1000)).unwrap();
        assert_eq!(plan.range(), Some(range(0, 0x4000_0000)));
        assert_eq!(plan.level(), Some(1));
        assert!(plan.leaf_only());
        assert_eq!(plan.granule(), Granule::Size4K);
        assert_eq!(plan.is_broken(), bbm != Bbm::Level2);
        let near = table.walk(Ipa::new(0x2000));
        if bbm == Bbm::Level2 {
            assert_eq!(near.unwrap().output, PhysAddr::new(0x2000));
        } else {
            assert_eq!(near, Err(Fault::Translation { level: 1 }));
            assert!(matches!(
                table.unmap(range(0, 0x1000)),
                Err(Error::Unfinished)
            ));
        }
        table.complete(plan).unwrap();
        assert_eq!(
            table.walk(Ipa::new(0x1000)),
            Err(Fault::Translation { level: 3 })
        );
        for (at, size) in [(0, 0x1000), (0x2000, 0x1000), (0x20_0000, 0x20_0000)] {
            let found = table.walk(Ipa::new(at)).unwrap();
            assert_eq!((found.output, found.size), (PhysAddr::new(at), size));
        }
        let plan = table.protect(range(0x2000, 0x1000), RO).unwrap();
        table.complete(plan).unwrap();
        assert_eq!(table.walk(Ipa::new(0x2000)).unwrap().attributes, RO);
        assert_eq!(table.walk(Ipa::new(0x3000)).unwrap().attributes, RW);
    }
}

#[test]
fn the_contiguous_hint_goes_before_a_member_changes() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level0);
    table
        .map(range(0xf000, 0x2_1000), PhysAddr::new(0xf000), RW)
        .unwrap();
    let hint = |table: &Table<Stage2, &Arena>, at| table.walk(Ipa::new(at)).unwrap().contiguous;
    assert!(!hint(&table, 0xf000));
    assert!(hint(&table, 0x1_0000) && hint(&table, 0x2_f000));
    let plan = table.unmap(range(0x1_0000, 0x1000)).unwrap();
    assert_eq!(plan.range(), Some(range(0x1_0000, 0x1_0000)));
    assert!(plan.is_broken());
    assert!(table.walk(Ipa::new(0x1_1000)).is_err());
    table.complete(plan).unwrap();
    assert!(!hint(&table, 0x1_1000) && hint(&table, 0x2_0000));
    assert!(table.walk(Ipa::new(0x1_0000)).is_err());
}

/// D8.17.1, R WHZWS: a change of memory type needs break-before-make whatever
/// the hardware offers for sizes; a change of access does not.
#[test]
fn a_change_of_memory_type_is_broken_first() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level2);
    table
        .map(range(0x1000, 0x1000), PhysAddr::new(0x1000), RW)
        .unwrap();
    let plan = table.protect(range(0x1000, 0x1000), RO).unwrap();
    assert!(!plan.is_broken());
    assert_eq!(table.walk(Ipa::new(0x1000)).unwrap().attributes, RO);
    table.complete(plan).unwrap();
    let device = Stage2Attributes {
        memory: MemoryType::Device,
        ..RO
    };
    let plan = table.protect(range(0x1000, 0x1000), device).unwrap();
    assert!(plan.is_broken());
    assert_eq!(
        table.walk(Ipa::new(0x1000)),
        Err(Fault::Translation { level: 3 })
    );
    table.complete(plan).unwrap();
    assert_eq!(table.walk(Ipa::new(0x1000)).unwrap().attributes, device);
}

/// Whether anything is visited, which starts from the last table reached.
fn visited(table: &Table<Stage2, &Arena>, at: u64, size: u64) -> bool {
    let mut seen = false;
    table
        .visit(range(at, size), |_, _| seen = true)
        .expect("the range is inside");
    seen
}

#[test]
fn a_table_that_was_freed_is_not_used_again() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level0);
    let (near, far) = (0x20_1000, 0x40_0020_1000);
    for _ in 0..3 {
        // The last two tables reached are freed, and the next two are the same
        // memory at another place.
        table
            .map(range(near, 0x1000), PhysAddr::new(0), RW)
            .unwrap();
        table
            .map(range(near + 0x1000, 0x1000), PhysAddr::new(0), RW)
            .unwrap();
        assert!(visited(&table, near, 0x1000));
        let plan = table.unmap(range(near, 0x2000)).unwrap();
        assert!(!visited(&table, near, 0x1000));
        // Its table is retired, so that this must not go there.
        table
            .map(range(near + 0x5000, 0x1000), PhysAddr::new(0), RW)
            .unwrap();
        assert!(table.walk(Ipa::new(near + 0x5000)).is_ok());
        table.complete(plan).unwrap();
        assert!(table.walk(Ipa::new(near + 0x5000)).is_ok());
        let plan = table.unmap(range(near + 0x5000, 0x1000)).unwrap();
        table.complete(plan).unwrap();
        assert!(!visited(&table, near, 0x1000));
        table.map(range(far, 0x1000), PhysAddr::new(0), RW).unwrap();
        assert!(!visited(&table, near, 0x1000));
        assert!(table.unmap(range(near, 0x1000)).unwrap().is_empty());
        assert!(visited(&table, far, 0x1000));
        let plan = table.unmap(range(far, 0x1000)).unwrap();
        table.complete(plan).unwrap();
        assert!(!visited(&table, far, 0x1000));
    }
}

#[test]
fn nothing_is_mapped_near_the_last_table_while_a_plan_is_outstanding() {
    let arena = arena();
    let mut table = table(&arena, Bbm::Level0);
    table
        .map(range(0, 0x40_0000), PhysAddr::new(0), RW)
        .unwrap();
    table
        .map(range(0x60_0000, 0x2000), PhysAddr::new(0x60_0000), RW)
        .unwrap();
    assert!(visited(&table, 0x60_1000, 0x1000));
    let plan = table.unmap(range(0x1000, 0x1000)).unwrap();
    assert!(plan.is_broken());
    assert!(visited(&table, 0x60_1000, 0x1000));
    let page = PhysAddr::new(0x60_2000);
    let map = table.map(range(0x60_2000, 0x1000), page, RW);
    assert_eq!(map, Err(Error::Unfinished));
    assert!(matches!(
        table.unmap(range(0x60_1000, 0x1000)),
        Err(Error::Unfinished)
    ));
    table.complete(plan).unwrap();
    table.map(range(0x60_2000, 0x1000), page, RW).unwrap();
}

#[test]
fn a_table_may_be_moved_to_another_thread() {
    fn movable<T: Send>() {}
    movable::<Table<Stage2, PhysAddr>>();
}

/// EL2 maps what the host lends it this way, and removes a part of it while other
/// CPUs use the rest.
#[test]
fn pages_mapped_one_by_one_can_be_removed_without_the_others() {
    for (mapped, stays) in [(0x1000, true), (0x1_0000, false)] {
        let arena = arena();
        let geometry = Geometry::stage1(Granule::Size4K, 48, 44).unwrap();
        let mut table = Table::<Stage1El2, _>::new(geometry, Bbm::Level0, &arena).unwrap();
        let attributes = El2Attributes {
            memory: MemoryType::Normal,
            access: Access::ReadWrite,
        };
        let part = |start, size| Range::from_size(Va::new(start), size).unwrap();
        for at in (0x8_0000..0x9_0000).step_by(mapped) {
            let to = PhysAddr::new(at);
            table.map(part(at, mapped as u64), to, attributes).unwrap();
        }
        let plan = table.unmap(part(0x8_0000, 0x8000)).unwrap();
        // Not complete yet: this is what others see meanwhile.
        for at in (0x8_8000..0x9_0000).step_by(0x1000) {
            assert_eq!(table.walk(Va::new(at)).is_ok(), stays, "{at:#x}");
        }
        table.complete(plan).unwrap();
        for at in (0x8_0000..0x9_0000).step_by(0x1000) {
            assert_eq!(table.walk(Va::new(at)).is_ok(), at >= 0x8_8000, "{at:#x}");
        }
    }
}
