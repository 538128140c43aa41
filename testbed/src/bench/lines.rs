//! Figures of several machines side by side.

use super::number;
use super::traffic::Traffic;
use super::work::{self, Setting, Work};
use crate::check::table;

/// How the host of a machine gets its IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There is no hypervisor, and the SMMU is the host's.
    Native,
    /// The same, and the host has it translate nothing.
    Untranslated,
    /// The host sees none.
    Identity,
    /// The host sees an emulated SMMUv3.
    Nested,
    /// There is no hypervisor, and the host has QEMU's virtio-iommu, whose work
    /// no instruction pays for: what the stock driver takes by itself.
    Free,
    /// The host sees a virtio-iommu of the hypervisor's.
    Paravirt,
}

impl Mode {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Untranslated => "no translation",
            Self::Identity => "identity",
            Self::Nested => "nested",
            Self::Free => "device free",
            Self::Paravirt => "paravirt",
        }
    }
}

/// What one piece of work took on one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Instructions, as [`Work::statistic`] says.
    pub average: f64,
    /// Median and 99th percentile, where each one was timed.
    pub spread: Option<(f64, f64)>,
    /// EL2 entries for each, where there is an EL2.
    pub entries: Option<f64>,
    /// Instructions of them at EL2, as the CPU counted them.
    pub el2: Option<f64>,
    /// What the SMMU was told and what it read.
    pub traffic: Option<Traffic>,
}

/// How many EL2 entries are right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entries {
    /// This many; a hundredth more is what the rest of the machine causes.
    Exactly(f64),
    /// This many at most, with the same allowance.
    AtMost(f64),
}

/// What a mode is to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goals {
    /// Instructions over those of the native machine.
    pub ratio: Option<f64>,
    /// Instructions in EL2: those over what a free device leaves.
    pub share: Option<f64>,
    /// EL2 entries for each.
    pub entries: Option<Entries>,
}

/// One piece of work on all machines.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is.
    pub work: Work,
    /// How the host was set.
    pub setting: Setting,
    /// What it took.
    pub samples: Vec<(Mode, Sample)>,
    /// What nested mode is to reach.
    pub nested: Goals,
    /// What paravirt mode is to reach.
    pub paravirt: Goals,
}

/// Entries that have other causes than what is measured, for each.
const ALLOWANCE: f64 = 0.01;

impl Line {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        work::name(self.work, self.setting)
    }

    /// What it took with `mode`.
    #[must_use]
    pub fn of(&self, mode: Mode) -> Option<Sample> {
        let found = self.samples.iter().find(|(of, _)| *of == mode);
        found.map(|(_, sample)| *sample)
    }

    fn goals(&self, mode: Mode) -> Goals {
        match mode {
            Mode::Nested => self.nested,
            Mode::Paravirt => self.paravirt,
            _ => Goals::default(),
        }
    }

    /// `mode` over native.
    #[must_use]
    pub fn ratio(&self, mode: Mode) -> Option<f64> {
        let native = self.of(Mode::Native)?.average;
        let ours = self.of(mode)?.average;
        (native > 0.0).then_some(ours / native)
    }

    /// What EL2 takes of it in paravirt mode.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        self.difference(Mode::Paravirt)
    }

    /// What `mode` takes more than a machine without a hypervisor whose driver does
    /// about the same: with an SMMU or without any, and with a virtio-iommu.
    #[must_use]
    pub fn difference(&self, mode: Mode) -> Option<f64> {
        let base = match mode {
            Mode::Identity => Mode::Untranslated,
            Mode::Nested => Mode::Native,
            Mode::Paravirt => Mode::Free,
            Mode::Native | Mode::Untranslated | Mode::Free => return None,
        };
        Some(self.of(mode)?.average - self.of(base)?.average)
    }

    /// Whether there is something that `mode` is to reach.
    #[must_use]
    pub fn has_goal(&self, mode: Mode) -> bool {
        self.goals(mode) != Goals::default()
    }

    /// Whether the goals of `mode` are reached; without a machine of that mode
    /// there are none.
    #[must_use]
    pub fn reached_by(&self, mode: Mode) -> bool {
        let Some(sample) = self.of(mode) else {
            return true;
        };
        let goals = self.goals(mode);
        let ratio = goals
            .ratio
            .is_none_or(|limit| self.ratio(mode).is_some_and(|ratio| ratio <= limit));
        let share = goals
            .share
            .is_none_or(|limit| self.share().is_some_and(|share| share <= limit));
        let entries = goals.entries.is_none_or(|goal| {
            sample.entries.is_some_and(|entries| match goal {
                Entries::Exactly(right) => (entries - right).abs() <= ALLOWANCE,
                Entries::AtMost(limit) => entries <= limit + ALLOWANCE,
            })
        });
        ratio && share && entries
    }

    /// Whether the goals of every mode are reached that was measured.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.reached_by(Mode::Nested) && self.reached_by(Mode::Paravirt)
    }

    /// What `mode` is to reach, for people.
    #[must_use]
    pub fn goal_text(&self, mode: Mode) -> String {
        let goals = self.goals(mode);
        let ratio = goals.ratio.map(|limit| format!("<= {limit:.2}"));
        let share = goals.share.map(|limit| format!("EL2 <= {}", number(limit)));
        let entries = goals.entries.map(|goal| match goal {
            Entries::Exactly(right) => format!("entries {}", number(right)),
            Entries::AtMost(limit) => format!("entries <= {}", number(limit)),
        });
        let all: Vec<String> = ratio.into_iter().chain(share).chain(entries).collect();
        if all.is_empty() {
            return "-".to_owned();
        }
        all.join(", ")
    }

    fn row(&self, mode: Mode, columns: &[Mode]) -> Vec<String> {
        let dash = || "-".to_owned();
        let mut row = vec![self.name()];
        row.extend(columns.iter().map(|column| cell(self.of(*column))));
        if mode == Mode::Paravirt {
            row.push(
                self.share()
                    .map_or_else(dash, |share| number(share.round())),
            );
        }
        let entries = self.of(mode).and_then(|sample| sample.entries);
        row.extend([
            self.ratio(mode)
                .map_or_else(dash, |ratio| format!("{ratio:.4}")),
            entries.map_or_else(dash, |entries| format!("{entries:.3}")),
            self.goal_text(mode),
            if self.reached_by(mode) {
                "ok"
            } else {
                "MISSED"
            }
            .to_owned(),
        ]);
        row
    }
}

