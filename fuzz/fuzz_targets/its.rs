//! Any bytes as the seed of a program of a hostile host on its emulated ITSs, and
//! of what the GIC below does meanwhile: the GIC reaches no memory but EL2's, is
//! told nothing that the architecture leaves open, and every call ends.
//!
//! The fuzzer keeps the seeds whose programs reach new code. What a program is, the
//! rig says (`rig/src/its/generate.rs`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_rig::program::{its_program, its_setup};
use portcullis_rig::{Mutant, run};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fuzz_target!(|seed: [u8; 32]| {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let programs = (its_setup(None), its_program(1..=40));
    let Ok(tree) = programs.new_tree(&mut runner) else {
        return;
    };
    let (setup, program) = tree.current();
    if let Err(stopped) = run(setup.clone(), Mutant::None, &program) {
        panic!("{stopped:?}\n{setup:?}\n{program:#?}");
    }
});
