//! Errors, and how Linux recovers from them (IHI 0070, 7.1 and 7.5).

mod common;

use common::{Act, COMMANDS, LOG2, Machine, RAM, RAM_SIZE, VMID, features};
use smmuv3_driver::Error;
use smmuv3_emulator::{Failure, Line, Progress};

const INV: [u64; 2] = [0x12, 0x1000];
const NEW: [u64; 2] = [0x12 | (VMID as u64) << 32, 0x1000];
const BAD: [u64; 2] = [0xff, 0];
const SYNC: [u64; 2] = [0x46, 0];

const GERROR: u32 = 0x60;
const GERRORN: u32 = 0x64;
const PROD: u32 = 0x98;
const CONS: u32 = 0x9c;

#[test]
fn linux_replaces_the_command_and_acknowledges() {
    let mut m = Machine::enabled();
    m.word(0x50, 1);
    m.take();
    assert_eq!(m.submit(&[INV, BAD, INV, SYNC]), Progress::Done);
    // What came before is done, the reason is visible before the error.
    assert_eq!(
        m.take(),
        [
            Act::Show(PROD, 4),
            Act::Issue(NEW),
            Act::Kick,
            Act::Show(CONS, 1),
            Act::Show(CONS, 1 | 1 << 24),
            Act::Show(GERROR, 1),
            Act::Raise(Line::Error),
        ]
    );
    // Nothing happens before it is acknowledged.
    assert_eq!(m.submit(&[INV]), Progress::Done);
    m.word(GERRORN, 0);
    assert_eq!(m.issued(), [[0; 2]; 0]);
    m.board.write64(Machine::command_at(1), SYNC[0]);
    m.word(GERRORN, 1);
    assert_eq!(
        m.take(),
        [
            Act::Show(GERRORN, 1),
            Act::Issue([0x46, 0]),
            Act::Issue(NEW),
            Act::Issue([0x46, 0]),
            Act::Issue(NEW),
            Act::Finish,
            Act::Events,
            Act::Show(CONS, 4),
            Act::Kick,
            Act::Show(CONS, 5),
        ]
    );
    assert_eq!(m.reads(GERROR), 1);
    // The next error toggles back.
    assert_eq!(m.submit(&[BAD]), Progress::Done);
    assert_eq!((m.reads(GERROR), m.reads(CONS)), (0, 5 | 1 << 24));
}

#[test]
fn an_acknowledged_command_that_is_still_wrong_is_refused_again() {
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[BAD]), Progress::Done);
    for round in 1..5 {
        assert_eq!(m.reads(GERROR), round & 1);
        m.word(GERRORN, round & 1);
    }
    assert_eq!(m.smmu.counts().illegal_commands, 5);
}

#[test]
fn commands_may_be_taken_back_while_an_error_is_active() {
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[INV, BAD, BAD]), Progress::Done);
    m.word(PROD, 1);
    m.take();
    m.word(GERRORN, 1);
    assert_eq!(m.issued(), [[0; 2]; 0]);
    assert_eq!(m.reads(CONS) & 0xf_ffff, 1);
    assert_eq!(m.smmu.counts().illegal_commands, 1);
}

#[test]
fn an_error_survives_the_queue() {
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[BAD, INV]), Progress::Done);
    m.until_done(0x20, 0);
    m.word(CONS, 1);
    m.until_done(0x20, 8);
    assert_eq!(m.issued(), [[0; 2]; 0], "not acknowledged");
    m.word(GERRORN, 1);
    assert_eq!(m.issued(), [NEW]);
    // Acknowledged while disabled: processed when enabled.
    let mut m = Machine::enabled();
    assert_eq!(m.submit(&[BAD, INV]), Progress::Done);
    m.until_done(0x20, 0);
    m.word(GERRORN, 1);
    m.word(CONS, 1);
    assert_eq!(m.issued(), [[0; 2]; 0]);
    m.until_done(0x20, 8);
    assert_eq!(m.issued(), [NEW]);
}

