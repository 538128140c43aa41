//! The owner's stream table changes while translation is on (IHI 0070, 3.21.3,
//! 4.3 and 5.1.1), with ATS and page requests.
#![allow(missing_docs)]

mod world;

use smmuv3_emulator::{Delivery, PageDelivery};
use smmuv3_model::{
    Access, Completion, PageOutcome, Profile, Refusal, ResponseCode, Transaction,
    TranslationRequest,
};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;
use world::*;

/// Second-level arrays of the owner's.
const LEAF: u64 = IPA + 0x60_0000;

/// Two levels, 11 bits, SPLIT 8 (10:6), FMT 1 (17:16).
fn two_levels(world: &mut World<'_>) {
    world.queues(true);
    world.write64(reg::STRTAB_BASE, STRTAB);
    world.write32(reg::STRTAB_BASE_CFG, 11 | 8 << 6 | 1 << 16);
    world.write32(reg::CR0, 0b1111);
    assert_eq!(side_shown(world, reg::CR0ACK), 0b1111);
}

fn side_shown(world: &World<'_>, offset: u32) -> u32 {
    world.board.side.shown(offset)
}

#[test]
fn a_second_level_appears_and_goes() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    two_levels(&mut world);
    let bad = |kind: u64, stream: u32| [kind, u64::from(stream)];
    let of = |record: &[u64; 4]| [record[0] & 0xff, record[0] >> 32];
    assert!(world.reads(S, 0).is_err());
    assert_eq!(world.events(), [Delivery::Done]);
    assert_eq!(of(&world.told()[0]), bad(2, S));
    // Span 9: 256 entries.
    world.put_all(LEAF + u64::from(S) * 64, &STAGE1);
    world.put_all(LEAF + 70 * 64, &BYPASS);
    world.put(STRTAB, LEAF | 9);
    // Leaf alone, but nothing was there before: all that the descriptor leads
    // to is new.
    world.changed(S);
    assert_eq!(world.reads(S, 0x123), Ok(0x80aa_0123));
    assert_eq!(world.reads(70, 0x4000_0000), Ok(0x8000_0000));
    // Leaf alone, on an entry that was there: only this stream's.
    world.put_all(LEAF + 71 * 64, &BYPASS);
    world.changed(S);
    assert!(world.reads(71, 0x4000_0000).is_err());
    let _ = world.events();
    let _ = world.told();
    // Not the leaf alone (5.1.1).
    world.commands(&[[3 | u64::from(S) << 32, 0], [0x46, 0]]);
    assert_eq!(world.reads(71, 0x4000_0000), Ok(0x8000_0000));
    assert_eq!(world.reads(S, 0x1123), Ok(0x80bb_0123));
    // It goes: CMD_CFGI_ALL (range 31).
    world.put(STRTAB, 0);
    world.commands(&[[4, 31], [0x46, 0]]);
    assert!(world.reads(S, 0x123).is_err());
    assert!(world.reads(70, 0x4000_0000).is_err());
    assert_eq!(world.events(), [Delivery::Done; 2]);
    let told = world.told();
    assert_eq!(
        told.iter().map(of).collect::<Vec<_>>(),
        [bad(2, S), bad(2, 70)]
    );
}

#[test]
fn entries_change_one_by_one() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    world.entry(S, &ABORT);
    world.queues(false);
    world.linear(11);
    assert_eq!(world.reads(S, 0x123), Err(Refusal::Silent));
    world.entry(S, &STAGE1);
    // Not before it is said.
    assert_eq!(world.reads(S, 0x123), Err(Refusal::Silent));
    world.changed(S);
    assert_eq!(world.reads(S, 0x123), Ok(0x80aa_0123));
    world.entry(S, &BYPASS);
    world.changed(S);
    assert_eq!(world.reads(S, 0x4000_0123), Ok(0x8000_0123));
    world.put(STRTAB + u64::from(S) * 64, 0);
    world.changed(S);
    assert!(world.reads(S, 0x123).is_err());
    // The second run of streams, and its neighbours: CMD_CFGI_STE_RANGE over 32
    // streams from 0x400 (range 4).
    world.entry(0x400, &STAGE1);
    world.entry(0x40f, &BYPASS);
    world.commands(&[[4 | 0x400 << 32, 4], [0x46, 0]]);
    assert_eq!(world.reads(0x400, 0x123), Ok(0x80aa_0123));
    assert_eq!(world.reads(0x40f, 0x4000_0123), Ok(0x8000_0123));
    assert_eq!(world.emulator.counts().streams_refused, 0);
}

