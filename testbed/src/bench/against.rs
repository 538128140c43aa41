//! How far the figures of two runs are apart.

use super::number;
use super::results::{Results, Row};
use crate::check::table;

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
    /// The change as a share of what it was.
    #[must_use]
    pub fn share(&self) -> f64 {
        (self.later - self.earlier) / self.earlier.abs().max(f64::MIN_POSITIVE)
    }
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Figures that both runs have.
    pub compared: usize,
    /// Those that differ, the largest difference first.
    pub differences: Vec<Difference>,
}

/// The figures of a row that a second run is to repeat.
fn figures(row: &Row) -> [(&'static str, Option<f64>); 5] {
    [
        ("instructions", Some(row.value)),
        ("EL2 entries", row.el2_entries),
        ("EL2 instructions", row.el2_instructions),
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
        .sort_by(|a, b| b.share().abs().total_cmp(&a.share().abs()));
    comparison
}

/// What differs, for people.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    /// Smaller differences are counted only.
    const TOLD: f64 = 0.005;
    let differences = &comparison.differences;
    let rows: Vec<Vec<String>> = differences
        .iter()
        .filter(|one| one.share().abs() > TOLD)
        .map(|one| {
            vec![
                one.name.clone(),
                one.what.to_owned(),
                exact(one.earlier),
                exact(one.later),
                format!("{:+.2} %", one.share() * 100.0),
            ]
        })
        .collect();
    let same = comparison.compared - differences.len();
    let mut text = format!(
        "Of {} figures, {same} are the same, {} differ by {} % at most, {} by more.\n",
        comparison.compared,
        differences.len() - rows.len(),
        TOLD * 100.0,
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
        assert!((found.differences[0].share() - 0.02).abs() < 1e-9);
        let text = text(&found);
        assert!(text.contains("1 differ by 0.5 % at most, 1 by more"));
        assert!(text.contains("native: map 4 KiB, strict"));
        assert!(!text.contains("map 1 MiB"));
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
