//! Makes a case that differs as small as it can be made in reasonable time.

use crate::case::{Case, Step};
use crate::compare::{self, Difference, Verdict};
use crate::machine::{Error, Machine};

/// Runs that are spent at most.
const MOST: usize = 600;

/// A smaller case that still differs, and how.
///
/// # Errors
/// When QEMU does not answer.
pub fn shrink(
    machine: &mut Machine,
    case: &Case,
    difference: Difference,
) -> Result<(Case, Difference), Error> {
    let mut best = (case.clone(), difference);
    best.0.steps.truncate(best.1.step + 1);
    let mut left = MOST;
    loop {
        let size = best.0.steps.len() + best.0.words.len();
        for index in (0..best.0.steps.len().saturating_sub(1)).rev() {
            // A change without its invalidation may be seen or not.
            if matches!(best.0.steps[index], Step::Commands(_)) {
                continue;
            }
            let mut smaller = best.0.clone();
            smaller.steps.remove(index);
            attempt(machine, smaller, &mut best, &mut left)?;
        }
        let words: Vec<u64> = best.0.words.keys().copied().collect();
        for at in words {
            // Without a base, tables would be where QEMU has its flash.
            let base = best.0.words.get(&at).is_some_and(|word| word & 1 == 0);
            if base {
                continue;
            }
            let mut smaller = best.0.clone();
            smaller.words.remove(&at);
            attempt(machine, smaller, &mut best, &mut left)?;
        }
        if left == 0 || best.0.steps.len() + best.0.words.len() == size {
            return Ok(best);
        }
    }
}

/// Keeps a smaller case if it differs as the larger one did.
fn attempt(
    machine: &mut Machine,
    case: Case,
    best: &mut (Case, Difference),
    left: &mut usize,
) -> Result<(), Error> {
    if *left == 0 || case.ends_qemu() {
        return Ok(());
    }
    *left -= 1;
    if let Verdict::Differ(difference) = compare::run(machine, &case)?
        && difference.kinds() == best.1.kinds()
    {
        let mut case = case;
        case.steps.truncate(difference.step + 1);
        *best = (case, *difference);
    }
    Ok(())
}
