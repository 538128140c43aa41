//! `cargo xtask interrupts`: a host whose interrupts come through an emulated
//! interrupt translation service.

use crate::options::Options;
use crate::run::{verdict, write_json};
use clap::{Args, ValueEnum};
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::proof::Host;
use portcullis_testbed::proof::interrupts::{self, Part, Plan};
use portcullis_testbed::{build, setup};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show that Debian's drivers get their interrupts through the emulated ITS.
///
/// Boots the host with NVMe, e1000e and virtio devices that have a vector for each
/// queue, moves verified data under load, switches CPUs off and on, unbinds and binds
/// drivers, starts a second kernel with kexec, and hibernates. Exit status 0 exactly
/// when every check held.
#[derive(Args)]
pub struct Interrupts {
    /// What to show [default: all].
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    parts: Vec<Named>,
    /// Seconds of verified transfers under load.
    #[arg(long, value_name = "N", default_value_t = 120)]
    seconds: u64,
    /// How often drivers are unbound and bound.
    #[arg(long, value_name = "N", default_value_t = 200)]
    rebinds: u64,
    /// Run the same on a machine without the hypervisor, on the ITS that it has: what
    /// the checks themselves are worth.
    #[arg(long)]
    native: bool,
    /// Only the kernel with pages of the size that was asked for.
    #[arg(long)]
    one_kernel: bool,
    /// Write every check with its figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// One of the proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// All devices together, on one CPU and on four.
    Load,
    /// CPUs that go and come back.
    Hotplug,
    /// Drivers that come and go.
    Rebind,
    /// A second kernel in the first one's place.
    Kexec,
    /// A kernel that is written to the disk and read back.
    Hibernation,
}

impl From<Named> for Part {
    fn from(part: Named) -> Self {
        match part {
            Named::Load => Self::Load,
            Named::Hotplug => Self::Hotplug,
            Named::Rebind => Self::Rebind,
            Named::Kexec => Self::Kexec,
            Named::Hibernation => Self::Hibernation,
        }
    }
}

impl Interrupts {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lab = self.options.set_up()?;
        let image = build::hypervisor(&lab)?;
        let mut hosts = vec![self.host(lab, &image, &self.options)?];
        if !self.one_kernel && self.options.kernel.is_none() {
            let other = Options {
                kernel_flavour: self.options.kernel_flavour.other(),
                ..self.options.clone()
            };
            hosts.push(self.host(other.set_up()?, &image, &other)?);
        }
        let named = if self.parts.is_empty() {
            Named::value_variants()
        } else {
            &self.parts
        };
        let plan = Plan {
            parts: named.iter().map(|part| (*part).into()).collect(),
            seconds: self.seconds,
            rebinds: self.rebinds,
        };
        let report = interrupts::run(&plan, &hosts);
        println!("\n{}", report.table());
        if let Some(path) = &self.json {
            write_json(path, &report.json("interrupts"))?;
        }
        Ok(verdict(&report, &hosts[0].lab))
    }

    fn host(&self, lab: setup::Lab, image: &Path, options: &Options) -> anyhow::Result<Host> {
        let payloads = build::payloads(&lab)?;
        let initrd = initramfs::build(&lab, &payloads, Purpose::Proof)?;
        let kernel = &lab.kernel.image;
        let machine = if self.native {
            options.native_machine_with_iommu(kernel, &initrd)
        } else {
            options.machine(image, kernel, &initrd)
        };
        Ok(Host { lab, machine })
    }
}
