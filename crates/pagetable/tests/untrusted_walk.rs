//! Walks of tables that nobody can vouch for.

use portcullis_addr::{Iova, Ipa, PhysAddr};
use portcullis_pagetable::{
    AccessRequest, Fault, Geometry, Granule, Stage1El1, Stage2, Translation, UntrustedFault,
    UntrustedFormat, walk_untrusted,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Words = BTreeMap<u64, u64>;

const READ: AccessRequest = AccessRequest {
    read: true,
    write: false,
    execute: false,
    privileged: false,
};

#[derive(Debug, PartialEq, Clone, Copy)]
struct Refused;

fn stage1(
    words: &Words,
    at: u64,
    want: Option<AccessRequest>,
) -> Result<Translation<Ipa>, UntrustedFault<Refused>> {
    let geometry = Geometry::stage1(Granule::Size4K, 39, 40).unwrap();
    let mut reads = Vec::new();
    let mut fetch = |at: Ipa| {
        assert!(!reads.contains(&at), "{at} is read twice");
        reads.push(at);
        words.get(&at.raw()).copied().ok_or(Refused)
    };
    walk_untrusted::<Stage1El1, _>(&geometry, Ipa::new(0x1000), Iova::new(at), want, &mut fetch)
}

/// Root at 0x1000, level 2 at 0x2000, level 3 at 0x3000, page at 0x8000.
fn words(level1: u64, level2: u64, level3: u64) -> Words {
    [(0x1000, level1), (0x2000, level2), (0x3008, level3)].into()
}

#[test]
fn what_tables_allow_together() {
    // A user page that may be written: never executable privileged.
    let good = words(0x2003, 0x3003, 0x8000 | 0x743);
    let found = stage1(&good, 0x1234, None).unwrap();
    assert_eq!(found.output, Ipa::new(0x8234));
    assert!(found.privileged.write && found.unprivileged.write);
    assert!(!found.privileged.execute && found.unprivileged.execute);
    // APTable[1] (62) takes writes away, APTable[0] (61) takes EL0 away, UXNTable
    // is 60, PXNTable 59 (Table D8-50).
    let found = stage1(&words(0x2003 | 1 << 62, 0x3003, 0x8743), 0x1234, None).unwrap();
    assert!(!found.privileged.write && !found.unprivileged.write && found.unprivileged.read);
    let tables = words(0x2003, 0x3003 | 1 << 61, 0x8743);
    assert_eq!(
        stage1(&tables, 0x1234, Some(READ)),
        Err(Fault::Permission { level: 3 }.into())
    );
    let found = stage1(
        &words(0x2003 | 1 << 60, 0x3003 | 1 << 59, 0x8743),
        0x1234,
        None,
    )
    .unwrap();
    assert!(!found.privileged.execute && !found.unprivileged.execute);
}

#[test]
fn every_way_to_fault() {
    let fault = |words: Words, want: Fault| {
        assert_eq!(stage1(&words, 0x1234, Some(READ)), Err(want.into()));
    };
    fault(words(0, 0, 0), Fault::Translation { level: 1 });
    fault(words(0x2003, 0x3002, 0), Fault::Translation { level: 2 });
    // Bits 1:0 = 0b01 at level 3 are reserved and treated as invalid.
    fault(
        words(0x2003, 0x3003, 0x8741),
        Fault::Translation { level: 3 },
    );
    fault(
        words(0x2003, 0x3003, 0x8343),
        Fault::AccessFlag { level: 3 },
    );
    fault(
        words(0x2003, 0x3003, 0x8703),
        Fault::Permission { level: 3 },
    );
    // Bit 40 of a table's or a page's address is above the output size.
    fault(
        words(0x2003 | 1 << 40, 0x3003, 0x8743),
        Fault::AddressSize { level: 1 },
    );
    fault(
        words(0x2003, 0x3003, 0x8743 | 1 << 40),
        Fault::AddressSize { level: 3 },
    );
    // A block of 2 MiB at an address that is none.
    fault(words(0x2003, 0x8741, 0), Fault::Reserved { level: 2 });
    assert_eq!(
        stage1(&words(0x2003, 0x7003, 0), 0x1234, None),
        Err(UntrustedFault::Fetch {
            level: 3,
            error: Refused
        })
    );
    assert_eq!(
        stage1(&words(0, 0, 0), 1 << 39, None),
        Err(Fault::AddressSize { level: 1 }.into())
    );
}

#[test]
fn stage_2_memory_types() {
    let geometry = Geometry::stage2(Granule::Size4K, 32, 40).unwrap();
    let walk = |leaf: u64| {
        walk_untrusted::<Stage2, _>(
            &geometry,
            PhysAddr::new(0x4000),
            Ipa::new(0x20_0000),
            None,
            &mut |_| Ok::<_, Refused>(leaf),
        )
    };
    // MemAttr 0b1111, then 0b1000, which Table D8-96 reserves; then with nT.
    assert!(walk(0x20_07fd).is_ok());
    assert_eq!(walk(0x20_07e1), Err(Fault::Reserved { level: 2 }.into()));
    assert_eq!(walk(0x21_07fd).unwrap().output, PhysAddr::new(0x20_0000));
}

fn any_walk<F: UntrustedFormat>(
    geometry: Geometry,
    root: F::Output,
    address: F::Input,
    words: &[u64],
) {
    let mut reads = 0;
    let mut fetch = |_: F::Output| {
        reads += 1;
        words.get(reads - 1).copied().ok_or(Refused)
    };
    let result = walk_untrusted::<F, _>(&geometry, root, address, Some(READ), &mut fetch);
    assert!(reads <= 4 - usize::from(geometry.start_level()));
    if let Ok(found) = result {
        let output = portcullis_addr::Address::raw(found.output);
        assert!(output < geometry.output_end());
    }
}

proptest! {
    #[test]
    fn nothing_that_a_guest_writes_panics_or_loops(
        granule in prop::sample::select(vec![Granule::Size4K, Granule::Size16K, Granule::Size64K]),
        input in 25u8..=48,
        output in prop::sample::select(vec![32u8, 36, 40, 42, 44, 48]),
        root in any::<u64>(),
        address in any::<u64>(),
        mask in prop::sample::select(vec![0u64, 1, 3]),
        words in prop::collection::vec(any::<u64>(), 0..5),
    ) {
        let words: Vec<u64> = words.iter().map(|word| word | mask).collect();
        let geometry = Geometry::stage1(granule, input, output).unwrap();
        let root = root & (geometry.output_end() - 1) & !(geometry.root_bytes() - 1);
        let address = address & (geometry.input_end() - 1);
        any_walk::<Stage1El1>(geometry, Ipa::new(root), Iova::new(address), &words);
        if let Ok(geometry) = Geometry::stage2(granule, input, output) {
            let root = root & !(geometry.root_bytes() - 1);
            any_walk::<Stage2>(geometry, PhysAddr::new(root), Ipa::new(address), &words);
        }
    }
}
