//! Each deliberate mistake must be found.
#![allow(missing_docs)]

mod common;

use common::program::{op, setup};
use common::{Finding, Mutant, Setup, run};
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
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
    let strategy = (setup(), vec(op(), 1..30));
    let result = runner.run(&strategy, |(setup, program)| {
        match run(setup, mutant, &program) {
            Ok(_) => Ok(()),
            Err(finding) => {
                last.set(Some(finding));
                Err(TestCaseError::fail("found"))
            }
        }
    });
    match result {
        Err(TestError::Fail(_, (setup, program))) => {
            let finding = run(setup, mutant, &program).expect_err("as before");
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
    no_tlbi: NoTlbi => _,
    no_tlbi_ipa: NoTlbiIpa => _,
    no_tlbi_vmid: NoTlbiVmid => _,
    no_cfgi: NoCfgi => _,
    no_cfgi_all: NoCfgiAll => _,
    no_tlbi_all: NoTlbiAll => _,
    no_sync: NoSync => _,
    no_wait: NoWait => _,
    no_fence_wait: NoFenceWait => _,
    no_gbpa: NoGbpa => _,
    no_wrap: NoWrap => _,
    wrong_vmid: WrongVmid => _,
    wrong_stream: WrongStream => _,
    leaf_only: LeafOnly => _,
    config_leaf_only: ConfigLeafOnly => _,
    level_hint: LevelHint => _,
    short_range: ShortRange => _,
    small_scale: SmallScale => _,
    next_page: NextPage => _,
    no_publish: NoPublish => _,
    no_entry_publish: NoEntryPublish => _,
    entry_valid_first: EntryValidFirst => _,
    forget_smmus: ForgetSmmus => _,
    first_page_only: FirstPageOnly => _,
    caller_leaf: CallerLeaf => _,
    ledger_only: LedgerOnly => _,
    too_early: TooEarly => _,
}
