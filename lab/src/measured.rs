//! What mapping and unmapping takes a CPU: instructions that were counted.

use crate::input::{self, Bounded, Check, Impossible, InputError, Source, Sourced};
use crate::machine::Mode;
use crate::scenario::Invalidation;
use crate::units::Instructions;
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;

/// Counts, and where they come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What counted them.
    pub command: String,
    /// On what.
    pub machine: String,
    native: ByHost,
    identity: ByHost,
    nested: ByHost,
    paravirt: ByHost,
    el2: Shares,
    further_run: FurtherRuns,
    /// What a measurement would have to tell, and does not.
    pub not_measured: NotMeasured,
}

/// EL2's share where there is one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shares {
    nested: ByHost,
    paravirt: ByHost,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByHost {
    strict: ByOperation,
    lazy: ByOperation,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByOperation {
    map: Points,
    unmap: Points,
}

/// Bytes and instructions.
type Points = Spanned<Vec<(u64, u64)>>;

/// Costs without a measurement of their own, in instructions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotMeasured {
    /// The host's driver, for each command of an unmapping beyond the first.
    pub further_command: Sourced<Bounded<0, 100_000>>,
    /// EL2, for each of these where it passes them on.
    pub further_command_el2: Sourced<Bounded<0, 100_000>>,
    /// EL2, for each entry of an operation beyond the first.
    pub further_entry_el2: Sourced<Bounded<0, 100_000>>,
    /// EL2, for each command beyond the first that it makes by itself.
    pub further_command_paravirt: Sourced<Bounded<0, 100_000>>,
}

/// What a mapping takes more, with its unmapping, for each run of memory beyond the
/// first.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FurtherRuns {
    native: FurtherRun,
    nested: FurtherRun,
    paravirt: FurtherRun,
    /// How that is known.
    #[serde(rename = "source")]
    _source: Source,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FurtherRun {
    host: Bounded<0, 100_000>,
    el2: Bounded<0, 100_000>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A mapping.
    Map,
    /// An unmapping.
    Unmap,
}

/// What an operation takes a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// The host's driver.
    pub host: Instructions,
    /// EL2, under a lock.
    pub el2: Instructions,
}

impl Measured {
    /// Has a further run of memory cost `times` as much as was worked out.
    pub(crate) fn scale_further_runs(&mut self, times: f64) {
        let FurtherRuns {
            native,
            nested,
            paravirt,
            ..
        } = &mut self.further_run;
        for run in [native, nested, paravirt] {
            for count in [&mut run.host, &mut run.el2] {
                *count = Bounded::clamped((count.get() as f64 * times).round() as u64);
            }
        }
    }

    /// The one that is built in.
    ///
    /// # Errors
    /// As [`input::parse`]; never in practice.
    pub fn built_in() -> Result<Self, InputError> {
        let text = include_str!("../measured/cortex-a76.toml");
        input::parse(text, "lab/measured/cortex-a76.toml")
    }

    /// A file.
    ///
    /// # Errors
    /// As [`input::load`].
    pub fn load(path: &Path) -> Result<Self, InputError> {
        input::load(path)
    }

    /// What an operation takes on `bytes` that lie in `runs` pieces of memory.
    #[must_use]
    pub fn cost(
        &self,
        mode: Mode,
        invalidation: Invalidation,
        operation: Operation,
        (bytes, runs): (u64, u64),
    ) -> Cost {
        let (whole, share, further) = match mode {
            Mode::Native => (&self.native, None, Some(self.further_run.native)),
            Mode::Identity => (&self.identity, None, None),
            Mode::Nested => (
                &self.nested,
                Some(&self.el2.nested),
                Some(self.further_run.nested),
            ),
            Mode::Paravirt => (
                &self.paravirt,
                Some(&self.el2.paravirt),
                Some(self.further_run.paravirt),
            ),
        };
        let of = |table: &ByHost| estimate(table.points(invalidation, operation), bytes, runs);
        let el2 = share.map_or(Instructions(0.0), of);
        let more = further.filter(|_| operation == Operation::Map);
        let runs = runs.saturating_sub(1);
        let times = |each: u64| Instructions((runs * each) as f64);
        Cost {
            host: of(whole) - el2 + times(more.map_or(0, |more| more.host.get())),
            el2: el2 + times(more.map_or(0, |more| more.el2.get())),
        }
    }
}

impl ByHost {
    fn points(&self, invalidation: Invalidation, operation: Operation) -> &[(u64, u64)] {
        let by_operation = match invalidation {
            Invalidation::Strict => &self.strict,
            Invalidation::Lazy => &self.lazy,
        };
        match operation {
            Operation::Map => by_operation.map.get_ref(),
            Operation::Unmap => by_operation.unmap.get_ref(),
        }
    }

    fn all(&self) -> [&Points; 4] {
        let (strict, lazy) = (&self.strict, &self.lazy);
        [&strict.map, &strict.unmap, &lazy.map, &lazy.unmap]
    }
}

