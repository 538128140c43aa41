//! `cargo xtask run`: the demonstration.

use crate::options::{HostIommu, Options};
use anyhow::Context;
use clap::Args;
use portcullis_testbed::check::Report;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::setup::Lab;
use portcullis_testbed::{build, demo, shell};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Boot Debian under the hypervisor and show what cannot get through it.
///
/// Exit status 0 exactly when every check held.
#[derive(Args)]
pub struct Run {
    /// Give an interactive shell in the host instead.
    #[arg(long)]
    shell: bool,
    /// Write every check with its figures to this file.
    #[arg(long, value_name = "FILE", conflicts_with = "shell")]
    json: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

impl Run {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lab = self.options.set_up()?;
        let payloads = build::payloads(&lab)?;
        let image = build::hypervisor(&lab)?;
        let purpose = match self.options.host_iommu {
            _ if self.shell => Purpose::Shell,
            HostIommu::Identity => Purpose::Agent,
            HostIommu::Nested | HostIommu::Paravirt => Purpose::Proof,
        };
        let module = match self.options.host_iommu {
            // Only a kernel can ask for mappings of its own choice.
            HostIommu::Paravirt if !self.shell => Some(build::dma_bench(&lab)?),
            _ => None,
        };
        let more: Vec<&Path> = module.iter().map(PathBuf::as_path).collect();
        let initrd = initramfs::build_with(&lab, &payloads, purpose, &more)?;
        let machine = self.options.machine(&image, &lab.kernel.image, &initrd);
        if self.shell {
            let good = shell::run(&lab, machine)?;
            return Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        let report = demo::run(&lab, machine, "run")?;
        println!("\n{}", report.table());
        if let Some(path) = &self.json {
            write_json(path, &report.json("run"))?;
        }
        Ok(verdict(&report, &lab))
    }
}

/// Says whether all checks held, and returns the exit status for it.
pub fn verdict(report: &Report, lab: &Lab) -> ExitCode {
    if report.held() {
        println!("All {} checks held.", report.checks().len());
        return ExitCode::SUCCESS;
    }
    let failed = report.checks().iter().filter(|check| !check.held).count();
    println!("{failed} of {} checks FAILED.", report.checks().len());
    println!("Logs: {}", lab.workspace.output().join("logs").display());
    ExitCode::FAILURE
}

/// Writes a report for programs.
pub fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
