//! Boards in a table that people compare.

use crate::board::{Board, MODES, Outcome};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Boards of one kind of chip that end in the same way.
struct Group<'b> {
    outcomes: Vec<String>,
    boards: Vec<&'b Board>,
}

/// The groups, the largest first.
fn groups<'b>(boards: &[&'b Board]) -> Vec<Group<'b>> {
    let mut groups: BTreeMap<(String, Vec<String>), Vec<&'b Board>> = BTreeMap::new();
    for board in boards {
        let as_it_is = board.as_it_is.iter();
        let outcomes = board
            .outcomes
            .iter()
            .chain(as_it_is)
            .map(Outcome::kind)
            .collect();
        let key = (board.chip.clone(), outcomes);
        groups.entry(key).or_default().push(board);
    }
    let mut groups: Vec<_> = groups
        .into_iter()
        .map(|((_, outcomes), boards)| Group { outcomes, boards })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.boards.len()));
    groups
}

/// The modes, and identity mode with the tree's SMMUs as they are.
const COLUMNS: [&str; 4] = [MODES[0], MODES[1], MODES[2], "as it is"];

/// The range of a number, in percent or as it is.
pub(crate) fn span(numbers: impl Iterator<Item = usize> + Clone) -> String {
    let (least, most) = (numbers.clone().min(), numbers.max());
    match (least, most) {
        (Some(least), Some(most)) if least == most => format!("{least}"),
        (Some(least), Some(most)) => format!("{least}-{most}"),
        _ => "-".to_owned(),
    }
}

/// What becomes of all boards: those with an SMMUv3 by chip, the rest as a count.
#[must_use]
pub fn summary(boards: &[Board]) -> String {
    let (with, without): (Vec<&Board>, Vec<&Board>) = boards.iter().partition(|b| b.smmus > 0);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} trees, {} of them with an SMMUv3\n",
        boards.len(),
        with.len()
    );
    for (index, mode) in MODES.iter().enumerate() {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for board in &with {
            let kind = match &board.outcomes[index] {
                Outcome::Accepted { withheld: 0, .. } => "accepted",
                Outcome::Accepted { .. } => "accepted with withheld devices",
                Outcome::Refused { .. } => "refused",
            };
            *kinds.entry(kind).or_default() += 1;
        }
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        let _ = writeln!(out, "{mode:<9} {}", kinds.join(", "));
    }
    let _ = writeln!(out);
    for group in groups(&with) {
        group_lines(&mut out, &group);
    }
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for board in &without {
        let kind = board.outcomes.first().map(Outcome::kind);
        reasons
            .entry(kind.unwrap_or_default())
            .or_default()
            .push(&board.name);
    }
    let _ = writeln!(out, "without an SMMUv3:");
    for (reason, names) in reasons {
        let _ = writeln!(out, "  {:>5} {reason} ({}, …)", names.len(), names[0]);
    }
    out
}

fn group_lines(out: &mut String, group: &Group<'_>) {
    let first = group.boards[0];
    let _ = writeln!(
        out,
        "{}: {} board{} ({}{})",
        first.chip,
        group.boards.len(),
        if group.boards.len() == 1 { "" } else { "s" },
        first.name,
        if group.boards.len() == 1 { "" } else { ", …" }
    );
    let all = || first.outcomes.iter().chain(&first.as_it_is);
    let same = group.outcomes.windows(2).all(|pair| pair[0] == pair[1]);
    for ((kind, outcome), mode) in group.outcomes.iter().zip(all()).zip(COLUMNS) {
        let mode = if same { "all modes" } else { mode };
        let example = match outcome {
            Outcome::Refused { reason } => format!("\n            {reason}"),
            Outcome::Accepted {
                trust_power: true, ..
            } => " (trust-power=yes)".to_owned(),
            Outcome::Accepted { .. } => String::new(),
        };
        let _ = writeln!(out, "  {mode:<9} {kind}{example}");
        if same {
            break;
        }
    }
    let used: Vec<_> = group
        .boards
        .iter()
        .filter_map(|b| b.of_use.as_ref())
        .collect();
    if !used.is_empty() {
        let share = used.iter().map(|u| u.withheld * 100 / u.enabled.max(1));
        let _ = writeln!(
            out,
            "  withheld  {} % of {} enabled nodes",
            span(share),
            span(used.iter().map(|u| u.enabled))
        );
        let whole = used.iter().map(|u| u.confined - u.lacking.len());
        let _ = writeln!(
            out,
            "  of use    {} of {} devices behind SMMUs have all they need",
            span(whole),
            span(used.iter().map(|u| u.confined))
        );
        let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
        for (model, count) in used.iter().flat_map(|u| &u.missing) {
            *missing.entry(model).or_default() += count;
        }
        let missing: Vec<String> = missing.iter().map(|(m, n)| format!("{m} ({n})")).collect();
        if !missing.is_empty() {
            let _ = writeln!(out, "  missing   {}", missing.join(", "));
        }
    }
    let _ = writeln!(out);
}

/// Every board with an SMMUv3, and why it is refused or of no use.
#[must_use]
pub fn each(boards: &[Board]) -> String {
    let mut out = String::new();
    for board in boards.iter().filter(|board| board.smmus > 0) {
        let _ = writeln!(out, "{}", board.name);
        for (mode, outcome) in MODES.iter().zip(&board.outcomes) {
            let text = match outcome {
                Outcome::Refused { reason } => format!("refused: {reason}"),
                Outcome::Accepted { withheld, .. } => format!("accepted, {withheld} withheld"),
            };
            let _ = writeln!(out, "  {mode:<9} {text}");
        }
        if let Some(of_use) = &board.of_use {
            for lack in &of_use.lacking {
                let (device, property, supplier) = (&lack.device, &lack.property, &lack.supplier);
                let _ = writeln!(out, "  lacks     {device}: {property} of {supplier}");
            }
        }
    }
    out
}
