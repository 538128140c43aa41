//! Counts from the file that `cargo xtask bench --json FILE` writes.

use crate::input::{self, InputError};
use crate::measured::{Measured, estimate};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use thiserror::Error;

/// The version of the file that is understood (docs/bench.md).
const SCHEMA: u64 = 1;

/// Why there are no counts in a file.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It is not what a benchmark writes.
    #[error("not what `cargo xtask bench --json FILE` writes: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version of the benchmark.
    #[error("its schema is {0}; {SCHEMA} is understood")]
    Schema(u64),
    /// Something was not measured.
    #[error("`{column}`, {operation}, {setting}: {wanted}; there are {found}")]
    Missing {
        /// For whom.
        column: &'static str,
        /// What of it.
        operation: &'static str,
        /// `strict` or `lazy`.
        setting: &'static str,
        /// What is needed.
        wanted: &'static str,
        /// Sizes that there are.
        found: usize,
    },
    /// What came of it cannot be read back.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// The benchmark's file, as far as it is of use here.
#[derive(Deserialize)]
struct Bench {
    schema: u64,
    facts: Facts,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Facts {
    qemu: String,
    kernel: String,
    commit: Option<String>,
    modified: bool,
    cpu: String,
}

#[derive(Deserialize)]
struct Row {
    column: String,
    setting: String,
    operation: String,
    size: u64,
    cpus: u32,
    value: f64,
    el2_instructions: Option<f64>,
}

/// Instructions by bytes: all of them, and EL2's among them.
type Points = BTreeMap<u64, (f64, f64)>;

const SETTINGS: [&str; 2] = ["strict", "lazy"];
const OPERATIONS: [&str; 2] = ["map", "unmap"];
/// Whose reads of pages that lie apart cost nothing for their mapping.
const UNTRANSLATED: &str = "no translation";
/// Bytes of such reads, and the runs of memory of the larger.
const READS: (u64, u64) = (4096, 131_072);
const RUNS: f64 = 32.0;

impl Bench {
    fn points(
        &self,
        column: &'static str,
        setting: &'static str,
        operation: &'static str,
        wanted: (&'static str, &[u64]),
    ) -> Result<Points, ImportError> {
        let rows = self.rows.iter().filter(|row| {
            (row.column.as_str(), row.setting.as_str()) == (column, setting)
                && (row.operation.as_str(), row.cpus) == (operation, 1)
        });
        let found: Points = rows
            .map(|row| (row.size, (row.value, row.el2_instructions.unwrap_or(0.0))))
            .collect();
        let (wanted, sizes) = wanted;
        if found.len() < 2 || sizes.iter().any(|size| !found.contains_key(size)) {
            return Err(ImportError::Missing {
                column,
                operation,
                setting,
                wanted,
                found: found.len(),
            });
        }
        Ok(found)
    }

    fn mapping(
        &self,
        column: &'static str,
        setting: &'static str,
        operation: &'static str,
    ) -> Result<Points, ImportError> {
        self.points(column, setting, operation, ("two sizes are needed", &[]))
    }

    /// What the larger of two reads takes more than the smaller.
    fn more_to_read(&self, column: &'static str) -> Result<(f64, f64), ImportError> {
        let (small, large) = READS;
        let wanted = ("4096 and 131072 bytes are needed", [small, large]);
        let reads = self.points(column, "strict", "nvme_read", (wanted.0, &wanted.1))?;
        let of = |size| reads.get(&size).copied().unwrap_or_default();
        let ((all, el2), (less, less_el2)) = (of(large), of(small));
        Ok((all - less, el2 - less_el2))
    }

    /// Instructions of each further run of memory, the host's and EL2's: what a read
    /// into pages that lie apart takes more than untranslated, less what one piece of
    /// that size does.
    fn further_run(&self, column: &'static str) -> Result<(f64, f64), ImportError> {
        let (all, el2) = self.more_to_read(column)?;
        let (none, _) = self.more_to_read(UNTRANSLATED)?;
        let (mut one, mut one_el2) = (0.0, 0.0);
        for operation in OPERATIONS {
            let points = self.mapping(column, "strict", operation)?;
            let list = |which: fn(&(f64, f64)) -> f64| -> Vec<(u64, u64)> {
                let counts = points
                    .iter()
                    .map(|(size, value)| (*size, count(which(value))));
                counts.collect()
            };
            let (small, large) = READS;
            let grows = |list: &[(u64, u64)]| estimate(list, large, 1) - estimate(list, small, 1);
            one += grows(&list(|value| value.0)).0;
            one_el2 += grows(&list(|value| value.1)).0;
        }
        let el2 = (el2 - one_el2) / (RUNS - 1.0);
        Ok(((all - none - one) / (RUNS - 1.0) - el2, el2))
    }
}

/// No fraction of an instruction matters.
fn count(instructions: f64) -> u64 {
    instructions.max(0.0).round() as u64
}

/// The counts as the text of a file for [`Measured`]. What no benchmark tells is taken
/// from the file that is built in.
///
/// # Errors
/// [`ImportError`].
pub fn import(json: &str) -> Result<String, ImportError> {
    let bench: Bench = serde_json::from_str(json)?;
    if bench.schema != SCHEMA {
        return Err(ImportError::Schema(bench.schema));
    }
    let facts = &bench.facts;
    let machine = format!(
        "QEMU {} virt, {}, 1 CPU, icount; {}; commit {}{}",
        facts.qemu,
        facts.cpu,
        facts.kernel,
        facts.commit.as_deref().unwrap_or("unknown"),
        if facts.modified { ", modified" } else { "" }
    );
    let mut text = format!(
        "{HEADING}command = \"cargo xtask bench\"\nmachine = {}\n",
        toml::Value::from(machine)
    );
    // Writing to a string does not fail.
    let row = |operation: &str, points: &Points, which: fn(&(f64, f64)) -> f64| {
        let pairs = points
            .iter()
            .map(|(bytes, value)| format!("[{bytes}, {}]", count(which(value))));
        let pairs: Vec<String> = pairs.collect();
        format!("{operation} = [{}]\n", pairs.join(", "))
    };
    for column in ["native", "identity", "nested", "paravirt"] {
        for setting in SETTINGS {
            let _ = write!(text, "\n[{column}.{setting}]\n");
            // A host without an IOMMU has nothing to put off.
            let setting = if column == "identity" {
                "strict"
            } else {
                setting
            };
            for operation in OPERATIONS {
                let points = bench.mapping(column, setting, operation)?;
                text.push_str(&row(operation, &points, |value| value.0));
            }
        }
    }
    for column in ["nested", "paravirt"] {
        for setting in SETTINGS {
            let _ = write!(text, "\n[el2.{column}.{setting}]\n");
            for operation in OPERATIONS {
                let points = bench.mapping(column, setting, operation)?;
                text.push_str(&row(operation, &points, |value| value.1));
            }
        }
    }
    let _ = write!(text, "\n[further_run]\nsource = \"{FURTHER}\"\n");
    for column in ["native", "nested", "paravirt"] {
        let (host, el2) = bench.further_run(column)?;
        let (host, el2) = (count(host), count(el2));
        let _ = writeln!(text, "{column} = {{ host = {host}, el2 = {el2} }}");
    }
    let built_in = include_str!("../measured/cortex-a76.toml");
    let rest = built_in.find("\n# What was not measured.").unwrap_or(0);
    text.push_str(built_in.get(rest..).unwrap_or_default());
    let _: Measured = input::parse(&text, "the result")?;
    Ok(text)
}

const HEADING: &str = "\
# Instructions of a map and an unmap, as QEMU counted them: the whole of it, that is the
# host's driver and EL2, and below EL2's share, which holds a lock. Between sizes the lab
# interpolates by pages, or from 2 MiB on by blocks.
# Made by `portcullis-lab import`.
";

const FURTHER: &str = "\
    (nvme_read of 131072 - of 4096 bytes, strict; less the same untranslated; less what a \
    map and an unmap of 131072 bytes in one piece take more than of 4096) / 31 runs; all of \
    it is counted for the map";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Mode;
    use crate::measured::Operation;
    use crate::scenario::Invalidation;
    use serde_json::{Value, json};

