//! What the owner of an emulated SMMU is told of faults, as raw records
//! (IHI 0070, 7.3), and what it never sees.
#![allow(missing_docs)]

mod world;

use smmuv3_emulator::{Delivery, Line};
use smmuv3_model::{Access, Profile, Refusal};
use smmuv3_spec::reg;
use world::*;

/// IPAs where stage 2 has nothing.
const NOWHERE: u64 = 0x5000_0000;

fn nested<'a>(hw: &'a Hardware, side: &'a Side, entry: &[u64; 8], context: &[u64; 8]) -> World<'a> {
    let mut world = World::new(hw, side);
    world.stage1(context);
    world.entry(S, entry);
    world.queues(false);
    world.linear(8);
    world
}

fn told(world: &mut World<'_>, address: u64, delivery: Delivery) -> Vec<[u64; 4]> {
    assert!(world.reads(S, address).is_err());
    assert_eq!(world.events(), [delivery]);
    world.told()
}

#[test]
fn stage_1_is_the_owners() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = nested(&hw, &side, &STAGE1, &CONTEXT);
    // F_TRANSLATION: RnW (99), CLASS IN (105:104), InputAddr.
    let word1 = (0x2_00 | 1 << 3) << 32;
    let record = [0x10 | u64::from(S) << 32, word1, 0x2345, 0];
    assert_eq!(told(&mut world, 0x2345, Delivery::Done), [record]);
    // C_BAD_CD: V (31) clear.
    world.put(CD, CONTEXT[0] & !(1 << 31));
    // CMD_CFGI_CD with Leaf, CMD_SYNC.
    world.commands(&[[5 | u64::from(S) << 32, 1], [0x46, 0]]);
    let record = [0x0a | u64::from(S) << 32, 0, 0, 0];
    assert_eq!(told(&mut world, 0, Delivery::Done), [record]);
    // C_BAD_SUBSTREAMID has no SSV (11).
    let access = smmuv3_model::Transaction::new(physical(S), 0, Access::Read).with_substream(3);
    assert!(hw.smmu.borrow_mut().translate(access).is_err());
    assert_eq!(world.events(), [Delivery::Done]);
    let record = [0x08 | 3 << 12 | u64::from(S) << 32, 0, 0, 0];
    assert_eq!(world.told(), [record]);
}

#[test]
fn stage_2_is_not() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let s = u64::from(S) << 32;
    // The CD: F_CD_FETCH with its IPA.
    let entry = [0b1011 | NOWHERE, 0, 0, 0, 0, 0, 0, 0];
    let mut world = nested(&hw, &side, &entry, &CONTEXT);
    let record = [0x09 | s, 0, 0, NOWHERE];
    assert_eq!(told(&mut world, 0x123, Delivery::Report), [record]);
    // A stage 1 table: F_WALK_EABT of stage 1, RnW (99), CLASS TTD.
    world.entry(S, &STAGE1);
    world.changed(S);
    world.put(ONE + 0x1000, NOWHERE | 0x7000 | 3);
    world.commands(&[[0x11 | 7 << 48, 0], [0x46, 0]]);
    let record = [0x0b | s, (0x1_00 | 1 << 3) << 32, 0x123, NOWHERE | 0x7000];
    assert_eq!(told(&mut world, 0x123, Delivery::Report), [record]);
    // The output: nothing, as where an address leads nowhere.
    world.put(ONE + 0x1000, (ONE + 0x2000) | 3);
    world.put(ONE + 0x2000, NOWHERE | 1 << 10 | 1 << 6 | 3);
    world.commands(&[[0x11 | 7 << 48, 0], [0x46, 0]]);
    assert!(told(&mut world, 0x123, Delivery::Report).is_empty());
    // Nor where stage 2 is all there is.
    world.entry(S, &BYPASS);
    world.changed(S);
    assert!(told(&mut world, NOWHERE, Delivery::Report).is_empty());
    assert_eq!(world.emulator.counts().events_delivered, 2);
    assert_eq!(world.emulator.counts().events_dropped, 2);
}

