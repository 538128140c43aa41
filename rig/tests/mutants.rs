//! Each deliberate mistake must be found.
#![allow(missing_docs)]

use portcullis_rig::{Finding, Hunt, Kind, Mutant};
use smmuv3_model::{Misuse, Violation};

/// Random programs until one shows the mistake, then the shortest that does.
/// The same programs in every run: a mutant is found or it is not.
fn hunt(mutant: Mutant) -> Finding {
    let hunt = Hunt {
        ops: 30_000,
        seed: 1,
        profile: None,
        world: Kind::Plain,
        mutant,
        lengths: 1..=80,
        shorten: 60,
    };
    let outcome = hunt.run(|_, _| ());
    let Some(catch) = outcome.catch else {
        panic!("{mutant:?} was not found");
    };
    println!(
        "{}: {} {:?}\n  {}",
        mutant.name(),
        catch.setup,
        catch.program,
        catch.finding
    );
    let (_, again) = hunt.repeat(catch.seed);
    assert_eq!(again.map(|again| again.finding), Some(catch.finding));
    catch.finding
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
    no_tlbi: NoTlbi => Finding::Violation(_, Violation::Reach { .. }),
    no_tlbi_ipa: NoTlbiIpa => Finding::Violation(_, Violation::Reach { .. }),
    no_tlbi_vmid: NoTlbiVmid => Finding::Violation(_, Violation::Reach { .. }),
    no_cfgi: NoCfgi => Finding::Violation(_, Violation::Table { .. }),
    no_cfgi_all: NoCfgiAll => Finding::Violation(_, Violation::Table { .. }),
    no_tlbi_all: NoTlbiAll => Finding::Violation(_, Violation::Table { .. }),
    no_sync: NoSync => Finding::Lost(..),
    no_wait: NoWait => Finding::Lost(..) | Finding::Violation(..),
    // What is read of registers that are not in force yet decides how it shows.
    no_fence_wait: NoFenceWait => Finding::Misuse(Misuse::Guarded { .. })
        | Finding::Failed("taking over")
        | Finding::Lost(..)
        | Finding::Violation(..),
    no_gbpa: NoGbpa => Finding::Violation(_, Violation::Reach { .. }),
    no_wrap: NoWrap => Finding::Misuse(Misuse::Overrun { .. }),
    wrong_vmid: WrongVmid => Finding::Violation(_, Violation::Reach { .. }),
    wrong_stream: WrongStream => Finding::Violation(_, Violation::Table { .. }),
    leaf_only: LeafOnly => Finding::Violation(_, Violation::Table { .. }),
    config_leaf_only: ConfigLeafOnly => Finding::Lost(..),
    level_hint: LevelHint => Finding::Violation(_, Violation::Reach { .. }),
    short_range: ShortRange => Finding::Violation(_, Violation::Reach { .. }),
    small_scale: SmallScale => Finding::Violation(_, Violation::Reach { .. }),
    next_page: NextPage => Finding::Violation(_, Violation::Reach { .. }),
    no_publish: NoPublish => Finding::Violation(_, Violation::Table { .. }),
    no_entry_publish: NoEntryPublish => Finding::Violation(_, Violation::Table { .. }),
    entry_valid_first: EntryValidFirst => Finding::Violation(_, Violation::Table { .. }),
    forget_smmus: ForgetSmmus => Finding::Violation(_, Violation::Reach { .. }),
    first_page_only: FirstPageOnly => Finding::Violation(_, Violation::Reach { .. }),
    caller_leaf: CallerLeaf => Finding::Violation(_, Violation::Table { .. }),
    ledger_only: LedgerOnly => Finding::Cpu(Violation::Reach { .. }) | Finding::Violation(_, Violation::Reach { .. }),
    wrong_bbm: WrongBbm => Finding::Misuse(Misuse::Conflict { .. }),
    forget_cpus: ForgetCpus => Finding::Cpu(Violation::Reach { .. }),
    forget_second: ForgetSecond => Finding::Violation(1, _),
    cpu_first_page_only: CpuFirstPageOnly => Finding::Cpu(Violation::Reach { .. }),
    cpu_leaf_only: CpuLeafOnly => Finding::Cpu(Violation::Table { .. }),
    no_refresh: NoRefresh => Finding::Events(_),
    too_early: TooEarly => Finding::Violation(_, Violation::Reach { .. }),
}
