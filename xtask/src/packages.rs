//! `cargo xtask packages`: the crates that others can take.

use anyhow::bail;
use clap::Args;
use portcullis_testbed::packages::{Network, Packages as Made, Tried};
use portcullis_testbed::workspace::Workspace;
use std::process::ExitCode;

/// Package the crates that others can take, build them and a program from the packages,
/// and print what each package is.
#[derive(Args)]
pub struct Packages {
    /// Also check each with the oldest Rust that it names, as far as rustup has those.
    #[arg(long)]
    minimal_rust: bool,
    /// Fetch nothing: for a workspace that was built before.
    #[arg(long)]
    offline: bool,
}

impl Packages {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let network = if self.offline {
            Network::Unused
        } else {
            Network::Allowed
        };
        let packages = Made::make(&Workspace::here(), network)?;
        packages.check()?;
        let (printed, expected) = (packages.run_outside()?, packages.expected()?);
        if printed != expected {
            bail!(
                "the program on the packages is to print what is in \
                 examples/outside/expected.txt, and prints\n{printed}"
            );
        }
        let tried = self
            .minimal_rust
            .then(|| packages.check_minimal())
            .transpose()?;
        print!("{}", packages.table(tried.as_ref()));
        for (rust, outcome) in tried.iter().flatten() {
            if *outcome == Tried::NoToolchain {
                println!("not tried: rustup toolchain install {rust} --profile minimal");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
