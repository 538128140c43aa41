//! A short comparison with QEMU, and that it would find a mistake.

use portcullis_differential::campaign::{self, Plan};
use portcullis_differential::compare::{self, Verdict};
use portcullis_differential::generate;
use portcullis_differential::machine::Machine;

#[test]
fn model_and_emulator_agree() {
    let plan = Plan {
        cases: 150,
        jobs: 1,
        ..Plan::default()
    };
    let summary = campaign::run(&plan).expect("QEMU runs");
    assert!(
        summary.passed(),
        "{}",
        summary.difference.unwrap_or_default()
    );
    assert_eq!(summary.cases, 150);
    let explained: u64 = summary.explained.values().sum();
    assert_eq!(summary.agree + explained, 150);
    assert!(summary.agree > 100, "{}", summary.line());
}

/// QEMU gets memory in which one descriptor has one bit that the model's has
/// not: a mistake of the model could look the same.
#[test]
fn a_single_wrong_bit_is_found() {
    let qemu = campaign::qemu(&Plan::default()).expect("QEMU");
    let mut machine = Machine::start(&qemu).expect("a machine");
    // S2AP[0] or AP[1], AF.
    for bit in [6, 10] {
        let mut found = 0;
        let mut tried = 0;
        for number in (0..120).step_by(2) {
            let case = generate::case(1, number);
            if !matches!(compare::run(&mut machine, &case), Ok(Verdict::Agree)) {
                continue;
            }
            let mut other = case.clone();
            for word in other.words.values_mut().filter(|word| **word >> 52 != 0) {
                *word ^= 1 << bit;
            }
            if other.ends_qemu() {
                continue;
            }
            tried += 1;
            let verdict = compare::run_against(&mut machine, &case, &other).expect("QEMU runs");
            found += u32::from(matches!(verdict, Verdict::Differ(_)));
        }
        assert!(
            found * 4 > tried && tried > 20,
            "bit {bit}: {found} of {tried}"
        );
    }
}
