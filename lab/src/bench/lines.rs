//! Figures of several machines side by side.

use super::number;
use crate::check::table;
use serde_json::{Value, json};

/// How the host of a machine gets its IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There is no hypervisor, and the SMMU is the host's.
    Native,
    /// The host sees none.
    Identity,
    /// The host sees an emulated SMMUv3.
    Nested,
}

impl Mode {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Identity => "identity",
            Self::Nested => "nested",
        }
    }
}

/// What one piece of work took on one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Instructions, on average.
    pub average: f64,
    /// Median and 99th percentile, where each one was timed.
    pub spread: Option<(f64, f64)>,
    /// EL2 entries for each, where there is an EL2.
    pub entries: Option<f64>,
}

/// How many EL2 entries are right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entries {
    /// This many; a hundredth more is what the rest of the machine causes.
    Exactly(f64),
    /// This many at most, with the same allowance.
    AtMost(f64),
}

/// What nested mode is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goals {
    /// Instructions over those of the native machine.
    pub ratio: Option<f64>,
    /// EL2 entries for each.
    pub entries: Option<Entries>,
}

/// One piece of work on all machines.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// What it took.
    pub samples: Vec<(Mode, Sample)>,
    /// What is to be reached.
    pub goals: Goals,
}

/// Entries that have other causes than what is measured, for each.
const ALLOWANCE: f64 = 0.01;

impl Line {
    fn of(&self, mode: Mode) -> Option<Sample> {
        let found = self.samples.iter().find(|(of, _)| *of == mode);
        found.map(|(_, sample)| *sample)
    }

    /// Nested over native.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let native = self.of(Mode::Native)?.average;
        let nested = self.of(Mode::Nested)?.average;
        (native > 0.0).then_some(nested / native)
    }

    /// Whether the goals are reached; without a nested machine there are none.
    #[must_use]
    pub fn reached(&self) -> bool {
        let Some(nested) = self.of(Mode::Nested) else {
            return true;
        };
        let ratio = self
            .goals
            .ratio
            .is_none_or(|limit| self.ratio().is_some_and(|ratio| ratio <= limit));
        let entries = self.goals.entries.is_none_or(|goal| {
            nested.entries.is_some_and(|entries| match goal {
                Entries::Exactly(right) => (entries - right).abs() <= ALLOWANCE,
                Entries::AtMost(limit) => entries <= limit + ALLOWANCE,
            })
        });
        ratio && entries
    }

    fn goal_text(&self) -> String {
        let ratio = self.goals.ratio.map(|limit| format!("<= {limit:.2}"));
        let entries = self.goals.entries.map(|goal| match goal {
            Entries::Exactly(right) => format!("entries {}", number(right)),
            Entries::AtMost(limit) => format!("entries <= {}", number(limit)),
        });
        let all: Vec<String> = ratio.into_iter().chain(entries).collect();
        if all.is_empty() {
            return "-".to_owned();
        }
        all.join(", ")
    }

    fn json(&self) -> Value {
        let samples = self.samples.iter().map(|(mode, sample)| {
            let value = json!({
                "average": sample.average,
                "p50": sample.spread.map(|(median, _)| median),
                "p99": sample.spread.map(|(_, high)| high),
                "entries": sample.entries,
            });
            (mode.word().to_owned(), value)
        });
        json!({
            "name": self.name,
            "unit": "instructions",
            "samples": samples.collect::<serde_json::Map<_, _>>(),
            "ratio": self.ratio(),
            "goal": self.goal_text(),
            "reached": self.reached(),
        })
    }
}

/// The lines as a table for people: averages, with median and 99th percentile
/// in brackets where these are known.
#[must_use]
pub fn text(lines: &[Line]) -> String {
    let dash = || "-".to_owned();
    let cell = |sample: Option<Sample>| {
        sample.map_or_else(dash, |sample| {
            let average = number(sample.average.round());
            sample.spread.map_or(average.clone(), |(median, high)| {
                format!("{average} ({}, {})", number(median), number(high))
            })
        })
    };
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let entries = line.of(Mode::Nested).and_then(|sample| sample.entries);
            vec![
                line.name.clone(),
                cell(line.of(Mode::Native)),
                cell(line.of(Mode::Identity)),
                cell(line.of(Mode::Nested)),
                line.ratio()
                    .map_or_else(dash, |ratio| format!("{ratio:.4}")),
                entries.map_or_else(dash, |entries| format!("{entries:.3}")),
                line.goal_text(),
                if line.reached() { "ok" } else { "MISSED" }.to_owned(),
            ]
        })
        .collect();
    table(
        &[
            "instructions: average (median, 99 %)",
            "native",
            "identity",
            "nested",
            "ratio",
            "entries",
            "goal",
            "",
        ],
        &rows,
    )
}

/// The lines for programs.
#[must_use]
pub fn json(lines: &[Line]) -> Value {
    Value::Array(lines.iter().map(Line::json).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(nested: Option<(f64, f64)>, goals: Goals) -> Line {
        let sample = |average, entries| Sample {
            average,
            spread: None,
            entries,
        };
        let mut samples = vec![(Mode::Native, sample(100.0, None))];
        if let Some((average, entries)) = nested {
            samples.push((Mode::Nested, sample(average, Some(entries))));
        }
        Line {
            name: "x".to_owned(),
            samples,
            goals,
        }
    }

    #[test]
    fn a_goal_is_missed_by_ratio_or_by_entries() {
        let goals = |entries| Goals {
            ratio: Some(1.25),
            entries: Some(entries),
        };
        let exactly = goals(Entries::Exactly(1.0));
        assert!(line(Some((125.0, 1.005)), exactly).reached());
        assert!(!line(Some((126.0, 1.0)), exactly).reached());
        assert!(!line(Some((125.0, 1.02)), exactly).reached());
        assert!(!line(Some((125.0, 0.9)), exactly).reached());
        let most = goals(Entries::AtMost(1.0));
        assert!(line(Some((125.0, 0.9)), most).reached());
        assert!(!line(Some((125.0, 1.02)), most).reached());
        assert!(text(&[line(Some((126.0, 1.0)), exactly)]).contains("MISSED"));
    }

    #[test]
    fn without_a_nested_machine_nothing_is_judged() {
        let goals = Goals {
            ratio: Some(1.0),
            entries: None,
        };
        assert!(line(None, goals).reached());
        assert!(line(None, goals).ratio().is_none());
    }
}
