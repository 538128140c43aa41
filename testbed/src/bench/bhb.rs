//! What it costs to forget the host's branch history on each entry to EL2
//! (Spectre-BHB), which everything else is measured without.

use super::dma::{self, Figures};
use super::lines::{Mode, Sample};
use super::results::{BranchHistory, Forgotten};
use super::work::{Setting, Work, name};
use super::{interrupts, number};
use crate::Result;
use crate::check::table;
use crate::machine::Machine;
use crate::setup::Lab;

/// What an entry may take more.
const LIMIT: f64 = 80.0;
/// How far an operation without an entry may be from what it was: what ticks of the
/// timer are in its average.
const SHARE: f64 = 0.01;

/// One operation, with `bhb=off` and without.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    name: String,
    /// Instructions in all.
    all: [f64; 2],
    /// Those at EL2.
    el2: [f64; 2],
    /// EL2 entries.
    entries: f64,
}

impl Row {
    fn of_interrupts(row: &interrupts::Row) -> Self {
        Self {
            name: row.name().to_owned(),
            all: row.all(),
            el2: row.el2(),
            entries: row.entries(),
        }
    }

    /// Instructions that each entry takes more; none where there is no entry, but for
    /// what the rest of the machine causes.
    #[must_use]
    pub fn each(&self) -> Option<f64> {
        (self.entries >= 0.5).then(|| (self.el2[1] - self.el2[0]) / self.entries)
    }

    /// Whether what has no entry takes the same as without.
    fn reached(&self) -> bool {
        self.each().is_some() || (self.all[1] - self.all[0]).abs() <= SHARE * self.all[0]
    }

    fn goal(&self) -> &'static str {
        match self.each() {
            Some(_) => "-",
            None => "unchanged",
        }
    }

    fn result(&self) -> Forgotten {
        Forgotten {
            name: self.name.clone(),
            all: self.all,
            el2: self.el2,
            el2_entries: self.entries,
            each: self.each(),
            reached: self.reached(),
        }
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs(Vec<Row>);

impl Costs {
    /// What an entry takes more: the middle one of what the rows say. Two boots are
    /// compared, and by where the host's memory lies one of them may take a few
    /// instructions more or less.
    #[must_use]
    pub fn each(&self) -> Option<f64> {
        let mut all: Vec<f64> = self.0.iter().filter_map(Row::each).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    fn within(&self) -> bool {
        self.each().is_none_or(|each| each <= LIMIT)
    }

    /// How many goals are missed.
    #[must_use]
    pub fn missed(&self) -> usize {
        let rows = self.0.iter().filter(|row| !row.reached()).count();
        rows + usize::from(!self.within())
    }

    /// The figures for programs.
    #[must_use]
    pub fn result(&self) -> BranchHistory {
        BranchHistory {
            each: self.each(),
            goal: format!("<= {}", number(LIMIT)),
            reached: self.within(),
            rows: self.0.iter().map(Row::result).collect(),
        }
    }

    /// The figures as a table for people; nothing when there are none.
    #[must_use]
    pub fn text(&self) -> String {
        let Some(each) = self.each() else {
            return String::new();
        };
        let pair = |[off, by_default]: [f64; 2]| {
            let [off, by_default] = [off, by_default].map(|value| number(value.round()));
            format!("{off} / {by_default}")
        };
        let verdict = |reached| if reached { "ok" } else { "MISSED" }.to_owned();
        let mut cells: Vec<Vec<String>> = self
            .0
            .iter()
            .map(|row| {
                vec![
                    row.name.clone(),
                    pair(row.all),
                    pair(row.el2),
                    format!("{:.3}", row.entries),
                    row.each()
                        .map_or_else(|| "-".to_owned(), |each| number(each.round())),
                    row.goal().to_owned(),
                    verdict(row.reached()),
                ]
            })
            .collect();
        let dash = || "-".to_owned();
        cells.push(vec![
            "Spectre-BHB on entry".to_owned(),
            dash(),
            dash(),
            "1".to_owned(),
            number(each.round()),
            format!("<= {}", number(LIMIT)),
            verdict(self.within()),
        ]);
        table(
            &[
                "bhb=off / by default",
                "instructions in all",
                "at EL2",
                "entries",
                "for each entry",
                "goal",
                "",
            ],
            &cells,
        )
    }
}

/// Measures on `machines`, which are those of `figures` but for `bhb=off`, a mapping of
/// 4 KiB and its end; what `interrupts` found stands beside it.
///
/// # Errors
///
/// As [`dma::run`].
pub fn run(
    lab: &Lab,
    machines: &[(Mode, Machine)],
    figures: &Figures,
    interrupts: &[interrupts::Row],
) -> Result<Costs> {
    let mut rows = Vec::new();
    for (mode, machine) in machines {
        if !matches!(mode, Mode::Nested | Mode::Paravirt) {
            continue;
        }
        let measured = dma::block(lab, machine, *mode)?;
        for (work, by_default) in measured.samples {
            let known = figures
                .lines
                .iter()
                .find(|line| (line.work, line.setting) == (work, Setting::Strict));
            if let Some(off) = known.and_then(|line| line.of(*mode)) {
                rows.push(row(*mode, work, &off, &by_default));
            }
        }
    }
    let rest = interrupts.iter().filter(|row| row.is_simple());
    rows.extend(rest.map(Row::of_interrupts));
    Ok(Costs(rows))
}

fn row(mode: Mode, work: Work, off: &Sample, by_default: &Sample) -> Row {
    let el2 = |sample: &Sample| sample.el2.unwrap_or_default();
    Row {
        name: format!("{}: {}", mode.word(), name(work, Setting::Strict)),
        all: [off.average, by_default.average],
        el2: [el2(off), el2(by_default)],
        entries: off.entries.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(entries: f64, all: [f64; 2], el2: [f64; 2]) -> Row {
        Row {
            name: "x".to_owned(),
            all,
            el2,
            entries,
        }
    }

    #[test]
    fn an_entry_has_a_limit() {
        let of = |more: [f64; 3]| {
            let rows = more.map(|more| one(2.0, [2_000.0; 2], [400.0, 400.0 + 2.0 * more]));
            Costs(rows.to_vec())
        };
        let costs = of([75.0, 78.0, 81.0]);
        assert_eq!((costs.each(), costs.missed()), (Some(78.0), 0));
        assert_eq!(of([81.0, 78.0, 81.0]).missed(), 1);
        assert!(of([81.0; 3]).text().contains("MISSED"));
        assert_eq!(Costs::default().missed(), 0);
        assert_eq!(Costs::default().text(), "");
    }

    #[test]
    fn what_has_no_entry_stays_as_it_is() {
        let of = |more| Costs(vec![one(0.0, [900.0, 900.0 + more], [0.0, more])]);
        assert_eq!(of(8.0).missed(), 0);
        assert_eq!(of(78.0).missed(), 1);
        assert_eq!(of(-78.0).missed(), 1);
    }

    #[test]
    fn both_ways_are_told() {
        let costs = Costs(vec![one(2.0, [2_000.0, 2_160.0], [400.0, 560.0])]);
        let text = costs.text();
        for part in ["2,000 / 2,160", "400 / 560", "2.000", "<= 80"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert_eq!(costs.result().rows[0].each, Some(80.0));
    }
}
