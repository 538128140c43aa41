//! `bench.json`: every figure of a run, for programs.
//!
//! The format is described for its readers in `docs/bench.md`, and [`SCHEMA`]
//! changes when a field does not mean any more what it meant before, or is gone;
//! fields that are added leave it as it is. Figures are instructions unless their
//! name says something else; `null`, or a field that is not there, was not
//! measured.

use super::dma::Figures;
use super::lines::{Line, Mode};
use super::parts::Parts;
use super::symbols::Purpose;
use super::traffic::Traffic;
use super::work::{Statistic, Work};
use super::{Row as Comparison, interrupts, scale};
use crate::setup::Lab;
use crate::workspace;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The version of the format.
pub const SCHEMA: u32 = 1;

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `bench`.
    pub command: String,
    /// What was measured on.
    pub facts: Facts,
    /// What the host pays for its DMA.
    pub rows: Vec<Row>,
    /// What is to be reached in them.
    pub goals: Vec<Goal>,
    /// Where the instructions go.
    pub breakdown: Vec<Breakdown>,
    /// What the hypervisor takes from the host.
    pub memory: Vec<Memory>,
    /// Few mappings and many.
    pub scale: Vec<Scaled>,
    /// Commands to the interrupt translation service.
    #[serde(default)]
    pub interrupts: Vec<Interrupts>,
    /// What forgetting the host's branch history on each entry costs.
    #[serde(default)]
    pub branch_history: BranchHistory,
    /// The same host with and without the hypervisor.
    pub guest: Vec<Compared>,
    /// The page-table crate and others, on the build machine, in nanoseconds.
    pub pagetable: Vec<Compared>,
}

/// What was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// QEMU's version.
    pub qemu: String,
    /// The package of the host's kernel, or its file.
    pub kernel: String,
    /// The commit of the sources; none outside of a repository.
    pub commit: Option<String>,
    /// Whether files were changed since.
    pub modified: bool,
    /// QEMU's name of the CPU.
    pub cpu: String,
    /// RAM, as QEMU writes it.
    pub memory: String,
    /// What makes the figures repeat.
    pub recipe: String,
}

/// One piece of work in one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How the host gets its IOMMU: `native`, `no translation`, `identity`,
    /// `nested`, `device free` or `paravirt`.
    pub column: String,
    /// `strict` or `lazy`.
    pub setting: String,
    /// `map`, `unmap`, `map_unmap` (both, on several CPUs), `vfio_map`,
    /// `vfio_unmap`, `vfio_map_unmap`, `nvme_read`, `e1000e_echo` or
    /// `e1000e_datagram`.
    pub operation: String,
    /// Bytes of one operation.
    pub size: u64,
    /// CPUs that work at once.
    pub cpus: u32,
    /// Of all the times it was measured, which one `value` is.
    pub statistic: Statistic,
    /// Instructions, at all exception levels.
    pub value: f64,
    /// The median.
    pub median: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// EL2 entries.
    pub el2_entries: Option<f64>,
    /// Instructions of them at EL2, counted by the CPU.
    pub el2_instructions: Option<f64>,
    /// About the same as a difference to a column without a hypervisor: `native`
    /// for `nested`, `no translation` for `identity`, `device free` for
    /// `paravirt`. It also has what the host's driver does differently.
    pub el2_difference: Option<f64>,
    /// Commands that the SMMU consumed, in all.
    pub commands: Option<f64>,
    /// Table entries that its walker read.
    pub walker_reads: Option<f64>,
    /// The same by kind.
    pub traffic: Option<Traffic>,
}

/// Something to be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// The row, for people.
    pub name: String,
    /// The column.
    pub column: String,
    /// What is to be reached, for people.
    pub goal: String,
    /// Instructions over those of the native column.
    pub ratio: Option<f64>,
    /// Whether it is.
    pub reached: bool,
}

/// Where the instructions of an operation go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// The column.
    pub column: String,
    /// `strict` or `lazy`.
    pub setting: String,
    /// As in [`Row`]; `map_unmap` for both, one after the other.
    pub operation: String,
    /// Bytes of one operation.
    pub size: u64,
    /// Instructions below EL2: the host's kernel and its driver.
    pub host: f64,
    /// Instructions at EL2, by what they are for.
    pub el2: BTreeMap<Purpose, f64>,
    /// All of those, by QEMU's log of executed blocks.
    pub el2_traced: f64,
    /// All of those, as the CPU counted them in the same run.
    pub el2_counted: f64,
}

