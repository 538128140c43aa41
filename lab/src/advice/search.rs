//! At which value the recommendation changes.

use super::{Case, Runner, Trouble};
use crate::input::Bounded;
use crate::platform::{HostMemory, Nanos};
use crate::scenario::{Lifetime, Placement, Scenario};
use crate::score::Better;
use std::ops::RangeInclusive;
use toml::Spanned;

/// What is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Transfers between a mapping and its unmapping.
    Transfers,
    /// Nanoseconds of a trap.
    Trap,
    /// Devices. Each maps as often as before.
    Devices,
    /// Buffers of a device: its working set.
    Buffers,
}

/// Transfers between a mapping and its unmapping that are looked at.
const MOST_TRANSFERS: u64 = 10_000;
/// Nanoseconds of a trap.
const MOST_TRAP: u64 = 20_000;
/// Devices.
const MOST_DEVICES: u64 = 4096;
/// Values looked at on an axis, at most.
const MOST_POINTS: usize = 40;

/// What an axis came to.
#[derive(Clone, Debug)]
pub struct Search {
    /// The axis.
    pub axis: Axis,
    /// The value that the advice is for; `None`: buffers stay mapped.
    pub here: Option<u64>,
    /// What the advice says there.
    pub base: Better,
    /// What one of the values stands for: KiB of a buffer; 1 for all else.
    pub unit: u64,
    /// Values that were run, in ascending order, and what is better there. The
    /// first and the last are the ends of what was looked at.
    pub points: Vec<(u64, Better)>,
}

/// Two values between which what is better changes: neighbours, or 2 % from each
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// The lower one, and what is better there.
    pub before: (u64, Better),
    /// The upper one, and what is better there.
    pub at: (u64, Better),
}

impl Search {
    /// Where what is better changes, in ascending order.
    #[must_use]
    pub fn flips(&self) -> Vec<Flip> {
        flips(&self.points)
    }

    /// The same below and above where it stands. That may lie outside of what was
    /// looked at; buffers that stay mapped are above everything.
    pub(super) fn sides(&self) -> (Vec<Flip>, Vec<Flip>) {
        let here = self.here.unwrap_or(u64::MAX);
        let mut points = self.points.clone();
        if points.last().is_some_and(|(last, _)| *last < here) {
            points.push((here, self.base));
        } else if points.first().is_some_and(|(first, _)| here < *first) {
            points.insert(0, (here, self.base));
        }
        let all = flips(&points);
        all.into_iter().partition(|flip| flip.at.0 <= here)
    }
}

fn flips(points: &[(u64, Better)]) -> Vec<Flip> {
    let pairs = points.windows(2).filter_map(|pair| match pair {
        [before, at] if before.1 != at.1 => Some(Flip {
            before: *before,
            at: *at,
        }),
        _ => None,
    });
    pairs.collect()
}

impl Axis {
    /// All of them, what takes longest first.
    pub(super) const ALL: [Self; 4] = [Self::Devices, Self::Buffers, Self::Transfers, Self::Trap];

    /// The value in `case`, and what can be looked at. `None`: it has no such thing.
    fn of(self, case: &Case, buffers: u64) -> Option<(Option<u64>, RangeInclusive<u64>)> {
        if self == Self::Trap {
            let trap = case.platform.cpu.trap_ns.get().get();
            return Some((Some(trap), 0..=MOST_TRAP.max(trap)));
        }
        let scenario = case.scenario.as_ref()?;
        let devices = scenario.initiators.count.get_ref().get();
        let live = scenario.buffers.live.get_ref().get();
        let all = scenario.working_set();
        let in_pages = scenario.buffers.memory == Placement::Scattered
            || case.platform.memory.host_memory.get() == HostMemory::Pages;
        let most = all.max(if in_pages { buffers / 4 } else { buffers });
        match self {
            Self::Transfers => {
                let here = match scenario.buffers.lifetime {
                    Lifetime::Static => None,
                    Lifetime::Transfers(count) => Some(count.get()),
                };
                Some((here, 1..=MOST_TRANSFERS))
            }
            Self::Devices => {
                // None of them is 0.
                let end = most.checked_div(all / devices).unwrap_or(1);
                Some((Some(devices), 1..=end.min(MOST_DEVICES)))
            }
            Self::Buffers => {
                let end = most.checked_div(all / live).unwrap_or(1);
                Some((Some(live), 1..=end.min(65_536)))
            }
            Self::Trap => None,
        }
    }

