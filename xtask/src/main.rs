//! The project's commands: a thin layer over `portcullis-lab`.

mod boot;
mod options;
mod run;
mod test;

use clap::{Parser, Subcommand};
use portcullis_lab::setup::{Lab, Wishes};
use portcullis_lab::{build, initramfs};
use std::process::ExitCode;

/// Builds, boots and checks the Portcullis hypervisor.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the hypervisor's image (target/portcullis/portcullis.bin) and the payloads.
    Build,
    Run(run::Run),
    Test(test::Test),
    /// Clippy with warnings denied for what runs on the Arm machine.
    ClippyEl2,
    /// Boot a given image with both logs on standard output, for bringing up.
    Boot(boot::Boot),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Build => build_all(),
        Command::Run(run) => run.run(),
        Command::Test(test) => test.run(),
        Command::ClippyEl2 => test::lint_bare_metal(),
        Command::Boot(boot) => boot.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build_all() -> anyhow::Result<ExitCode> {
    let lab = Lab::set_up(&Wishes::default())?;
    let payloads = build::payloads(&lab)?;
    initramfs::build(&lab, &payloads, initramfs::Purpose::Agent)?;
    let image = build::hypervisor(&lab)?;
    println!("{} ({} bytes)", image.display(), build::size(&image)?);
    Ok(ExitCode::SUCCESS)
}
