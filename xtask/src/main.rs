//! The project's commands: a thin layer over `portcullis-testbed`.

mod bench;
mod boot;
mod interrupts;
mod options;
mod packages;
mod power;
mod proof;
mod run;
mod test;
mod trace;
mod trees;
mod verify;

use clap::{Parser, Subcommand};
use portcullis_testbed::setup::{Lab, Wishes};
use portcullis_testbed::{build, initramfs};
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
    Bench(bench::Bench),
    Trace(trace::Trace),
    Trees(trees::Trees),
    Verify(verify::Verify),
    Nested(proof::Nested),
    Paravirt(proof::Paravirt),
    Interrupts(interrupts::Interrupts),
    Power(power::Power),
    Packages(packages::Packages),
    /// Clippy with warnings denied for what runs on the Arm machine.
    ClippyEl2,
    /// Boot a given image with both logs on standard output, for bringing up.
    Boot(boot::Boot),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let result = match arguments.command {
        Command::Build => build_all(),
        Command::Run(run) => run.run(),
        Command::Test(test) => test.run(),
        Command::Bench(bench) => bench.run(),
        Command::Trace(trace) => trace.run(),
        Command::Trees(trees) => trees.run(),
        Command::Verify(verify) => verify.run(),
        Command::Nested(nested) => nested.run(),
        Command::Paravirt(paravirt) => paravirt.run(),
        Command::Interrupts(interrupts) => interrupts.run(),
        Command::Power(power) => power.run(),
        Command::Packages(packages) => packages.run(),
        Command::ClippyEl2 => test::lint_bare_metal(),
        Command::Boot(boot) => boot.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            let lab = error.downcast_ref::<portcullis_testbed::Error>();
            match lab {
                Some(portcullis_testbed::Error::Unsuitable { .. }) => WRONG_USE.into(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Exit status for what the caller has to put right.
const WRONG_USE: u8 = 2;

/// Says in one line what is wrong with the command line and what would be
/// right; or prints the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    eprintln!("{}; see --help", parts.join("; "));
    WRONG_USE.into()
}

fn build_all() -> anyhow::Result<ExitCode> {
    let lab = Lab::set_up(&Wishes::default())?;
    let payloads = build::payloads(&lab)?;
    initramfs::build(&lab, &payloads, initramfs::Purpose::Agent)?;
    let image = build::hypervisor(&lab)?;
    println!("{} ({} bytes)", image.display(), build::size(&image)?);
    Ok(ExitCode::SUCCESS)
}
