//! `cargo xtask boot`: one machine, both logs in sight, for bringing up.

use crate::options::{HostIommu, Options};
use clap::Args;
use portcullis_testbed::agent::Agent;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::vm::{Vm, Watch};
use portcullis_testbed::{build, disk::Disk};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Boots an image and prints what host and hypervisor say, line by line.
///
/// By default the hypervisor is built first. Each --command goes to the agent
/// in the host once it is up, in order; then the host is switched off. Examples:
///
///   cargo xtask boot --image target/portcullis/portcullis.bin
///   cargo xtask boot --native --command 'edu init' --command 'edu read 0x40000000'
///   cargo xtask boot --qemu-arg=-d --qemu-arg=int,guest_errors --timeout 20
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Boot {
    /// The hypervisor's flat image [default: built from this tree].
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Boot the host's kernel without the hypervisor.
    #[arg(long, conflicts_with = "image")]
    native: bool,
    /// With --native, give the kernel the SMMU.
    #[arg(long, requires = "native")]
    smmu: bool,
    /// Have the modules and programs of the proofs in the initrd.
    #[arg(long)]
    proof: bool,
    /// A command for the agent in the host; may be repeated.
    #[arg(long = "command", value_name = "COMMAND")]
    commands: Vec<String>,
    /// The hypervisor's command line instead of the usual one.
    #[arg(long, value_name = "ARGS")]
    bootargs: Option<String>,
    /// Count instructions instead of time (one CPU is best).
    #[arg(long)]
    counted: bool,
    /// One more argument for QEMU, as it is; may be repeated.
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    qemu_arguments: Vec<String>,
    /// Seconds until a machine that has not ended is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    timeout: u64,
    /// Only print QEMU's command line (without serial lines).
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    options: Options,
}

impl Boot {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lab = self.options.set_up()?;
        let payloads = build::payloads(&lab)?;
        let initrd = if self.proof {
            let module = build::dma_bench(&lab)?;
            initramfs::build_with(&lab, &payloads, Purpose::Proof, &[&module])?
        } else {
            initramfs::build(&lab, &payloads, Purpose::Agent)?
        };
        let mut machine = if self.native {
            let mut machine = self.options.native_machine(&lab.kernel.image, &initrd);
            machine.virtio_iommu = self.options.host_iommu == HostIommu::Paravirt;
            machine
        } else {
            let image = match self.image {
                Some(image) => image,
                None => build::hypervisor(&lab)?,
            };
            self.options.machine(&image, &lab.kernel.image, &initrd)
        };
        if let (Some(text), portcullis_testbed::machine::Boot::Portcullis { arguments, .. }) =
            (self.bootargs, &mut machine.boot)
        {
            *arguments = text;
        }
        let disk = Disk::new(&lab.workspace, "boot")?;
        machine.disk = Some(disk.path().to_owned());
        machine.network = true;
        machine.edu = true;
        machine.smmu |= self.smmu;
        machine.counted = self.counted;
        machine.extra = self.qemu_arguments.into_iter().map(Into::into).collect();
        if self.print {
            println!("{:?}", machine.command(&lab.qemu));
            return Ok(ExitCode::SUCCESS);
        }
        let mut vm = Vm::start(
            &lab,
            &machine,
            &Watch {
                name: "boot".to_owned(),
                echo: true,
            },
        )?;
        let timeout = Duration::from_secs(self.timeout);
        let mut agent = Agent::wait_within(&vm, 0, timeout)?;
        let mut failed = false;
        for command in &self.commands {
            if let Err(error) = agent.ask_within(&vm, command, timeout) {
                eprintln!("error: {error}");
                failed = true;
            }
        }
        agent.tell(&vm, "off")?;
        vm.wait_exit(timeout)?;
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}
