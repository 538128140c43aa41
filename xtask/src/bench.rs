//! `cargo xtask bench`: what the hypervisor costs.

use crate::options::{HostIommu, Options};
use clap::{Args, ValueEnum};
use portcullis_testbed::bench::lines::{self, Mode};
use portcullis_testbed::bench::parts::Parts;
use portcullis_testbed::bench::results::{Facts, Results};
use portcullis_testbed::bench::{
    self, against, bhb, dma, guest, interrupts, pagetable, report, scale, tables,
};
use portcullis_testbed::build;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::machine::Machine;
use portcullis_testbed::setup::Lab;
use portcullis_testbed::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the hypervisor is told for the figures that have goals: without it, it also
/// forgets the host's branch history on each entry, which is a figure of its own.
const BHB_OFF: &str = "bhb=off";

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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "only_guest", "only_dma", "only_interrupts"])]
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
    /// Measure only what the host pays for the commands it sends to the interrupt
    /// translation service.
    #[arg(long, conflicts_with_all = ["only_guest", "only_dma"])]
    only_interrupts: bool,
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
        if self
            .options
            .hypervisor_append
            .iter()
            .any(|text| text.contains("bhb="))
        {
            anyhow::bail!("leave bhb= away: what it costs is measured beside everything else");
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
        let modules = [build::dma_bench(&lab)?, build::irq_bench(&lab)?];
        let modules = modules.each_ref().map(PathBuf::as_path);
        let proof = initramfs::build_with(&lab, &payloads, Purpose::Proof, &modules)?;
        let mut parts = Parts::default();
        if !self.only_dma {
            parts.interrupts = self.interrupts(&lab, &image, &proof)?;
            println!("\n{}", interrupts::text(&parts.interrupts));
        }
        if self.only_interrupts {
            return self.finish(&lab, facts, &parts);
        }
        let machines = self.machines(&lab, &image, &proof, BHB_OFF);
        parts.dma = dma::run(&lab, &machines)?;
        println!("\n{}", lines::text(&parts.dma.lines));
        parts.scale = scale::run(&lab, &machines)?;
        if !parts.scale.is_empty() {
            println!("{}", scale::text(&parts.scale));
        }
        let machines = self.machines(&lab, &image, &proof, "");
        parts.branch_history = bhb::run(&lab, &machines, &parts.dma, &parts.interrupts)?;
        println!("\n{}", parts.branch_history.text());
        if self.only_dma {
            return self.finish(&lab, facts, &parts);
        }
        let with = self.options.machine(&image, &lab.kernel.image, &initrd);
        let without = self.options.native_machine(&lab.kernel.image, &initrd);
        let ram = self.options.memory_bytes();
        parts.guest = guest::run(&lab, &image, with, without, ram)?;
        println!("\n{}", bench::text(&parts.guest, ["without", "with"]));
        if !self.only_guest {
            parts.pagetable = pagetable::run(&lab.workspace)?;
            println!(
                "{}",
                bench::text(&parts.pagetable, ["best other", "portcullis"])
            );
        }
        self.finish(&lab, facts, &parts)
    }

    /// Commands to the interrupt translation service.
    fn interrupts(
        &self,
        lab: &Lab,
        image: &Path,
        initrd: &Path,
    ) -> anyhow::Result<Vec<interrupts::Row>> {
        let under = |arguments| {
            let options = self.under(HostIommu::Identity, arguments);
            options.machine(image, &lab.kernel.image, initrd)
        };
        let native = self.options.native_machine(&lab.kernel.image, initrd);
        Ok(interrupts::run(lab, native, under(BHB_OFF), under(""))?)
    }

    /// The options of a machine with the hypervisor, which has `arguments`, too.
    fn under(&self, host_iommu: HostIommu, arguments: &str) -> Options {
        let more = self
            .options
            .hypervisor_append
            .as_deref()
            .unwrap_or_default();
        Options {
            host_iommu,
            hypervisor_append: Some(format!("{more} {arguments}").trim().to_owned()),
            ..self.options.clone()
        }
    }

    /// The same host natively and in every mode, with more arguments for the
    /// hypervisor.
    fn machines(
        &self,
        lab: &Lab,
        image: &Path,
        initrd: &Path,
        arguments: &str,
    ) -> Vec<(Mode, Machine)> {
        let kernel = &lab.kernel.image;
        let under = |host_iommu| {
            let options = self.under(host_iommu, arguments);
            options.machine(image, kernel, initrd)
        };
        let machines = self.modes.iter().map(|mode| match mode {
            DmaMode::Native => (Mode::Native, self.options.native_machine(kernel, initrd)),
            DmaMode::Untranslated => {
                let machine = self.options.native_machine(kernel, initrd);
                (Mode::Untranslated, machine)
            }
            DmaMode::Identity => (Mode::Identity, under(HostIommu::Identity)),
            DmaMode::Nested => (Mode::Nested, under(HostIommu::Nested)),
            DmaMode::Free => {
                let mut machine = self.options.native_machine(kernel, initrd);
                machine.virtio_iommu = true;
                (Mode::Free, machine)
            }
            DmaMode::Paravirt => (Mode::Paravirt, under(HostIommu::Paravirt)),
        });
        machines.collect()
    }

    fn finish(&self, lab: &Lab, facts: Facts, parts: &Parts) -> anyhow::Result<ExitCode> {
        let results = Results::new(facts, parts);
        let path = match &self.json {
            Some(path) => path.clone(),
            None => lab.workspace.output().join("bench.json"),
        };
        println!("{}", tables::text(&results));
        results.save(&path)?;
        println!("All figures: {}", path.display());
        self.report(&lab.workspace, &results)?;
        let missed = parts.missed();
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
