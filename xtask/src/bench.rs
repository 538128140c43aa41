//! `cargo xtask bench`: what the hypervisor costs.

use crate::options::Options;
use crate::run::write_json;
use clap::Args;
use portcullis_lab::bench::{self, guest, pagetable};
use portcullis_lab::build;
use portcullis_lab::initramfs::{self, Purpose};
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare with and without the hypervisor, and the page-table crate with others.
///
/// QEMU counts instructions instead of time here, on one CPU: the figures repeat
/// on any machine, and are no latencies. Exit status 0 when every goal is reached.
#[derive(Args)]
pub struct Bench {
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the page-table crate out.
    #[arg(long)]
    only_guest: bool,
    #[command(flatten)]
    options: Options,
}

impl Bench {
    /// Runs the command.
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        let lab = self.options.set_up()?;
        let payloads = build::payloads(&lab)?;
        let image = build::hypervisor(&lab)?;
        let initrd = initramfs::build(&lab, &payloads, Purpose::Agent)?;
        // Where the kernel lies must not differ from one boot to the next.
        let append = self.options.append.unwrap_or_default();
        self.options.append = Some(format!("nokaslr {append}").trim_end().to_owned());
        let with = self.options.machine(&image, &lab.kernel.image, &initrd);
        let without = self.options.native_machine(&lab.kernel.image, &initrd);
        let ram = self.options.memory_bytes();
        let guest = guest::run(&lab, &image, with, without, ram)?;
        println!("\n{}", bench::text(&guest, ["without", "with"]));
        let tables = if self.only_guest {
            Vec::new()
        } else {
            pagetable::run(&lab.workspace)?
        };
        if !self.only_guest {
            println!("{}", bench::text(&tables, ["best other", "portcullis"]));
        }
        if let Some(path) = &self.json {
            let value = serde_json::json!({
                "command": "bench",
                "guest": bench::rows_json(&guest),
                "pagetable": bench::rows_json(&tables),
            });
            write_json(path, &value)?;
        }
        let missed = guest
            .iter()
            .chain(&tables)
            .filter(|row| !row.reached())
            .count();
        if missed == 0 {
            println!("Every goal is reached.");
            return Ok(ExitCode::SUCCESS);
        }
        println!("{missed} goals are MISSED.");
        Ok(ExitCode::FAILURE)
    }
}
