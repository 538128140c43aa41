//! One sub-tree in two tables.

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::Arena;
use portcullis_pagetable::{
    Bbm, Error, Execute, Geometry, Granule, MemoryType, Stage2, Stage2Attributes, Table,
};

const GIB: u64 = 1 << 30;
const RW: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Always,
};

fn range(start: u64, size: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(start), size).unwrap()
}

fn pair(arena: &Arena, bits: u8) -> [Table<Stage2, &Arena>; 2] {
    let geometry = Geometry::stage2(Granule::Size4K, bits, 48).unwrap();
    [(); 2].map(|()| Table::new(geometry, Bbm::Level0, arena).unwrap())
}

#[test]
fn what_the_owner_changes_the_borrower_sees() {
    // Start level 1 (the root is lent from) and 0 (a level below it).
    for bits in [40, 48] {
        let arena = Arena::new(PhysAddr::new(0x10_0000), 0x100_0000);
        let [mut owner, mut borrower] = pair(&arena, bits);
        let roots = arena.bytes_in_use();
        owner.map(range(GIB, GIB), PhysAddr::new(GIB), RW).unwrap();
        let ram = range(GIB, 2 * GIB);
        assert_eq!(
            borrower.borrow(&owner, ram, 1),
            Err(Error::NotShared {
                address: Ipa::new(GIB)
            })
        );
        let plan = owner.share(ram, 1).unwrap();
        assert!(plan.is_broken(), "a block of 1 GiB became a table");
        owner.complete(plan).unwrap();
        borrower.borrow(&owner, ram, 1).unwrap();
        let same = |owner: &Table<Stage2, &Arena>, borrower: &Table<Stage2, &Arena>| {
            for at in [GIB, GIB + 0x1234, 2 * GIB - 1, 2 * GIB, 3 * GIB - 1] {
                assert_eq!(owner.walk(Ipa::new(at)), borrower.walk(Ipa::new(at)));
            }
        };
        same(&owner, &borrower);
        // A hole that was lent is filled later, and emptied again.
        owner
            .map(range(2 * GIB, GIB), PhysAddr::new(2 * GIB), RW)
            .unwrap();
        same(&owner, &borrower);
        assert!(borrower.walk(Ipa::new(2 * GIB)).is_ok());
        let plan = owner.unmap(range(0, 4 * GIB)).unwrap();
        owner.complete(plan).unwrap();
        same(&owner, &borrower);
        assert_eq!(owner.mappings().count(), 0);
        assert_eq!(borrower.mappings().count(), 0);
        // The borrower may not touch it, nor map over it.
        for (at, size) in [(GIB, 0x1000), (0, 4 * GIB)] {
            assert!(matches!(
                borrower.unmap(range(at, size)),
                Err(Error::Borrowed { address }) if address == Ipa::new(GIB)
            ));
            assert_eq!(
                borrower.map(range(at, size), PhysAddr::new(0), RW),
                Err(Error::Borrowed {
                    address: Ipa::new(GIB)
                })
            );
        }
        assert!(matches!(
            borrower.share(ram, 1),
            Err(Error::Borrowed { .. })
        ));
        borrower
            .map(range(0, 0x1000), PhysAddr::new(0), RW)
            .unwrap();
        let plan = borrower.return_borrowed(ram, 1).unwrap();
        assert_eq!(plan.range(), Some(ram));
        assert!(!plan.leaf_only());
        borrower.complete(plan).unwrap();
        borrower.map(ram, PhysAddr::new(0), RW).unwrap();
        borrower.destroy();
        owner.destroy();
        assert_eq!(arena.bytes_in_use(), 0);
        assert!(roots > 0);
    }
}

#[test]
fn destroying_the_borrower_leaves_the_owner_whole() {
    let arena = Arena::new(PhysAddr::new(0x10_0000), 0x100_0000);
    let [mut owner, mut borrower] = pair(&arena, 40);
    owner
        .map(range(GIB, 0x1000), PhysAddr::new(GIB), RW)
        .unwrap();
    let plan = owner.share(range(GIB, GIB), 1).unwrap();
    owner.complete(plan).unwrap();
    let used = arena.bytes_in_use();
    borrower.borrow(&owner, range(GIB, GIB), 1).unwrap();
    assert_eq!(arena.bytes_in_use(), used, "sharing a root entry is free");
    borrower.destroy();
    assert!(owner.walk(Ipa::new(GIB)).is_ok());
    owner.destroy();
    assert_eq!(arena.bytes_in_use(), 0);
}
