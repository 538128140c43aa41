//! Maps of which of two ways is better: over how often buffers are mapped anew, and
//! over the working set, the number of devices, and what a trap costs.
//!
//! What is compared is the cost of a transfer of 64 KiB, as [`score`]
//! defines it.

mod grid;
mod plot;
mod store;

pub use grid::{Cell, Grid, Kind, Load};
pub use plot::{PlotError, draw};
pub use store::{Outcome, Store, StoreError};

use crate::advice::Workload as _;
use crate::machine::Mode;
use crate::measured::Measured;
use crate::platform::Platform;
use crate::score::{self, Score, Transfer};
use crate::sim::{self, SimError};
use crate::units::Picos;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use thiserror::Error;

/// Why a sweep came to no end. What was finished is kept.
#[derive(Debug, Error)]
pub enum SweepError {
    /// A simulation.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// The file that keeps what is finished.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How much a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Cells that were computed now.
    pub computed: usize,
    /// Cells that were found finished.
    pub found: usize,
    /// Accesses simulated.
    pub accesses: u64,
}

/// Computes every cell of `grids` that `store` does not have, on `threads` threads.
/// `told` is called with how many are done of how many.
///
/// # Errors
/// [`SweepError`].
pub fn run(
    platform: &Platform,
    measured: &Measured,
    grids: &[Grid],
    store: &Mutex<Store>,
    threads: usize,
    told: &(dyn Fn(usize, usize) + Sync),
) -> Result<Progress, SweepError> {
    let all: Vec<Cell> = grids.iter().flat_map(Grid::cells).collect();
    let missing: Vec<&Cell> = {
        let store = lock(store);
        let missing = all.iter().filter(|cell| store.get(cell).is_none());
        missing.collect()
    };
    let next = AtomicUsize::new(0);
    let finished = AtomicUsize::new(all.len() - missing.len());
    let accesses = AtomicU64::new(0);
    let failed: Mutex<Option<SweepError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(cell) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if lock(&failed).is_some() {
                        return;
                    }
                    let result = compute(platform, measured, cell, &accesses)
                        .map_err(SweepError::from)
                        .and_then(|outcome| Ok(lock(store).put(cell, outcome)?));
                    match result {
                        Ok(()) => told(finished.fetch_add(1, Ordering::Relaxed) + 1, all.len()),
                        Err(error) => {
                            lock(&failed).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    if let Some(error) = failed.unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    Ok(Progress {
        computed: missing.len(),
        found: all.len() - missing.len(),
        accesses: accesses.load(Ordering::Relaxed),
    })
}

/// What is behind a lock; a thread that panicked has left it whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Both modes of a cell.
fn compute(
    platform: &Platform,
    measured: &Measured,
    cell: &Cell,
    accesses: &AtomicU64,
) -> Result<Outcome, SimError> {
    let platform = cell.platform(platform);
    let scenario = cell.scenario();
    let transfer = Transfer::of(&scenario);
    let of = |mode| -> Result<Score, SimError> {
        let report = sim::run(&platform, &scenario, measured, mode)?;
        accesses.fetch_add(report.simulated, Ordering::Relaxed);
        let jobs = match score::jobs(&report) {
            Some(jobs) => jobs,
            // So seldom that none was seen.
            None => {
                let alone = sim::run(&platform, &cell.mappings(), measured, mode)?;
                score::jobs(&alone).unwrap_or(Picos::ZERO)
            }
        };
        let mut score = transfer.score(&report, jobs);
        // A short run lives on what was mapped before it began.
        score.rate = score.rate.min(scenario.most_mapped(jobs));
        Ok(score)
    };
    let (nested, paravirt) = (of(Mode::Nested)?, of(Mode::Paravirt)?);
    Ok(Outcome {
        nested: nested.nanos,
        paravirt: paravirt.nanos,
        nested_rate: nested.rate,
        paravirt_rate: paravirt.rate,
    })
}
