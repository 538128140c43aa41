//! `cargo xtask verify`: the hunts for mistakes, each a program of its own.

use anyhow::Context;
use clap::{Args, ValueEnum};
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
    /// What the SMMUs or the GIC can do: the name of a profile, or all.
    #[arg(long, value_name = "P", default_value = "all")]
    profile: String,
    /// What the host sees: `plain` is no SMMU, `nested` an emulated one,
    /// `paravirt` domains that it maps into, `its` is about interrupts; `all` is
    /// one after the other, a twentieth of the operations in the second and a
    /// fifth in the third and fourth.
    #[arg(long, value_name = "W", value_enum, default_value = "all")]
    world: World,
    /// Show instead that every mistake of the catalogue is found.
    #[arg(long, conflicts_with_all = ["ops", "seed", "profile", "world", "against_qemu"])]
    mutants: bool,
    /// Compare the model with QEMU's SMMU instead, and our virtio-iommu device and
    /// our emulated ITS with QEMU's.
    #[arg(long, conflicts_with_all = ["ops", "profile", "world"])]
    against_qemu: bool,
    /// Cases to compare with QEMU's SMMU; of sequences of requests it is a
    /// thirteenth, and of sequences of ITS commands too.
    #[arg(
        long,
        value_name = "N",
        requires = "against_qemu",
        default_value_t = 26_000
    )]
    cases: u64,
}

/// What the host sees of the SMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum World {
    /// Nothing.
    Plain,
    /// An emulated SMMU on each.
    Nested,
    /// Domains that it maps its pages into.
    Paravirt,
    /// Emulated ITSs, and no SMMU.
    Its,
    /// One after the other.
    All,
}

impl World {
    /// The rig's names of the worlds to hunt in.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["plain"],
            Self::Nested => &["nested"],
            Self::Paravirt => &["paravirt"],
            Self::Its => &["its"],
            Self::All => &["plain", "nested", "paravirt", "its"],
        }
    }
}

impl Verify {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !self.mutants && !self.against_qemu {
            return self.hunt();
        }
        if self.mutants {
            return exit(&mut program("portcullis-mutants"));
        }
        // A sequence of requests, or of ITS commands, takes as long as so many cases of
        // the first.
        const SHARE: u64 = 13;
        for (cases, what) in [
            (self.cases, None),
            (self.cases.div_ceil(SHARE), Some("--requests")),
            (self.cases.div_ceil(SHARE), Some("--interrupts")),
        ] {
            let mut command = program("portcullis-differential");
            command
                .args(["--cases", &cases.to_string()])
                .args(what)
                .args(self.seed.iter().flat_map(|seed| ["--seed", seed]));
            let code = exit(&mut command)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Hunts in each world, until something is found.
    fn hunt(self) -> anyhow::Result<ExitCode> {
        for world in self.world.names() {
            // One of theirs takes as long as so many of the first.
            let share = match *world {
                _ if self.world != World::All => 1,
                "nested" => 20,
                "paravirt" | "its" => 5,
                _ => 1,
            };
            let ops = (self.ops / share).to_string();
            let mut command = program("portcullis-rig");
            command
                .args(["hunt", "--ops", &ops, "--profile", &self.profile])
                .args(["--world", world])
                .args(self.seed.iter().flat_map(|seed| ["--seed", seed]));
            let code = exit(&mut command)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The exit status; a program that a signal ended has none.
fn code_of(command: &mut Command) -> anyhow::Result<Option<u8>> {
    let status = command.status().context("cannot start cargo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()))
}

/// What to end with after it.
fn exit(command: &mut Command) -> anyhow::Result<ExitCode> {
    Ok(code_of(command)?.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A short hunt as a part of the tests: the same programs as always, so that a
/// test fails for what was changed and not by chance. New ones are for
/// `cargo xtask verify`.
pub fn short() -> anyhow::Result<bool> {
    let mut passed = true;
    let worlds = [
        ("plain", "40000"),
        ("nested", "10000"),
        ("paravirt", "10000"),
        ("its", "10000"),
    ];
    for (world, ops) in worlds {
        let mut command = program("portcullis-rig");
        command.args(["hunt", "--world", world, "--ops", ops, "--seed", "0x1"]);
        passed &= code_of(&mut command)? == Some(0);
    }
    Ok(passed)
}

/// In the profile for it, since a hunt is as good as it is long.
fn program(package: &str) -> Command {
    let mut command = crate::test::cargo("run");
    command.args(["--quiet", "--profile", "hunt", "--package", package, "--"]);
    command
}
