//! `cargo xtask trace`: inputs of `portcullis-lab replay`.

use crate::options::{HostIommu, Options};
use anyhow::Context;
use clap::Args;
use portcullis_testbed::bench::results::Facts;
use portcullis_testbed::build;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::progress::Progress;
use portcullis_testbed::record::{self, Work};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Record what Debian's NVMe and e1000e drivers map in paravirt mode.
///
/// Writes nvme.trace and e1000e.trace, which `portcullis-lab replay` and `advise` read.
/// To record other work, boot with `trace=SIZE` among the hypervisor's arguments, and
/// keep its log.
#[derive(Args)]
pub struct Trace {
    /// Where the files go.
    #[arg(long, value_name = "DIRECTORY", default_value = "lab/traces")]
    out: PathBuf,
    #[command(flatten)]
    options: Options,
}

impl Trace {
    /// Runs the command.
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        self.options.host_iommu = HostIommu::Paravirt;
        self.options.cpus = 1;
        let lab = self.options.set_up()?;
        let facts = Facts::of(&lab, &self.options.cpu, &self.options.memory);
        let payloads = build::payloads(&lab)?;
        let image = build::hypervisor(&lab)?;
        let initrd = initramfs::build(&lab, &payloads, Purpose::Agent)?;
        let machine = self.options.machine(&image, &lab.kernel.image, &initrd);
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make {}", self.out.display()))?;
        for work in Work::ALL {
            let recording = Progress::spinner(&format!("recording {}", work.word()));
            let text = record::record(&lab, &machine, work)?;
            recording.done();
            let heading = format!(
                "# {}.\n# {}, QEMU {}, {}, 1 CPU, commit {}; by `cargo xtask trace`.\n",
                work.text(),
                facts.kernel,
                facts.qemu,
                facts.cpu,
                facts.commit.as_deref().unwrap_or("unknown")
            );
            let path = self.out.join(work.word()).with_extension("trace");
            fs::write(&path, heading + &text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("{}: {} requests", path.display(), text.lines().count() - 1);
        }
        Ok(ExitCode::SUCCESS)
    }
}
