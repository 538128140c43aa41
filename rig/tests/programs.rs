//! Hostile programs against the real driver, tables, ledger and host space.
#![allow(missing_docs)]

use portcullis_rig::program::{op, setup};
use portcullis_rig::{Finding, Mutant, Op, Setup, run};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use smmuv3_model::{Mode, Profile};

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_program_reaches_what_it_must_not(
        setup in setup(None),
        program in prop::collection::vec(op(), 1..40),
    ) {
        let result = run(setup, Mutant::None, &program);
        prop_assert!(result.is_ok(), "{:?}", result);
    }
}

fn full() -> Setup {
    Setup::new(Profile::full(), Mode::Greedy { seed: 3 })
}

#[test]
fn a_run_does_something() {
    let setup = full();
    let program = [
        Op::Attach {
            stream: 0,
            domain: 0,
        },
        Op::Take {
            page: 7,
            count: 1,
            nobody: false,
        },
    ];
    let counts = run(setup, Mutant::None, &program).unwrap();
    assert!(counts.syncs > 4 && counts.descriptors > 1000, "{counts:?}");
}

#[test]
fn the_same_seed_finds_the_same() {
    let program = [
        Op::Attach {
            stream: 0,
            domain: 0,
        },
        Op::Take {
            page: 7,
            count: 1,
            nobody: false,
        },
    ];
    let once = || run(full(), Mutant::ForgetSmmus, &program).map_err(|s| s.finding);
    let found = once().unwrap_err();
    assert!(matches!(found, Finding::Violation(..)), "{found:?}");
    assert_eq!(once().unwrap_err(), found);
}