/// What one entry of a table stands for, above a page.
const BLOCK: u64 = 2 << 20;

/// What was counted for `bytes`. Where blocks of the tables come into it, each costs
/// its part of what the largest size took more than the smallest; they do not where
/// the pages lie apart.
pub(crate) fn estimate(points: &[(u64, u64)], bytes: u64, runs: u64) -> Instructions {
    let split = points.partition_point(|(at, _)| *at < BLOCK);
    let (small, large) = points.split_at(split);
    let (Some(least), Some(most)) = (small.first(), large.last()) else {
        return interpolate(small, bytes);
    };
    let pages_apart = runs > 1 && bytes / runs < BLOCK;
    if bytes < BLOCK || pages_apart {
        return interpolate(small, bytes);
    }
    let each = (most.1 as f64 - least.1 as f64) / (most.0 / BLOCK) as f64;
    let rest = match bytes % BLOCK {
        0 => Instructions(least.1 as f64),
        rest => interpolate(small, rest),
    };
    rest + Instructions(each * (bytes / BLOCK) as f64)
}

/// Between two points on the line through them; outside, on that through the
/// nearest two.
fn interpolate(points: &[(u64, u64)], bytes: u64) -> Instructions {
    let beyond = points.iter().skip(1).position(|(at, _)| bytes <= *at);
    let last = points.len().saturating_sub(2);
    let (a, b) = match points.get(beyond.unwrap_or(last)..) {
        Some([a, b, ..]) => (a, b),
        // Checked to be at least two.
        _ => return Instructions(0.0),
    };
    let slope = (b.1 as f64 - a.1 as f64) / (b.0 as f64 - a.0 as f64);
    Instructions(a.1 as f64 + slope * (bytes as f64 - a.0 as f64))
}

impl Check for Measured {
    fn check(&self) -> Result<(), Impossible> {
        let tables = [
            &self.native,
            &self.identity,
            &self.nested,
            &self.paravirt,
            &self.el2.nested,
            &self.el2.paravirt,
        ];
        for points in tables.into_iter().flat_map(ByHost::all) {
            let list = points.get_ref();
            let ascending = list.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let small = list.iter().filter(|(bytes, _)| *bytes < BLOCK).count();
            if small < 2 || !ascending {
                return Err(Impossible::at(
                    points,
                    "pairs of bytes and instructions, in ascending order of bytes, two at least below 2097152",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_file_is_in_order() {
        let measured = Measured::built_in().unwrap();
        let of = |mode| measured.cost(mode, Invalidation::Strict, Operation::Unmap, (4096, 1));
        assert!(of(Mode::Native).host.0 > 0.0 && of(Mode::Native).el2.0 == 0.0);
        assert!(of(Mode::Paravirt).host.0 > 0.0 && of(Mode::Paravirt).el2.0 > 0.0);
    }

    #[test]
    fn what_was_not_counted_is_estimated() {
        let points = [
            (4096, 900),
            (65_536, 1_350),
            (1 << 20, 7_350),
            (16 << 20, 1_300),
        ];
        let of = |bytes, runs| estimate(&points, bytes, runs).0;
        assert_eq!(of(65_536, 1), 1_350.0);
        // Half way between two.
        assert_eq!(of((4096 + 65_536) / 2, 1), 1_125.0);
        // Eight blocks, four, and one with the pages of a MiB behind it.
        assert_eq!(of(16 << 20, 1), 1_300.0);
        assert_eq!(of(8 << 20, 1), 1_100.0);
        assert_eq!(of(3 << 20, 1), 7_400.0);
        // Pages that lie apart make no blocks.
        let slope = (7_350.0 - 1_350.0) / (1_048_576.0 - 65_536.0);
        let expected = 7_350.0 + slope * 1_048_576.0;
        assert!((of(2 << 20, 512) - expected).abs() < 1e-6);
        assert_eq!(of(4 << 20, 2), 1_000.0);
        // Nothing was counted for blocks.
        assert!((estimate(&points[..3], 2 << 20, 1).0 - expected).abs() < 1e-6);
    }

    #[test]
    fn runs_that_lie_apart_cost_more() {
        let measured = Measured::built_in().unwrap();
        let of = |mode, operation, runs| {
            let cost = measured.cost(mode, Invalidation::Strict, operation, (131_072, runs));
            (cost.host.0, cost.el2.0)
        };
        for mode in [Mode::Native, Mode::Nested, Mode::Paravirt] {
            let (one, many) = (of(mode, Operation::Map, 1), of(mode, Operation::Map, 32));
            assert!(many.0 > one.0, "{mode}");
            assert_eq!(many.1 > one.1, mode == Mode::Paravirt, "{mode}");
            let unmap = |runs| of(mode, Operation::Unmap, runs);
            assert_eq!(unmap(32), unmap(1));
        }
        let identity = |runs| of(Mode::Identity, Operation::Map, runs);
        assert_eq!(identity(32), identity(1));
    }
}
