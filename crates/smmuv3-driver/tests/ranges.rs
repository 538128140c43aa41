//! Many streams with one table, and the one that leaves it.
#![allow(missing_docs)]

mod common;

use common::Fake;
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Config, Error, Granule, Smmu, Stage2};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::{StreamId, Vmid};

const HOST: Stage2 = Stage2 {
    vmid: Vmid(1),
    root: PhysAddr::new(0x8010_0000),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 2,
};

const OTHER: Stage2 = Stage2 {
    vmid: Vmid(2),
    root: PhysAddr::new(0x8020_0000),
    ..HOST
};

fn driver(fake: &Fake) -> Smmu<&Fake, &Fake, &Fake> {
    Smmu::new(fake, fake, fake, Config::default()).unwrap()
}

fn root(smmu: &Smmu<&Fake, &Fake, &Fake>, stream: u32) -> Option<PhysAddr> {
    smmu.attached(StreamId(stream)).map(|(_, root)| root)
}

#[test]
fn every_stream_of_the_range_and_no_other_is_attached() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    // Neither end on a whole second-level table of 64.
    smmu.attach_range(StreamId(60), StreamId(330), &HOST)
        .unwrap();
    for stream in 0..400 {
        let inside = (60..=330).contains(&stream);
        assert_eq!(root(&smmu, stream), inside.then_some(HOST.root), "{stream}");
    }
}

#[test]
fn a_segment_takes_two_tables_and_not_a_thousand() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(0xffff), &HOST)
        .unwrap();
    let tables: std::collections::BTreeSet<u64> = (0..0x1_0000)
        .step_by(64)
        .filter_map(|stream| fake.entry_address(StreamId(stream)))
        .collect();
    assert_eq!(tables.len(), 1);
    assert_eq!(root(&smmu, 0xffff), Some(HOST.root));
}

#[test]
fn a_stream_that_leaves_takes_no_neighbour_along() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(1023), &HOST)
        .unwrap();
    fake.take_consumed();
    smmu.block(StreamId(100)).unwrap();
    let opcodes: Vec<_> = fake.take_consumed().iter().map(|c| c.opcode()).collect();
    // The copied table is in force before the entry in it changes.
    assert_eq!(
        opcodes,
        [
            Opcode::CFGI_STE_RANGE,
            Opcode::SYNC,
            Opcode::CFGI_STE,
            Opcode::SYNC
        ]
    );
    smmu.attach(StreamId(700), &OTHER).unwrap();
    for stream in 0..1024 {
        let want = match stream {
            100 => None,
            700 => Some(OTHER.root),
            _ => Some(HOST.root),
        };
        assert_eq!(root(&smmu, stream), want, "{stream}");
    }
}

/// The copy's last user changes the common table itself; later ranges must
/// not be linked to it as if nothing had happened.
#[test]
fn a_common_table_that_changed_is_not_used_again() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(127), &HOST)
        .unwrap();
    smmu.block(StreamId(0)).unwrap();
    smmu.block(StreamId(64)).unwrap();
    smmu.attach_range(StreamId(128), StreamId(255), &HOST)
        .unwrap();
    for stream in 0..256 {
        let blocked = stream == 0 || stream == 64;
        assert_eq!(
            root(&smmu, stream),
            (!blocked).then_some(HOST.root),
            "{stream}"
        );
    }
}

/// Its entry in the copy says what the common table said, until then.
#[test]
fn a_stream_whose_copy_failed_is_not_attached_after_a_restart() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(127), &HOST)
        .unwrap();
    fake.faults(|faults| faults.refuse.push((Opcode::CFGI_STE_RANGE, 1)));
    let result = smmu.attach(StreamId(3), &OTHER);
    assert!(matches!(result, Err(Error::Command { .. })), "{result:?}");
    assert!(smmu.is_fenced());
    assert_eq!(root(&smmu, 3), None);
    assert_eq!(root(&smmu, 4), Some(HOST.root));
}

#[test]
fn without_memory_for_a_copy_a_block_fences() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(127), &HOST)
        .unwrap();
    fake.faults(|faults| faults.no_memory = true);
    assert!(matches!(
        smmu.block(StreamId(3)),
        Err(Error::NoMemory { .. })
    ));
    assert!(smmu.is_fenced() && fake.is_fenced());
}

#[test]
fn stopping_gives_a_common_table_back_once() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(1023), &HOST)
        .unwrap();
    smmu.block(StreamId(100)).unwrap();
    // The arena refuses a second free of the same table.
    smmu.stop().unwrap();
    assert_eq!(fake.arena.bytes_in_use(), 0);
}

#[test]
fn ends_outside_the_table_are_refused() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    assert!(matches!(
        smmu.attach_range(StreamId(0), StreamId(0x1_0000), &HOST),
        Err(Error::StreamOutOfRange { .. })
    ));
    assert_eq!(root(&smmu, 0), None);
}
