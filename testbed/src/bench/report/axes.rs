//! The axes of the plots.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// Where `value` lies between two pixels, as a share of the way.
fn between(share: f64, limit: (i32, i32)) -> i32 {
    limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
}

/// Labels side by side, each at its number: an axis without a scale.
#[derive(Clone)]
pub struct Places {
    labels: Vec<String>,
    range: (f64, f64),
}

impl Places {
    /// An axis for these labels.
    pub fn new(labels: &[String]) -> Self {
        Self {
            labels: labels.to_vec(),
            range: (-0.5, labels.len() as f64 - 0.5),
        }
    }
}

impl Ranged for Places {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (start, end) = self.range;
        between((value - start) / (end - start), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.labels.len()).map(|place| place as f64).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Places {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        let label = self.labels.get(value.round() as usize);
        label.cloned().unwrap_or_default()
    }
}

/// Values, each ten times as far up as a tenth of it, or each as far as it is large.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    low: f64,
    high: f64,
    powers: bool,
}

impl Values {
    /// An axis from a little below `least` to a little above `most`, by powers.
    pub fn powers(least: f64, most: f64) -> Self {
        Self {
            low: step(least * 0.9, false),
            high: step(most * 1.1, true),
            powers: true,
        }
    }

    /// An axis from 0 to a little above `most`.
    pub fn even(most: f64) -> Self {
        Self {
            low: 0.0,
            high: most * 1.08,
            powers: false,
        }
    }

    fn ticks(&self) -> Vec<f64> {
        /// More would not leave each a line of its own.
        const MANY: usize = 9;
        let inside = |value: &f64| (self.low..=self.high * 1.000_001).contains(value);
        if !self.powers {
            let apart = step(self.high / 7.0, true);
            return (0..20)
                .map(|n| f64::from(n) * apart)
                .filter(inside)
                .collect();
        }
        let by = |steps: &'static [f64]| {
            (-2..12)
                .flat_map(move |power| steps.iter().map(move |step| step * 10_f64.powi(power)))
                .filter(inside)
                .collect::<Vec<f64>>()
        };
        let all = by(&[1.0, 2.0, 5.0]);
        if all.len() > MANY { by(&[1.0]) } else { all }
    }
}

/// The smallest of 1, 2 and 5 with any power of ten that is no less than `value`, or
/// the largest that is no more.
fn step(value: f64, up: bool) -> f64 {
    let ten = 10_f64.powf(value.max(0.01).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * ten);
    let found = if up {
        steps.iter().find(|step| **step >= value)
    } else {
        steps.iter().rev().find(|step| **step <= value)
    };
    found.copied().unwrap_or(value)
}

impl Ranged for Values {
    type FormatOption = plotters::coord::ranged1d::DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = if self.powers {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        between(share, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Lines between those with labels would say nothing more.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_what_is_drawn() {
        assert_eq!(step(950.0, true), 1000.0);
        assert_eq!(step(950.0, false), 500.0);
        assert_eq!(step(1_000.0, true), 1_000.0);
        let axis = Values::powers(930.0, 19_000.0);
        assert_eq!((axis.low, axis.high), (500.0, 50_000.0));
        assert_eq!(axis.map(&500.0, (300, 0)), 300);
        assert_eq!(axis.map(&5_000.0, (300, 0)), 150);
        assert_eq!(axis.map(&50_000.0, (300, 0)), 0);
    }

    #[test]
    fn there_are_few_ticks() {
        let ticks = Values::powers(2_900.0, 6_400.0).ticks();
        assert_eq!(ticks, [2_000.0, 5_000.0, 10_000.0]);
        assert_eq!(
            Values::powers(60.0, 9e6).ticks(),
            [100.0, 1e3, 1e4, 1e5, 1e6, 1e7]
        );
        let even = Values::even(2.4).ticks();
        assert_eq!(even, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    }
}