/// More streams than one write looks at: the write is done in several steps,
/// and in the end every stream has its entry.
#[test]
fn a_large_table_takes_several_steps() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    for stream in 0..256 {
        let entry = match stream % 4 {
            0 => STAGE1,
            1 => BYPASS,
            2 => ABORT,
            _ => [0; 8],
        };
        world.entry(stream, &entry);
    }
    world.entry(0x400, &STAGE1);
    world.queues(false);
    world.linear(11);
    assert!(world.again >= 1);
    // Each word of each entry was read once, and no other.
    let reads = side.reads.borrow().clone();
    assert_eq!(reads.len(), (256 + 16) * 8);
    assert!(reads.values().all(|times| *times == 1));
    let check = |world: &World<'_>, stream: u32| match stream % 4 {
        0 => assert_eq!(world.reads(stream, 0x123), Ok(0x80aa_0123)),
        1 => assert_eq!(world.reads(stream, 0x4000_0000), Ok(0x8000_0000)),
        2 => assert_eq!(world.reads(stream, 0), Err(Refusal::Silent)),
        _ => assert!(world.reads(stream, 0).unwrap_err().event().is_some()),
    };
    for stream in 0..256 {
        check(&world, stream);
    }
    check(&world, 0x400);
    let _ = world.events();
    let before = world.again;
    world.commands(&[[4, 31], [0x46, 0]]);
    assert!(world.again > before);
    for stream in 0..256 {
        check(&world, stream);
    }
}

/// A stream for which there is no memory aborts, and the rest goes on.
#[test]
fn without_memory_a_stream_aborts() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    world.entry(1, &STAGE1);
    world.queues(false);
    world.linear(11);
    assert_eq!(world.reads(1, 0x123), Ok(0x80aa_0123));
    // 2 lies in the same physical second level, 130 in one that is shared.
    hw.starved.set(true);
    world.entry(2, &STAGE1);
    world.entry(130, &STAGE1);
    world.changed(2);
    world.changed(130);
    assert_eq!(world.reads(2, 0x123), Ok(0x80aa_0123));
    assert!(world.reads(130, 0x123).is_err());
    assert_eq!(world.emulator.counts().streams_refused, 1);
    assert!(!world.smmu.is_fenced());
    // With memory, the next attempt succeeds.
    hw.starved.set(false);
    world.changed(130);
    assert_eq!(world.reads(130, 0x123), Ok(0x80aa_0123));
    // Without it, what has a stage 1 can still be made to abort.
    hw.starved.set(true);
    world.entry(2, &ABORT);
    world.changed(2);
    assert_eq!(world.reads(2, 0x123), Err(Refusal::Silent));
}

/// Full ATS of the owner's is ATS of stage 1: what the device holds are IPAs,
/// and what it does with them goes through stage 2.
#[test]
fn devices_hold_ipas() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.stage1(&CONTEXT);
    // EATS (93:92) 0b01.
    let mut entry = STAGE1;
    entry[1] |= 1 << 28;
    world.entry(PCIE, &entry);
    world.entry(S, &entry);
    world.entry(6, &STAGE1);
    world.queues(false);
    world.linear(8);
    let request = |stream| TranslationRequest {
        stream: physical(stream),
        substream: None,
        address: 0x123,
        write: true,
        execute: false,
        privileged: false,
    };
    let Completion::Success(granted) = hw.smmu.borrow_mut().ats_request(request(PCIE)) else {
        panic!("no translation")
    };
    assert_eq!(granted.address, 0x40aa_0000);
    let access = |address| Transaction::new(physical(PCIE), address, Access::Read);
    let translated = |address| hw.smmu.borrow_mut().translated(access(address));
    assert_eq!(translated(0x40aa_0123), Ok(0x80aa_0123));
    // Physical addresses, or what stage 2 does not have, lead nowhere.
    assert!(translated(0x80aa_0123).is_err());
    let _ = world.events();
    // Without EATS, and for what is no PCIe device.
    for stream in [6, S] {
        let completion = hw.smmu.borrow_mut().ats_request(request(stream));
        assert_eq!(completion, Completion::Unsupported);
    }
    assert_eq!(world.events(), [Delivery::Done; 2]);
    let told: Vec<_> = world.told().iter().map(|r| (r[0] & 0xff, r[2])).collect();
    assert_eq!(told, [(5, 0x123), (5, 0x123)]);
}

