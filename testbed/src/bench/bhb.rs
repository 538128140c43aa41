//! What it costs to forget the host's branch history on each entry to EL2
//! (Spectre-BHB), which everything else is measured without.

use super::dma::{self, Figures};
use super::lines::{Mode, Sample};
use super::results::BranchHistory;
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

    /// Whether it enters EL2: what the rest of the machine causes is less.
    fn enters(&self) -> bool {
        self.entries >= 0.5
    }

    /// Instructions that each entry takes more; none where there is no entry.
    #[must_use]
    pub fn each(&self) -> Option<f64> {
        self.enters()
            .then(|| (self.el2[1] - self.el2[0]) / self.entries)
    }

    /// Whether an entry costs no more than it may, and what has none the same as
    /// without.
    #[must_use]
    pub fn reached(&self) -> bool {
        match self.each() {
            Some(each) => each <= LIMIT,
            None => (self.all[1] - self.all[0]).abs() <= SHARE * self.all[0],
        }
    }

    fn goal(&self) -> String {
        if self.enters() {
            format!("<= {}", number(LIMIT))
        } else {
            "unchanged".to_owned()
        }
    }

    /// The row for programs.
    #[must_use]
    pub fn result(&self) -> BranchHistory {
        BranchHistory {
            name: self.name.clone(),
            all: self.all,
            el2: self.el2,
            el2_entries: self.entries,
            each: self.each(),
            goal: self.goal(),
            reached: self.reached(),
        }
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
) -> Result<Vec<Row>> {
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
    // Two boots are compared.
    let steady = interrupts.iter().filter(|row| row.is_steady());
    rows.extend(steady.map(Row::of_interrupts));
    Ok(rows)
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

/// The rows as a table for people.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let pair = |[off, by_default]: [f64; 2]| {
        let [off, by_default] = [off, by_default].map(|value| number(value.round()));
        format!("{off} / {by_default}")
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                pair(row.all),
                pair(row.el2),
                format!("{:.3}", row.entries),
                row.each()
                    .map_or_else(|| "-".to_owned(), |each| number(each.round())),
                row.goal(),
                if row.reached() { "ok" } else { "MISSED" }.to_owned(),
            ]
        })
        .collect();
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
    fn an_entry_has_a_limit_and_what_has_none_stays() {
        assert!(one(1.0, [2_000.0, 2_079.0], [400.0, 479.0]).reached());
        assert!(!one(1.0, [2_000.0, 2_081.0], [400.0, 481.0]).reached());
        assert!(one(2.0, [2_000.0, 2_160.0], [400.0, 560.0]).reached());
        assert!(one(0.0, [900.0, 908.0], [0.0, 0.0]).reached());
        assert!(!one(0.0, [900.0, 978.0], [0.0, 78.0]).reached());
        assert!(text(&[one(0.0, [900.0, 978.0], [0.0, 78.0])]).contains("MISSED"));
    }

    #[test]
    fn both_ways_are_told() {
        let row = one(2.0, [2_000.0, 2_160.0], [400.0, 560.0]);
        let text = text(std::slice::from_ref(&row));
        for part in ["2,000 / 2,160", "400 / 560", "2.000", "80"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert_eq!(row.result().each, Some(80.0));
    }
}
