//! Looking for one mistake: build, run, see what comes of it.

use crate::catalogue::{Mutant, With};
use crate::process::{self, Done};
use crate::tree::Tree;
use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Long enough for a first build on a slow machine.
const BUILD: Duration = Duration::from_secs(1800);

/// Runs of the rig to make a program shorter: that it was found is enough.
const SHORTEN: &str = "300";

/// How long and where to look.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Operations of the rig's random programs.
    pub ops: u64,
    /// Decides the programs.
    pub seed: u64,
    /// What runs longer has hung.
    pub patience: Duration,
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was found.
    Killed {
        /// What was found: the kind of violation, or the name of a test.
        found: String,
        /// Operations of the shortest program that shows it, for the rig.
        ops: Option<usize>,
    },
    /// The code with the mistake panicked or ended in another wrong way.
    Crashed(String),
    /// It did not end in time.
    Hung,
    /// Nobody saw it.
    Survived,
}

impl Outcome {
    /// Whether somebody saw that something is wrong.
    #[must_use]
    pub fn is_kill(&self) -> bool {
        *self != Self::Survived
    }
}

/// Whoever looks for mistakes, in one copy of the repository.
#[derive(Debug)]
pub struct Hunter {
    tree: Tree,
    search: Search,
}

impl Hunter {
    /// Looks in `tree`.
    #[must_use]
    pub fn new(tree: Tree, search: Search) -> Self {
        Self { tree, search }
    }

    /// Looks for `mutant`; how long that took is without the build.
    ///
    /// # Errors
    /// When the mutant does not fit the source or does not build, which is a
    /// defect of the catalogue.
    pub fn hunt(&self, mutant: &Mutant) -> anyhow::Result<(Outcome, Duration)> {
        let look = || self.look(mutant.with, &mutant.file, None);
        self.tree
            .with(mutant, look)
            .with_context(|| format!("mutant {} of {}", mutant.name, mutant.file.display()))
    }

    /// Looks for a mistake that the rig itself makes between the code under
    /// test and the model.
    ///
    /// # Errors
    /// When the rig does not build.
    pub fn hunt_at_seam(&self, name: &str) -> anyhow::Result<(Outcome, Duration)> {
        self.look(With::Rig, Path::new(""), Some(name))
            .with_context(|| format!("the rig's mutant {name}"))
    }

    /// Makes sure that without a mistake nothing is found by whoever looks for
    /// this mutant.
    ///
    /// # Errors
    /// When something is, or does not build.
    pub fn check_clean(&self, with: With, file: &Path) -> anyhow::Result<()> {
        match self.look(with, file, None)? {
            (Outcome::Survived, _) => Ok(()),
            (other, _) => bail!("the code without a mistake is not clean: {other:?}"),
        }
    }

    /// The rig's own mistakes.
    ///
    /// # Errors
    /// When the rig does not build or does not say.
    pub fn seam_mutants(&self) -> anyhow::Result<Vec<String>> {
        self.build_rig()?;
        let mut command = self.rig();
        command.arg("--list-mutants");
        let done = process::run(&mut command, self.search.patience)?;
        if !done.status.is_some_and(|status| status.success()) {
            bail!("the rig does not list its mutants: {}", done.errors);
        }
        Ok(done.output.lines().map(str::to_owned).collect())
    }

    fn look(
        &self,
        with: With,
        file: &Path,
        seam: Option<&str>,
    ) -> anyhow::Result<(Outcome, Duration)> {
        match with {
            With::Rig | With::Nested | With::Paravirt | With::Its => {
                self.build_rig()?;
                let mut command = self.rig();
                command
                    .args(["--ops", &ops_in(with, self.search.ops).to_string()])
                    .args(["--seed", &self.search.seed.to_string()])
                    .args(["--shorten", SHORTEN])
                    .args(["--world", world(with)])
                    .args(seam.into_iter().flat_map(|name| ["--mutant", name]));
                let done = process::run(&mut command, self.search.patience)?;
                Ok((judge_rig(&done), done.took))
            }
            With::Conformance => {
                let arguments = ["-p", "smmuv3-emulator", "--test", "conformance"];
                self.tests(&arguments, |_| {})
            }
            With::Loom => {
                let arguments = ["-p", "portcullis-ownership", "--test", "loom"];
                self.tests(&arguments, |command| {
                    // Other flags make other artifacts: kept apart.
                    command
                        .env("CARGO_TARGET_DIR", self.tree.target().join("loom"))
                        .env("RUSTFLAGS", "--cfg loom");
                })
            }
            With::Tests => {
                let package = package_of(self.tree.root(), file)?;
                self.tests(&["-p", &package, "--lib", "--tests"], |_| {})
            }
        }
    }

    fn build_rig(&self) -> anyhow::Result<()> {
        let mut command = self.tree.cargo("build");
        command.args([
            "--quiet",
            "--locked",
            "--profile",
            "hunt",
            "-p",
            "portcullis-rig",
        ]);
        built(&process::run(&mut command, BUILD)?)
    }

    fn rig(&self) -> Command {
        let mut command = Command::new(self.tree.target().join("hunt/portcullis-rig"));
        command.arg("hunt").current_dir(self.tree.root());
        command
    }

