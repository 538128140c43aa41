//! What mapping and unmapping takes a CPU: instructions that were counted.

use crate::input::{self, Bounded, Check, Impossible, InputError, Sourced};
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
    /// The host's driver, for each request of a mapping beyond the first.
    pub further_request: Sourced<Bounded<0, 100_000>>,
    /// EL2, for the same.
    pub further_request_el2: Sourced<Bounded<0, 100_000>>,
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

    /// What an operation on `bytes` takes.
    #[must_use]
    pub fn cost(
        &self,
        mode: Mode,
        invalidation: Invalidation,
        operation: Operation,
        bytes: u64,
    ) -> Cost {
        let whole = match mode {
            Mode::Native => &self.native,
            Mode::Identity => &self.identity,
            Mode::Nested => &self.nested,
            Mode::Paravirt => &self.paravirt,
        };
        let share = match mode {
            Mode::Native | Mode::Identity => None,
            Mode::Nested => Some(&self.el2.nested),
            Mode::Paravirt => Some(&self.el2.paravirt),
        };
        let of = |table: &ByHost| interpolate(table.points(invalidation, operation), bytes);
        let el2 = share.map_or(Instructions(0.0), of);
        Cost {
            host: of(whole) - el2,
            el2,
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
            if list.len() < 2 || !ascending {
                return Err(Impossible::at(
                    points,
                    "at least two pairs of bytes and instructions, in ascending order of bytes",
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
    fn what_was_measured_is_what_it_says() {
        let measured = Measured::built_in().unwrap();
        let strict = |mode, operation, bytes| {
            let cost = measured.cost(mode, Invalidation::Strict, operation, bytes);
            (cost.host.0, cost.el2.0)
        };
        assert_eq!(strict(Mode::Native, Operation::Unmap, 4096), (2077.0, 0.0));
        assert_eq!(
            strict(Mode::Nested, Operation::Unmap, 4096),
            (2077.0, 405.0)
        );
        assert_eq!(
            strict(Mode::Paravirt, Operation::Map, 1 << 20),
            (4518.0 - 1955.0, 1955.0)
        );
        assert_eq!(strict(Mode::Identity, Operation::Map, 12345), (102.0, 0.0));
        // Half way between two.
        assert_eq!(
            strict(Mode::Native, Operation::Map, (4096 + 65536) / 2).0,
            (922.0 + 1298.0) / 2.0
        );
        // Beyond the last.
        let slope = (7335.0 - 1298.0) / (1_048_576.0 - 65536.0);
        assert_eq!(
            strict(Mode::Native, Operation::Map, 2 << 20).0,
            1298.0 + slope * (2_097_152.0 - 65536.0)
        );
    }
}
