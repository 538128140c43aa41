//! A short comparison of our emulated ITS with QEMU's.

use portcullis_differential::campaign::{self, Plan};
use portcullis_differential::interrupts::{self, case::Step};

const CASES: u64 = 200;

#[test]
fn interrupts_agree() {
    let qemu = campaign::qemu(&Plan::default()).expect("QEMU");
    let summary = interrupts::run(&qemu, 1, 0..CASES).expect("QEMU runs");
    println!("{:?}", summary.explained);
    println!("{} of them honest: {:?}", summary.line(), summary.honest);
    let difference = &summary.difference;
    assert!(
        difference.is_none(),
        "{}",
        difference.as_deref().unwrap_or_default()
    );
    assert_eq!(summary.cases, CASES);
    // Many cases agree to their end, and an interrupt is pending behind many
    // steps.
    assert!(summary.agree * 3 > summary.cases, "{}", summary.line());
    let [honest, agree] = summary.honest;
    assert!(agree * 4 > honest * 3, "{summary:?}");
    assert!(summary.pending * 4 > summary.steps, "{summary:?}");
    assert!(summary.alike * 2 > summary.steps, "{summary:?}");
}

/// Changes our side's first command with `opcode` alone, and wants that found.
fn is_found(opcode: u64, change: impl Fn(&mut [u64; 4])) {
    let qemu = campaign::qemu(&Plan::default()).expect("QEMU");
    let change = |step: &mut Step| {
        if let Step::Commands(commands) = step {
            let mut commands = commands.iter_mut();
            if let Some(words) = commands.find(|words| words[0] & 0xff == opcode) {
                change(words);
            }
        }
    };
    let summary = interrupts::run_with(&qemu, 1, 0..100, change).expect("QEMU runs");
    assert!(summary.difference.is_some(), "{}", summary.line());
}

#[test]
fn an_interrupt_that_does_not_come_is_found() {
    // INT becomes INV.
    is_found(0x03, |words| words[0] ^= 0x0f);
}

#[test]
fn another_collection_is_found() {
    // MOVI.
    is_found(0x01, |words| words[2] ^= 1);
}

#[test]
fn another_redistributor_is_found() {
    // MAPC.
    is_found(0x09, |words| words[2] ^= 1 << 16);
}

#[test]
fn an_interrupt_that_stays_is_found() {
    // CLEAR becomes SYNC.
    is_found(0x04, |words| words[0] ^= 0x01);
}