/// A mapping and an unmapping of 4 KiB, among few and among many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaled {
    /// Among what.
    pub name: String,
    /// With a virtio-iommu whose work is free.
    pub free: Option<[f64; 2]>,
    /// With the hypervisor's.
    pub paravirt: Option<[f64; 2]>,
    /// EL2's share among many over that among few.
    pub ratio: Option<f64>,
    /// Whether it is what it is to be.
    pub reached: bool,
}

/// A call that has Linux send commands to the interrupt translation service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interrupts {
    /// What is called.
    pub name: String,
    /// The commands that Linux sends.
    pub commands: String,
    /// Instructions in all, without the hypervisor: the median, as the next ones are.
    pub native: f64,
    /// The same with it, and `bhb=off`.
    pub with: f64,
    /// The same with it as it is.
    pub by_default: f64,
    /// EL2 entries.
    pub el2_entries: f64,
    /// Instructions of them at EL2, with `bhb=off`.
    pub el2_instructions: f64,
    /// Those of the most expensive call.
    pub el2_most: f64,
    /// Instructions at EL2 without `bhb=off`.
    pub el2_by_default: f64,
    /// What is to be reached, for people.
    pub goal: String,
    /// Whether it is.
    pub reached: bool,
}

/// What forgetting the host's branch history costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BranchHistory {
    /// Instructions for each entry: the middle one of the rows.
    pub each: Option<f64>,
    /// What is to be reached, for people.
    pub goal: String,
    /// Whether it is.
    pub reached: bool,
    /// Operations with entries and without.
    pub rows: Vec<Forgotten>,
}

/// The same of one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Which one.
    pub name: String,
    /// Instructions in all, with `bhb=off` and without.
    pub all: [f64; 2],
    /// The same of EL2.
    pub el2: [f64; 2],
    /// EL2 entries.
    pub el2_entries: f64,
    /// Instructions for each entry; none where there is no entry.
    pub each: Option<f64>,
    /// Whether an operation without an entry is what it was.
    pub reached: bool,
}

/// One figure with and without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// What was measured.
    pub name: String,
    /// The unit of the figures.
    pub unit: String,
    /// Without the hypervisor, or of the best rival.
    pub baseline: Option<f64>,
    /// With it.
    pub measured: f64,
    /// Measured over baseline.
    pub ratio: Option<f64>,
    /// What is to be reached, for people.
    pub goal: String,
    /// Whether it is.
    pub reached: bool,
}

/// What the hypervisor takes from the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The column.
    pub column: String,
    /// Which memory.
    pub what: String,
    /// Its size.
    pub bytes: u64,
}

impl Row {
    /// Whether another column has the same work, of the same host.
    #[must_use]
    pub fn same_work(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            (
                row.operation.clone(),
                row.size,
                row.setting.clone(),
                row.cpus,
            )
        };
        key(self) == key(other)
    }

    /// What it is, for people.
    #[must_use]
    pub fn name(&self) -> String {
        let words = words(&self.operation, self.size);
        match self.cpus {
            1 => format!("{words}, {}", self.setting),
            cpus => format!("{words}, {}, {cpus} CPUs", self.setting),
        }
    }
}

impl Breakdown {
    /// What it is of, for people.
    #[must_use]
    pub fn words(&self) -> String {
        words(&self.operation, self.size)
    }
}

fn words(operation: &str, size: u64) -> String {
    Work::of(operation, size).map_or_else(|| operation.to_owned(), Work::words)
}

impl Facts {
    /// What the figures of `lab` depend on.
    #[must_use]
    pub fn of(lab: &Lab, cpu: &str, memory: &str) -> Self {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.args(arguments).current_dir(lab.workspace.root());
            // Sources without a repository are sources all the same.
            let output = command.output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(text)
        };
        let kernel = &lab.kernel;
        Self {
            qemu: lab.qemu.version().to_string(),
            kernel: kernel
                .package
                .clone()
                .unwrap_or_else(|| kernel.image.display().to_string()),
            commit: git(&["rev-parse", "HEAD"]),
            modified: git(&["status", "--porcelain", "--untracked-files=no"])
                .is_some_and(|text| !text.is_empty()),
            cpu: cpu.to_owned(),
            memory: memory.to_owned(),
            recipe: crate::machine::COUNTED.join(" "),
        }
    }
}

