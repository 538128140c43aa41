//! `cargo xtask nested` and `cargo xtask paravirt`: a host that drives an IOMMU
//! of its own, with real clients.

use crate::options::{HostIommu, Options};
use crate::run::write_json;
use clap::{Args, ValueEnum};
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::proof::{self, Host, Part, Plan};
use portcullis_testbed::{build, setup};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show that Debian's drivers work on the emulated SMMU, and what they cannot.
///
/// Boots the host in every setting of its IOMMU, moves verified data under load,
/// unbinds and binds drivers, drives a device from user space, and attacks.
/// Exit status 0 exactly when every check held.
#[derive(Args)]
pub struct Nested {
    /// What to show [default: all].
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    parts: Vec<NestedPart>,
    #[command(flatten)]
    proofs: Proofs,
}

/// Show that Debian's drivers work on the virtio-iommu, and what they cannot.
///
/// Boots the host with strict and lazy unmapping, moves verified data under
/// load, unbinds and binds drivers, drives a device from user space, uses virtio
/// devices, and attacks. Exit status 0 exactly when every check held.
#[derive(Args)]
pub struct Paravirt {
    /// What to show [default: all].
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    parts: Vec<ParavirtPart>,
    #[command(flatten)]
    proofs: Proofs,
}

/// What both have in common.
#[derive(Args)]
struct Proofs {
    /// Seconds of verified transfers under load.
    #[arg(long, value_name = "N", default_value_t = 120)]
    seconds: u64,
    /// How often drivers are unbound and bound.
    #[arg(long, value_name = "N", default_value_t = 200)]
    rebinds: u64,
    /// Run the same on a machine without the hypervisor, which has such an IOMMU
    /// itself, but for the attacks: what the checks themselves are worth.
    #[arg(long)]
    native: bool,
    /// Write every check with its figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// One of the proofs with an emulated SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NestedPart {
    /// Every setting of the host, with a few transfers.
    Matrix,
    /// Disk and network together, on busy CPUs.
    Load,
    /// Drivers that come and go.
    Rebind,
    /// A driver in user space.
    Vfio,
    /// The demonstration, with iommu.passthrough=1.
    Attacks,
}

impl From<NestedPart> for Part {
    fn from(part: NestedPart) -> Self {
        match part {
            NestedPart::Matrix => Self::Matrix,
            NestedPart::Load => Self::Load,
            NestedPart::Rebind => Self::Rebind,
            NestedPart::Vfio => Self::Vfio,
            NestedPart::Attacks => Self::Attacks,
        }
    }
}

/// One of the proofs with a virtio-iommu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ParavirtPart {
    /// Every setting of the host, with a few transfers.
    Matrix,
    /// Disk and network together, on busy CPUs.
    Load,
    /// Drivers that come and go.
    Rebind,
    /// A driver in user space.
    Vfio,
    /// Disk and network as virtio devices.
    Virtio,
    /// The demonstration.
    Attacks,
}

impl From<ParavirtPart> for Part {
    fn from(part: ParavirtPart) -> Self {
        match part {
            ParavirtPart::Matrix => Self::Matrix,
            ParavirtPart::Load => Self::Load,
            ParavirtPart::Rebind => Self::Rebind,
            ParavirtPart::Vfio => Self::Vfio,
            ParavirtPart::Virtio => Self::Virtio,
            ParavirtPart::Attacks => Self::Attacks,
        }
    }
}

/// The parts that the caller named, or all.
fn chosen<P: ValueEnum + Into<Part>>(named: &[P]) -> Vec<Part> {
    let all = P::value_variants();
    let parts = if named.is_empty() { all } else { named };
    parts.iter().map(|part| part.clone().into()).collect()
}

impl Nested {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.proofs.run(HostIommu::Nested, chosen(&self.parts))
    }
}

impl Paravirt {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.proofs.run(HostIommu::Paravirt, chosen(&self.parts))
    }
}

impl Proofs {
    fn run(mut self, host_iommu: HostIommu, parts: Vec<Part>) -> anyhow::Result<ExitCode> {
        self.options.host_iommu = host_iommu;
        let lab = self.options.set_up()?;
        let image = build::hypervisor(&lab)?;
        // Which parts need our module that maps memory on command; it cannot be built
        // for every kernel.
        let modular = |part: &Part| match part {
            Part::Load | Part::Rebind => true,
            Part::Attacks => host_iommu == HostIommu::Paravirt,
            Part::Matrix | Part::Vfio | Part::Virtio => false,
        };
        let module = parts.iter().any(modular);
        let mut hosts = vec![self.host(lab, &image, &self.options, module)?];
        let both = [Part::Matrix, Part::Vfio];
        if both.iter().any(|part| parts.contains(part)) && self.options.kernel.is_none() {
            let other = Options {
                kernel_flavour: self.options.kernel_flavour.other(),
                ..self.options.clone()
            };
            hosts.push(self.host(other.set_up()?, &image, &other, module)?);
        }
        let plan = Plan {
            parts,
            seconds: self.seconds,
            rebinds: self.rebinds,
        };
        let report = proof::run(&plan, &hosts)?;
        println!("\n{}", report.table());
        if let Some(path) = &self.json {
            write_json(path, &report.json(host_iommu.key()))?;
        }
        Ok(crate::run::verdict(&report, &hosts[0].lab))
    }

    fn host(
        &self,
        lab: setup::Lab,
        image: &Path,
        options: &Options,
        module: bool,
    ) -> anyhow::Result<Host> {
        let payloads = build::payloads(&lab)?;
        let module = module.then(|| build::dma_bench(&lab)).transpose()?;
        let more: Vec<&Path> = module.iter().map(PathBuf::as_path).collect();
        let initrd = initramfs::build_with(&lab, &payloads, Purpose::Proof, &more)?;
        let kernel = &lab.kernel.image;
        let machine = if self.native {
            let mut machine = options.native_machine(kernel, &initrd);
            machine.virtio_iommu = options.host_iommu == HostIommu::Paravirt;
            machine
        } else {
            options.machine(image, kernel, &initrd)
        };
        Ok(Host { lab, machine })
    }
}
