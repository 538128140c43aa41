//! Something that is used by one at a time, in the order in which they come to it.
//!
//! What a CPU does is known as a whole when it begins, of which the use of a lock
//! comes last. Another that begins later and comes to the lock earlier has its turn
//! first: so uses to come are kept, and what fits before them goes there.

use crate::units::Picos;

/// More uses to come than CPUs can have there are not.
const KEPT: usize = 512;

/// Uses, by time.
#[derive(Clone, Debug, Default)]
pub struct Turns(Vec<(Picos, Picos)>);

impl Turns {
    /// Uses it for `length` from `at` on, or as soon after as it is free for so long;
    /// when that begins.
    pub fn take(&mut self, at: Picos, length: Picos) -> Picos {
        let mut next = self.0.partition_point(|(_, end)| *end <= at);
        let mut start = at;
        while let Some((from, end)) = self.0.get(next) {
            if start + length <= *from {
                break;
            }
            start = start.max(*end);
            next += 1;
        }
        if length != Picos::ZERO {
            self.0.insert(next, (start, start + length));
            if self.0.len() > KEPT {
                self.0.remove(0);
            }
        }
        start
    }

    /// Keeps it from the use that began at `start` up to `end`, or up to the next use:
    /// who was told a turn has it.
    pub fn keep(&mut self, start: Picos, end: Picos) {
        let next = self.0.partition_point(|(from, _)| *from <= start);
        let limit = self.0.get(next).map_or(end, |(from, _)| end.min(*from));
        let this = next.checked_sub(1).and_then(|at| self.0.get_mut(at));
        if let Some(this) = this.filter(|this| this.0 == start) {
            this.1 = this.1.max(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_earlier_is_first() {
        let mut turns = Turns::default();
        let mut take = |at, length| turns.take(Picos(at), Picos(length)).0;
        assert_eq!(take(100, 10), 100);
        // Before it, as long as that fits.
        assert_eq!(take(0, 20), 0);
        assert_eq!(take(90, 10), 90);
        assert_eq!(take(85, 10), 110);
        assert_eq!(take(85, 5), 85);
        assert_eq!(take(10, 5), 20);
        // What takes no time has to wait for its turn all the same.
        assert_eq!(take(105, 0), 110);
        assert_eq!(take(120, 1), 120);
    }

    #[test]
    fn a_turn_that_takes_longer_ends_at_the_next() {
        let mut turns = Turns::default();
        turns.take(Picos(10), Picos(5));
        turns.take(Picos(30), Picos(5));
        turns.keep(Picos(10), Picos(25));
        assert_eq!(turns.take(Picos(12), Picos(5)), Picos(25));
        turns.keep(Picos(30), Picos(90));
        turns.keep(Picos(31), Picos(200));
        assert_eq!(turns.take(Picos(31), Picos(1)), Picos(90));
        turns.keep(Picos(10), Picos(90));
        assert_eq!(turns.take(Picos(0), Picos(11)), Picos(91));
    }
}
