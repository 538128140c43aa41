//! Memory of the owner's that answers with errors: each is the error that an SMMU
//! has for it (IHI 0070, 7.1 and 7.2), and the rest goes on.
#![allow(missing_docs)]

mod common;

use common::{Act, COMMANDS, Machine, VMID};
use smmuv3_emulator::Progress;
use smmuv3_spec::reg;

const INV: [u64; 2] = [0x12, 0x1000];
const NEW: [u64; 2] = [0x12 | (VMID as u64) << 32, 0x1000];
const SYNC: [u64; 2] = [0x46, 0];
/// CERROR_ABT in `CMDQ_CONS.ERR`.
const ABORTED: u32 = 2 << 24;
const CMDQ_ERR: u32 = 1 << 0;
const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;

/// CMD_SYNC as Linux does it: it is told in the command itself.
fn polled(index: u32) -> [u64; 2] {
    let at = Machine::command_at(index);
    [0x46 | 1 << 12 | 3 << 22 | 0xf << 24, at]
}

fn errors(m: &Machine) -> u32 {
    m.reads(reg::GERROR) ^ m.reads(reg::GERRORN)
}

/// The owner has put right what was wrong: everything is done now, once more.
fn goes_on(m: &mut Machine, commands: &[[u64; 2]]) {
    m.board.broken.set(0);
    m.take();
    let toggled = m.reads(reg::GERROR);
    m.word(reg::GERRORN, toggled);
    let end = m.reads(reg::CMDQ_PROD);
    assert_eq!(errors(m), 0);
    assert_eq!(m.reads(reg::CMDQ_CONS) & 0xf_ffff, end);
    let news = commands.iter().filter(|command| **command == INV).count();
    assert!(m.issued().ends_with(&vec![NEW; news]));
}

#[test]
fn commands_that_cannot_be_fetched() {
    let quick = [INV, INV, polled(2)];
    let plain = [INV, INV, SYNC];
    for commands in [quick, plain, [INV, INV, INV]] {
        for word in 0..6 {
            let mut m = Machine::enabled();
            m.board.broken.set(COMMANDS + 8 * word);
            assert_eq!(m.submit(&commands), Progress::Done);
            assert_eq!(errors(&m), CMDQ_ERR, "{commands:x?} {word}");
            let cons = m.reads(reg::CMDQ_CONS);
            assert_eq!(cons & !0xf_ffff, ABORTED, "{commands:x?} {word}");
            // No later than what could not be read.
            assert!(cons & 0xf_ffff <= word as u32 / 2, "{commands:x?} {word}");
            assert_eq!(m.smmu.counts().fetch_aborts, 1);
            // Nobody is told that it is done.
            let told = m.take();
            let told = told.iter().any(|act| matches!(act, Act::Store(..)));
            assert!(!told, "{commands:x?} {word}");
            goes_on(&mut m, &commands);
        }
    }
}

/// One command alone takes the long way.
#[test]
fn one_command_that_cannot_be_fetched() {
    for command in [INV, SYNC, [0x30, 0], polled(0)] {
        for word in 0..2 {
            let mut m = Machine::enabled();
            m.board.broken.set(COMMANDS + 8 * word);
            assert_eq!(m.submit(&[command]), Progress::Done);
            assert_eq!(errors(&m), CMDQ_ERR, "{command:x?} {word}");
            assert_eq!(m.reads(reg::CMDQ_CONS), ABORTED, "{command:x?} {word}");
            assert_eq!(m.issued(), [] as [[u64; 2]; 0], "{command:x?} {word}");
        }
    }
}

/// An error of a first command does not hide one of the fetch.
#[test]
fn a_sync_that_cannot_be_fetched() {
    for word in [4, 5] {
        for commands in [[INV, INV, polled(2)], [INV, INV, SYNC]] {
            let mut m = Machine::enabled();
            m.board.broken.set(COMMANDS + 8 * word);
            assert_eq!(m.submit(&commands), Progress::Done);
            assert_eq!(m.reads(reg::CMDQ_CONS) & !0xf_ffff, ABORTED);
        }
    }
}

#[test]
fn a_completion_that_cannot_be_stored() {
    // The CMD_SYNC's own words are fetched, and its neighbour's stored to.
    let elsewhere = [polled(2)[0], Machine::command_at(9)];
    for commands in [vec![INV, INV, elsewhere], vec![[0x30, 0], elsewhere]] {
        let mut m = Machine::enabled();
        m.board.broken.set(Machine::command_at(9));
        assert_eq!(m.submit(&commands), Progress::Done);
        // The commands are done; only the message is lost.
        assert_eq!(m.reads(reg::CMDQ_CONS), commands.len() as u32);
        assert_eq!(errors(&m), MSI_CMDQ_ABT_ERR);
        assert_eq!(m.smmu.counts().aborted_messages, 1);
    }
}
