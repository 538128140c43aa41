//! Many random programs, and the shortest that shows what one of them found.

use crate::finding::Finding;
use crate::mutant::Mutant;
use crate::op::Op;
use crate::program::{
    its_program, its_setup, nested_program, nested_setup, para_program, para_setup, program, setup,
};
use crate::setup::Setup;
use crate::start::run;
use proptest::strategy::{Just, Strategy};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::Cell;
use std::ops::RangeInclusive;

/// What the host has of the SMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: its streams are attached for it.
    Plain,
    /// An emulated SMMU on each.
    Nested,
    /// Domains that it maps its pages into.
    Paravirt,
    /// Not of the SMMUs, but of the GIC: an emulated ITS on each.
    Its,
}

/// What to hunt for, and where.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Operations to run, at least.
    pub ops: u64,
    /// Decides every program.
    pub seed: u64,
    /// Name of the profile of every SMMU; any profile without.
    pub profile: Option<&'static str>,
    /// What the host has.
    pub world: Kind,
    /// The mistake between the code under test and the model.
    pub mutant: Mutant,
    /// Operations of one program.
    pub lengths: RangeInclusive<usize>,
    /// Most runs that are spent on making a program shorter.
    pub shorten: u32,
}

/// A program that found something.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Repeats it, see [`Hunt::repeat`].
    pub seed: u64,
    /// What it runs on.
    pub setup: Setup,
    /// The shortest that was found to do.
    pub program: Vec<Op>,
    /// What it finds.
    pub finding: Finding,
}

/// What a hunt came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Operations that were run, without those spent on shortening.
    pub ops: u64,
    /// Programs.
    pub programs: u64,
    /// The first thing that was found.
    pub catch: Option<Box<Catch>>,
}

impl Hunt {
    /// Runs programs until [`ops`](Self::ops) operations have run or something
    /// is found. `watch` is told the seed of each program before it runs and
    /// the operations so far.
    pub fn run(&self, mut watch: impl FnMut(u64, u64)) -> Outcome {
        let mut outcome = Outcome::default();
        while outcome.ops < self.ops && outcome.catch.is_none() {
            let seed = mix(mix(self.seed).wrapping_add(outcome.programs));
            watch(seed, outcome.ops);
            let (ops, catch) = self.repeat(seed);
            outcome.ops += ops;
            outcome.programs += 1;
            outcome.catch = catch.map(Box::new);
        }
        outcome
    }

    /// Runs the program of one seed: how many operations that took and, if it
    /// finds something, the shortest program that does.
    pub fn repeat(&self, seed: u64) -> (u64, Option<Catch>) {
        let config = Config {
            failure_persistence: None,
            max_shrink_iters: self.shorten,
            ..Config::default()
        };
        let mut bytes = [0; 32];
        for (word, n) in bytes.chunks_exact_mut(8).zip(0..) {
            word.copy_from_slice(&mix(seed.wrapping_add(n)).to_le_bytes());
        }
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let lengths = self.lengths.clone();
        let strategy = match self.world {
            Kind::Plain => (setup(self.profile), program(lengths)).boxed(),
            Kind::Nested => (nested_setup(self.profile), nested_program(lengths)).boxed(),
            Kind::Its => (its_setup(self.profile), its_program(lengths)).boxed(),
            Kind::Paravirt => para_setup(self.profile)
                .prop_flat_map(move |setup| {
                    let device = setup.paravirt.is_some_and(|para| para.device.is_some());
                    (Just(setup), para_program(device, lengths.clone()))
                })
                .boxed(),
        };
        let tree = match strategy.new_tree(&mut runner) {
            Ok(tree) => tree,
            // No strategy here rejects what it drew.
            Err(_) => return (0, None),
        };
        let (ops, last) = (Cell::new(None), Cell::new(None));
        let result = runner.run_one(tree, |(setup, program)| {
            let result = run(setup, self.mutant, &program);
            if ops.get().is_none() {
                ops.set(Some(match &result {
                    Ok(_) => program.len() as u64,
                    Err(stopped) => stopped.step as u64 + 1,
                }));
            }
            result.map_or_else(
                |stopped| {
                    last.set(Some(stopped.finding));
                    Err(TestCaseError::fail("found"))
                },
                |_| Ok(()),
            )
        });
        let catch = match (result, last.get()) {
            (Err(TestError::Fail(_, (setup, program))), Some(last)) => {
                let again = run(setup, self.mutant, &program);
                Some(Catch {
                    seed,
                    setup,
                    program,
                    finding: again.map_or_else(|stopped| stopped.finding, |_| last),
                })
            }
            _ => None,
        };
        (ops.get().unwrap_or(0), catch)
    }
}

/// A permutation of 64 bits without visible pattern (SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
