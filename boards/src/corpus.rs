//! All trees, on all processors of the build machine.

use crate::board::{Board, try_board};
use portcullis_testbed::progress::Progress;
use portcullis_testbed::setup::trees::Trees;
use portcullis_testbed::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Boots every tree whose name `wanted` accepts, and returns them by name.
///
/// # Errors
/// [`Error`] when a tree cannot be read or prepared.
pub fn try_all(trees: &Trees, wanted: impl Fn(&str) -> bool) -> Result<Vec<Board>> {
    let names: Vec<String> = trees
        .names()?
        .into_iter()
        .filter(|name| wanted(name))
        .collect();
    let progress = Mutex::new(Progress::count("booting trees", names.len() as u64));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(names.len()));
    let work = || -> Result<()> {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let blob = trees.read(name)?;
            let board = try_board(name, &blob).map_err(|problem| {
                Error::unsuitable(format!("{name}: {problem}"), "report this with the tree")
            })?;
            let mut done = lock(&done);
            done.push(board);
            lock(&progress).at(done.len() as u64);
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    if let Ok(progress) = progress.into_inner() {
        progress.done();
    }
    let mut boards = done.into_inner().unwrap_or_default();
    boards.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(boards)
}

/// A worker that panicked ends the whole run; what it held is of no use any more.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
