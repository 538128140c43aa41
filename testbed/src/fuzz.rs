//! Short, repeatable runs of the fuzz targets in `fuzz/`.

use crate::progress::Progress;
use crate::setup::{run, run_watched};
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of cargo-fuzz that was tried.
const CARGO_FUZZ: &str = "0.13.2";
const FIX: &str = "see fuzz/README.md; libFuzzer needs a C++ compiler (Debian: g++)";

/// How one target is run.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Number of inputs tried.
    pub runs: u32,
    /// Longest input in bytes.
    pub longest: u32,
}

/// The targets, with runs short enough to belong to the tests.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "device_tree",
        runs: 20_000,
        longest: 16_384,
    },
    Target {
        name: "boot_args",
        runs: 200_000,
        longest: 512,
    },
    Target {
        name: "model",
        runs: 20_000,
        longest: 2_048,
    },
    Target {
        name: "emulator",
        runs: 400,
        longest: 2_048,
    },
    Target {
        name: "virtio_iommu",
        runs: 5_000,
        longest: 1_024,
    },
    Target {
        name: "its",
        runs: 300,
        longest: 32,
    },
];

/// Runs one target from the committed corpus, the same way each time.
///
/// # Errors
///
/// [`Error::Program`] when an input made the target fail, with what libFuzzer
/// said about it, or when there is no C++ compiler.
pub fn short_run(workspace: &Workspace, target: Target) -> Result<()> {
    let corpus = workspace.root().join("fuzz/corpus").join(target.name);
    run_from(workspace, target, &corpus)
}

/// The same from the inputs in `corpus`.
///
/// # Errors
///
/// As [`short_run`].
pub fn run_from(workspace: &Workspace, target: Target, corpus: &Path) -> Result<()> {
    let _lock = workspace.lock("fuzzing")?;
    let tools = install(workspace)?;
    let found = workspace.target().join("fuzz/found").join(target.name);
    // What an earlier run found would make this one another.
    let _ = std::fs::remove_dir_all(&found);
    workspace::create_dir(&found)?;
    let mut path = tools.join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let what = format!("fuzzing {}", target.name);
    let mut progress = Progress::spinner(&what);
    let mut command = Command::new("cargo");
    command
        .args(["fuzz", "run", target.name, "--sanitizer", "none"])
        .arg(&found)
        .arg(corpus)
        .args(["--", "-seed=1", "-timeout=20"])
        .arg(format!("-runs={}", target.runs))
        .arg(format!("-max_len={}", target.longest))
        .current_dir(workspace.root())
        // The stable toolchain of the project takes the fuzzer's flags with this.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", workspace.target().join("fuzz"))
        .env("PATH", path);
    run_watched(&what, &mut command, FIX, |line| progress.note(line.trim()))?;
    progress.done();
    Ok(())
}

/// libFuzzer is C++. A machine that has only what Rust needs gets Debian's
/// compiler, the one thing that is installed outside `target/`, and only when
/// whoever runs this may.
fn have_a_compiler() -> Result<()> {
    let look = || Command::new("c++").arg("--version").output();
    if look().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    println!("installing g++ from Debian on this machine: libFuzzer needs a C++ compiler");
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run("updating the package lists", apt().arg("update"), FIX)?;
    let mut install = apt();
    install.args(["install", "-y", "--no-install-recommends", "g++"]);
    run("installing g++", &mut install, FIX)?;
    run(
        "looking for a C++ compiler",
        Command::new("c++").arg("--version"),
        FIX,
    )?;
    Ok(())
}

/// Has cargo-fuzz below the target directory and returns where.
fn install(workspace: &Workspace) -> Result<PathBuf> {
    have_a_compiler()?;
    let tools = workspace.target().join("tools");
    if tools.join("bin/cargo-fuzz").exists() {
        return Ok(tools);
    }
    let mut progress = Progress::spinner("installing cargo-fuzz under target/");
    let mut command = Command::new("cargo");
    command.args([
        "install",
        "cargo-fuzz",
        "--locked",
        "--version",
        CARGO_FUZZ,
        "--root",
    ]);
    command.arg(&tools);
    run_watched("installing cargo-fuzz", &mut command, FIX, |line| {
        progress.note(line.trim())
    })?;
    progress.done();
    Ok(tools)
}

/// The fuzz targets there are, by the files of the package.
///
/// # Errors
///
/// [`Error::Io`] when there is no such package.
pub fn existing(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&directory).map_err(Error::io("cannot list", &directory))?;
    let names = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}