impl Results {
    /// Puts everything together.
    #[must_use]
    pub fn new(facts: Facts, parts: &Parts) -> Self {
        let figures = &parts.dma;
        let memory = figures.memory.iter().flat_map(|(mode, all)| {
            all.iter().map(|(what, bytes)| Memory {
                column: mode.word().to_owned(),
                what: what.clone(),
                bytes: *bytes,
            })
        });
        Self {
            schema: SCHEMA,
            command: "bench".to_owned(),
            facts,
            rows: figures.lines.iter().flat_map(in_columns).collect(),
            goals: figures.lines.iter().flat_map(goals).collect(),
            breakdown: breakdown(figures),
            memory: memory.collect(),
            scale: parts.scale.iter().map(scale::Row::result).collect(),
            interrupts: parts
                .interrupts
                .iter()
                .map(interrupts::Row::result)
                .collect(),
            branch_history: parts.branch_history.result(),
            guest: parts.guest.iter().map(Comparison::result).collect(),
            pagetable: parts.pagetable.iter().map(Comparison::result).collect(),
        }
    }

    /// Writes everything to `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when that is not possible.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| {
            Error::unsuitable(format!("figures that are no JSON: {error}"), "report this")
        })?;
        text.push('\n');
        workspace::write_atomically(path, text.as_bytes())
    }

    /// Reads what [`Results::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::Unsuitable`] with the place and what is wrong there
    /// when the file is something else.
    pub fn load(path: &Path) -> Result<Self> {
        let unsuitable = |what: String| {
            let fix = format!("name a file that `cargo xtask bench` of schema {SCHEMA} wrote");
            Error::unsuitable(format!("{}: {what}", path.display()), fix)
        };
        let text = std::fs::read_to_string(path).map_err(Error::io("cannot read", path))?;
        let results: Self =
            serde_json::from_str(&text).map_err(|error| unsuitable(error.to_string()))?;
        if results.schema != SCHEMA {
            return Err(unsuitable(format!("it has schema {}", results.schema)));
        }
        Ok(results)
    }

    /// The row of `operation` in `column`.
    #[must_use]
    pub fn row(&self, column: Mode, setting: &str, operation: &str, size: u64) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.column == column.word()
                && row.setting == setting
                && row.operation == operation
                && row.size == size
                && row.cpus == 1
        })
    }
}

fn in_columns(line: &Line) -> Vec<Row> {
    let one = |(mode, sample): &(Mode, super::lines::Sample)| Row {
        column: mode.word().to_owned(),
        setting: line.setting.key().to_owned(),
        operation: line.work.key().to_owned(),
        size: line.work.bytes(),
        cpus: line.setting.cpus(),
        statistic: line.work.statistic(),
        value: sample.average,
        median: sample.spread.map(|(median, _)| median),
        p99: sample.spread.map(|(_, high)| high),
        el2_entries: sample.entries,
        el2_instructions: sample.el2,
        el2_difference: line.difference(*mode),
        commands: sample.traffic.map(|traffic| traffic.commands()),
        walker_reads: sample.traffic.map(|traffic| traffic.walker_reads),
        traffic: sample.traffic,
    };
    line.samples.iter().map(one).collect()
}

fn goals(line: &Line) -> Vec<Goal> {
    [Mode::Nested, Mode::Paravirt]
        .into_iter()
        .filter(|mode| line.of(*mode).is_some() && line.has_goal(*mode))
        .map(|mode| Goal {
            name: line.name(),
            column: mode.word().to_owned(),
            goal: line.goal_text(mode),
            ratio: line.ratio(mode),
            reached: line.reached_by(mode),
        })
        .collect()
}

fn breakdown(figures: &Figures) -> Vec<Breakdown> {
    let all = figures
        .profiles
        .iter()
        .filter_map(|(mode, setting, profile)| {
            let first = *profile.work.first()?;
            // What the work takes as a whole is known from the runs without a log.
            let whole: f64 = profile
                .work
                .iter()
                .filter_map(|work| {
                    let line = figures
                        .lines
                        .iter()
                        .find(|line| (line.work, line.setting) == (*work, *setting));
                    Some(line?.of(*mode)?.average)
                })
                .sum();
            let operation = match profile.work[..] {
                [one] => one.key(),
                _ => Work::Both(0).key(),
            };
            Some(Breakdown {
                column: mode.word().to_owned(),
                setting: setting.key().to_owned(),
                operation: operation.to_owned(),
                size: first.bytes(),
                host: whole - profile.counted,
                el2: profile.purposes.clone(),
                el2_traced: profile.traced(),
                el2_counted: profile.counted,
            })
        });
    all.collect()
}

#[cfg(test)]
pub(super) mod tests;