#[test]
fn nothing_while_translation_is_off() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = nested(&hw, &side, &STAGE1, &CONTEXT);
    // An event from before is told of first.
    assert!(world.reads(S, 0x2345).is_err());
    // EVENTQEN alone.
    world.write32(reg::CR0, 0b0100);
    assert_eq!(world.told().len(), 1);
    assert_eq!(world.events(), []);
    assert!(world.reads(S, NOWHERE).is_err());
    assert_eq!(world.events(), [Delivery::Report]);
    assert!(world.told().is_empty());
    // One of stage 1 that comes too late, F_STE_FETCH, and E_PAGE_REQUEST with
    // the bit that is S2 elsewhere (103).
    let stream = u64::from(physical(S).0) << 32;
    for (record, delivery) in [
        ([0x10 | stream, 0, 0x2345, 0], Delivery::Done),
        ([0x03 | stream, 0, 0, 0], Delivery::Report),
        ([0x24 | stream, 1 << 39, 0, 0], Delivery::Done),
    ] {
        let record = smmuv3_spec::event::EventRecord(record);
        let delivered = world
            .emulator
            .deliver_event(&world.board, GIVEN.as_slice(), &record);
        assert_eq!(delivered, delivery);
    }
    assert!(world.told().is_empty());
}

#[test]
fn bad_streams_only_where_asked_for() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = nested(&hw, &side, &STAGE1, &CONTEXT);
    assert!(world.reads(0x400, 0).is_err());
    assert_eq!(world.events(), [Delivery::Done]);
    assert!(world.told().is_empty());
    // CR2 can be written only while translation is off (6.3.12).
    world.write32(reg::CR0, 0);
    world.write32(reg::CR2, 0b10);
    world.write32(reg::CR0, 0b1111);
    assert!(world.reads(0x400, 0).is_err());
    assert_eq!(world.events(), [Delivery::Done]);
    assert_eq!(world.told(), [[0x02 | 0x400 << 32, 0, 0, 0]]);
}

/// F_STE_FETCH (0x03) names the owner's address.
#[test]
fn a_table_outside_of_memory_cannot_be_fetched() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.queues(true);
    world.write64(reg::STRTAB_BASE, STRTAB);
    world.write32(reg::STRTAB_BASE_CFG, 11 | 6 << 6 | 1 << 16);
    // Streams 64 to 127: an array far away; 128 to 191: none.
    world.put(STRTAB + 8, NOWHERE | 7);
    world.write32(reg::CR0, 0b1111);
    assert!(world.reads(S, 0).is_err());
    assert!(world.reads(130, 0).is_err());
    assert_eq!(world.events(), [Delivery::Done; 2]);
    let fetch = NOWHERE + u64::from(S - 64) * 64;
    assert_eq!(
        world.told(),
        [
            [0x03 | u64::from(S) << 32, 0, 0, fetch],
            [0x02 | 130 << 32, 0, 0, 0]
        ]
    );
}

#[test]
fn a_full_queue_overflows_once() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = nested(&hw, &side, &STAGE1, &CONTEXT);
    // Interrupts only when it stops being empty.
    for n in 0..4 {
        assert!(world.reads(S, 0x2000 + n).is_err());
    }
    assert_eq!(world.events(), [Delivery::Done; 4]);
    assert_eq!(*side.raised.borrow(), [Line::Event]);
    assert_eq!(side.shown(reg::EVENTQ_PROD), 4);
    for _ in 0..3 {
        assert!(world.reads(S, 0x3000).is_err());
        let _ = world.events();
        // OVFLG (31) toggles once (7.4).
        assert_eq!(side.shown(reg::EVENTQ_PROD), 4 | 1 << 31);
    }
    assert_eq!(world.emulator.counts().events_overflowed, 3);
    // Consumed without acknowledging: events go on, a second overflow does not
    // show.
    world.write32(reg::EVENTQ_CONS, 1);
    assert!(world.reads(S, 0x4000).is_err());
    let _ = world.events();
    assert_eq!(side.shown(reg::EVENTQ_PROD), 5 | 1 << 31);
    assert!(world.reads(S, 0x5000).is_err());
    let _ = world.events();
    assert_eq!(side.shown(reg::EVENTQ_PROD), 5 | 1 << 31);
    // Acknowledged, it shows again.
    world.write32(reg::EVENTQ_CONS, 1 | 1 << 31);
    assert!(world.reads(S, 0x6000).is_err());
    let _ = world.events();
    assert_eq!(side.shown(reg::EVENTQ_PROD), 5);
    let all = world.told();
    assert_eq!(
        all.iter().map(|record| record[2]).collect::<Vec<_>>(),
        [0x2001, 0x2002, 0x2003, 0x4000]
    );
    // Empty: the next one interrupts.
    assert!(world.reads(S, 0x7000).is_err());
    let _ = world.events();
    assert_eq!(side.raised.borrow().len(), 2);
}

