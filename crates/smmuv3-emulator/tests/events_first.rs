//! Which CMD_SYNCs are complete only when the events before them are in the
//! owner's queue (IHI 0070, 4.7.3), and what else waits for that (6.3.9.4).
#![allow(missing_docs)]

mod common;

use common::{Act, Machine, RAM, STREAMS, features};
use smmuv3_driver::Features;
use smmuv3_emulator::{Delivery, Progress};
use smmuv3_spec::StreamId;
use smmuv3_spec::event::{EventKind, EventRecord};
use smmuv3_spec::{control::Cr0, reg};

const EVENTS: u64 = RAM + 0x3_0000;
const SYNC: [u64; 2] = [0x46, 0];
const VA: [u64; 2] = [0x12, 0x1000];
const VAA: [u64; 2] = [0x13, 0x1000];
const ASID: [u64; 2] = [0x11 | 7 << 48, 0];
const ALL: [u64; 2] = [0x10, 0];
const NSNH: [u64; 2] = [0x30, 0];
const CFGI_STE: [u64; 2] = [0x03 | 8 << 32, 1];
const CFGI_CD: [u64; 2] = [0x05 | 8 << 32, 1];
const RESUME: [u64; 2] = [0x44 | 8 << 32, 5];
const STALL_TERM: [u64; 2] = [0x45 | 8 << 32, 0];
const PREFETCH: [u64; 2] = [0x01 | 8 << 32, 0];

/// CMD_SYNC as Linux does it: it is told in the command itself.
fn polled(index: u32) -> [u64; 2] {
    [0x46 | 1 << 12, Machine::command_at(index)]
}

/// An event of the owner's stream 8.
fn event() -> EventRecord {
    EventRecord::default()
        .with_kind_bits(EventKind::F_TRANSLATION.0)
        .with_stream_bits(8 + STREAMS)
        .with_input_address(0x7000)
}

/// With translation, command queue and an event queue of 2 records on.
fn machine(features: Features) -> Machine {
    let mut m = Machine::with_commands(features);
    m.double(reg::EVENTQ_BASE, EVENTS | 1);
    m.until_done(reg::CR0, 0xd);
    assert_eq!(m.reads(reg::CR0ACK), 0xd);
    m.take();
    m
}

fn messages() -> Features {
    let mut features = features();
    features.idr0.set_msi(true);
    features
}

/// Whether events come before the CMD_SYNC at the end of `commands`.
fn waits(m: &mut Machine, commands: &[[u64; 2]]) -> bool {
    m.physical.events.push(event());
    let prod = m.put(commands);
    let before = m.reads(reg::EVENTQ_PROD);
    m.until_done(reg::CMDQ_PROD, prod);
    let acts = m.take();
    let asked = acts.iter().rposition(|act| *act == Act::Events);
    let told = m.reads(reg::EVENTQ_PROD) != before;
    assert_eq!(told, asked.is_some(), "{acts:?}");
    // After the physical SMMU is done, and before the owner can know.
    if let Some(asked) = asked {
        let done = acts.iter().rposition(|act| *act == Act::Finish);
        let shown = acts
            .iter()
            .rposition(|act| *act == Act::Show(reg::CMDQ_CONS, prod));
        let prod = acts
            .iter()
            .rposition(|act| matches!(act, Act::Show(reg::EVENTQ_PROD, _)));
        assert!(
            done < Some(asked) && Some(asked) < prod && prod < shown,
            "{acts:?}"
        );
    }
    m.physical.events.clear();
    m.word(reg::EVENTQ_CONS, m.reads(reg::EVENTQ_PROD));
    m.take();
    told
}

#[test]
fn all_but_those_after_tlbis() {
    for features in [features(), messages()] {
        for before in [CFGI_STE, CFGI_CD, RESUME, STALL_TERM, PREFETCH, SYNC] {
            for tlbi in [&[][..], &[VA], &[ASID]] {
                for sync in [SYNC, polled(7)] {
                    let mut m = machine(features);
                    // Put where `polled` says.
                    let fill = vec![VA; 6 - tlbi.len()];
                    let all = [&fill, &[before][..], tlbi, &[sync]].concat();
                    // A CMD_SYNC before does not count for what comes after it.
                    let expected = before != SYNC || tlbi.is_empty();
                    assert_eq!(waits(&mut m, &all), expected, "{all:x?}");
                }
            }
        }
    }
}

#[test]
fn one_after_tlbis_asks_for_none() {
    for features in [features(), messages()] {
        for tlbi in [VA, VAA, ASID, ALL, NSNH] {
            let mut m = machine(features);
            assert!(!waits(&mut m, &[tlbi, SYNC]));
            assert!(!waits(&mut m, &[tlbi, VA, polled(4)]));
            // Alone it is there for the events.
            assert!(waits(&mut m, &[polled(5)]));
            assert!(waits(&mut m, &[SYNC]));
        }
    }
}

