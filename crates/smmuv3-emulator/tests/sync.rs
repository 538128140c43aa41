//! CMD_SYNC: what is complete when, and how its issuer learns (IHI 0070, 4.7.3
//! and 3.18).

mod common;

use common::{Act, COMMANDS, CONFIG, LOG2, Machine, OFFSET, PAGE, RAM, RAM_SIZE, VMID, features};
use portcullis_addr::PhysAddr;
use smmuv3_driver::Error;
use smmuv3_emulator::{Failure, IdConfig, Line, Msi, Progress};
use smmuv3_spec::command::CommandError;

const INV: [u64; 2] = [0x12, 0x1000];
const NEW: [u64; 2] = [0x12 | (VMID as u64) << 32, 0x1000];
const NONE: [u64; 2] = [0x46, 0];
const MINE: u64 = 8;

/// CMD_SYNC with CS = IRQ and a message.
fn message(at: u64, data: u32) -> [u64; 2] {
    // MSH, MSIAttr: as Linux writes them.
    [
        0x46 | 1 << 12 | 3 << 22 | 0xf << 24 | u64::from(data) << 32,
        at,
    ]
}

/// CMD_SYNC as Linux does it: it is told in the command itself.
fn polled(index: u32) -> [u64; 2] {
    message(Machine::command_at(index), 0)
}

fn cons(value: u32) -> Act {
    Act::Show(0x9c, value)
}

fn prod(value: u32) -> Act {
    Act::Show(0x98, value)
}

#[test]
fn one_that_linux_polls() {
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    assert_eq!(
        m.take(),
        [
            prod(2),
            Act::Issue(NEW),
            Act::Finish,
            cons(2),
            Act::Store(COMMANDS + 16, 0),
        ]
    );
    assert_eq!(m.board.read32(COMMANDS + 16), 0);
}

#[test]
fn completion_signals() {
    for (word, signalled) in [
        (0x46, false),
        (0x46 | 2 << 12, false),
        (0x46 | 1 << 12, true),
    ] {
        for at in [RAM, COMMANDS] {
            let mut m = Machine::enabled();
            // Without CS = IRQ the address is IGNORED.
            let address = if signalled { 0 } else { at };
            assert_eq!(m.submit(&[[word, address]]), Progress::Done);
            let mut expected = vec![prod(1), Act::Finish, Act::Events, cons(1)];
            if signalled {
                expected.push(Act::Raise(Line::Sync));
            }
            assert_eq!(m.take(), expected);
            // After a TLBI, too, which may be the short way.
            let mut m = Machine::enabled();
            assert_eq!(m.submit(&[INV, [word, address]]), Progress::Done);
            let mut expected = vec![prod(2), Act::Issue(NEW), Act::Finish, cons(2)];
            if signalled {
                expected.push(Act::Raise(Line::Sync));
            }
            assert_eq!(m.take(), expected);
        }
    }
    // Without IDR0.MSI it always is.
    let config = IdConfig {
        coherent: false,
        ..CONFIG
    };
    for at in [0, RAM, COMMANDS] {
        let mut m = Machine::with(features(), &config);
        m.double(0x90, COMMANDS | u64::from(LOG2));
        m.word(0x20, 8);
        m.take();
        assert_eq!(m.submit(&[message(at, 0)]), Progress::Done);
        assert_eq!(
            m.take(),
            [
                prod(1),
                Act::Finish,
                Act::Events,
                cons(1),
                Act::Raise(Line::Sync)
            ]
        );
    }
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[INV, [0x46 | 3 << 12, 0]]), Progress::Done);
    assert_eq!(m.reads(0x9c), 1 | 1 << 24);
    assert_eq!(m.reads(0x60), 1);
}

