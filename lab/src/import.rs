//! Counts from the file that `cargo xtask bench --json FILE` writes.

use crate::input::{self, InputError};
use crate::measured::Measured;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use thiserror::Error;

/// Why there are no counts in a file.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It is no JSON.
    #[error("not the JSON of a benchmark: {0}")]
    Json(#[from] serde_json::Error),
    /// It has no list of what DMA takes.
    #[error("there is no list `dma`; it is there after `cargo xtask bench --only-dma --json FILE`")]
    NoDma,
    /// A way was not measured, or not for two sizes.
    #[error("`{mode}`, {what}: two sizes at least are needed, there are {found}")]
    Missing {
        /// Which way.
        mode: &'static str,
        /// What of it.
        what: String,
        /// Sizes that there are.
        found: usize,
    },
    /// What came of it cannot be read back.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// Averages by bytes.
type Points = BTreeMap<u64, f64>;

const SETTINGS: [&str; 2] = ["strict", "lazy"];
const OPERATIONS: [&str; 2] = ["map", "unmap"];

/// All averages of one way, setting and operation.
fn points(list: &[Value], mode: &str, setting: &str, operation: &str) -> Points {
    let line = |line: &Value| -> Option<(u64, f64)> {
        let name = line.get("name")?.as_str()?;
        let (what, found) = name.rsplit_once(", ")?;
        let (verb, size) = what.split_once(' ')?;
        if (found, verb) != (setting, operation) {
            return None;
        }
        let (count, unit) = size.split_once(' ')?;
        let shift = match unit {
            "KiB" => 10,
            "MiB" => 20,
            _ => return None,
        };
        let bytes = count.parse::<u64>().ok()?.checked_shl(shift)?;
        let average = line.get("samples")?.get(mode)?.get("average")?.as_f64()?;
        Some((bytes, average))
    };
    list.iter().filter_map(line).collect()
}

/// The counts as the text of a file for [`Measured`]; `machine` says on what they were
/// made. What no benchmark tells is taken from the file that is built in.
///
/// # Errors
/// [`ImportError`].
pub fn import(json: &str, machine: &str) -> Result<String, ImportError> {
    let value: Value = serde_json::from_str(json)?;
    let list = value.get("dma").and_then(Value::as_array);
    let list = list.ok_or(ImportError::NoDma)?;
    let of = |mode: &'static str, setting: &str, operation: &str| {
        let found = points(list, mode, setting, operation);
        if found.len() < 2 {
            return Err(ImportError::Missing {
                mode,
                what: format!("{operation}, {setting}"),
                found: found.len(),
            });
        }
        Ok(found)
    };
    let mut text = format!(
        "command = \"cargo xtask bench --only-dma --json\"\nmachine = {}\n",
        toml::Value::from(machine)
    );
    // Writing to a string does not fail.
    let row = |operation: &str, points: &Points| {
        let pairs = points.iter().map(|(bytes, count)| {
            // Instructions: no fraction of one matters.
            format!("[{bytes}, {}]", count.max(0.0).round() as u64)
        });
        let pairs: Vec<String> = pairs.collect();
        format!("{operation} = [{}]\n", pairs.join(", "))
    };
    for mode in ["native", "identity", "nested", "paravirt"] {
        for setting in SETTINGS {
            let _ = write!(text, "\n[{mode}.{setting}]\n");
            // A host without an IOMMU has nothing to put off.
            let setting = if mode == "identity" {
                "strict"
            } else {
                setting
            };
            for operation in OPERATIONS {
                text.push_str(&row(operation, &of(mode, setting, operation)?));
            }
        }
    }
    for (mode, without) in [("nested", "native"), ("paravirt", "device free")] {
        for setting in SETTINGS {
            let _ = write!(text, "\n[el2.{mode}.{setting}]\n");
            for operation in OPERATIONS {
                let mut share = of(mode, setting, operation)?;
                let without = of(without, setting, operation)?;
                share.retain(|bytes, count| {
                    *count -= without.get(bytes).copied().unwrap_or(f64::NAN);
                    count.is_finite()
                });
                text.push_str(&row(operation, &share));
            }
        }
    }
    let built_in = include_str!("../measured/cortex-a76.toml");
    let rest = built_in.find("\n# What was not measured.").unwrap_or(0);
    text.push_str(built_in.get(rest..).unwrap_or_default());
    let _: Measured = input::parse(&text, "the result")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Mode;
    use crate::measured::Operation;
    use crate::scenario::Invalidation;
    use serde_json::json;

    /// In the shape of the benchmark's file: `base` instructions and one more for
    /// each page.
    fn json() -> Value {
        let mut lines = Vec::new();
        for (setting, more) in [("strict", 0.25), ("lazy", 50.0)] {
            for (size, pages) in [("4 KiB", 1.0), ("1 MiB", 256.0)] {
                for (operation, base) in [("map", 1000.0), ("unmap", 2000.0)] {
                    let average = |by: f64| json!({ "average": base + by + more + pages });
                    lines.push(json!({
                        "name": format!("{operation} {size}, {setting}"),
                        "samples": {
                            "native": average(0.0),
                            "identity": average(-900.0),
                            "nested": average(400.0),
                            "device free": average(1300.0),
                            "paravirt": average(1700.0),
                        },
                    }));
                }
            }
        }
        lines.push(json!({ "name": "NVMe read of 4 KiB, strict", "samples": {} }));
        json!({ "command": "bench", "dma": lines })
    }

    #[test]
    fn averages_become_counts() {
        let text = import(&json().to_string(), "a \"machine\"").unwrap();
        let measured: Measured = input::parse(&text, "text").unwrap();
        assert_eq!(measured.machine, "a \"machine\"");
        let cost = |mode, invalidation, operation| {
            let cost = measured.cost(mode, invalidation, operation, 1 << 20);
            (cost.host.0, cost.el2.0)
        };
        let (strict, lazy) = (Invalidation::Strict, Invalidation::Lazy);
        assert_eq!(cost(Mode::Native, strict, Operation::Map), (1256.0, 0.0));
        assert_eq!(cost(Mode::Nested, lazy, Operation::Unmap), (2306.0, 400.0));
        assert_eq!(
            cost(Mode::Paravirt, strict, Operation::Map),
            (2556.0, 400.0)
        );
        assert_eq!(cost(Mode::Identity, lazy, Operation::Map), (356.0, 0.0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = |json: &str| import(json, "m").unwrap_err().to_string();
        assert!(said("{").starts_with("not the JSON of a benchmark: "));
        assert!(said("{}").contains("--only-dma"));
        let without = json().to_string().replace("\"nested\"", "\"other\"");
        assert_eq!(
            said(&without),
            "`nested`, map, strict: two sizes at least are needed, there are 0"
        );
    }
}
