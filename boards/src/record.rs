//! What is committed of the boards: their verdicts, and the tables of the
//! documentation.

use crate::board::{Board, MODES, Outcome};
use crate::table::span;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One line for each board with an SMMUv3 and for each that is refused for another
/// reason than having none.
#[must_use]
pub fn verdicts(boards: &[Board]) -> String {
    let mut out = String::new();
    let mut others = 0usize;
    for board in boards {
        if board.smmus == 0 && has_no_smmu(board) {
            others += 1;
            continue;
        }
        let _ = write!(out, "{}", board.name);
        let as_it_is = board.as_it_is.iter();
        let columns = MODES.into_iter().chain(["as it is"]);
        for (outcome, column) in board.outcomes.iter().chain(as_it_is).zip(columns) {
            let _ = write!(out, " | {column}: {}", short(outcome));
        }
        if let Some(of_use) = &board.of_use {
            let whole = of_use.confined - of_use.lacking.len();
            let _ = write!(out, " | of use: {whole} of {}", of_use.confined);
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "{others} others | the device tree has no SMMU");
    out
}

fn has_no_smmu(board: &Board) -> bool {
    let is = |outcome: &Outcome| match outcome {
        Outcome::Refused { reason } => reason == "the device tree has no SMMU",
        Outcome::Accepted { .. } => false,
    };
    board.outcomes.iter().all(is)
}

/// An outcome in few words.
fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted {
            trust_power,
            withheld,
        } => {
            let trust = if *trust_power {
                ", trust-power=yes"
            } else {
                ""
            };
            format!("accepted, {withheld} withheld{trust}")
        }
        Outcome::Refused { reason } => format!("refused, {reason}"),
    }
}

/// The tables of `docs/boards.md`.
#[must_use]
pub fn markdown(boards: &[Board]) -> String {
    let with: Vec<&Board> = boards.iter().filter(|board| board.smmus > 0).collect();
    let mut chips: BTreeMap<&str, Vec<&Board>> = BTreeMap::new();
    for board in &with {
        chips.entry(&board.chip).or_default().push(board);
    }
    let mut out = format!(
        "{} trees, {} of them with an SMMUv3, {} with one that the tree itself enables.\n\n",
        boards.len(),
        with.len(),
        with.iter()
            .filter(|board| board.disabled_smmus < board.smmus)
            .count()
    );
    out.push_str(
        "| chip | boards | identity | nested | paravirt | withheld | devices behind SMMUs that have \
         all they need |\n|---|---|---|---|---|---|---|\n",
    );
    for (chip, boards) in &chips {
        let _ = write!(out, "| {chip} | {} |", boards.len());
        for index in 0..MODES.len() {
            let refused = boards
                .iter()
                .filter(|board| is_refused(&board.outcomes[index]));
            let cell = match refused.count() {
                0 => "accepted".to_owned(),
                count if count == boards.len() => "refused".to_owned(),
                count => format!("{count} refused"),
            };
            let _ = write!(out, " {cell} |");
        }
        let used: Vec<_> = boards.iter().filter_map(|b| b.of_use.as_ref()).collect();
        let share = used.iter().map(|u| u.withheld * 100 / u.enabled.max(1));
        let whole = used.iter().map(|u| u.confined - u.lacking.len());
        let confined = used.iter().map(|u| u.confined);
        let _ = writeln!(
            out,
            " {} % | {} of {} |",
            span(share),
            span(whole),
            span(confined)
        );
    }
    out.push_str("\n### Refused\n\n");
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for board in &with {
        let as_it_is = board.as_it_is.iter();
        let columns = MODES.into_iter().chain(["as it is"]);
        for (outcome, column) in board.outcomes.iter().chain(as_it_is).zip(columns) {
            if is_refused(outcome) {
                let name = format!("{} ({column})", board.name);
                refused.entry(outcome.kind()).or_default().push(name);
            }
        }
    }
    if refused.is_empty() {
        out.push_str("None.\n");
    }
    for (kind, names) in refused {
        let reason = kind.trim_start_matches("refused: ");
        let _ = writeln!(out, "- {reason} ({}): {}", names.len(), names.join(", "));
    }
    out.push_str(
        "\n### Of no use\n\n| board | enabled nodes | withheld | devices behind SMMUs | of no use, \
         since |\n|---|---|---|---|---|\n",
    );
    for board in &with {
        let Some(of_use) = &board.of_use else {
            continue;
        };
        let Some(reason) = of_use.reason() else {
            continue;
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {reason} |",
            board.name, of_use.enabled, of_use.withheld, of_use.confined
        );
    }
    out.push_str("\n### Of use\n\n");
    let useful = |board: &&&Board| board.of_use.as_ref().is_some_and(|u| u.reason().is_none());
    let names: Vec<&str> = with
        .iter()
        .filter(useful)
        .map(|b| b.name.as_str())
        .collect();
    let _ = writeln!(out, "{}: {}", names.len(), names.join(", "));
    out
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { .. })
}

/// Where the generated part of a document starts and ends.
const MARKS: [&str; 2] = [
    "<!-- from here on by cargo xtask trees --bless -->\n",
    "<!-- up to here -->\n",
];

/// `document` with `tables` between its marks; `None` when it has none.
#[must_use]
pub fn with_tables(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    Some(format!("{before}{}{tables}{}{after}", MARKS[0], MARKS[1]))
}
