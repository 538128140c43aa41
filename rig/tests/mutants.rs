//! Each deliberate mistake must be found.
#![allow(missing_docs)]

use portcullis_rig::program::{op, setup};
use portcullis_rig::{Finding, Mutant, Setup, run};
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use smmuv3_model::{Misuse, Violation};
use std::cell::Cell;

/// Random programs until one shows the mistake, then the shortest that does.
/// Panics when none does.
fn hunt(mutant: Mutant) -> Finding {
    let config = Config {
        cases: 300,
        max_shrink_iters: 80,
        failure_persistence: None,
        ..Config::default()
    };
    // The same programs in every run: a mutant is found or it is not.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let last = Cell::new(None);
    let strategy = (setup(None), vec(op(), 1..30));
    let result = runner.run(&strategy, |(setup, program)| {
        match run(setup, mutant, &program) {
            Ok(_) => Ok(()),
            Err(stopped) => {
                last.set(Some(stopped.finding));
                Err(TestCaseError::fail("found"))
            }
        }
    });
    match result {
        Err(TestError::Fail(_, (setup, program))) => {
            let finding = run(setup, mutant, &program).expect_err("as before").finding;
            let Setup {
                profile,
                mode,
                used,
            } = setup;
            let name = profile.name;
            println!("{mutant:?}: {name} {mode:?} used={used} {program:?}\n  {finding:?}");
            finding
        }
        other => panic!("{mutant:?} was not found: {other:?}"),
    }
}

macro_rules! violates {
    ($($name:ident: $mutant:ident => $pattern:pat,)*) => {
        $(
            #[test]
            fn $name() {
                let finding = hunt(Mutant::$mutant);
                assert!(matches!(finding, $pattern), "{finding:?}");
            }
        )*
    };
}

violates! {
    no_tlbi: NoTlbi => Finding::Violation(Violation::Reach { .. }),
    no_tlbi_ipa: NoTlbiIpa => Finding::Violation(Violation::Reach { .. }),
    no_tlbi_vmid: NoTlbiVmid => Finding::Violation(Violation::Reach { .. }),
    no_cfgi: NoCfgi => Finding::Violation(Violation::Table { .. }),
    no_cfgi_all: NoCfgiAll => Finding::Violation(Violation::Table { .. }),
    no_tlbi_all: NoTlbiAll => Finding::Violation(Violation::Table { .. }),
    no_sync: NoSync => Finding::Lost(..),
    no_wait: NoWait => Finding::Violation(Violation::Table { .. }),
    no_fence_wait: NoFenceWait => Finding::Misuse(Misuse::Guarded { .. }) | Finding::Lost(..),
    no_gbpa: NoGbpa => Finding::Violation(Violation::Reach { .. }),
    no_wrap: NoWrap => Finding::Misuse(Misuse::Overrun { .. }),
    wrong_vmid: WrongVmid => Finding::Violation(Violation::Reach { .. }),
    wrong_stream: WrongStream => Finding::Violation(Violation::Table { .. }),
    leaf_only: LeafOnly => Finding::Violation(Violation::Table { .. }),
    config_leaf_only: ConfigLeafOnly => Finding::Lost(..),
    level_hint: LevelHint => Finding::Violation(Violation::Reach { .. }),
    short_range: ShortRange => Finding::Violation(Violation::Reach { .. }),
    small_scale: SmallScale => Finding::Violation(Violation::Reach { .. }),
    next_page: NextPage => Finding::Violation(Violation::Reach { .. }),
    no_publish: NoPublish => Finding::Violation(Violation::Table { .. }),
    no_entry_publish: NoEntryPublish => Finding::Violation(Violation::Table { .. }),
    entry_valid_first: EntryValidFirst => Finding::Violation(Violation::Table { .. }),
    forget_smmus: ForgetSmmus => Finding::Violation(Violation::Reach { .. }),
    first_page_only: FirstPageOnly => Finding::Violation(Violation::Reach { .. }),
    caller_leaf: CallerLeaf => Finding::Violation(Violation::Table { .. }),
    ledger_only: LedgerOnly => Finding::Violation(Violation::Reach { .. }),
    wrong_bbm: WrongBbm => Finding::Misuse(Misuse::Conflict { .. }),
    too_early: TooEarly => Finding::Violation(Violation::Reach { .. }),
}