    /// In the shape of the benchmark's file: `base` instructions and one more for
    /// each page, ten for each page that lies apart.
    fn json() -> Value {
        let mut rows = Vec::new();
        let mut add =
            |column: &str, setting: &str, operation: &str, pages: u64, value: f64, el2: f64| {
                rows.push(json!({
                    "column": column, "setting": setting, "operation": operation,
                    "size": pages * 4096, "cpus": 1, "value": value,
                    "el2_instructions": (el2 > 0.0).then_some(el2), "other": null,
                }));
            };
        for (column, by, el2) in [
            ("native", 0.0, 0.0),
            ("no translation", -900.0, 0.0),
            ("identity", -900.0, 0.0),
            ("nested", 400.0, 300.0),
            ("paravirt", 1700.0, 400.0),
        ] {
            for (setting, more) in [("strict", 0.25), ("lazy", 50.0)] {
                for pages in [1, 16, 256] {
                    for (operation, base) in [("map", 1000.0), ("unmap", 2000.0)] {
                        let value = base + by + more + pages as f64;
                        add(column, setting, operation, pages, value, el2);
                    }
                }
            }
            let (apart, el2_apart) = match column {
                "native" | "nested" => (10.0, 0.0),
                "paravirt" => (30.0, 12.0),
                _ => (0.0, 0.0),
            };
            let translated = if apart > 0.0 { 2.0 } else { 0.0 };
            for pages in [1, 32] {
                let further = (pages - 1) as f64;
                let value = 9000.0 + further * (100.0 + translated + apart);
                add(
                    column,
                    "strict",
                    "nvme_read",
                    pages,
                    value,
                    el2 + further * el2_apart,
                );
            }
        }
        json!({
            "schema": 1,
            "facts": { "qemu": "10.0", "kernel": "Debian \"6.12\"", "commit": null,
                "modified": true, "cpu": "cortex-a76" },
            "rows": rows,
        })
    }