#[test]
fn messages_go_to_memory_of_the_owner_s_only() {
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[message(RAM + 0x104, 0x1234)]), Progress::Done);
    assert_eq!(m.board.read32(RAM + 0x104), 0x1234);
    assert_eq!(m.reads(0x60), 0);
    for at in [RAM + RAM_SIZE, RAM - 4, 4, 0xff_ffff_fffc, 1 << 50] {
        let mut m = Machine::enabled();
        m.word(0x50, 1);
        m.take();
        assert_eq!(m.submit(&[message(at, 1), INV]), Progress::Done);
        // The CMD_SYNC is complete all the same.
        assert_eq!(
            m.take(),
            [
                prod(2),
                Act::Issue([0x46, 0]),
                Act::Issue(NEW),
                Act::Finish,
                Act::Events,
                cons(1),
                Act::Show(0x60, 1 << 4),
                Act::Raise(Line::Error),
                Act::Kick,
                cons(2),
            ],
            "{at:#x}"
        );
        // Not toggled again before it is acknowledged.
        assert_eq!(m.submit(&[message(at, 1)]), Progress::Done);
        assert_eq!(m.reads(0x60), 1 << 4);
        m.word(0x64, 1 << 4);
        assert_eq!(m.submit(&[message(at, 1)]), Progress::Done);
        assert_eq!(m.reads(0x60), 0);
    }
}

#[test]
fn the_last_word_of_the_queue_is_inside() {
    let mut m = Machine::enabled();
    let end = COMMANDS + (16 << LOG2);
    assert_eq!(m.submit(&[message(end - 4, 7)]), Progress::Done);
    assert_eq!(m.board.read32(end - 4), 7);
    assert_eq!(m.submit(&[message(end, 8)]), Progress::Done);
    assert_eq!(m.board.read32(end), 8);
    assert_eq!(m.submit(&[message(COMMANDS - 4, 9)]), Progress::Done);
    assert_eq!(m.board.read32(COMMANDS - 4), 9);
    // The same after a TLBI.
    for (at, data) in [(end - 4, 10), (end, 11), (COMMANDS - 4, 12)] {
        assert_eq!(m.submit(&[INV, message(at, data)]), Progress::Done);
        assert_eq!(m.board.read32(at), data);
    }
}

#[test]
fn several_are_completed_by_one_wait_in_order() {
    let mut m = Machine::enabled();
    let all = [
        INV,
        polled(1),
        INV,
        INV,
        polled(4),
        NONE,
        [0x46 | 1 << 12, 0],
        INV,
    ];
    assert_eq!(m.submit(&all), Progress::Done);
    assert_eq!(
        m.take(),
        [
            prod(8),
            Act::Issue(NEW),
            // The physical SMMU keeps the order.
            Act::Issue([0x46, 0]),
            Act::Issue(NEW),
            Act::Issue(NEW),
            Act::Issue([0x46, 0]),
            Act::Issue(NEW),
            Act::Finish,
            // Some of them come after no TLBI.
            Act::Events,
            cons(7),
            Act::Store(COMMANDS + 16, 0),
            Act::Store(COMMANDS + 64, 0),
            Act::Raise(Line::Sync),
            Act::Kick,
            cons(8),
        ]
    );
    assert_eq!(m.smmu.counts().syncs, 4);
}

#[test]
fn sixteen_wait_at_most() {
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[NONE; 17]), Progress::Done);
    assert_eq!(
        m.take(),
        [
            prod(17),
            Act::Finish,
            Act::Events,
            cons(16),
            Act::Finish,
            Act::Events,
            cons(17)
        ]
    );
}

#[test]
fn what_cannot_be_repeated_waits_for_what_came_before() {
    let mut m = Machine::enabled();
    let resume = [0x44 | MINE << 32, 5];
    assert_eq!(m.submit(&[INV, NONE, resume, NONE]), Progress::Done);
    assert_eq!(
        m.take(),
        [
            prod(4),
            Act::Issue(NEW),
            Act::Finish,
            cons(2),
            Act::Issue([0x44 | 0x108 << 32, 5]),
            Act::Finish,
            Act::Events,
            cons(4),
        ]
    );
}

#[test]
fn streams_are_changed_after_what_came_before() {
    let mut m = Machine::enabled();
    m.until_done(0x20, 9);
    m.take();
    assert_eq!(
        m.submit(&[NONE, [0x03 | MINE << 32, 1], NONE]),
        Progress::Done
    );
    let acts = m.take();
    assert!(
        matches!(
            acts.as_slice(),
            [
                Act::Show(0x98, 3),
                Act::Finish,
                Act::Events,
                Act::Show(0x9c, 1),
                Act::SetRange(8, 8, _),
                Act::Finish,
                Act::Events,
                Act::Show(0x9c, 3)
            ]
        ),
        "{acts:?}"
    );
}

