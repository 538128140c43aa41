//! Where translations lead, as few ranges as possible.

use crate::Policy;
use crate::cache::Cached;
use smmuv3_spec::StreamId;
use std::collections::BTreeMap;
use std::ops::Range;

/// Output addresses of a set of translations, ascending and disjoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// That can be read or written.
    pub(crate) any: Vec<Range<u64>>,
    /// That can be written.
    pub(crate) write: Vec<Range<u64>>,
}

impl Reach {
    /// Of each VMID among `leaves`.
    pub(crate) fn of<'a>(leaves: impl Iterator<Item = &'a Cached>) -> BTreeMap<u16, Self> {
        let mut reach: BTreeMap<u16, Self> = BTreeMap::new();
        for leaf in leaves {
            let reach = reach.entry(leaf.vmid).or_default();
            let range = leaf.output..leaf.output.saturating_add(leaf.size);
            if leaf.write {
                reach.write.push(range.clone());
            }
            reach.any.push(range);
        }
        for reach in reach.values_mut() {
            merge(&mut reach.any);
            merge(&mut reach.write);
        }
        reach
    }

    /// One translation more.
    pub(crate) fn add(&mut self, leaf: &Cached) {
        let range = leaf.output..leaf.output.saturating_add(leaf.size);
        if leaf.write {
            join(&mut self.write, &range);
        }
        join(&mut self.any, &range);
    }

    /// Whether `stream` may touch all of it.
    pub(crate) fn is_allowed(&self, policy: &impl Policy, stream: StreamId) -> bool {
        let fine = |ranges: &[Range<u64>], write| {
            let mut ranges = ranges.iter();
            ranges.all(|range| {
                policy
                    .first_forbidden(stream, range.clone(), write)
                    .is_none()
            })
        };
        fine(&self.any, false) && fine(&self.write, true)
    }
}

fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}

/// Adds a range to ranges that are ascending and disjoint, and stay so.
fn join(ranges: &mut Vec<Range<u64>>, range: &Range<u64>) {
    let first = ranges.partition_point(|other| other.end < range.start);
    let rest = ranges[first..].partition_point(|other| other.start <= range.end);
    let touched = first..first + rest;
    let joined = ranges[touched.clone()]
        .iter()
        .fold(range.clone(), |all, other| {
            all.start.min(other.start)..all.end.max(other.end)
        });
    ranges.splice(touched, [joined]);
}

#[cfg(test)]
mod tests {
    use super::{join, merge};

    #[test]
    fn one_by_one_is_the_same() {
        let all = [8..9, 0..2, 2..4, 1..3, 20..30, 6..7, 6..8, 5..25];
        for count in 0..=all.len() {
            let mut together = all[..count].to_vec();
            merge(&mut together);
            let mut single = Vec::new();
            all[..count]
                .iter()
                .for_each(|range| join(&mut single, range));
            assert_eq!(single, together);
        }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut ranges = vec![8..9, 0..2, 2..4, 1..3, 6..7, 6..8];
        merge(&mut ranges);
        assert_eq!(ranges, [0..4, 6..9]);
    }
}
