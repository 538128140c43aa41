//! Getting what the project needs and a fresh machine does not have.
//!
//! Everything lands under `target/portcullis-cache`; the system and the user's
//! Rust toolchain are left alone (but for `rustup target add`, the ordinary way
//! to get a target). Deleting the directory undoes all of it.

pub mod apt;
pub mod compiler;
pub mod firmware;
pub mod headers;
pub mod kernel;
pub mod kexec_tools;
pub mod loader;
pub mod qemu;
pub mod rust_source;
pub mod toolchain;
pub mod trees;

use crate::workspace::Workspace;
use crate::{Error, Result};
use kernel::{Build, Kernel, Version};
use qemu::Qemu;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use toolchain::Toolchain;

/// What the caller names instead of having it found or downloaded.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// A QEMU to use.
    pub qemu: Option<PathBuf>,
    /// A kernel image to boot; its modules are then not known.
    pub kernel: Option<PathBuf>,
    /// Which of Debian's kernels to get.
    pub build: Build,
}

/// Everything that is needed to build and boot.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Where things are.
    pub workspace: Workspace,
    /// The emulator.
    pub qemu: Qemu,
    /// The host kernel with its modules, and busybox.
    pub kernel: Kernel,
    /// How to build for the Arm machine.
    pub toolchain: Toolchain,
}

impl Lab {
    /// Finds or gets everything, saying first what will be downloaded.
    ///
    /// # Errors
    ///
    /// Any [`Error`]: no network, a file named by the caller that is no good.
    pub fn set_up(wishes: &Wishes) -> Result<Self> {
        let workspace = Workspace::here();
        let _lock = workspace.lock("set-up")?;
        let qemu = qemu::find(&workspace, wishes.qemu.as_deref())?;
        let kernel = kernel::find(&workspace, wishes.build, wishes.kernel.as_deref())?;
        let missing = kernel.is_none().then_some(wishes.build.version);
        announce(qemu.is_none(), missing);
        let mut apt = apt::Apt::new(&workspace);
        let qemu = match qemu {
            Some(qemu) => qemu,
            None => qemu::install(&workspace, &mut apt)?,
        };
        let kernel = match kernel {
            Some(kernel) => kernel,
            None => {
                let named = wishes.kernel.as_deref();
                kernel::install(&workspace, &mut apt, wishes.build, named)?
            }
        };
        let toolchain = toolchain::prepare(&workspace, &mut apt)?;
        Ok(Self {
            workspace,
            qemu,
            kernel,
            toolchain,
        })
    }
}

fn announce(qemu: bool, kernel: Option<Version>) {
    if !qemu && kernel.is_none() {
        return;
    }
    eprintln!("Set-up, once. To be downloaded with apt and unpacked under target/, as no");
    eprintln!("change of the system:");
    eprintln!("  - Debian's package lists (23 MB)");
    if qemu {
        eprintln!("  - qemu-system-arm of bookworm-backports and libraries it misses (14 MB)");
    }
    if let Some(version) = kernel {
        let (suite, size) = (version.suite(), version.size());
        eprintln!("  - the arm64 kernel of {suite} and busybox-static ({size} MB)");
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
///
/// [`Error::Start`] or [`Error::Program`] with what it printed last.
pub(crate) fn run(what: &str, command: &mut Command, fix: &'static str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            program,
            source,
            fix,
        })?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        return Err(Error::Program {
            what: what.to_owned(),
            status: output.status.to_string(),
            tail: tail(&String::from_utf8_lossy(&text)),
            fix,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program and hands each line of its error output to `each`.
///
/// # Errors
///
/// [`Error::Start`] or [`Error::Program`] with what it printed last.
pub(crate) fn run_watched(
    what: &str,
    command: &mut Command,
    fix: &'static str,
    mut each: impl FnMut(&str),
) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start {
            program: program.clone(),
            source,
            fix,
        })?;
    let mut text = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while let Ok(1..) = reader.by_ref().read_until(b'\n', &mut line) {
            let clean = String::from_utf8_lossy(&line);
            each(clean.trim_end());
            text.push_str(&clean);
            line.clear();
        }
    }
    let status = child.wait().map_err(|source| Error::Start {
        program,
        source,
        fix,
    })?;
    if status.success() {
        return Ok(());
    }
    let tail = tail(&text);
    Err(Error::Program {
        what: what.to_owned(),
        status: status.to_string(),
        tail,
        fix,
    })
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Total size of the files below a directory; what vanishes meanwhile is 0.
pub(crate) fn size_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
