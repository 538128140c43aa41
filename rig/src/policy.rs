//! What each observer may reach, for the oracle.

use crate::cpu;
use crate::map::{CPU, RAM, WITHHELD};
use smmuv3_model::Policy;
use smmuv3_spec::StreamId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Ascending and disjoint.
pub(crate) type Ranges = Rc<Vec<Range<u64>>>;

/// What each stream of each SMMU, and the CPUs, may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) streams: Vec<BTreeMap<u32, Ranges>>,
    pub(crate) cpus: Ranges,
}

impl Allowed {
    /// Takes a range away from everybody.
    pub(crate) fn forbid(&mut self, gone: &Range<u64>) {
        let without = |list: &Ranges| {
            let parts = list.iter().flat_map(|range| {
                let before = range.start..range.end.min(gone.start);
                let after = range.start.max(gone.end)..range.end;
                [before, after].into_iter().filter(|part| !part.is_empty())
            });
            ranges(parts)
        };
        for list in self.streams.iter_mut().flat_map(BTreeMap::values_mut) {
            *list = without(list);
        }
        self.cpus = without(&self.cpus);
    }
}

/// Sorts and joins.
pub(crate) fn ranges(list: impl IntoIterator<Item = Range<u64>>) -> Ranges {
    let mut list: Vec<Range<u64>> = list.into_iter().collect();
    list.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(list.len());
    for range in list {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    Rc::new(joined)
}

/// What the host's CPUs may use if the host has `host` of RAM: all that is no
/// RAM and not withheld, too.
pub(crate) fn cpu_ranges(host: impl IntoIterator<Item = Range<u64>>) -> Ranges {
    let around = [0..RAM.start, WITHHELD.end..u64::MAX];
    ranges(host.into_iter().chain(around))
}

/// The oracle's rules for one SMMU or for the CPUs.
pub(crate) struct Rules<'a> {
    pub(crate) streams: &'a BTreeMap<u32, Ranges>,
    /// Blocks of table memory that are given out, with their sizes.
    pub(crate) live: &'a BTreeMap<u64, u64>,
    /// Where tables for this observer can be.
    pub(crate) pools: &'a [Range<u64>],
}

fn first_outside(list: &[Range<u64>], range: &Range<u64>) -> Option<u64> {
    let mut at = range.start;
    let first = list.partition_point(|ok| ok.end <= at);
    for ok in &list[first..] {
        if ok.start > at || at >= range.end {
            break;
        }
        at = ok.end;
    }
    (at < range.end).then_some(at)
}

impl Policy for Rules<'_> {
    fn first_forbidden(&self, stream: StreamId, range: Range<u64>, _write: bool) -> Option<u64> {
        match self.streams.get(&stream.0) {
            Some(list) => first_outside(list, &range),
            None => (range.start < range.end).then_some(range.start),
        }
    }

    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let block = self.live.range(..=range.start).next_back();
        let covered = block.is_some_and(|(start, size)| start + size >= range.end)
            && self.pools.iter().any(|pool| pool.contains(&range.start));
        // What a CPU has in registers, its model fetches from memory.
        let register = self.pools.contains(&CPU) && CPU.contains(&range.start);
        (!covered && !register).then_some(range.start)
    }
}

/// The rules' form of what the CPUs may use.
pub(crate) fn for_cpus(ranges: &Ranges) -> BTreeMap<u32, Ranges> {
    BTreeMap::from([(cpu::STREAM.0, Rc::clone(ranges))])
}