    fn unit(self, case: &Case) -> u64 {
        match (self, &case.scenario) {
            (Self::Buffers, Some(scenario)) => scenario.buffers.bytes.get_ref().get() >> 10,
            _ => 1,
        }
    }

    /// The case with another value.
    pub(super) fn with(self, case: &Case, value: u64) -> Case {
        let mut case = case.clone();
        if self == Self::Trap {
            case.platform.cpu.trap_ns.value = Spanned::new(0..0, Nanos::clamped(value));
        } else if let Some(scenario) = &mut case.scenario {
            self.change(scenario, value);
        }
        case
    }

    fn change(self, scenario: &mut Scenario, value: u64) {
        match self {
            Self::Transfers => {
                scenario.buffers.lifetime = Lifetime::Transfers(Bounded::clamped(value));
            }
            Self::Devices => {
                let devices = scenario.initiators.count.get_ref().get();
                scenario.host.maps_per_second = scenario
                    .host
                    .maps_per_second
                    .map(|rate| Bounded::clamped(rate.get() * value / devices));
                scenario.initiators.count = Spanned::new(0..0, Bounded::clamped(value));
            }
            Self::Buffers => {
                scenario.buffers.live = Spanned::new(0..0, Bounded::clamped(value));
            }
            Self::Trap => {}
        }
    }
}

/// Values to begin with: the ends, and some between them.
fn first(range: &RangeInclusive<u64>, here: Option<u64>) -> Vec<u64> {
    let (low, high) = (*range.start(), *range.end());
    let mut values = vec![low, high];
    let mut value = low.max(1);
    while let Some(next) = value.checked_mul(10).filter(|next| *next < high) {
        values.push(next);
        value = next;
    }
    values.extend(here.filter(|here| range.contains(here)));
    values.sort_unstable();
    values.dedup();
    values
}

/// Between two values: in the middle by their ratio, where they are far apart.
fn middle(low: u64, high: u64) -> u64 {
    if low > 0 && high / low >= 4 {
        let middle = (low as f64 * high as f64).sqrt() as u64;
        return middle.clamp(low + 1, high - 1);
    }
    low + (high - low) / 2
}

/// Near enough to each other.
const fn is_narrow(low: u64, high: u64) -> bool {
    high - low <= 1 || high - low <= low / 50
}

/// Searches an axis. Changes that lie between two values of which both say the same
/// are not found.
pub(super) fn search(
    runner: &Runner<'_>,
    case: &Case,
    base: Better,
    axis: Axis,
) -> Result<Option<Search>, Trouble> {
    let Some((here, range)) = axis.of(case, runner.settings.buffers) else {
        return Ok(None);
    };
    let judge = |value: u64| -> Result<Better, Trouble> {
        if here == Some(value) {
            return Ok(base);
        }
        Ok(runner.compare(&axis.with(case, value))?.better())
    };
    let mut points = Vec::new();
    for value in first(&range, here) {
        points.push((value, judge(value)?));
    }
    while points.len() < MOST_POINTS {
        let wide = points.windows(2).find_map(|pair| match pair {
            [(low, one), (high, other)] if one != other && !is_narrow(*low, *high) => {
                Some(middle(*low, *high))
            }
            _ => None,
        });
        let Some(value) = wide else {
            break;
        };
        points.push((value, judge(value)?));
        points.sort_unstable_by_key(|(value, _)| *value);
    }
    Ok(Some(Search {
        axis,
        here,
        base,
        unit: axis.unit(case),
        points,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_middle_is_between() {
        for (low, high) in [
            (0, 2),
            (1, 3),
            (1, 10_000),
            (100, 1000),
            (0, 20_000),
            (3, 5),
        ] {
            let middle = middle(low, high);
            assert!(low < middle && middle < high, "{low} {high}");
        }
        assert_eq!(middle(1, 10_000), 100);
        assert!(is_narrow(7, 8) && !is_narrow(7, 9) && is_narrow(1000, 1020));
    }

    #[test]
    fn values_to_begin_with_have_both_ends_and_where_it_stands() {
        assert_eq!(first(&(1..=4096), Some(5)), [1, 5, 10, 100, 1000, 4096]);
        assert_eq!(first(&(0..=20), Some(150)), [0, 10, 20]);
        assert_eq!(first(&(1..=1), None), [1]);
    }
}
