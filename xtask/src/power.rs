//! `cargo xtask power`: a host that is switched off, starts again, or sleeps.

use crate::options::{HostIommu, Options};
use crate::run::{verdict, write_json};
use clap::{Args, ValueEnum};
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::proof::Host;
use portcullis_testbed::proof::power::{self, Part};
use portcullis_testbed::setup::kexec_tools::KexecTools;
use portcullis_testbed::{build, setup};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show that a host that is switched off, starts again, or sleeps does so as without
/// the hypervisor.
///
/// Boots the host with NVMe, e1000e and virtio devices, moves verified data before and
/// after, and looks at what the kernel has to say and how long it takes to end. Exit
/// status 0 exactly when every check held.
#[derive(Args)]
pub struct Power {
    /// What to show [default: all].
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    parts: Vec<Named>,
    /// The ways in which the host gets its IOMMU [default: all].
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        conflicts_with = "host_iommu"
    )]
    modes: Vec<HostIommu>,
    /// Run the same on a machine without the hypervisor, on what QEMU has in its place:
    /// what the checks themselves are worth.
    #[arg(long)]
    native: bool,
    /// Write every check with its figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// What happens to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// It is switched off.
    Off,
    /// The machine is reset.
    Reboot,
    /// A second kernel in the first one's place.
    Kexec,
    /// A kernel that panics, and another one that looks at what is left.
    Crash,
    /// All devices are suspended, and wake.
    Sleep,
    /// A kernel that is written to the disk and read back.
    Hibernation,
}

impl From<Named> for Part {
    fn from(part: Named) -> Self {
        match part {
            Named::Off => Self::Off,
            Named::Reboot => Self::Reboot,
            Named::Kexec => Self::Kexec,
            Named::Crash => Self::Crash,
            Named::Sleep => Self::Sleep,
            Named::Hibernation => Self::Hibernation,
        }
    }
}

impl Power {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lab = self.options.set_up()?;
        let tools = KexecTools::set_up(&lab.workspace)?;
        let image = build::hypervisor(&lab)?;
        let modes = if self.modes.is_empty() {
            HostIommu::value_variants()
        } else {
            &self.modes
        };
        let hosts = modes.iter().map(|mode| {
            let options = Options {
                host_iommu: *mode,
                ..self.options.clone()
            };
            self.host(lab.clone(), &tools, &image, &options)
        });
        let hosts = hosts.collect::<anyhow::Result<Vec<_>>>()?;
        let named = if self.parts.is_empty() {
            Named::value_variants()
        } else {
            &self.parts
        };
        let parts: Vec<Part> = named.iter().map(|part| (*part).into()).collect();
        let report = power::run(&parts, &hosts);
        println!("\n{}", report.table());
        if let Some(path) = &self.json {
            write_json(path, &report.json("power"))?;
        }
        Ok(verdict(&report, &lab))
    }

    fn host(
        &self,
        lab: setup::Lab,
        tools: &KexecTools,
        image: &Path,
        options: &Options,
    ) -> anyhow::Result<Host> {
        let payloads = build::payloads(&lab)?;
        let more: Vec<&Path> = tools.files.iter().map(PathBuf::as_path).collect();
        let initrd = initramfs::build_with(&lab, &payloads, Purpose::Proof, &more)?;
        let kernel = &lab.kernel.image;
        let machine = if self.native {
            options.native_machine_with_iommu(kernel, &initrd)
        } else {
            options.machine(image, kernel, &initrd)
        };
        Ok(Host { lab, machine })
    }
}
