//! Advice in words.

use super::{Advice, Axis, Flip, Recommendation, Search, Settings, Variation};
use crate::machine::Mode;
use crate::score::{Better, Comparison, Criterion};
use crate::sim::{lines, table_with};
use std::fmt::Write as _;

/// Changes told on each side of where an axis stands.
const TOLD: usize = 3;

/// All of it, under `title`, which names the workload and the platform.
#[must_use]
pub fn text(title: &str, advice: &Advice, settings: &Settings) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", sentence(advice));
    let _ = writeln!(
        text,
        "{title}; about {} accesses a simulation. All times are modelled.\n",
        number(settings.accesses)
    );
    let (reports, costs): (Vec<_>, Vec<_>) = advice
        .modes
        .iter()
        .map(|(report, score)| (report, format!("{:.1}", score.nanos)))
        .unzip();
    text.push_str(&table_with(&reports, "ns/transfer", &costs));
    text.push_str(&counted_by(advice));
    if let Some(decides) = decides(advice) {
        text.push_str(&decides);
    }
    text.push_str(&shortage(advice));
    match (advice.recommendation, advice.sureness()) {
        (Recommendation::Compared(comparison), Some(sure)) => {
            let changing = match advice.changing() {
                0 => "none".to_owned(),
                count => count.to_string(),
            };
            let assumed = advice.variations.iter().filter(|one| !one.told);
            let of = assumed.count();
            let near = match comparison.better() {
                Better::Neither => ", and the two are within 5 % to begin with",
                _ => "",
            };
            let tries = advice.variations.iter().flat_map(|one| &one.tries);
            let mut rates = tries.filter(|(_, found)| found.by == Criterion::Rate);
            let rates = match rates.next() {
                Some(_) => " Where it says \"rate\", that decides.",
                None => "",
            };
            let base = comparison.better();
            let mut others = advice.variations.iter().filter(|one| one.told);
            let asked = match others.any(|one| one.tries.iter().any(|(_, it)| it.better() != base))
            {
                true => " What was asked otherwise would (+).",
                false => "",
            };
            let _ = writeln!(
                text,
                "\nHow sure: {}. Of {of} assumptions, {changing} would change it (*){near}.{asked}{rates}",
                sure.words()
            );
            text.push_str(&varied(&advice.variations, comparison.better()));
            let _ = writeln!(text, "\nWhat would change it:");
            for search in &advice.searches {
                let _ = writeln!(text, "- {}", found(search));
            }
        }
        _ => {
            let _ = writeln!(text, "\nHow sure: nothing that is modelled changes it.");
        }
    }
    text
}

fn sentence(advice: &Advice) -> String {
    match &advice.recommendation {
        Recommendation::Compared(comparison) => {
            let (better, worse) = match comparison.better() {
                Better::Nested => ("Nested", Mode::Paravirt),
                Better::Paravirt => ("Paravirt", Mode::Nested),
                Better::Neither => {
                    return "No difference that matters: nested and paravirt are within 5 % of each other."
                        .to_owned();
                }
            };
            let times = comparison.times();
            match comparison.by {
                Criterion::Rate => format!(
                    "{better} is better: devices move {times:.2} times as much data with it as with {worse}."
                ),
                Criterion::Cost => {
                    let cost = |mode| advice.score(mode).map_or(0.0, |score| score.nanos).round();
                    format!(
                        "{better} is better: a transfer costs {times:.2} times as much with {worse}, {} ns to {}.",
                        number(cost(worse) as u64),
                        number(comparison.better().mode().map_or(0.0, cost) as u64)
                    )
                }
            }
        }
        Recommendation::NestedForSva(comparison) => format!(
            "Nested: only with it can devices use addresses of processes (sva = true). Without that, {}.",
            match comparison.better().mode() {
                None => "there would be no difference that matters".to_owned(),
                Some(mode) => format!("{mode} would be better, {:.2}x", comparison.times()),
            }
        ),
        Recommendation::ParavirtForOneStage => {
            "Paravirt: nested needs two stages, and the SMMU has one (stages = \"one\").".to_owned()
        }
    }
}

fn counted_by(advice: &Advice) -> String {
    let transfer = &advice.transfer;
    let share = match transfer.per_mapping {
        None => "nothing for mappings, which stay,".to_owned(),
        Some(1.0) => "map and unmap".to_owned(),
        Some(transfers) => format!("map and unmap / {}", number(transfers.round() as u64)),
    };
    let link = match advice.link {
        None => String::new(),
        Some(link) => format!(" Its data take the link {} ns.", number(link.0 / 1000)),
    };
    format!(
        "ns/transfer, its cost: {share} and the waits of {} accesses.{link}\n",
        number(transfer.accesses.round() as u64)
    )
}

/// Which of the two criteria it was.
fn decides(advice: &Advice) -> Option<String> {
    let (Recommendation::Compared(comparison) | Recommendation::NestedForSva(comparison)) =
        advice.recommendation
    else {
        return None;
    };
    let rate = |mode| advice.score(mode).map_or(0.0, |score| score.rate / 1e9);
    if rate(Mode::Nested).is_infinite() {
        return Some(
            "The cost of a transfer decides: the rate is not that of a device.\n".to_owned(),
        );
    }
    Some(match comparison.by {
        Criterion::Rate => format!(
            "The sustained rate decides: {:.2} GB/s with nested, {:.2} with paravirt.\n",
            rate(Mode::Nested),
            rate(Mode::Paravirt)
        ),
        Criterion::Cost => {
            "Nested and paravirt sustain the same rate, within 5 %: the cost of a transfer decides.\n"
                .to_owned()
        }
    })
}