/// What came before counts too, whichever write told of it.
#[test]
fn whatever_write_told_of_the_commands() {
    for features in [features(), messages()] {
        for (first, expected) in [(CFGI_STE, true), (RESUME, true), (VA, false), (ASID, false)] {
            let alone = |m: &mut Machine| {
                let prod = m.put(&[first]);
                m.until_done(reg::CMDQ_PROD, prod);
                m.take();
            };
            // The short way must not be taken past it.
            let mut m = machine(features);
            alone(&mut m);
            assert_eq!(waits(&mut m, &[VA, polled(2)]), expected, "{first:x?}");
            let mut m = machine(features);
            alone(&mut m);
            assert_eq!(waits(&mut m, &[polled(1)]), expected, "{first:x?}");
            assert!(!waits(&mut m, &[VA, polled(3)]), "{first:x?}");
            assert!(waits(&mut m, &[polled(4)]), "{first:x?}");
            // Also what the short way took before it met something else.
            assert_eq!(waits(&mut m, &[VA, first, polled(7)]), expected);
        }
    }
}

/// A full queue loses them, and says so; a CMD_SYNC does not wait for room.
#[test]
fn a_full_queue_loses_them() {
    let mut m = machine(features());
    m.physical.events = vec![event(); 3];
    assert_eq!(m.submit(&[SYNC]), Progress::Done);
    assert_eq!(m.reads(reg::CMDQ_CONS), 1);
    assert_eq!(m.reads(reg::EVENTQ_PROD), 1 << 31 | 2);
    assert_eq!(m.smmu.counts().events_overflowed, 1);
}

/// What stalled and cannot be told ends, as do streams of nobody.
#[test]
fn whoever_reads_them_learns_what_became_of_them() {
    let mut m = machine(features());
    let stranger = event().with_stream_bits(8);
    let stalled = event().with_stall(true).with_stag(9);
    m.physical.events = vec![event(), event(), stranger, stalled];
    assert_eq!(m.submit(&[SYNC]), Progress::Done);
    let terminate = Delivery::Terminate {
        stream: StreamId(8 + STREAMS),
        stag: 9,
    };
    assert_eq!(
        m.physical.told,
        [
            Delivery::Done,
            Delivery::Done,
            Delivery::NotOwned,
            terminate
        ]
    );
}

/// One that failed is not complete, and its events are still to come.
#[test]
fn one_that_failed_waits_again() {
    use smmuv3_emulator::Failure;
    use smmuv3_spec::command::CommandError;
    let mut m = machine(features());
    m.physical.events.push(event());
    let error = Failure::Command(CommandError::ATC_INV_SYNC);
    m.physical.finishes.push(error);
    assert_eq!(m.submit(&[CFGI_CD, SYNC]), Progress::Done);
    assert_eq!(m.reads(reg::CMDQ_CONS), 1 | 3 << 24);
    assert_eq!(m.reads(reg::EVENTQ_PROD), 0);
    m.word(reg::GERRORN, m.reads(reg::GERROR));
    assert_eq!(m.reads(reg::CMDQ_CONS), 2);
    assert_eq!(m.reads(reg::EVENTQ_PROD), 1);
}

/// One call goes through many events once, and no further.
#[test]
fn events_are_work() {
    let mut m = machine(features());
    let queue = RAM + 0x2_0000;
    m.word(reg::CR0, 0x5);
    m.double(reg::CMDQ_BASE, queue | 9);
    m.word(reg::CR0, 0xd);
    for pair in 0..20 {
        m.board.write64(queue + pair * 32, CFGI_CD[0]);
        m.board.write64(queue + pair * 32 + 16, SYNC[0]);
    }
    m.take();
    m.physical.events = vec![event(); 2048];
    let acts = m.repeat(reg::CMDQ_PROD, 40);
    let asked = acts[0].iter().filter(|act| **act == Act::Events).count();
    assert_eq!((acts.len(), asked), (2, 1));
    assert_eq!(m.reads(reg::CMDQ_CONS), 40);
}

/// Turned off, a queue holds what was recorded before (6.3.9.4); with
/// translation, what its configuration made of it.
#[test]
fn nothing_is_turned_off_before() {
    for (bits, told) in [(0x9, 1), (0xc, 1), (0x5, 0), (0xd, 0)] {
        let mut m = machine(features());
        m.physical.events.push(event());
        m.until_done(reg::CR0, bits);
        assert_eq!(m.reads(reg::EVENTQ_PROD), told, "{bits:#x}");
        assert_eq!(Cr0::from(m.reads(reg::CR0ACK)), Cr0::from(bits));
    }
}