/// A queue that is not memory: GERROR.EVENTQ_ABT_ERR (2), once.
#[test]
fn a_queue_outside_of_memory_is_an_error() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.queues(false);
    world.write64(reg::EVENTQ_BASE, NOWHERE | 2);
    world.entry(S, &[0; 8]);
    world.linear(8);
    for _ in 0..2 {
        assert!(world.reads(S, 0).is_err());
        assert_eq!(world.events(), [Delivery::Done]);
        assert_eq!(side.shown(reg::GERROR), 0b100);
        assert_eq!(side.shown(reg::EVENTQ_PROD), 0);
    }
    assert_eq!(*side.raised.borrow(), [Line::Error]);
    // Acknowledged, and again.
    world.write32(reg::GERRORN, 0b100);
    assert!(world.reads(S, 0).is_err());
    let _ = world.events();
    assert_eq!(side.shown(reg::GERROR), 0);
}

#[test]
fn stalls_are_the_owners_to_answer() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut context = CONTEXT;
    context[0] |= STALL;
    let mut world = nested(&hw, &side, &STAGE1, &context);
    let Err(Refusal::Stalled(physical_record)) = world.reads(S, 0x2345) else {
        panic!("not stalled")
    };
    assert_eq!(world.events(), [Delivery::Done]);
    let stag = u64::from(physical_record.stag());
    // Stall (95), STAG (79:64).
    let record = [
        0x10 | u64::from(S) << 32,
        stag | 1 << 31 | (0x2_00 | 1 << 3) << 32,
        0x2345,
        0,
    ];
    assert_eq!(world.told(), [record]);
    assert_eq!(hw.smmu.borrow().stalled().len(), 1);
    // CMD_RESUME with neither Ac (12) nor Ab (13): terminated.
    world.commands(&[[0x44 | u64::from(S) << 32, stag], [0x46, 0]]);
    assert!(hw.smmu.borrow().stalled().is_empty());
    // The queue is off: nobody would answer.
    world.write32(reg::CR0, 0b1001);
    assert!(matches!(world.reads(S, 0x2345), Err(Refusal::Stalled(_))));
    let delivered = world.events();
    assert!(matches!(
        delivered[..],
        [Delivery::Terminate { stream, .. }] if stream == physical(S)
    ));
    world.smmu.finish().unwrap();
    assert!(hw.smmu.borrow().stalled().is_empty());
    assert_eq!(world.emulator.counts().stalls_terminated, 1);
}

/// PCIe cannot wait, whatever its owner says.
#[test]
fn pcie_never_stalls() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut context = CONTEXT;
    context[0] |= STALL;
    let mut world = nested(&hw, &side, &STAGE1, &context);
    world.entry(PCIE, &STAGE1);
    world.changed(PCIE);
    let refusal = world.reads(PCIE, 0x2345).unwrap_err();
    assert!(!matches!(refusal, Refusal::Stalled(_)), "{refusal:?}");
    assert!(hw.smmu.borrow().stalled().is_empty());
}
