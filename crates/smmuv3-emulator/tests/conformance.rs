//! The emulated SMMU against an SMMU that is what its identification registers
//! say: the same programs on the emulation, above a model of a physical SMMU,
//! and on a model with those registers. Registers, queues, memory, DMA and
//! interrupts must be the same after every step.
//!
//! Where the architecture leaves a choice, the two may choose differently: each
//! such difference is a [`Reason`](explain::Reason) with its section; a case
//! ends with it and is counted. `CONFORMANCE_CASES` and `CONFORMANCE_SEED` ask
//! for a longer run or other programs.
#![allow(missing_docs)]

#[path = "conformance/compare.rs"]
mod compare;
#[path = "conformance/explain.rs"]
mod explain;
mod machine;
#[path = "conformance/program.rs"]
mod program;

use compare::Pair;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use smmuv3_model::Profile;
use std::cell::RefCell;
use std::collections::BTreeMap;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn compare(profile: Profile, messages: bool) {
    let cases = number("CONFORMANCE_CASES", 250);
    let seed = number("CONFORMANCE_SEED", 1);
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 1000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let reasons = RefCell::new(BTreeMap::new());
    let steps = RefCell::new(0u64);
    let result = runner.run(&program::program(), |program| {
        let mut pair = Pair::new(profile, messages);
        let note = |reason, count: u64| {
            if count != 0 {
                *reasons.borrow_mut().entry(reason).or_insert(0u64) += count;
            }
        };
        for step in &program {
            *steps.borrow_mut() += 1;
            match pair.step(step) {
                Ok(()) => {}
                Err(difference) => {
                    let Some(reason) = explain::explain(&mut pair, step, &difference) else {
                        let text = format!("{step:?}: {difference}");
                        return Err(TestCaseError::fail(text));
                    };
                    note(reason, 1);
                    return Ok(());
                }
            }
        }
        note(explain::Reason::None, 1);
        note(explain::Reason::Wires, pair.wires);
        note(explain::Reason::Shrunk, pair.shrunk);
        note(explain::Reason::Unknown, pair.unknown);
        Ok(())
    });
    let reasons = reasons.into_inner();
    let same = reasons.get(&explain::Reason::None).copied().unwrap_or(0);
    println!(
        "conformance: profile={} messages={messages} cases={cases} same={same} explained={} steps={}",
        profile.name,
        cases.saturating_sub(same),
        steps.borrow()
    );
    for (reason, count) in &reasons {
        println!("{count:8}  {reason}");
    }
    if let Err(TestError::Fail(why, program)) = result {
        for step in &program {
            println!("  {step:x?}");
        }
        panic!("{why}");
    }
    assert!(same * 3 > cases, "too few cases without a difference");
}

#[test]
fn like_qemus() {
    compare(Profile::qemu(), false);
}

#[test]
fn like_mmu600() {
    compare(Profile::mmu600(), true);
}

#[test]
fn like_mmu700() {
    compare(Profile::mmu700(), false);
}

#[test]
fn like_the_full_one() {
    compare(Profile::full(), true);
}
