//! Programs that once found something.
#![allow(missing_docs)]

use portcullis_rig::{Mutant, Op, Setup, run};
use smmuv3_model::{Fault, Mode, Profile};

fn greedy(profile: Profile) -> Setup {
    Setup::new(profile, Mode::Greedy { seed: 0 })
}

fn take(page: u64) -> Op {
    Op::Take {
        page,
        count: 0,
        nobody: false,
    }
}

/// A refused TLBI leaves a block in the TLB that was being split. A page of the
/// same block had no translation of its own any more, so taking it invalidated
/// nothing and succeeded.
#[test]
fn no_page_changes_hands_after_a_failed_invalidation() {
    let program = [
        Op::Attach {
            stream: 0,
            domain: 0,
        },
        Op::Break {
            smmu: 0,
            // CMDQ_ERR.
            fault: Fault::Gerror(1),
        },
        take(47),
        take(0),
    ];
    for profile in [Profile::qemu(), Profile::minimal(), Profile::full()] {
        let result = run(greedy(profile), Mutant::None, &program);
        assert!(result.is_ok(), "{result:?}");
    }
}
