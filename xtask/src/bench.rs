//! `cargo xtask bench`: what the hypervisor costs.

use crate::options::{HostIommu, Options};
use crate::run::write_json;
use clap::{Args, ValueEnum};
use portcullis_testbed::bench::lines::{self, Line, Mode};
use portcullis_testbed::bench::{self, dma, guest, pagetable, scale};
use portcullis_testbed::build::{self, Payloads};
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::machine::Machine;
use portcullis_testbed::setup::Lab;
use std::path::{Path, PathBuf};
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
    /// Measure only what the host pays for its DMA, under each way it can get
    /// an IOMMU.
    #[arg(long, conflicts_with = "only_guest")]
    only_dma: bool,
    /// The ways to measure, of native, identity, nested, free (QEMU's own
    /// virtio-iommu, without the hypervisor) and paravirt.
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        default_value = "native,identity,nested,free,paravirt"
    )]
    modes: Vec<DmaMode>,
    #[command(flatten)]
    options: Options,
}

/// A way for the host to get its IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DmaMode {
    /// From the machine, which has no hypervisor.
    Native,
    /// Not at all.
    Identity,
    /// Emulated.
    Nested,
    /// From the machine, a virtio-iommu whose work no instruction pays for.
    Free,
    /// A virtio-iommu.
    Paravirt,
}

impl Bench {
    /// Runs the command.
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        let lab = self.options.set_up()?;
        let payloads = build::payloads(&lab)?;
        let image = build::hypervisor(&lab)?;
        let initrd = initramfs::build(&lab, &payloads, Purpose::Agent)?;
        // Where the kernel lies must not differ from one boot to the next.
        let append = self.options.append.take().unwrap_or_default();
        self.options.append = Some(format!("nokaslr {append}").trim_end().to_owned());
        let machines = self.machines(&lab, &image, &payloads)?;
        let lines = dma::run(&lab, &machines)?;
        println!("\n{}", lines::text(&lines));
        let many = scale::run(&lab, &machines)?;
        if !many.is_empty() {
            println!("{}", scale::text(&many));
        }
        if self.only_dma {
            return self.finish(&[], &[], &lines, &many);
        }
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
        self.finish(&guest, &tables, &lines, &many)
    }

    /// The same host natively and in every mode.
    fn machines(
        &self,
        lab: &Lab,
        image: &Path,
        payloads: &Payloads,
    ) -> anyhow::Result<Vec<(Mode, Machine)>> {
        let module = build::dma_bench(lab)?;
        let initrd = initramfs::build_with(lab, payloads, Purpose::Proof, &[&module])?;
        let kernel = &lab.kernel.image;
        let under = |host_iommu| {
            let options = Options {
                host_iommu,
                ..self.options.clone()
            };
            options.machine(image, kernel, &initrd)
        };
        let machines = self.modes.iter().map(|mode| match mode {
            DmaMode::Native => (Mode::Native, self.options.native_machine(kernel, &initrd)),
            DmaMode::Identity => (Mode::Identity, under(HostIommu::Identity)),
            DmaMode::Nested => (Mode::Nested, under(HostIommu::Nested)),
            DmaMode::Free => {
                let mut machine = self.options.native_machine(kernel, &initrd);
                machine.virtio_iommu = true;
                (Mode::Free, machine)
            }
            DmaMode::Paravirt => (Mode::Paravirt, under(HostIommu::Paravirt)),
        });
        Ok(machines.collect())
    }

    fn finish(
        &self,
        guest: &[bench::Row],
        tables: &[bench::Row],
        lines: &[Line],
        many: &[scale::Row],
    ) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.json {
            let value = serde_json::json!({
                "command": "bench",
                "guest": bench::rows_json(guest),
                "dma": lines::json(lines),
                "scale": scale::json(many),
                "pagetable": bench::rows_json(tables),
            });
            write_json(path, &value)?;
        }
        let rows = guest.iter().chain(tables);
        let missed = rows.filter(|row| !row.reached()).count()
            + lines.iter().filter(|line| !line.reached()).count()
            + many.iter().filter(|row| !row.reached()).count();
        if missed == 0 {
            println!("Every goal is reached.");
            return Ok(ExitCode::SUCCESS);
        }
        println!("{missed} goals are MISSED.");
        Ok(ExitCode::FAILURE)
    }
}