    #[test]
    fn rows_become_counts() {
        let text = import(&json().to_string()).unwrap();
        let measured: Measured = input::parse(&text, "text").unwrap();
        assert!(
            measured
                .machine
                .ends_with("Debian \"6.12\"; commit unknown, modified")
        );
        let cost = |mode, invalidation, operation, runs| {
            let cost = measured.cost(mode, invalidation, operation, (1 << 20, runs));
            (cost.host.0, cost.el2.0)
        };
        let (strict, lazy) = (Invalidation::Strict, Invalidation::Lazy);
        let (map, unmap) = (Operation::Map, Operation::Unmap);
        assert_eq!(cost(Mode::Native, strict, map, 1), (1256.0, 0.0));
        assert_eq!(cost(Mode::Native, strict, map, 3), (1276.0, 0.0));
        assert_eq!(cost(Mode::Nested, lazy, unmap, 1), (2406.0, 300.0));
        assert_eq!(cost(Mode::Paravirt, strict, map, 1), (2556.0, 400.0));
        assert_eq!(cost(Mode::Paravirt, strict, map, 11), (2736.0, 520.0));
        assert_eq!(cost(Mode::Identity, lazy, map, 7), (356.0, 0.0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = |json: &str| import(json).unwrap_err().to_string();
        assert!(said("{").starts_with("not what `cargo xtask bench --json FILE` writes: "));
        let text = json().to_string();
        let other = text.replace("\"schema\":1", "\"schema\":7");
        assert_eq!(said(&other), "its schema is 7; 1 is understood");
        assert_eq!(
            said(&text.replace("\"nested\"", "\"other\"")),
            "`nested`, map, strict: two sizes are needed; there are 0"
        );
        assert_eq!(
            said(&text.replace("131072", "65536")),
            "`native`, nvme_read, strict: 4096 and 131072 bytes are needed; there are 2"
        );
    }
}
