//! Advice: which way to give a host its IOMMU, how sure that is, and what would
//! change it.
//!
//! The advice is computed, and then once more for every assumption, with another
//! value each time. It is
//!
//! - **sure** where none of these changes it,
//! - **rather sure** where one or two do,
//! - **open** where more do, or where the two ways are within 5 % to begin with.
//!
//! A change from "better" to "no difference that matters" counts. What only one of
//! the ways can do decides without any of that.

mod pool;
mod replayed;
mod search;
mod text;
mod vary;
mod workload;

pub use replayed::Replayed;
pub use search::{Axis, Flip, Search};
pub use text::text;
pub use workload::{Trouble, Variant, Workload, shortened};

use crate::description::{Asked, Stages};
use crate::machine::Mode;
use crate::measured::Measured;
use crate::platform::Platform;
use crate::scenario::Scenario;
use crate::score::{Better, Comparison, Score, Transfer};
use crate::sim::Report;
use crate::units::Picos;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much is run, and on how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Accesses of each simulation; more where there are many devices or much memory
    /// to get to know.
    pub accesses: u64,
    /// Threads.
    pub threads: usize,
    /// Bytes of all buffers that a search looks at, at most, unless there are more to
    /// begin with; a quarter of that, where they are mapped page by page. Setting up
    /// more takes longer than running it.
    pub buffers: u64,
}

/// Why a way is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recommendation {
    /// It costs less, or neither does.
    Compared(Comparison),
    /// Devices are to use addresses of processes. What it costs beside the other
    /// way all the same.
    NestedForSva(Comparison),
    /// The SMMU has one stage.
    ParavirtForOneStage,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sureness {
    /// Nothing that was varied changes it.
    Sure,
    /// One or two assumptions do.
    RatherSure,
    /// More do, or there is no difference to begin with.
    Open,
}

/// An assumption, and what the advice is with others.
#[derive(Clone, Debug)]
pub struct Variation {
    /// What is assumed.
    pub what: &'static str,
    /// As what.
    pub here: String,
    /// Whether it is none, but what was asked about: another question, whose answer
    /// does not make this one less sure.
    pub told: bool,
    /// Other values, and what they come to.
    pub tries: Vec<(String, Comparison)>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Advice {
    /// What to take, and why.
    pub recommendation: Recommendation,
    /// Each mode that is possible.
    pub modes: Vec<(Report, Score)>,
    /// What is counted by.
    pub transfer: Transfer,
    /// Time in which a device's link carries a transfer, if that is known.
    pub link: Option<Picos>,
    /// Assumptions; none where only one way is possible.
    pub variations: Vec<Variation>,
    /// What would change it.
    pub searches: Vec<Search>,
    /// Accesses of all simulations.
    pub simulated: u64,
}

impl Recommendation {
    /// The way to take, if it is not all the same.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        match self {
            Self::Compared(comparison) => comparison.better().mode(),
            Self::NestedForSva(_) => Some(Mode::Nested),
            Self::ParavirtForOneStage => Some(Mode::Paravirt),
        }
    }
}

impl Sureness {
    /// Of what is better, and how many assumptions change that.
    #[must_use]
    pub const fn of(base: Better, changing: usize) -> Self {
        match (base, changing) {
            (Better::Neither, _) => Self::Open,
            (_, 0) => Self::Sure,
            (_, 1 | 2) => Self::RatherSure,
            _ => Self::Open,
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Sure => "sure",
            Self::RatherSure => "rather sure",
            Self::Open => "open",
        }
    }
}

impl Variation {
    /// Whether it is an assumption, and the advice another with any of the values.
    #[must_use]
    pub fn changes(&self, base: Better) -> bool {
        !self.told && self.tries.iter().any(|(_, found)| found.better() != base)
    }
}

impl Advice {
    /// How sure it is; `None` where only one way is possible.
    #[must_use]
    pub fn sureness(&self) -> Option<Sureness> {
        let Recommendation::Compared(comparison) = self.recommendation else {
            return None;
        };
        Some(Sureness::of(comparison.better(), self.changing()))
    }

    /// What a mode comes to, if it is possible.
    #[must_use]
    pub fn score(&self, mode: Mode) -> Option<&Score> {
        let found = self.modes.iter().find(|(report, _)| report.mode == mode);
        found.map(|(_, score)| score)
    }

    /// How many assumptions change it.
    #[must_use]
    pub fn changing(&self) -> usize {
        let Recommendation::Compared(comparison) = self.recommendation else {
            return 0;
        };
        let base = comparison.better();
        let changing = self.variations.iter().filter(|one| one.changes(base));
        changing.count()
    }
}

/// What is run: everything that can be varied.
#[derive(Clone)]
struct Case {
    platform: Platform,
    measured: Measured,
    /// In place of the workload, where it is one.
    scenario: Option<Scenario>,
}

/// Runs cases.
struct Runner<'a> {
    workload: &'a dyn Workload,
    settings: &'a Settings,
    simulated: AtomicU64,
}

