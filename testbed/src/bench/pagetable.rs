//! The page-table crate beside two others, as criterion measured them.
//!
//! Single operations take a few nanoseconds, and a machine with other work
//! switches between speeds that differ by more than the crates do. So the
//! benchmarks run several times over, and of each subject counts the best
//! round's tenth percentile: what the code takes when nothing is in its way.

use super::{Goal, Row};
use crate::setup::run_watched;
use crate::workspace::Workspace;
use crate::{Error, Result, progress::Progress};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of ours among the benchmark ids.
const OURS: &str = "portcullis";

/// Runs the benchmarks of the page-table crate and compares ours with the
/// fastest of the others, on every range and operation.
///
/// # Errors
///
/// [`Error::Program`] when they do not run, [`Error::Unsuitable`] when they
/// left no figures.
pub fn run(workspace: &Workspace) -> Result<Vec<Row>> {
    let results = workspace.target().join("criterion");
    let mut best = Groups::new();
    for round in 1..=ROUNDS {
        // Figures of an earlier round must not be taken for this one's.
        let _ = fs::remove_dir_all(&results);
        let what = format!("measuring the page-table crate, round {round} of {ROUNDS}");
        let mut progress = Progress::spinner(&what);
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .args(["bench", "--package", "portcullis-pagetable", "--bench"])
            .args(["pagetable", "--", "--noplot", "--warm-up-time", "0.3"])
            .args(["--measurement-time", "0.7"])
            .current_dir(workspace.root());
        run_watched(
            "the benchmarks of the page-table crate",
            &mut command,
            "run `cargo bench -p portcullis-pagetable` by hand",
            |line| progress.note(line.trim()),
        )?;
        progress.done();
        for (group, ids) in read(&results)? {
            let known = best.entry(group).or_default();
            for (id, value) in ids {
                let least = known.entry(id).or_insert(value);
                *least = least.min(value);
            }
        }
    }
    rows(best, &results)
}

/// Nanoseconds of each subject, for each operation and range.
type Groups = BTreeMap<String, BTreeMap<String, f64>>;

/// How often everything is measured.
const ROUNDS: u32 = 5;

/// Reads what criterion left below `results`.
fn read(results: &Path) -> Result<Groups> {
    let mut groups = Groups::new();
    for path in samples(results) {
        // …/GROUP…/ID/new/sample.json; a group may have slashes of its own,
        // which criterion keeps or turns into underscores.
        let Some(id_dir) = path.parent().and_then(Path::parent) else {
            continue;
        };
        let (Some(id), Some(group)) = (id_dir.file_name(), id_dir.parent()) else {
            continue;
        };
        let group = group
            .strip_prefix(results)
            .unwrap_or(group)
            .to_string_lossy();
        let text = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
        let Some(value) = tenth_percentile(&text) else {
            continue;
        };
        let group = group.replace(['_', '/'], " ");
        groups
            .entry(group)
            .or_default()
            .insert(id.to_string_lossy().into_owned(), value);
    }
    Ok(groups)
}

/// One row for each operation and range.
fn rows(groups: Groups, results: &Path) -> Result<Vec<Row>> {
    let rows: Vec<Row> = groups
        .into_iter()
        .filter_map(|(name, ids)| compare(name, &ids))
        .collect();
    if rows.is_empty() {
        return Err(Error::unsuitable(
            format!("criterion left nothing to compare in {}", results.display()),
            format!("groups such as map/4KiB with an id `{OURS}` and others"),
        ));
    }
    Ok(rows)
}

fn compare(name: String, ids: &BTreeMap<String, f64>) -> Option<Row> {
    let measured = *ids.get(OURS)?;
    let rival = ids
        .iter()
        .filter(|(id, _)| *id != OURS)
        .min_by(|a, b| a.1.total_cmp(b.1));
    let (suffix, baseline) = match rival {
        Some((id, value)) => (format!(" (best other: {id})"), Some(*value)),
        None => (String::new(), None),
    };
    let name = format!("{name}{suffix}");
    Some(Row {
        name,
        unit: "ns",
        baseline,
        measured,
        goal: Goal::RatioBelow(1.0),
    })
}

/// Nanoseconds of one operation, below which a tenth of the samples lie.
fn tenth_percentile(text: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(text).ok()?;
    let list = |key: &str| value.get(key)?.as_array();
    let mut samples: Vec<f64> = list("times")?
        .iter()
        .zip(list("iters")?)
        .filter_map(|(time, iterations)| Some(time.as_f64()? / iterations.as_f64()?))
        .collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 10).copied()
}

/// All `new/sample.json` below a directory.
fn samples(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(samples(&path));
        } else if path.ends_with("new/sample.json") {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_rival_is_the_baseline() {
        let directory = tempfile::tempdir().expect("a directory");
        for (id, value) in [
            ("portcullis", 10.0),
            ("aarch64-paging", 30.0),
            ("other", 20.0),
        ] {
            let path = directory.path().join("map_4KiB").join(id).join("new");
            fs::create_dir_all(&path).expect("a directory");
            // Twenty samples of 2, 4, … operations, one of them disturbed.
            let iters: Vec<f64> = (1..=20).map(|n| f64::from(n) * 2.0).collect();
            let mut times: Vec<f64> = iters.iter().map(|n| n * value).collect();
            times[7] *= 9.0;
            let text = serde_json::json!({ "iters": iters, "times": times }).to_string();
            fs::write(path.join("sample.json"), text).expect("a file");
        }
        let groups = read(directory.path()).expect("figures");
        let rows = rows(groups, directory.path()).expect("rows");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].name, "map 4KiB (best other: other)");
        assert_eq!(rows[0].ratio(), Some(0.5));
        assert!(rows[0].reached());
    }

    #[test]
    fn nothing_measured_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = read(directory.path()).expect("nothing");
        assert!(rows(groups, directory.path()).is_err());
    }
}
