//! Programs that once found something.
#![allow(missing_docs)]

use portcullis_rig::{BringUp, HostOp, Mutant, Op, Setup, Width, run};
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

/// An SMMU that has no memory for an entry that aborts is fenced. It completes
/// no invalidation then, so that a block that is being split is lost to the other
/// SMMU and to the CPUs too, as after any failed invalidation: no injected fault
/// is needed for that.
#[test]
fn a_block_is_lost_with_an_smmu_that_ran_out_of_memory() {
    let bring_up = BringUp {
        block: 0,
        two_level: false,
        kinds: 0,
        command_log2: 0,
        event_log2: 0,
        shape: 0,
        msi: false,
        ats: false,
        gentle: false,
    };
    let program = [
        Op::Starve { after: 0 },
        Op::Host {
            smmu: 0,
            what: HostOp::BringUp(bring_up),
        },
        take(7),
    ];
    let setup = Setup {
        second: Some(Profile::mmu600()),
        nested: true,
        ..greedy(Profile::full())
    };
    let result = run(setup, Mutant::None, &program);
    assert!(result.is_ok(), "{result:?}");
}

/// A write of CR0 that the CPU gives up stays half done past writes that are
/// done at once: only one that does the rest of it puts it in force.
#[test]
fn a_write_given_up_stays_so() {
    let host = |what| Op::Host { smmu: 0, what };
    let program = [
        host(HostOp::Cr0 { keep: !7, set: 7 }),
        host(HostOp::Register {
            offset: 0x20,
            width: Width::Word,
            value: 20,
            patience: 0,
        }),
        host(HostOp::Consume {
            requests: false,
            half: false,
        }),
    ];
    let setup = Setup {
        nested: true,
        ..greedy(Profile::mmu600())
    };
    let result = run(setup, Mutant::None, &program);
    assert!(result.is_ok(), "{result:?}");
}