impl Runner<'_> {
    fn score(&self, case: &Case, mode: Mode) -> Result<(Report, Score), Trouble> {
        let short = case.scenario.as_ref();
        let short = short.map(|scenario| shortened(scenario, self.settings.accesses));
        let workload: &dyn Workload = match &short {
            Some(scenario) => scenario,
            None => self.workload,
        };
        let (platform, measured) = (&case.platform, &case.measured);
        let report = workload.run(platform, measured, mode)?;
        self.simulated
            .fetch_add(report.simulated, Ordering::Relaxed);
        let transfer = workload.transfer();
        let jobs = match (transfer.per_mapping, workload.seen(&report)) {
            (None, _) => Picos::ZERO,
            (Some(_), Some(jobs)) => jobs,
            (Some(_), None) => workload.jobs(platform, measured, mode)?,
        };
        let mut score = transfer.score(&report, jobs);
        score.rate = score.rate.min(workload.most_mapped(jobs));
        if !workload.has_rate() {
            score.rate = f64::INFINITY;
        }
        Ok((report, score))
    }

    fn compare(&self, case: &Case) -> Result<Comparison, Trouble> {
        let (_, nested) = self.score(case, Mode::Nested)?;
        let (_, paravirt) = self.score(case, Mode::Paravirt)?;
        Ok(Comparison::of(&nested, &paravirt))
    }
}

/// Advises on a workload on a platform.
///
/// # Errors
/// The workload could not be run.
pub fn advise(
    workload: &dyn Workload,
    platform: &Platform,
    measured: &Measured,
    asked: Asked,
    settings: &Settings,
) -> Result<Advice, Trouble> {
    let runner = Runner {
        workload,
        settings,
        simulated: AtomicU64::new(0),
    };
    let case = Case {
        platform: platform.clone(),
        measured: measured.clone(),
        scenario: workload.scenario().cloned(),
    };
    let threads = settings.threads;
    let possible = |mode: &Mode| asked.stages == Stages::Both || *mode != Mode::Nested;
    let possible: Vec<Mode> = Mode::ALL.into_iter().filter(possible).collect();
    let modes = pool::each(threads, &possible, |mode| runner.score(&case, *mode))?;
    let of = |mode| {
        let found = modes.iter().find(|(report, _)| report.mode == mode);
        found.map(|(_, score)| score)
    };
    let recommendation = match (of(Mode::Nested), of(Mode::Paravirt)) {
        (Some(nested), Some(paravirt)) => {
            let comparison = Comparison::of(nested, paravirt);
            if asked.sva {
                Recommendation::NestedForSva(comparison)
            } else {
                Recommendation::Compared(comparison)
            }
        }
        _ => Recommendation::ParavirtForOneStage,
    };
    let (mut variations, mut searches) = (Vec::new(), Vec::new());
    if let Recommendation::Compared(comparison) = recommendation {
        variations = vary(&runner, &case, threads)?;
        let base = comparison.better();
        let found = pool::each(threads, &Axis::ALL, |axis| {
            search::search(&runner, &case, base, *axis)
        })?;
        searches = found.into_iter().flatten().collect();
    }
    Ok(Advice {
        recommendation,
        modes,
        transfer: workload.transfer(),
        link: workload.link(),
        variations,
        searches,
        simulated: runner.simulated.load(Ordering::Relaxed),
    })
}

/// Each assumption in turn.
fn vary(runner: &Runner<'_>, case: &Case, threads: usize) -> Result<Vec<Variation>, Trouble> {
    let rows = vary::rows(case);
    let all = rows
        .iter()
        .flat_map(|row| row.tries.iter().map(|(_, case)| case));
    let all: Vec<&Case> = all.collect();
    let mut found = pool::each(threads, &all, |case| runner.compare(case))?.into_iter();
    let variations = rows.iter().map(|row| {
        let words = row.tries.iter().map(|(to, _)| to.clone());
        Variation {
            what: row.what,
            here: row.here.clone(),
            told: row.told,
            tries: words.zip(found.by_ref()).collect(),
        }
    });
    let mut variations: Vec<Variation> = variations.collect();
    for variant in runner.workload.variants() {
        let found = pool::each(threads, &variant.tries, |(_, workload)| {
            let other = Runner {
                workload: workload.as_ref(),
                settings: runner.settings,
                simulated: AtomicU64::new(0),
            };
            let found = other.compare(case);
            let simulated = other.simulated.into_inner();
            runner.simulated.fetch_add(simulated, Ordering::Relaxed);
            found
        })?;
        let words = variant.tries.iter().map(|(to, _)| to.clone());
        variations.push(Variation {
            what: variant.what,
            here: variant.here,
            told: variant.told,
            tries: words.zip(found).collect(),
        });
    }
    Ok(variations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_sure_is_counted() {
        let of = |changing| Sureness::of(Better::Nested, changing).words();
        assert_eq!(
            [0, 1, 2, 3].map(of),
            ["sure", "rather sure", "rather sure", "open"]
        );
        assert_eq!(Sureness::of(Better::Neither, 0), Sureness::Open);
    }
}
