//! `cargo xtask test` and the lints of `.ci/run`.

use anyhow::{Context, bail};
use clap::Args;
use portcullis_testbed::build;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::setup::kernel::{Build, Flavour, Version};
use portcullis_testbed::setup::toolchain::Target;
use portcullis_testbed::setup::{Lab, Wishes};
use std::process::{Command, ExitCode};

/// What runs on the Arm machine without an operating system: not tested, but linted,
/// for its target.
const BARE_METAL: [&str; 2] = ["portcullis-hypervisor", "portcullis-hostile"];
/// The programs of its host, likewise.
const PROGRAMS: [&str; 4] = ["--package", "portcullis-payloads", "--features", "programs"];

/// Decides what the tests that use `proptest` draw.
const PROPTEST_SEED: &str = "PROPTEST_RNG_SEED";

/// Run every test, the ones that boot QEMU included.
#[derive(Args)]
pub struct Test {
    /// Further arguments for `cargo test`, such as the name of a test.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Test {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lab = Lab::set_up(&Wishes::default())?;
        let payloads = build::payloads(&lab)?;
        build::hypervisor(&lab)?;
        initramfs::build(&lab, &payloads, Purpose::Agent)?;
        // The kernel of some tests; those that are asked for by name get it themselves.
        if self.arguments.is_empty() {
            Lab::set_up(&Wishes {
                build: Build {
                    version: Version::V7,
                    flavour: Flavour::Pages4K,
                },
                ..Wishes::default()
            })?;
        }
        // The examples of the documentation first: many crates have none, and
        // the last line should be one that says something.
        let mut passed = true;
        for kinds in [&["--doc"][..], &["--lib", "--bins", "--tests"]] {
            let mut command = cargo("test");
            command
                .current_dir(lab.workspace.root())
                .args(["--workspace", "--no-fail-fast"]);
            // The hypervisor has no test harness; its logic is in libraries,
            // which have. One failing test must not hide what the others say.
            command.args(["--exclude", BARE_METAL[0], "--exclude", BARE_METAL[1]]);
            command.args(kinds).args(&self.arguments);
            // The same cases in every run; `PROPTEST_RNG_SEED` asks for others.
            if std::env::var_os(PROPTEST_SEED).is_none() {
                command.env(PROPTEST_SEED, "1");
            }
            passed &= command.status().context("cannot start cargo")?.success();
        }
        // Not when single tests were asked for.
        if self.arguments.is_empty() {
            passed &= every_order()?;
            passed &= crate::verify::short()?;
        }
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The ledger under every order of events that its atomics allow. Built apart:
/// the flag that puts loom in place of the atomics goes to every crate.
fn every_order() -> anyhow::Result<bool> {
    let mut command = cargo("test");
    command
        .env("RUSTFLAGS", "--cfg loom")
        .args(["--target-dir", "target/loom"])
        .args(["--package", "portcullis-ownership", "--test", "loom"]);
    Ok(command.status().context("cannot start cargo")?.success())
}

/// Clippy, warnings denied, for what runs on the Arm machine.
pub fn lint_bare_metal() -> anyhow::Result<ExitCode> {
    let lab = Lab::set_up(&Wishes::default())?;
    let clippy = |target: Target, arguments: &[&str]| -> anyhow::Result<()> {
        let mut command = lab.toolchain.cargo(&lab.workspace, target, "clippy");
        command.args(arguments).args(["--", "-D", "warnings"]);
        if !command.status().context("cannot start cargo")?.success() {
            bail!("clippy has complaints about what runs on the Arm machine, see above");
        }
        Ok(())
    };
    let packages: Vec<&str> = BARE_METAL
        .iter()
        .flat_map(|package| ["--package", *package])
        .collect();
    clippy(Target::BareMetal, &packages)?;
    clippy(Target::Linux, &PROGRAMS)?;
    // The other images that can be built: for boards that are not QEMU's, and
    // for the tests of the failure path and of attacks.
    clippy(
        Target::BareMetal,
        &["--package", BARE_METAL[0], "--no-default-features"],
    )?;
    clippy(
        Target::BareMetal,
        &["--package", BARE_METAL[0], "--features", "provoke"],
    )?;
    clippy(
        Target::BareMetal,
        &["--package", BARE_METAL[0], "--features", "digest"],
    )?;
    Ok(ExitCode::SUCCESS)
}

/// A cargo command for the build machine, in the environment of the caller.
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.arg(verb);
    command
}