#[test]
fn a_refused_command_ends_in_an_error_of_its_sync() {
    for (error, reported) in [
        (CommandError::ATC_INV_SYNC, 3),
        (CommandError::ILL, 1),
        (CommandError::ABT, 1),
    ] {
        // Alone, which is the short way.
        let mut m = Machine::enabled();
        m.physical.finishes.push(Failure::Command(error));
        assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
        assert_eq!(
            m.take(),
            [
                prod(2),
                Act::Issue(NEW),
                Act::Finish,
                cons(1 | reported << 24),
                Act::Show(0x60, 1)
            ]
        );
        assert_eq!(m.smmu.counts().failed_syncs, 1);
        m.word(0x64, 1);
        assert_eq!(m.reads(0x9c) & 0xf_ffff, 2);

        let mut m = Machine::enabled();
        m.physical.finishes.push(Failure::Command(error));
        assert_eq!(m.submit(&[INV, polled(1), INV, polled(3)]), Progress::Done);
        assert_eq!(m.reads(0x9c), 1 | reported << 24);
        assert_eq!(m.reads(0x60), 1);
        let stored = m.take().iter().any(|act| matches!(act, Act::Store(..)));
        assert!(!stored, "nothing was signalled");
        // Acknowledged, it is fetched and done again.
        m.word(0x64, 1);
        assert_eq!(m.reads(0x9c) & 0xf_ffff, 4);
        let acts = m.take();
        assert!(acts.contains(&Act::Store(COMMANDS + 16, 0)));
        assert!(acts.contains(&Act::Store(COMMANDS + 48, 0)));
    }
}

/// A physical SMMU that sends messages.
fn messages() -> Machine {
    let mut features = features();
    features.idr0 = features.idr0.with_msi(true);
    Machine::with_commands(features)
}

fn signal(cons: u32, at: u64, data: u32) -> Act {
    Act::Signal(vec![
        Msi {
            address: PhysAddr::new(PAGE + 0x9c),
            data: cons,
        },
        Msi {
            address: PhysAddr::new(at + OFFSET),
            data,
        },
    ])
}

#[test]
fn the_physical_smmu_answers_where_it_can() {
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    assert_eq!(
        m.take(),
        [prod(2), Act::Issue(NEW), signal(2, COMMANDS + 16, 0)]
    );
    assert_eq!(m.smmu.counts().signalled, 1);
    // Elsewhere, several at once, by wire: the emulation does it.
    for commands in [
        vec![message(RAM, 0)],
        vec![polled(0), polled(1)],
        vec![[0x46 | 1 << 12, 0]],
        vec![NONE],
    ] {
        let mut m = messages();
        assert_eq!(m.submit(&commands), Progress::Done);
        assert!(m.take().contains(&Act::Finish), "{commands:x?}");
    }
}

#[test]
fn nothing_overtakes_an_answer_on_its_way() {
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    m.take();
    // CMDQ_CONS is written by the emulation only when the other is done.
    assert_eq!(m.submit(&[INV]), Progress::Done);
    assert_eq!(m.take(), [prod(3), Act::Issue(NEW), Act::Finish, cons(3)]);
    assert_eq!(m.submit(&[polled(3)]), Progress::Done);
    m.take();
    // Nor is an error.
    assert_eq!(m.submit(&[[0xff, 0]]), Progress::Done);
    assert_eq!(
        m.take(),
        [prod(5), Act::Finish, cons(4 | 1 << 24), Act::Show(0x60, 1)]
    );
}

#[test]
fn a_failed_answer_is_told_when_nothing_can_overwrite_it() {
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    m.take();
    let failure = Failure::Command(CommandError::ATC_INV_SYNC);
    m.physical.signals.push(failure);
    assert_eq!(m.submit(&[INV, polled(3)]), Progress::Done);
    assert_eq!(
        m.take(),
        [
            prod(4),
            Act::Issue(NEW),
            Act::Finish,
            cons(3 | 3 << 24),
            Act::Show(0x60, 1)
        ]
    );
    // The same by the long way.
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    m.take();
    m.physical.signals.push(failure);
    assert_eq!(m.submit(&[[0x30, 0], polled(3)]), Progress::Done);
    let acts = m.take();
    let finish = acts.iter().position(|act| *act == Act::Finish);
    let told = acts.iter().position(|act| *act == cons(3 | 3 << 24));
    assert!(finish.is_some() && finish < told, "{acts:?}");
}

