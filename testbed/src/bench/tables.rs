//! What a run found out beside the cost itself, as tables for people.

use super::lines::Mode;
use super::number;
use super::results::{Breakdown, Results, Row};
use super::symbols::Purpose;
use super::work::Setting;
use crate::check::table;

/// The columns that have an EL2.
const FENCED: [Mode; 3] = [Mode::Identity, Mode::Nested, Mode::Paravirt];
/// The columns whose machine has an SMMU.
const SMMU: [Mode; 5] = [
    Mode::Native,
    Mode::Untranslated,
    Mode::Identity,
    Mode::Nested,
    Mode::Paravirt,
];

/// All of them.
#[must_use]
pub fn text(results: &Results) -> String {
    [
        el2(results),
        traffic(results),
        breakdown(&results.breakdown),
        memory(results),
    ]
    .concat()
}

/// The rows of all columns that are about the same, in order.
pub(super) fn groups(results: &Results) -> Vec<Vec<&Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in &results.rows {
        match groups.iter_mut().find(|group| group[0].same_work(row)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// The row of a group in a column.
pub(super) fn of<'a>(group: &[&'a Row], mode: Mode) -> Option<&'a Row> {
    group.iter().find(|row| row.column == mode.word()).copied()
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// The columns out of `modes` that were measured.
pub(super) fn present(results: &Results, modes: &[Mode]) -> Vec<Mode> {
    let has = |mode: &Mode| results.rows.iter().any(|row| row.column == mode.word());
    modes.iter().copied().filter(has).collect()
}

/// EL2's instructions, counted and as a difference.
fn el2(results: &Results) -> String {
    let columns = present(results, &FENCED);
    if columns.is_empty() {
        return String::new();
    }
    let mut heading = vec!["EL2: entries; instructions, as difference".to_owned()];
    heading.extend(columns.iter().map(|mode| mode.word().to_owned()));
    let cell = |row: &Row| {
        let entries = or_dash(row.el2_entries.map(|entries| format!("{entries:.3}")));
        let counted = row.el2_instructions.map(|counted| number(counted.round()));
        let difference = row.el2_difference.map(|all| number(all.round()));
        format!("{entries}; {}, {}", or_dash(counted), or_dash(difference))
    };
    let rows = groups(results).into_iter().map(|group| {
        let mut cells = vec![group[0].name()];
        cells.extend(
            columns
                .iter()
                .map(|mode| or_dash(of(&group, *mode).map(cell))),
        );
        cells
    });
    format!("{}\n", laid_out(&heading, rows.collect()))
}

/// What the SMMU was told and what it read.
fn traffic(results: &Results) -> String {
    let columns = present(results, &SMMU);
    if columns.is_empty() {
        return String::new();
    }
    let mut heading = vec!["SMMU: TLBI + SYNC; entries read".to_owned()];
    heading.extend(columns.iter().map(|mode| mode.word().to_owned()));
    let cell = |row: &Row| {
        let all = row.traffic?;
        // Configuration changes when devices come and go, which none does here.
        let more = all.commands() - all.tlbi - all.sync;
        let more = if more > 0.0 {
            format!(" + {more:.3} others")
        } else {
            String::new()
        };
        Some(format!(
            "{:.3} + {:.3}{more}; {:.2}",
            all.tlbi, all.sync, all.walker_reads
        ))
    };
    let rows = groups(results)
        .into_iter()
        .filter(|group| group.iter().any(|row| row.traffic.is_some()))
        .map(|group| {
            let mut cells = vec![group[0].name()];
            cells.extend(
                columns
                    .iter()
                    .map(|mode| or_dash(of(&group, *mode).and_then(cell))),
            );
            cells
        });
    format!("{}\n", laid_out(&heading, rows.collect()))
}

/// Where the instructions go.
fn breakdown(all: &[Breakdown]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut heading = vec!["where instructions go".to_owned(), "host".to_owned()];
    heading.extend(Purpose::ALL.map(|purpose| purpose.words().to_owned()));
    heading.extend(["EL2 traced", "EL2 counted"].map(str::to_owned));
    let rows = all.iter().map(|one| {
        let round = |value: f64| number(value.round());
        let mut cells = vec![
            format!("{}: {}, {}", one.column, one.words(), one.setting),
            round(one.host),
        ];
        cells.extend(
            Purpose::ALL.map(|purpose| round(one.el2.get(&purpose).copied().unwrap_or(0.0))),
        );
        cells.extend([one.el2_traced, one.el2_counted].map(round));
        cells
    });
    let apart = all
        .iter()
        .filter(|one| one.setting == Setting::Strict.key())
        .map(|one| (one.el2_traced / one.el2_counted - 1.0).abs() * 100.0)
        .fold(0.0, f64::max);
    format!(
        "{}Log and counter of EL2 are apart by {apart:.2} % at most, strict.\n\n",
        laid_out(&heading, rows.collect())
    )
}

fn memory(results: &Results) -> String {
    if results.memory.is_empty() {
        return String::new();
    }
    let rows = results.memory.iter().map(|one| {
        vec![
            one.column.clone(),
            one.what.clone(),
            number(one.bytes as f64),
        ]
    });
    let heading = ["memory taken", "what", "bytes"].map(str::to_owned);
    format!("{}\n", laid_out(&heading, rows.collect()))
}

fn laid_out(heading: &[String], rows: Vec<Vec<String>>) -> String {
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    table(&heading, &rows)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn every_kind_of_figure_is_told() {
        let text = text(&sample());
        for part in [
            "map 4 KiB, strict",
            "1.000; 700, 430",
            "1.000 + 1.000; 8.00",
            "paravirt: map + unmap 4 KiB, strict",
            "invalidate + wait",
            "apart by 0.40 % at most",
            "2,097,152",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }
}