#[test]
fn commands_that_are_not_in_the_owner_s_memory() {
    let mut m = Machine::enabled();
    m.until_done(0x20, 0);
    let at = RAM + RAM_SIZE;
    m.double(0x90, at | u64::from(LOG2));
    m.until_done(0x20, 8);
    assert_eq!((m.reads(0x24), m.reads(GERROR)), (8, 0), "not fetched yet");
    m.word(PROD, 1);
    assert_eq!((m.reads(GERROR), m.reads(CONS)), (1, 2 << 24));
    m.word(PROD, 2);
    assert_eq!(m.smmu.counts().fetch_aborts, 1, "stopped");
    m.word(GERRORN, 1);
    assert_eq!((m.reads(GERROR), m.reads(CONS)), (0, 2 << 24));
    assert_eq!(m.smmu.counts().fetch_aborts, 2);
    m.until_done(0x20, 0);
    assert_eq!(m.board.held.get(), 0);
    // It is fetched anew after an acknowledgement.
    let mut m = Machine::enabled();
    m.until_done(0x20, 0);
    m.board.end.set(COMMANDS);
    m.until_done(0x20, 8);
    m.board.write64(COMMANDS, INV[0]);
    m.board.write64(COMMANDS + 8, INV[1]);
    m.word(PROD, 1);
    assert_eq!(m.reads(GERROR), 1);
    m.board.end.set(RAM + RAM_SIZE);
    m.word(GERRORN, 1);
    assert_eq!(m.issued(), [NEW]);
    assert_eq!(m.board.held.get(), 1);
}

#[test]
fn more_commands_than_one_call_does() {
    let large = |m: &mut Machine, first: usize| {
        m.until_done(0x20, 0);
        m.double(0x90, (RAM + 0x10_0000) | 10);
        for i in 0..600 {
            let command = if i < first { BAD } else { INV };
            m.board.write64(RAM + 0x10_0000 + i as u64 * 16, command[0]);
            m.board
                .write64(RAM + 0x10_0000 + i as u64 * 16 + 8, command[1]);
        }
        m.word(CONS, 0);
    };
    let issued = |acts: &Vec<Act>| acts.iter().filter(|a| matches!(a, Act::Issue(_))).count();
    // By PROD.
    let mut m = Machine::enabled();
    large(&mut m, 0);
    m.until_done(0x20, 8);
    m.take();
    let all = m.repeat(PROD, 600);
    assert_eq!(all.iter().map(issued).collect::<Vec<_>>(), [256, 256, 88]);
    assert!(all[0].contains(&Act::Show(CONS, 256)));
    assert_eq!(m.reads(CONS), 600);
    // By enabling the queue.
    let mut m = Machine::enabled();
    large(&mut m, 0);
    m.word(PROD, 600);
    m.take();
    let all = m.repeat(0x20, 8);
    assert_eq!(all.iter().map(issued).collect::<Vec<_>>(), [256, 256, 88]);
    assert_eq!(m.reads(0x24), 8);
    // By acknowledging an error.
    let mut m = Machine::enabled();
    large(&mut m, 1);
    m.until_done(0x20, 8);
    m.word(PROD, 600);
    m.board.write64(RAM + 0x10_0000, SYNC[0]);
    m.take();
    let all = m.repeat(GERRORN, 1);
    assert_eq!(all.iter().map(issued).collect::<Vec<_>>(), [256, 256, 88]);
    // The owner may do something else instead of repeating it.
    let mut m = Machine::enabled();
    large(&mut m, 0);
    m.until_done(0x20, 8);
    assert_eq!(
        m.write(PROD, smmuv3_emulator::Size::Word, 600),
        Progress::Again
    );
    m.until_done(0x20, 0);
    assert_eq!(m.reads(CONS), 256);
    assert_eq!(m.board.held.get(), 0);
    assert_eq!(m.smmu.counts().again, 1);
}