#[test]
fn memory_is_held_while_an_answer_is_on_its_way() {
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    m.take();
    m.until_done(0x20, 0);
    let acts = m.take();
    let finish = acts.iter().position(|act| *act == Act::Finish).unwrap();
    let close = acts.iter().position(|act| *act == Act::Close(COMMANDS));
    assert!(close.unwrap() > finish);
    // And for good when nobody knows whether it is.
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    m.physical.finishes.push(Failure::Fenced(Error::Fenced));
    m.word(0x20, 0);
    assert_eq!(m.board.held.get(), 1);
    assert_eq!(m.smmu.counts().unreleased_queues, 1);
    assert_eq!(m.reads(0x60), 1 << 8);
}

#[test]
fn a_queue_that_is_half_full_is_waited_for() {
    let mut m = messages();
    let mut waits = 0;
    let mut index = 0;
    for _ in 0..40 {
        assert_eq!(m.submit(&[INV, INV, polled(index + 2)]), Progress::Done);
        index = (index + 3) & ((2 << LOG2) - 1);
        waits += m.take().iter().filter(|a| **a == Act::Finish).count();
    }
    // 16 of 32 entries, 3 at a time: one in six.
    assert_eq!(waits, 40 / 6);
}

#[test]
fn an_ats_invalidation_is_waited_for() {
    let mut m = messages();
    m.until_done(0x20, 9);
    m.take();
    assert_eq!(
        m.submit(&[[0x40 | MINE << 32, 0], polled(1)]),
        Progress::Done
    );
    assert!(m.take().contains(&Act::Finish), "it may fail");
    assert_eq!(m.submit(&[INV, polled(3)]), Progress::Done);
    assert!(!m.take().contains(&Act::Finish));
    // Also when it came alone, and once only.
    let mut m = messages();
    m.until_done(0x20, 9);
    assert_eq!(m.submit(&[[0x40 | MINE << 32, 0]]), Progress::Done);
    assert!(!m.take().contains(&Act::Finish));
    assert_eq!(m.submit(&[polled(1)]), Progress::Done);
    assert!(m.take().contains(&Act::Finish));
    assert_eq!(m.submit(&[INV, polled(3)]), Progress::Done);
    assert!(!m.take().contains(&Act::Finish));
}

#[test]
fn an_error_without_a_sync_is_told_by_the_next() {
    for sync in [NONE, polled(4)] {
        told_by_the_next(sync);
    }
}

fn told_by_the_next(sync: [u64; 2]) {
    let mut m = messages();
    assert_eq!(m.submit(&[INV, polled(1)]), Progress::Done);
    m.physical
        .finishes
        .push(Failure::Command(CommandError::ATC_INV_SYNC));
    assert_eq!(m.submit(&[INV]), Progress::Done);
    assert_eq!((m.reads(0x9c), m.reads(0x60)), (3, 0));
    assert_eq!(m.submit(&[INV, sync]), Progress::Done);
    assert_eq!((m.reads(0x9c), m.reads(0x60)), (4 | 3 << 24, 1));
    m.take();
    m.word(0x64, 1);
    let acts = m.take();
    assert!(acts.contains(&cons(5)) || acts.contains(&signal(5, COMMANDS + 64, 0)));
}

#[test]
fn an_error_behind_a_handed_over_sync_is_told_by_the_next() {
    let failure = Failure::Command(CommandError::ATC_INV_SYNC);
    let mut m = messages();
    m.physical.finishes.push(failure);
    // The queue stops at the third, and the first turns out to have failed.
    // A granule without level or range is reserved (4.4.1.1).
    assert_eq!(m.submit(&[INV, polled(1), [0x12, 1 << 10]]), Progress::Done);
    assert_eq!((m.reads(0x9c), m.reads(0x60)), (2 | 1 << 24, 1));
    // Its owner takes it back and goes on.
    m.word(0x98, 2);
    m.word(0x64, 1);
    assert_eq!(m.submit(&[INV, polled(3)]), Progress::Done);
    assert_eq!((m.reads(0x9c), m.reads(0x60)), (3 | 3 << 24, 0));
}