    fn tests(
        &self,
        arguments: &[&str],
        adapt: impl Fn(&mut Command),
    ) -> anyhow::Result<(Outcome, Duration)> {
        let command = |more: &[&str]| {
            let mut command = self.tree.cargo("test");
            command
                .args(["--quiet", "--locked"])
                .args(arguments)
                .args(more);
            adapt(&mut command);
            command
        };
        built(&process::run(&mut command(&["--no-run"]), BUILD)?)?;
        let done = process::run(&mut command(&["--no-fail-fast"]), self.search.patience)?;
        Ok((judge_tests(&done), done.took))
    }
}

/// Operations that the rig may run: those of a world with emulated SMMUs take
/// some twenty times as long, and those with domains five times.
fn ops_in(with: With, ops: u64) -> u64 {
    match with {
        With::Nested => ops / 20,
        With::Paravirt => ops / 4,
        _ => ops,
    }
}

/// What the host sees in the rig's programs.
fn world(with: With) -> &'static str {
    match with {
        With::Nested => "nested",
        With::Paravirt => "paravirt",
        With::Its => "its",
        _ => "plain",
    }
}

fn built(done: &Done) -> anyhow::Result<()> {
    match done.status {
        Some(status) if status.success() => Ok(()),
        Some(_) => bail!("it does not build:\n{}", done.errors),
        None => bail!("it does not build in {} s", BUILD.as_secs()),
    }
}

/// The rig's exit status when it found something.
const FOUND: i32 = 3;

fn judge_rig(done: &Done) -> Outcome {
    let Some(status) = done.status else {
        return Outcome::Hung;
    };
    let panicked = done.output.contains("found: a panic");
    match status.code() {
        Some(0) => Outcome::Survived,
        Some(FOUND) if !panicked => Outcome::Killed {
            found: kind(&done.output).unwrap_or_else(|| "found".to_owned()),
            ops: Some(done.output.lines().filter(|line| is_step(line)).count()),
        },
        _ => Outcome::Crashed(panic_message(&done.errors)),
    }
}

/// The kind of the finding, from the line after the one that says it in words:
/// `Violation(0, Reach { .. })` is `Reach`.
fn kind(output: &str) -> Option<String> {
    let mut lines = output.lines();
    lines.find(|line| line.starts_with("found: "))?;
    let line = lines.next()?.trim();
    let end = |c: char| !(c.is_alphanumeric() || c == '_');
    let mut words = line.split(end).filter(|word| {
        // Numbers say which SMMU or stream, not what.
        word.starts_with(char::is_alphabetic)
    });
    let outer = words.next()?;
    Some(match outer {
        "Violation" | "Misuse" => words.next().unwrap_or(outer).to_owned(),
        "Cpu" => format!("Cpu {}", words.next().unwrap_or_default()),
        // Of the others the first word says what; text in quotes says more.
        _ => match line.split('"').nth(1) {
            Some(what) => format!("{outer}: {what}"),
            None => outer.to_owned(),
        },
    })
}

/// Whether a line of the rig's is an operation of the program: a number, two
/// spaces, the operation.
fn is_step(line: &str) -> bool {
    let Some((number, op)) = line.trim_start().split_once("  ") else {
        return false;
    };
    line.starts_with(' ') && number.parse::<u32>().is_ok() && !op.is_empty()
}

/// What a panic said: the line after the one that names the place.
fn panic_message(errors: &str) -> String {
    let mut lines = errors.lines();
    let place = lines.find(|line| line.contains("panicked at"));
    match (place, lines.next()) {
        (Some(_), Some(message)) => message.trim().to_owned(),
        _ => "ended in a wrong way".to_owned(),
    }
}

fn judge_tests(done: &Done) -> Outcome {
    let Some(status) = done.status else {
        return Outcome::Hung;
    };
    if status.success() {
        return Outcome::Survived;
    }
    let name = |line: &str| {
        let name = line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?;
        Some(name.to_owned())
    };
    match done.output.lines().find_map(name) {
        Some(found) => Outcome::Killed { found, ops: None },
        None => Outcome::Crashed(panic_message(&done.errors)),
    }
}

/// The package that a file is in, from the nearest `Cargo.toml` above it.
fn package_of(root: &Path, file: &Path) -> anyhow::Result<String> {
    for directory in file.ancestors().skip(1) {
        let manifest = root.join(directory).join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&manifest) else {
            continue;
        };
        let manifest: toml::Table = text.parse()?;
        let name = manifest
            .get("package")
            .and_then(|p| p.get("name")?.as_str());
        if let Some(name) = name {
            return Ok(name.to_owned());
        }
    }
    bail!("{} is in no package", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rigs_findings_are_read() {
        let output = "found: stream 5 writes 0x1000\n       Violation(0, Reach { stream: StreamId(5) })\n\
                      on full, by\n   1  Attach { stream: 5 }\n  12  Drain\nagain: cargo run\n\
                      verify: ops=12 streams=16 violations=1 seed=0x1\n";
        assert_eq!(kind(output).as_deref(), Some("Reach"));
        assert_eq!(output.lines().filter(|line| is_step(line)).count(), 2);
        let failed = "found: take failed\n       Failed(\"take\")\n";
        assert_eq!(kind(failed).as_deref(), Some("Failed: take"));
        assert_eq!(kind("found: lost\n   Lost(5, 0)").as_deref(), Some("Lost"));
        let cpu = "found: the CPUs\n       Cpu(Reach { stream: StreamId(0) })\n";
        assert_eq!(kind(cpu).as_deref(), Some("Cpu Reach"));
        assert_eq!(kind("verify: ops=1"), None);
    }
}