#[test]
fn a_fenced_smmu_is_in_service_failure_mode() {
    let fenced = || Failure::Fenced(Error::Fenced);
    // While a command is issued, at a CMD_SYNC, with a stream.
    for which in 0..3 {
        let mut m = Machine::enabled();
        m.until_done(0x20, 9);
        m.word(0x50, 1);
        m.take();
        let command = match which {
            0 => {
                m.physical.issues.push(fenced());
                INV
            }
            1 => {
                m.physical.finishes.push(fenced());
                SYNC
            }
            _ => {
                m.physical.sets.push(fenced());
                [0x03 | 8 << 32, 0]
            }
        };
        assert_eq!(m.submit(&[command]), Progress::Done);
        assert_eq!(m.reads(GERROR), 1 << 8);
        let acts = m.take();
        assert_eq!(acts.last(), Some(&Act::Raise(Line::Error)));
        let told = acts
            .iter()
            .any(|act| matches!(act, Act::Show(CONS, 1..)) && which != 2);
        assert!(!told, "not complete: {acts:?}");
        // Nothing more is done, whatever is acknowledged.
        m.word(GERRORN, 1 << 8);
        m.word(0x20, 0);
        m.word(0x44, 1 << 31 | 1 << 20);
        m.word(0x20, 9);
        assert_eq!(m.submit(&[INV, SYNC]), Progress::Done);
        assert_eq!(m.reads(0x24), 9);
        let acts = m.take();
        assert!(
            acts.iter()
                .all(|act| matches!(act, Act::Show(..) | Act::Close(_))),
            "{acts:?}"
        );
    }
}

#[test]
fn a_stream_that_cannot_be_had_does_not_stop_the_rest() {
    let mut m = Machine::enabled();
    m.physical.sets.push(Failure::Stream {
        stream: smmuv3_spec::StreamId(8),
        error: Error::BadRange,
    });
    m.until_done(0x20, 9);
    assert_eq!((m.reads(0x24), m.reads(GERROR)), (9, 0));
    assert_eq!(m.smmu.counts().streams_refused, 1);
}

#[test]
fn errors_are_signalled_by_wire_or_message() {
    let mut m = Machine::enabled();
    m.double(0x68, RAM + 0x40);
    m.word(0x70, 0x77);
    assert_eq!(m.submit(&[BAD]), Progress::Done);
    assert_eq!(m.board.read32(RAM + 0x40), 0, "not enabled");
    m.word(GERRORN, 1);
    // The command is refused again, and now it is enabled.
    m.word(0x50, 1);
    m.word(GERRORN, 0);
    assert_eq!(m.board.read32(RAM + 0x40), 0x77);
    let acts = m.take();
    assert!(!acts.contains(&Act::Raise(Line::Error)));
    let error = acts.iter().position(|a| matches!(a, Act::Show(GERROR, _)));
    let store = acts.iter().position(|a| matches!(a, Act::Store(..)));
    assert!(error < store);
}

#[test]
fn a_message_of_an_error_that_aborts_is_an_error() {
    let mut m = Machine::with_commands(features());
    m.double(0x68, RAM - 0x40);
    m.word(0x50, 1);
    m.take();
    assert_eq!(m.submit(&[BAD]), Progress::Done);
    assert_eq!(m.reads(GERROR), 1 | 1 << 7);
    assert_eq!(m.smmu.counts().aborted_messages, 1);
}

#[test]
fn only_active_errors_stop_the_queue() {
    // An owner that makes GERRORN differ by itself stops its own queue (6.3.20
    // leaves open what that means), and can start it again.
    let mut m = Machine::enabled();
    m.word(GERRORN, 1);
    assert_eq!(m.submit(&[INV]), Progress::Done);
    assert_eq!(m.issued(), [[0; 2]; 0]);
    m.word(GERRORN, 0);
    assert_eq!(m.issued(), [NEW]);
}
