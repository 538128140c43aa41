//! The page-table crate beside two others, as criterion measured them.

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
    // Figures of an earlier version must not be taken for this one's.
    let _ = fs::remove_dir_all(&results);
    let mut progress = Progress::spinner("measuring the page-table crate");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command
        .args(["bench", "--package", "portcullis-pagetable"])
        .current_dir(workspace.root());
    run_watched(
        "the benchmarks of the page-table crate",
        &mut command,
        "run `cargo bench -p portcullis-pagetable` by hand",
        |line| progress.note(line.trim()),
    )?;
    progress.done();
    rows(&results)
}

/// Reads what criterion left below `results`.
///
/// # Errors
///
/// [`Error::Unsuitable`] when there is nothing to compare.
pub fn rows(results: &Path) -> Result<Vec<Row>> {
    let mut groups: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for path in estimates(results) {
        // …/GROUP…/ID/new/estimates.json; a group may have slashes of its own,
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
        let Some(value) = median(&text) else { continue };
        let group = group.replace(['_', '/'], " ");
        groups
            .entry(group)
            .or_default()
            .insert(id.to_string_lossy().into_owned(), value);
    }
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

/// The median time in nanoseconds.
fn median(text: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(text).ok()?;
    value.get("median")?.get("point_estimate")?.as_f64()
}

/// All `new/estimates.json` below a directory.
fn estimates(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(estimates(&path));
        } else if path.ends_with("new/estimates.json") {
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
            let text = format!(r#"{{"median":{{"point_estimate":{value}}}}}"#);
            fs::write(path.join("estimates.json"), text).expect("a file");
        }
        let rows = rows(directory.path()).expect("rows");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].name, "map 4KiB (best other: other)");
        assert_eq!(rows[0].ratio(), Some(0.5));
        assert!(rows[0].reached());
    }

    #[test]
    fn nothing_measured_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(rows(directory.path()).is_err());
    }
}
