//! How far the figures of two runs are apart.

use super::number;
use super::results::{Results, Row};
use super::work::Statistic;
use crate::check::table;

const INSTRUCTIONS: &str = "instructions";
const MEDIAN: &str = "median";
const EL2: &str = "EL2 instructions";
/// What two runs may be apart, of a figure, beside a few in number.
const SHARE: f64 = 0.01;

/// A figure that is not the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The row and its column.
    pub name: String,
    /// Which figure of it.
    pub what: &'static str,
    /// What it was.
    pub earlier: f64,
    /// What it is.
    pub later: f64,
}

impl Difference {
    /// The change as a share of what it was; none where it was nothing.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.earlier != 0.0).then(|| (self.later - self.earlier) / self.earlier.abs())
    }

    /// How many times it is what the console and the clock can make: when a command
    /// arrives is up to the machine that QEMU runs on, and with it where the ticks of
    /// the timer fall, and what of the other devices' work is in between.
    #[must_use]
    pub fn weight(&self) -> f64 {
        let few = match self.what {
            INSTRUCTIONS | MEDIAN | EL2 => 5.0,
            _ => 0.1,
        };
        (self.later - self.earlier).abs() / (few + SHARE * self.earlier.abs())
    }
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Figures that both runs have.
    pub compared: usize,
    /// Those that differ, the weightiest difference first.
    pub differences: Vec<Difference>,
}

/// The figures of a row that a second run is to repeat.
fn figures(row: &Row) -> [(&'static str, Option<f64>); 6] {
    [
        (INSTRUCTIONS, Some(row.value)),
        // Of devices it is as far apart as they are.
        (
            MEDIAN,
            row.median.filter(|_| row.statistic == Statistic::Average),
        ),
        ("EL2 entries", row.el2_entries),
        (EL2, row.el2_instructions),
        ("commands", row.commands),
        ("walker reads", row.walker_reads),
    ]
}

/// Compares the rows that both runs have.
#[must_use]
pub fn compare(earlier: &Results, later: &Results) -> Comparison {
    let mut comparison = Comparison::default();
    for row in &later.rows {
        let same = |other: &&Row| other.column == row.column && other.same_work(row);
        let Some(other) = earlier.rows.iter().find(same) else {
            continue;
        };
        for ((what, before), (_, now)) in figures(other).into_iter().zip(figures(row)) {
            let (Some(before), Some(now)) = (before, now) else {
                continue;
            };
            comparison.compared += 1;
            if before != now {
                comparison.differences.push(Difference {
                    name: format!("{}: {}", row.column, row.name()),
                    what,
                    earlier: before,
                    later: now,
                });
            }
        }
    }
    comparison
        .differences
        .sort_by(|a, b| b.weight().total_cmp(&a.weight()));
    comparison
}

/// What differs, for people.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    let differences = &comparison.differences;
    let rows: Vec<Vec<String>> = differences
        .iter()
        .filter(|one| one.weight() > 1.0)
        .map(|one| {
            vec![
                one.name.clone(),
                one.what.to_owned(),
                exact(one.earlier),
                exact(one.later),
                one.share()
                    .map_or_else(String::new, |share| format!("{:+.2} %", share * 100.0)),
            ]
        })
        .collect();
    let same = comparison.compared - differences.len();
    let mut text = format!(
        "Of {} figures, {same} are the same, {} differ by {} % or next to nothing, {} by more.\n",
        comparison.compared,
        differences.len() - rows.len(),
        SHARE * 100.0,
        rows.len()
    );
    if !rows.is_empty() {
        text.push_str(&table(
            &["figure", "", "earlier", "later", "difference"],
            &rows,
        ));
    }
    text
}

/// As [`number`], with the digits that a small figure is compared by.
fn exact(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.4}");
    }
    number(value.round())
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let earlier = sample();
        assert_eq!(compare(&earlier, &earlier).differences, []);
        let mut later = earlier.clone();
        later.rows[0].value *= 1.02;
        later.rows[1].value *= 1.001;
        let found = compare(&earlier, &later);
        assert_eq!(found.differences.len(), 2);
        let share = found.differences[0].share().expect("a share");
        assert!((share - 0.02).abs() < 1e-9);
        let text = text(&found);
        assert!(text.contains("1 differ by 1 % or next to nothing, 1 by more"));
        assert!(text.contains("native: map 4 KiB, strict"));
        assert!(!text.contains("map 1 MiB"));
        let entries = |earlier, later| Difference {
            name: String::new(),
            what: "EL2 entries",
            earlier,
            later,
        };
        assert!(entries(0.0, 0.09).weight() < 1.0);
        assert!(entries(1.0, 2.0).weight() > 1.0);
    }

    #[test]
    fn a_row_of_one_run_alone_is_not_compared() {
        let mut earlier = sample();
        let later = sample();
        let all = compare(&earlier, &later).compared;
        earlier.rows.remove(0);
        assert!(compare(&earlier, &later).compared < all);
    }
}
