//! Many cases, by several workers.

use crate::compare::{self, Verdict};
use crate::deviations::Deviation;
use crate::machine::{Error, Machine};
use crate::{generate, report, shrink};
use indicatif::{ProgressBar, ProgressStyle};
use portcullis_testbed::setup::{apt::Apt, qemu};
use portcullis_testbed::workspace::Workspace;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cases that a run has unless told otherwise: enough for 20,000 that agree.
pub const CASES: u64 = 26_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many cases.
    pub cases: u64,
    /// Where they come from.
    pub seed: u64,
    /// One case alone.
    pub only: Option<u64>,
    /// Workers, with two QEMUs each.
    pub jobs: u64,
    /// Go on after a difference, and count them by kind.
    pub keep_going: bool,
    /// A QEMU to use instead of the project's own.
    pub qemu: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            cases: CASES,
            seed: 1,
            only: None,
            jobs: 2,
            keep_going: false,
            qemu: None,
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Cases that were run.
    pub cases: u64,
    /// Of them, those in which both sides did the same.
    pub agree: u64,
    /// Those in which QEMU did what is known to be wrong, by deviation.
    pub explained: BTreeMap<&'static str, u64>,
    /// Differences by kind, with how many and the first case.
    pub kinds: BTreeMap<String, (u64, u64)>,
    /// The first difference that nothing explains, made smaller.
    pub difference: Option<String>,
}

impl Summary {
    /// Whether nothing is left unexplained.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.difference.is_none() && self.kinds.is_empty()
    }

    /// The last line of a run.
    #[must_use]
    pub fn line(&self) -> String {
        let explained: u64 = self.explained.values().sum();
        format!(
            "differential: cases={} agree={} explained={explained}",
            self.cases, self.agree
        )
    }

    fn count(&mut self, explained: Option<&'static Deviation>) {
        self.cases += 1;
        match explained {
            Some(deviation) => *self.explained.entry(deviation.name).or_default() += 1,
            None => self.agree += 1,
        }
    }
}

/// Runs a plan. Gets QEMU first if it is not there.
///
/// # Errors
/// When QEMU cannot be had, does not start or ends. That it does something
/// else than the model is no error, see [`Summary::difference`].
pub fn run(plan: &Plan) -> Result<Summary, Error> {
    let qemu = qemu(plan)?;
    let numbers = match plan.only {
        Some(number) => number..number + 1,
        None => 0..plan.cases,
    };
    let next = AtomicU64::new(numbers.start);
    let stop = AtomicBool::new(false);
    let total = numbers.end - numbers.start;
    let summary = Mutex::new((Summary::default(), Progress::new(total)));
    let work = || -> Result<(), Error> {
        // Once QEMU saw a two-level stream table it takes linear ones for
        // two-level, too, until it is reset: one machine for each.
        let mut machines = [None, None];
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                break;
            }
            let case = generate::case(plan.seed, number);
            let machine = match &mut machines[usize::from(case.two_level())] {
                Some(machine) => machine,
                empty => empty.insert(Machine::start(&qemu)?),
            };
            let result = compare::run(machine, &case);
            let verdict = result.map_err(|error| {
                let what = format!("case {number} of seed {} ends QEMU", plan.seed);
                machine.explain(error).during(what)
            })?;
            let mut text = None;
            let (mut kinds, mut whole) = (None, None);
            if let Verdict::Differ(difference) = &verdict
                && plan.keep_going
            {
                let (model, qemu) = difference.kinds();
                let (ours, theirs) = (&difference.model.seen, &difference.qemu);
                kinds = Some(format!(
                    "model {model:x?} {:x} {:x} QEMU {qemu:x?} {:x} {:x}",
                    ours.consumed >> 24,
                    ours.errors,
                    theirs.consumed >> 24,
                    theirs.errors
                ));
                whole = Some(report::text(plan.seed, number, &case, difference));
            } else if let Verdict::Differ(difference) = verdict.clone() {
                stop.store(true, Ordering::Relaxed);
                let (case, difference) = shrink::shrink(machine, &case, *difference)?;
                text = Some(report::text(plan.seed, number, &case, &difference));
            }
            let Ok(mut guard) = summary.lock() else {
                break;
            };
            let (summary, progress) = &mut *guard;
            match (verdict, text) {
                (_, Some(text)) => {
                    summary.cases += 1;
                    summary.difference.get_or_insert(text);
                }
                (Verdict::Differ(_), None) => {
                    summary.cases += 1;
                    let kinds = kinds.unwrap_or_default();
                    summary.difference = summary.difference.take().or(whole);
                    summary.kinds.entry(kinds).or_insert((0, number)).0 += 1;
                }
                (Verdict::Explained(deviation), None) => summary.count(Some(deviation)),
                (Verdict::Agree, None) => summary.count(None),
            }
            progress.at(summary.cases);
        }
        Ok(())
    };
    let jobs = plan.jobs.clamp(1, 64).min(total.max(1));
    let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    let result = work();
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .collect()
    });
    let (summary, progress) = match summary.into_inner() {
        Ok(both) => both,
        Err(poisoned) => poisoned.into_inner(),
    };
    progress.done();
    if summary.difference.is_none() {
        results.into_iter().collect::<Result<(), Error>>()?;
    }
    Ok(summary)
}

/// The QEMU of a plan; it is downloaded if it is not there.
///
/// # Errors
/// When it cannot be had.
pub fn qemu(plan: &Plan) -> Result<qemu::Qemu, Error> {
    let workspace = Workspace::here();
    let _lock = workspace.lock("set-up")?;
    Ok(match qemu::find(&workspace, plan.qemu.as_deref())? {
        Some(qemu) => qemu,
        None => qemu::install(&workspace, &mut Apt::new(&workspace))?,
    })
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    last: Instant,
}

impl Progress {
    fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = "{spinner} comparing with QEMU [{bar:30}] {pos} of {len}, {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            total,
            last: Instant::now(),
        }
    }

    fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.last.elapsed() > Duration::from_secs(10) => {
                self.last = Instant::now();
                eprintln!("comparing with QEMU … {done} of {}", self.total);
            }
            None => {}
        }
    }

    fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
