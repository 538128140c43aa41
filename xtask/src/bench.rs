//! `cargo xtask bench`: what the hypervisor costs.

use crate::options::{HostIommu, Options};
use clap::{Args, ValueEnum};
use portcullis_testbed::bench::lines::{self, Mode};
use portcullis_testbed::bench::results::{Facts, Results};
use portcullis_testbed::bench::{self, against, dma, guest, pagetable, report, scale, tables};
use portcullis_testbed::build::{self, Payloads};
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::machine::Machine;
use portcullis_testbed::setup::Lab;
use portcullis_testbed::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compare with and without the hypervisor, and the page-table crate with others.
///
/// QEMU counts instructions instead of time here: the figures repeat on any
/// machine, and are no latencies; docs/bench.md says what they are. Exit status 0
/// when every goal is reached.
#[derive(Args)]
pub struct Bench {
    /// Write all figures to this file [default: target/portcullis/bench.json].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report for people to this file [default:
    /// target/portcullis/bench.html].
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each plot of the report to a file of its own in this directory, too.
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// Measure nothing: make tables and report of the figures in this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "only_guest", "only_dma"])]
    from: Option<PathBuf>,
    /// Say how far the figures are from those in this file, of an earlier run.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// What is in that file.
    #[arg(skip)]
    earlier: Option<Box<Results>>,
    /// Leave the page-table crate out.
    #[arg(long)]
    only_guest: bool,
    /// Measure only what the host pays for its DMA, under each way it can get
    /// an IOMMU.
    #[arg(long, conflicts_with = "only_guest")]
    only_dma: bool,
    /// The ways to measure, of native, untranslated (native, with
    /// iommu.passthrough=1), identity, nested, free (QEMU's own virtio-iommu,
    /// without the hypervisor) and paravirt.
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        default_value = "native,untranslated,identity,nested,free,paravirt"
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
    /// As native, but nothing is translated.
    Untranslated,
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
        // This run may leave its figures in the same file.
        let earlier = self.against.as_deref().map(Results::load).transpose()?;
        self.earlier = earlier.map(Box::new);
        if let Some(path) = &self.from {
            let results = Results::load(path)?;
            println!("{}", tables::text(&results));
            self.report(&Workspace::here(), &results)?;
            return Ok(ExitCode::SUCCESS);
        }
        let lab = self.options.set_up()?;
        // Before the sources can change.
        let facts = Facts::of(&lab, &self.options.cpu, &self.options.memory);
        let payloads = build::payloads(&lab)?;
        let image = build::counted_hypervisor(&lab)?;
        let initrd = initramfs::build(&lab, &payloads, Purpose::Agent)?;
        // Where the kernel lies must not differ from one boot to the next.
        let append = self.options.append.take().unwrap_or_default();
        self.options.append = Some(format!("nokaslr {append}").trim_end().to_owned());
        let machines = self.machines(&lab, &image, &payloads)?;
        let figures = dma::run(&lab, &machines)?;
        println!("\n{}", lines::text(&figures.lines));
        let many = scale::run(&lab, &machines)?;
        if !many.is_empty() {
            println!("{}", scale::text(&many));
        }
        if self.only_dma {
            return self.finish(&lab, facts, &[], &[], &figures, &many);
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
        self.finish(&lab, facts, &guest, &tables, &figures, &many)
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
            DmaMode::Untranslated => {
                let machine = self.options.native_machine(kernel, &initrd);
                (Mode::Untranslated, machine)
            }
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
        lab: &Lab,
        facts: Facts,
        guest: &[bench::Row],
        tables: &[bench::Row],
        figures: &dma::Figures,
        many: &[scale::Row],
    ) -> anyhow::Result<ExitCode> {
        let results = Results::new(facts, figures, many, guest, tables);
        let path = match &self.json {
            Some(path) => path.clone(),
            None => lab.workspace.output().join("bench.json"),
        };
        println!("{}", tables::text(&results));
        results.save(&path)?;
        println!("All figures: {}", path.display());
        self.report(&lab.workspace, &results)?;
        let rows = guest.iter().chain(tables);
        let missed = rows.filter(|row| !row.reached()).count()
            + figures.lines.iter().filter(|line| !line.reached()).count()
            + many.iter().filter(|row| !row.reached()).count();
        if missed == 0 {
            println!("Every goal is reached.");
            return Ok(ExitCode::SUCCESS);
        }
        println!("{missed} goals are MISSED.");
        Ok(ExitCode::FAILURE)
    }

    fn report(&self, workspace: &Workspace, results: &Results) -> anyhow::Result<()> {
        let path = match &self.html {
            Some(path) => path.clone(),
            None => workspace.output().join("bench.html"),
        };
        report::save(results, &path)?;
        println!("The report: {}", path.display());
        if let Some(directory) = &self.plots {
            for path in report::save_plots(results, directory)? {
                println!("A plot: {}", path.display());
            }
        }
        if let Some(earlier) = &self.earlier {
            let comparison = against::compare(earlier, results);
            println!("{}", against::text(&comparison));
        }
        Ok(())
    }
}
