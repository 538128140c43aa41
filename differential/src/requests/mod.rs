//! Our virtio-iommu device beside QEMU's: the same requests in the same chains
//! give the same answers.

pub mod ask;
pub mod driver;
pub mod explain;
mod ours;
mod theirs;
#[path = "../../../crates/virtio-iommu-device/tests/world/mod.rs"]
mod world;

pub use ours::Ours;
pub use theirs::Theirs;

use crate::machine::Error;
use ask::{Ask, Case};
use driver::{Answer, Driver};
use explain::State;
use portcullis_testbed::setup::qemu::Qemu;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Sequences that a run has unless told otherwise.
pub const CASES: u64 = 2_000;

/// Where messages go on QEMU's machine: the ITS.
const DOORBELL: (u64, u64) = (0x0809_0000, 0x0809_ffff);

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Sequences that were run.
    pub cases: u64,
    /// Of them, those in which both did the same throughout.
    pub agree: u64,
    /// Requests that were answered by both, and compared.
    pub requests: u64,
    /// Of them, by status of ours; 255 is no answer.
    pub statuses: BTreeMap<u8, u64>,
    /// Differences that are known, by name, with in how many sequences.
    pub explained: BTreeMap<&'static str, u64>,
    /// The first difference that nothing explains.
    pub difference: Option<String>,
}

impl Summary {
    /// The last line of a run.
    #[must_use]
    pub fn line(&self) -> String {
        let explained = self.cases - self.agree - u64::from(self.difference.is_some());
        format!(
            "requests: cases={} agree={} explained={explained}",
            self.cases, self.agree
        )
    }
}

/// Runs sequences `numbers` of a seed on both sides, until one differs.
///
/// # Errors
/// When QEMU does not start, ends or does not answer.
pub fn run(qemu: &Qemu, seed: u64, numbers: std::ops::Range<u64>) -> Result<Summary, Error> {
    run_with(qemu, Ours::new(Some(DOORBELL)), seed, numbers)
}

/// As [`run`], with a device of ours that may be made otherwise on purpose.
///
/// # Errors
/// See [`run`].
pub fn run_with(
    qemu: &Qemu,
    mut ours: Ours,
    seed: u64,
    numbers: std::ops::Range<u64>,
) -> Result<Summary, Error> {
    let mut theirs = Theirs::start(qemu)?;
    let mut summary = Summary::default();
    for number in numbers {
        let case = ask::case(seed, number);
        let during = |error: Error| error.during(format!("requests {number} of seed {seed}"));
        summary.cases += 1;
        match one(&mut ours, &mut theirs, &case, &mut summary).map_err(during)? {
            Ok(names) if names.is_empty() => summary.agree += 1,
            Ok(names) => {
                for name in names {
                    *summary.explained.entry(name).or_default() += 1;
                }
            }
            Err(text) => {
                let text = format!("requests {number} of seed {seed}:\n{text}");
                summary.difference = Some(text);
                break;
            }
        }
    }
    Ok(summary)
}

/// What explains the differences of a case, or one that nothing does.
type Outcome = Result<Vec<&'static str>, String>;

fn one(
    ours: &mut Ours,
    theirs: &mut Theirs,
    case: &Case,
    summary: &mut Summary,
) -> Result<Outcome, Error> {
    let Ok(mut left) = Driver::new(ours, case);
    let mut right = Driver::new(theirs, case)?;
    let mut state = State::default();
    let mut names = Vec::new();
    let mut waiting: Vec<Ask> = Vec::new();
    let mut before = String::new();
    let count = case.sent.len();
    for (n, sent) in case.sent.iter().enumerate() {
        let Ok(()) = left.offer(sent);
        right.offer(sent)?;
        waiting.push(sent.ask);
        if !sent.notify && n + 1 < count {
            continue;
        }
        let Ok(first) = left.exchange();
        let second = right.exchange()?;
        let answers = first.into_iter().zip(second);
        for (ask, answers) in waiting.drain(..).zip(answers) {
            let (Some(mine), Some(other)) = answers else {
                return Ok(Err(format!(
                    "{ask:x?}: a chain is out of turn: {answers:x?}"
                )));
            };
            summary.requests += 1;
            let status = mine.status.unwrap_or(u8::MAX);
            *summary.statuses.entry(status).or_default() += 1;
            match explain::explain(&state, &ask, &mine, &other) {
                Some(known) => {
                    if !names.contains(&known.name) {
                        names.push(known.name);
                    }
                    if !known.same_state {
                        return Ok(Ok(names));
                    }
                }
                None if mine != other => {
                    return Ok(Err(before + &differ(&ask, &mine, &other)));
                }
                None => {}
            }
            let _ = writeln!(before, "{ask:x?}: {:?}", mine.status);
            state.after(&ask, &mine);
        }
    }
    Ok(Ok(names))
}

fn differ(ask: &Ask, ours: &Answer, theirs: &Answer) -> String {
    format!("{ask:x?}\nours: {ours:x?}\nQEMU: {theirs:x?}")
}
