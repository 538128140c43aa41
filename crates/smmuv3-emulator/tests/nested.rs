//! What a device reaches, and what its owner is told, where the owner's SMMU is
//! an emulated one on top of a modelled one.
#![allow(missing_docs)]

mod world;

use smmuv3_emulator::Delivery;
use smmuv3_model::{Profile, Refusal};
use smmuv3_spec::reg;
use world::*;

#[test]
fn after_reset_only_stage_2_translates() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    assert_eq!(world.reads(S, 0x4012_3456), Ok(0x8012_3456));
    // GBPA: ABORT (20) and Update (31).
    world.write32(reg::GBPA, 1 << 31 | 1 << 20 | 1 << 12);
    assert_eq!(world.reads(S, 0x4012_3456), Err(Refusal::Silent));
    assert_eq!(world.reads(0x40f, 0x4012_3456), Err(Refusal::Silent));
    world.write32(reg::GBPA, 1 << 31 | 1 << 12);
    assert_eq!(world.reads(S, 0x4012_3456), Ok(0x8012_3456));
    assert_eq!(world.reads(0x40f, 0x4012_3456), Ok(0x8012_3456));
}

#[test]
fn each_entry_becomes_what_it_says() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    world.entry(S, &STAGE1);
    world.entry(PCIE, &STAGE1);
    world.entry(66, &BYPASS);
    world.entry(67, &ABORT);
    // 68: V clear. 69, 70: stage 2, and both, which its SMMU does not have.
    let stage2 = [0b1101, 0, 9, 0x8100_0000, 0, 0, 0, 0];
    world.entry(69, &stage2);
    world.entry(70, &[0b1111 | CD, 0, 9, 0x8100_0000, 0, 0, 0, 0]);
    world.queues(true);
    world.linear(7);
    assert_eq!(world.reads(S, 0x123), Ok(0x80aa_0123));
    assert_eq!(world.reads(PCIE, 0x1123), Ok(0x80bb_0123));
    assert_eq!(world.reads(66, 0x4012_3456), Ok(0x8012_3456));
    assert_eq!(world.reads(67, 0x4012_3456), Err(Refusal::Silent));
    assert!(world.events().is_empty());
    for stream in [68, 69, 70] {
        assert!(world.reads(stream, 0x4012_3456).is_err());
    }
    // C_BAD_STE (0x04) with the owner's number.
    assert_eq!(world.events(), [Delivery::Done; 3]);
    let bad = |kind: u64, stream: u64| [kind | stream << 32, 0, 0, 0];
    assert_eq!(world.told(), [bad(4, 68), bad(4, 69), bad(4, 70)]);
    // Beyond the table: C_BAD_STREAMID (0x02).
    assert!(world.reads(128, 0).is_err());
    assert!(world.reads(0x400, 0).is_err());
    let _ = world.events();
    assert_eq!(world.told(), [bad(2, 128), bad(2, 0x400)]);
    // A stream that is somebody else's.
    hw.smmu
        .borrow_mut()
        .translate(smmuv3_model::Transaction::new(
            smmuv3_spec::StreamId(0x1100),
            0,
            smmuv3_model::Access::Read,
        ))
        .unwrap_err();
    assert!(world.events().iter().all(|d| *d == Delivery::NotOwned));
    assert!(world.told().is_empty());
    // Off again: bypass.
    world.write32(reg::CR0, 0);
    for stream in [S, 67, 68, 128, 0x400] {
        assert_eq!(world.reads(stream, 0x4012_3456), Ok(0x8012_3456));
    }
}

#[test]
fn an_entry_that_stays_the_same_takes_its_context_descriptors_along() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    world.entry(S, &STAGE1);
    world.queues(false);
    world.linear(7);
    // CMD_CFGI_STE, and CMD_CFGI_ALL, drop the descriptors that were found
    // through the entry too (4.3.1, 4.3.2): CMD_CFGI_CD_ALL (0x06).
    let all = [4, 31];
    for command in [[3 | u64::from(S) << 32, 1], all] {
        hw.smmu.borrow_mut().take_commands();
        world.commands(&[command, [0x46, 0]]);
        let issued = hw.smmu.borrow_mut().take_commands();
        let drop = [6 | u64::from(physical(S).0) << 32, 0];
        let dropped = issued.iter().position(|command| command.0 == drop);
        let synced = issued
            .iter()
            .rposition(|command| command.0[0] & 0xff == 0x46);
        assert!(dropped.is_some() && dropped < synced, "{issued:x?}");
    }
}