/// An average, with median and 99th percentile in brackets where these are known.
fn cell(sample: Option<Sample>) -> String {
    let Some(sample) = sample else {
        return "-".to_owned();
    };
    let average = number(sample.average.round());
    match sample.spread {
        None => average,
        Some((median, high)) => format!("{average} ({}, {})", number(median), number(high)),
    }
}

/// The lines as tables for people: one for what the host pays with an emulated
/// SMMU, one for a virtio-iommu, as far as they were measured.
#[must_use]
pub fn text(lines: &[Line]) -> String {
    let has = |mode: Mode| lines.iter().any(|line| line.of(mode).is_some());
    let virtio = has(Mode::Free) || has(Mode::Paravirt);
    let mut text = String::new();
    if has(Mode::Identity) || has(Mode::Nested) || !virtio {
        text.push_str(&one(lines, Mode::Nested));
    }
    if virtio {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&one(lines, Mode::Paravirt));
    }
    text
}

fn one(lines: &[Line], mode: Mode) -> String {
    let has = |mode: &Mode| lines.iter().any(|line| line.of(*mode).is_some());
    let mut columns = match mode {
        Mode::Paravirt => vec![Mode::Native, Mode::Free],
        _ => vec![Mode::Native, Mode::Untranslated, Mode::Identity],
    };
    // One that was not asked for takes no room.
    columns.retain(|column| *column != Mode::Untranslated || has(column));
    columns.push(mode);
    let rows: Vec<Vec<String>> = lines.iter().map(|line| line.row(mode, &columns)).collect();
    let mut heading = vec!["instructions: average (median, 99 %)"];
    heading.extend(columns.iter().map(|column| column.word()));
    if mode == Mode::Paravirt {
        heading.push("EL2");
    }
    heading.extend(["ratio", "entries", "goal", ""]);
    table(&heading, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(mode: Mode, judged: Option<(f64, f64)>, goals: Goals) -> Line {
        let sample = |average, entries| Sample {
            average,
            entries,
            ..Sample::default()
        };
        let mut samples = vec![
            (Mode::Native, sample(100.0, None)),
            (Mode::Free, sample(110.0, None)),
        ];
        if let Some((average, entries)) = judged {
            samples.push((mode, sample(average, Some(entries))));
        }
        Line {
            work: Work::Map(4096),
            setting: Setting::Strict,
            samples,
            nested: goals,
            paravirt: goals,
        }
    }

    #[test]
    fn a_goal_is_missed_by_ratio_or_by_entries() {
        let goals = |entries| Goals {
            ratio: Some(1.25),
            share: None,
            entries: Some(entries),
        };
        let exactly = goals(Entries::Exactly(1.0));
        for mode in [Mode::Nested, Mode::Paravirt] {
            let line = |judged, goals| line(mode, judged, goals);
            assert!(line(Some((125.0, 1.005)), exactly).reached());
            assert!(!line(Some((126.0, 1.0)), exactly).reached());
            assert!(!line(Some((125.0, 1.02)), exactly).reached());
            assert!(!line(Some((125.0, 0.9)), exactly).reached());
            let most = goals(Entries::AtMost(1.0));
            assert!(line(Some((125.0, 0.9)), most).reached());
            assert!(!line(Some((125.0, 1.02)), most).reached());
            assert!(text(&[line(Some((126.0, 1.0)), exactly)]).contains("MISSED"));
        }
    }

    #[test]
    fn what_el2_takes_has_a_limit_of_its_own() {
        let goals = Goals {
            share: Some(20.0),
            ..Goals::default()
        };
        assert!(line(Mode::Paravirt, Some((130.0, 1.0)), goals).reached());
        assert!(!line(Mode::Paravirt, Some((131.0, 1.0)), goals).reached());
        let mut unknown = line(Mode::Paravirt, Some((130.0, 1.0)), goals);
        unknown.samples.retain(|(mode, _)| *mode != Mode::Free);
        assert!(!unknown.reached());
    }

    #[test]
    fn without_a_machine_of_the_mode_nothing_is_judged() {
        let goals = Goals {
            ratio: Some(1.0),
            ..Goals::default()
        };
        let line = line(Mode::Nested, None, goals);
        assert!(line.reached());
        assert!(line.ratio(Mode::Nested).is_none());
    }
}
