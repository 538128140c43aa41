//! The program: `portcullis-lab run SCENARIO.toml --platform mmu700`.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::published;
use portcullis_lab::scenario::{Invalidation, Scenario};
use portcullis_lab::sim;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the ways to give a host its IOMMU cost: the real code on an SMMU whose time
/// is modelled.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario and prints what it comes to in each mode.
    Run {
        /// The scenario.
        scenario: PathBuf,
        /// mmu600, mmu700, grace, morello, or a file.
        #[arg(long, default_value = "mmu700")]
        platform: String,
        /// native, identity, nested, paravirt, or all of them.
        #[arg(long, default_value = "all")]
        mode: String,
        /// strict or lazy, whatever the scenario says.
        #[arg(long)]
        invalidation: Option<String>,
        /// Counts of instructions, instead of those that are built in.
        #[arg(long)]
        measured: Option<PathBuf>,
    },
    /// Prints the published para-virtual benchmark beside what the lab makes of it.
    Published,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.command {
        Command::Published => {
            let platform = Platform::named("morello")?;
            let measured = Measured::built_in()?;
            let predictions = published::predict(&platform, &measured)?;
            print!("{}", published::text(&predictions));
        }
        Command::Run {
            scenario,
            platform,
            mode,
            invalidation,
            measured,
        } => {
            let platform = Platform::named(&platform)?;
            let mut scenario = Scenario::load(&scenario)?;
            scenario.host.invalidation = match invalidation.as_deref() {
                None => scenario.host.invalidation,
                Some("strict") => Invalidation::Strict,
                Some("lazy") => Invalidation::Lazy,
                Some(other) => return Err(format!("{other}: strict or lazy").into()),
            };
            let measured = match measured {
                Some(path) => Measured::load(&path)?,
                None => Measured::built_in()?,
            };
            let modes =
                match mode.as_str() {
                    "all" => Mode::ALL.to_vec(),
                    word => vec![Mode::named(word).ok_or_else(|| {
                        format!("{word}: native, identity, nested, paravirt or all")
                    })?],
                };
            let mut reports = Vec::new();
            for mode in modes {
                reports.push(sim::run(&platform, &scenario, &measured, mode)?);
            }
            println!(
                "{}, on {}, {}",
                scenario.name,
                platform.name,
                match scenario.host.invalidation {
                    Invalidation::Strict => "strict",
                    Invalidation::Lazy => "lazy",
                }
            );
            println!(
                "CPU instructions: {} ({})\n",
                measured.command, measured.machine
            );
            print!("{}", sim::table(&reports));
            let accesses: u64 = reports.iter().map(sim::Report::accesses).sum();
            let wall: f64 = reports.iter().map(|r| r.wall.as_secs_f64()).sum();
            println!(
                "\n{accesses} DMAs simulated in {wall:.2} s: {:.2} million a second",
                accesses as f64 / wall.max(1e-9) / 1e6
            );
        }
    }
    Ok(())
}
