//! Work for all CPUs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does `work` on each of `items`, on `threads` threads; what came of them, in their
/// order.
pub(super) fn each<T: Sync, R: Send, E: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else {
                        return;
                    };
                    let result = work(item);
                    if result.is_err() {
                        // Nobody has to begin another one.
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_done_and_stays_in_order() {
        let items: Vec<u32> = (0..100).collect();
        let squares = each(3, &items, |item| Ok::<_, ()>(item * item)).unwrap();
        assert!(squares.iter().zip(&items).all(|(s, i)| *s == i * i));
        assert_eq!(squares.len(), 100);
        let empty: [u32; 0] = [];
        assert_eq!(each(3, &empty, |_| Ok::<_, ()>(0)), Ok(Vec::new()));
    }

    #[test]
    fn what_fails_is_told() {
        let items: Vec<u32> = (0..100).collect();
        let fail = |item: &u32| if *item >= 7 { Err(*item) } else { Ok(*item) };
        assert!(each(2, &items, fail).unwrap_err() >= 7);
        assert_eq!(each(1, &items, fail), Err(7));
    }
}