/// Rates that last for a while only.
fn shortage(advice: &Advice) -> String {
    let short = advice.modes.iter().filter_map(|(report, score)| {
        let is_short = score.rate < report.rate() * 0.99;
        is_short.then(|| format!("{} {:.2}", report.mode, score.rate / 1e9))
    });
    let short: Vec<String> = short.collect();
    if short.is_empty() {
        return String::new();
    }
    format!(
        "The CPUs cannot map for so much in the long run, only for (GB/s): {}.\n",
        short.join(", ")
    )
}

fn varied(variations: &[Variation], base: Better) -> String {
    let cell = |comparison: &Comparison, told: bool| {
        let mark = match (comparison.better() == base, told) {
            (true, _) => ' ',
            (false, true) => '+',
            (false, false) => '*',
        };
        let by = match comparison.by {
            Criterion::Cost => "",
            Criterion::Rate => " rate",
        };
        format!("{}{by} {mark}", comparison.words())
    };
    let rows: Vec<Vec<String>> = variations
        .iter()
        .map(|one| {
            let mut row = vec![one.what.to_owned(), one.here.clone()];
            for (to, comparison) in &one.tries {
                row.extend([to.clone(), cell(comparison, one.told)]);
            }
            row
        })
        .collect();
    lines(
        &["assumed", "here", "or", "advantage  ", "or", "advantage  "],
        &rows,
    )
}

/// What came of a search.
fn found(search: &Search) -> String {
    let scaled = |value: u64| number(value.saturating_mul(search.unit));
    let (what, unit) = match search.axis {
        Axis::Transfers => ("transfers a mapping", ""),
        Axis::Trap => ("a trap", " ns"),
        Axis::Devices => ("devices", ""),
        Axis::Buffers => ("working set of a device", " KiB"),
    };
    let ends = (search.points.first(), search.points.last());
    let (Some((low, _)), Some((high, _))) = ends else {
        return format!("{what}: not searched");
    };
    let here = match search.here {
        Some(here) => format!("{}{unit}", scaled(here)),
        None => "static".to_owned(),
    };
    let (below, above) = search.sides();
    // The end of what was looked at is exact.
    let about = |flip: &Flip| {
        let (before, at) = (flip.before.0, flip.at.0);
        at - before > 1 && before >= *low && at <= *high
    };
    let mut all = Vec::new();
    let hidden = below.len().saturating_sub(TOLD) + above.len().saturating_sub(TOLD);
    for flip in below.iter().rev().take(TOLD).rev() {
        let near = if about(flip) { "about " } else { "" };
        let (value, better) = flip.before;
        all.push(format!(
            "up to {near}{}{unit} {}",
            scaled(value),
            better.words()
        ));
    }
    for flip in above.iter().take(TOLD) {
        let near = if about(flip) { "about " } else { "" };
        let (value, better) = flip.at;
        all.push(format!(
            "from {near}{}{unit} on {}",
            scaled(value),
            better.words()
        ));
    }
    if hidden > 0 {
        all.push(format!("and {hidden} changes more"));
    }
    if all.is_empty() {
        all.push(format!(
            "nothing from {} to {}{unit} changes it",
            scaled(*low),
            scaled(*high)
        ));
    }
    format!("{what} ({here} here): {}", all.join(", "))
}

/// With commas.
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(here: Option<u64>, base: Better, points: &[(u64, Better)]) -> String {
        found(&Search {
            axis: Axis::Transfers,
            here,
            base,
            unit: 1,
            points: points.to_vec(),
        })
    }

    #[test]
    fn changes_are_told_from_where_it_stands() {
        use Better::{Neither, Nested, Paravirt};
        let points = [
            (1, Nested),
            (3, Nested),
            (4, Neither),
            (9, Neither),
            (10, Paravirt),
            (10_000, Paravirt),
        ];
        assert_eq!(
            search(Some(1), Nested, &points),
            "transfers a mapping (1 here): from 4 on no difference that matters, from 10 on paravirt is better"
        );
        assert_eq!(
            search(Some(9), Neither, &points),
            "transfers a mapping (9 here): up to 3 nested is better, from 10 on paravirt is better"
        );
        assert_eq!(
            search(None, Paravirt, &points),
            "transfers a mapping (static here): up to 3 nested is better, up to 9 no difference that matters"
        );
        let same = [(1, Nested), (10_000, Nested)];
        assert_eq!(
            search(Some(1), Nested, &same),
            "transfers a mapping (1 here): nothing from 1 to 10,000 changes it"
        );
        // What holds for ever is not what holds up to the end of what was looked at.
        assert_eq!(
            search(None, Paravirt, &same),
            "transfers a mapping (static here): up to 10,000 nested is better"
        );
        let wide = [
            (1, Nested),
            (1000, Nested),
            (1019, Paravirt),
            (10_000, Paravirt),
        ];
        assert_eq!(
            search(Some(1), Nested, &wide),
            "transfers a mapping (1 here): from about 1,019 on paravirt is better"
        );
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(number),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
