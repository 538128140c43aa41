//! Runs a case on both sides and compares after every step.

use crate::case::{Case, Seen, Step};
use crate::deviations::{self, Context, Deviation};
use crate::emulator::Emulator;
use crate::facts::Facts;
use crate::layout;
use crate::machine::{Error, Machine};
use crate::model::{Model, Outcome};

/// How a case ended.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Everything was the same.
    Agree,
    /// QEMU does something else, and it is known and documented.
    Explained(&'static Deviation),
    /// The two differ.
    Differ(Box<Difference>),
}

/// The step at which both differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Its number.
    pub step: usize,
    /// What the model did.
    pub model: Outcome,
    /// What QEMU did.
    pub qemu: Seen,
}

/// Runs `case`, up to the first step at which both differ.
///
/// # Errors
/// When QEMU does not answer.
pub fn run(machine: &mut Machine, case: &Case) -> Result<Verdict, Error> {
    run_against(machine, case, case)
}

/// As [`run`], with other memory at the start for QEMU: shows that a difference
/// would be found.
///
/// # Errors
/// When QEMU does not answer.
pub fn run_against(machine: &mut Machine, case: &Case, other: &Case) -> Result<Verdict, Error> {
    let mut model = Model::new(case);
    let mut emulator = Emulator::new(machine, other)?;
    let mut verdict = Verdict::Agree;
    let mut wrote = false;
    for (step, what) in case.steps.iter().enumerate() {
        let facts = Facts::at(case, step);
        let mut what = what.clone();
        if let (Step::Access(access), Some(facts)) = (&mut what, &facts) {
            // Memory is looked at even if no side says that it was written.
            let output = facts.output(&mut Vec::new()).map(|at| at & !3);
            access.lands = output.filter(|at| layout::is_data(*at)).or(access.lands);
        }
        let outcome = model.step(&what);
        if outcome.skip {
            break;
        }
        let mut qemu = emulator.step(&what, outcome.probe)?;
        if outcome.unclean {
            qemu.data = outcome.seen.data;
        }
        if qemu == outcome.seen {
            continue;
        }
        wrote = matches!(what, Step::Access(access) if access.write.is_some());
        let context = Context {
            case,
            step,
            model: &outcome,
            qemu: &qemu,
            facts,
        };
        verdict = match deviations::find(&context) {
            Some(deviation) => Verdict::Explained(deviation),
            None => Verdict::Differ(Box::new(Difference {
                step,
                model: outcome,
                qemu,
            })),
        };
        break;
    }
    emulator.finish(wrote)?;
    Ok(verdict)
}

impl Difference {
    /// The kinds of the events on both sides: what a smaller case has to keep.
    #[must_use]
    pub fn kinds(&self) -> (Vec<u64>, Vec<u64>) {
        let kinds = |seen: &Seen| seen.events.iter().map(|event| event[0] & 0xff).collect();
        (kinds(&self.model.seen), kinds(&self.qemu))
    }
}
