//! `cargo xtask verify`: the hunts for mistakes, each a program of its own.

use anyhow::Context;
use clap::Args;
use std::process::{Command, ExitCode};

/// Run hostile programs against the code that isolates devices.
///
/// Exit status 0 when nothing was found, 3 when something was; the last line
/// says what was run.
#[derive(Args)]
pub struct Verify {
    /// Operations to run.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    ops: u64,
    /// Decides every program; random and printed when not given.
    #[arg(long, value_name = "S")]
    seed: Option<String>,
    /// What the SMMUs can do: the name of a profile, or all.
    #[arg(long, value_name = "P", default_value = "all")]
    profile: String,
    /// Show instead that every mistake of the catalogue is found.
    #[arg(long, conflicts_with_all = ["ops", "seed", "profile", "against_qemu"])]
    mutants: bool,
    /// Compare the model with QEMU's SMMU instead.
    #[arg(long, conflicts_with_all = ["ops", "profile"])]
    against_qemu: bool,
    /// Cases to compare with QEMU.
    #[arg(
        long,
        value_name = "N",
        requires = "against_qemu",
        default_value_t = 26_000
    )]
    cases: u64,
}

impl Verify {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut arguments: Vec<String> = Vec::new();
        let package = if self.mutants {
            "portcullis-mutants"
        } else if self.against_qemu {
            arguments.extend(["--cases".into(), self.cases.to_string()]);
            arguments.extend(self.seed.into_iter().flat_map(|s| ["--seed".into(), s]));
            "portcullis-differential"
        } else {
            arguments.extend(["hunt".into(), "--ops".into(), self.ops.to_string()]);
            arguments.extend(["--profile".into(), self.profile]);
            arguments.extend(self.seed.into_iter().flat_map(|s| ["--seed".into(), s]));
            "portcullis-rig"
        };
        let status = program(package)
            .args(arguments)
            .status()
            .context("cannot start cargo")?;
        // A program that a signal ended has no status of its own.
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

/// A short hunt as a part of the tests: the same programs as always, then as
/// many new ones.
pub fn short() -> anyhow::Result<bool> {
    let mut passed = true;
    for seed in [&["--seed", "0x1"][..], &[]] {
        let mut command = program("portcullis-rig");
        command.args(["hunt", "--ops", "20000"]).args(seed);
        passed &= command.status().context("cannot start cargo")?.success();
    }
    Ok(passed)
}

/// In the profile for it, since a hunt is as good as it is long.
fn program(package: &str) -> Command {
    let mut command = crate::test::cargo("run");
    command.args(["--quiet", "--profile", "hunt", "--package", package, "--"]);
    command
}