#[test]
fn page_requests_reach_their_owner() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    world.entry(PCIE, &ABORT);
    world.queues(false);
    world.linear(8);
    let ask = |last: bool, index: u16| {
        let request = PageRequest::default()
            .with_stream(physical(PCIE).0)
            .with_read(true)
            .with_last(last)
            .with_prg_index(index)
            .with_address(0x7000);
        assert_eq!(
            hw.smmu.borrow_mut().page_request(request),
            PageOutcome::Queued
        );
    };
    ask(false, 1);
    ask(true, 1);
    assert_eq!(world.requests(), [PageDelivery::Done; 2]);
    assert_eq!(side.shown(reg::PRIQ_PROD), 2);
    // R (60), Last (62); PRGIndex (72:64), address.
    let stream = u64::from(PCIE);
    assert_eq!(world.get(PRIQ), stream | 1 << 60);
    assert_eq!(world.get(PRIQ + 16), stream | 1 << 60 | 1 << 62);
    assert_eq!(world.get(PRIQ + 24), 0x7000 | 1);
    // Full: the last of a group is answered with success, others are not, and
    // nothing is taken until the overflow is acknowledged (8.1).
    ask(false, 2);
    ask(true, 2);
    let delivered = world.requests();
    assert_eq!(delivered[0], PageDelivery::Done);
    assert!(matches!(delivered[1], PageDelivery::Respond(_)));
    assert_eq!(side.shown(reg::PRIQ_PROD), 2 | 1 << 31);
    let responses = hw.smmu.borrow_mut().take_responses();
    assert_eq!(responses.len(), 1);
    assert_eq!(responses[0].stream, physical(PCIE));
    assert_eq!(responses[0].prg_index, 2);
    assert_eq!(responses[0].code, ResponseCode::Success);
    world.write32(reg::PRIQ_CONS, 2);
    ask(true, 3);
    assert!(matches!(world.requests()[..], [PageDelivery::Respond(_)]));
    world.write32(reg::PRIQ_CONS, 2 | 1 << 31);
    ask(true, 4);
    assert_eq!(world.requests(), [PageDelivery::Done]);
    assert_eq!(side.shown(reg::PRIQ_PROD), 3 | 1 << 31);
    // Off: every request fails.
    world.write32(reg::CR0, 0b1101);
    hw.smmu.borrow_mut().take_responses();
    ask(false, 5);
    assert!(matches!(world.requests()[..], [PageDelivery::Respond(_)]));
    let responses = hw.smmu.borrow_mut().take_responses();
    assert_eq!(responses[0].code, ResponseCode::Failure);
}

/// Answers to what a full queue drops (8.1), with the substream where PPAR (82)
/// says so; nobody waits for an answer to a stop marker.
#[test]
fn answers_carry_the_substream() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    let mut ppar = ABORT;
    ppar[1] |= 1 << 18;
    world.entry(1, &ppar);
    world.entry(2, &ABORT);
    world.entry(3, &[0; 8]);
    world.queues(false);
    // Full: 2 entries, wrap bit 1.
    world.write32(reg::PRIQ_PROD, 2);
    world.linear(8);
    let mut ask = |stream: u32, substream: Option<u32>, read: bool| {
        let request = PageRequest::default()
            .with_stream(physical(stream).0)
            .with_ssv(substream.is_some())
            .with_substream(substream.unwrap_or(0))
            .with_read(read)
            .with_last(true)
            .with_prg_index(9);
        let outcome = hw.smmu.borrow_mut().page_request(request);
        assert_eq!(outcome, PageOutcome::Queued);
        let delivered = world.requests();
        let responses = hw.smmu.borrow_mut().take_responses();
        assert_eq!(delivered == [PageDelivery::Done], responses.is_empty());
        let answer = |r: &smmuv3_model::PageResponse| (r.substream.map(|s| s.0), r.code);
        responses.first().map(answer)
    };
    assert_eq!(ask(1, None, true), Some((None, ResponseCode::Success)));
    assert_eq!(
        ask(1, Some(7), true),
        Some((Some(7), ResponseCode::Success))
    );
    assert_eq!(ask(2, Some(7), true), Some((None, ResponseCode::Success)));
    assert_eq!(ask(3, Some(7), true), Some((None, ResponseCode::Failure)));
    assert_eq!(ask(1, Some(7), false), None);
    assert_eq!(world.emulator.counts().pages_refused, 5);
    // Somebody else's.
    let foreign = PageRequest::default().with_stream(0x1234).with_read(true);
    let delivery = world
        .emulator
        .deliver_page_request(&world.board, GIVEN.as_slice(), &foreign);
    assert_eq!(delivery, PageDelivery::NotOwned);
}
