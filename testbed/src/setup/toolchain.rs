//! Building for the Arm machine, with or without rustup's server.

use super::apt::{Apt, NEWER_BACKPORTS};
use super::run;
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set to anything, it makes the set-up act as if rustup's server were away.
pub const FORCE_FALLBACK: &str = "PORTCULLIS_BUILD_STD";

const FIX: &str = "install the target by hand with `rustup target add`";

/// What is built for the Arm machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What runs without an operating system: the hypervisor and the hostile kernels.
    BareMetal,
    /// What runs in the Linux host: static programs, which need nothing of what is
    /// installed there.
    Linux,
}

impl Target {
    /// What rustc calls it.
    #[must_use]
    pub fn triple(self) -> &'static str {
        match self {
            Self::BareMetal => "aarch64-unknown-none-softfloat",
            Self::Linux => "aarch64-unknown-linux-musl",
        }
    }

    /// The library of Rust's that everything for the target is built on.
    fn library(self) -> &'static str {
        match self {
            Self::BareMetal => "core",
            Self::Linux => "std",
        }
    }
}

/// How to build for each [`Target`].
#[derive(Clone, Debug)]
pub struct Toolchain {
    bare_metal: Libraries,
    linux: Libraries,
}

/// Where a target's libraries come from.
#[derive(Clone, Debug)]
enum Libraries {
    /// The toolchain has them.
    Installed,
    /// They are built from this source tree first.
    FromSource {
        /// The `library` directory of Rust's source.
        library: PathBuf,
    },
}

impl Toolchain {
    /// A cargo command `verb` for a target, with a target directory apart from the
    /// one of the build machine, so that neither waits for the other.
    #[must_use]
    pub fn cargo(&self, workspace: &Workspace, target: Target, verb: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .arg(verb)
            .current_dir(workspace.root())
            .args(["--target", target.triple()]);
        command
            .arg("--target-dir")
            .arg(self.target_dir(workspace, target));
        // What cargo says about the program that runs us is not for the build
        // it starts.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                command.env_remove(name);
            }
        }
        if target == Target::Linux {
            // The toolchain's own: there may be no C compiler for the target.
            let triple = target.triple().to_uppercase().replace('-', "_");
            command.env(format!("CARGO_TARGET_{triple}_LINKER"), "rust-lld");
        }
        if let Libraries::FromSource { library } = self.libraries(target) {
            command
                .arg("-Zbuild-std=core,alloc,compiler_builtins")
                .arg("-Zbuild-std-features=compiler-builtins-mem")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        }
        command
    }

    /// Where [`Toolchain::cargo`] leaves release builds.
    #[must_use]
    pub fn release_dir(&self, workspace: &Workspace, target: Target) -> PathBuf {
        self.target_dir(workspace, target)
            .join(target.triple())
            .join("release")
    }

    fn target_dir(&self, workspace: &Workspace, target: Target) -> PathBuf {
        let name = match target {
            Target::BareMetal => "el2",
            Target::Linux => "linux",
        };
        workspace.target().join(match self.libraries(target) {
            Libraries::Installed => name.to_owned(),
            Libraries::FromSource { .. } => format!("{name}-from-source"),
        })
    }

    fn libraries(&self, target: Target) -> &Libraries {
        match target {
            Target::BareMetal => &self.bare_metal,
            Target::Linux => &self.linux,
        }
    }
}

/// Makes sure that something can be built for every target.
///
/// # Errors
///
/// Any [`Error`] of apt or the network, when both ways fail.
pub fn prepare(workspace: &Workspace, apt: &mut Apt) -> Result<Toolchain> {
    Ok(Toolchain {
        bare_metal: libraries(workspace, apt, Target::BareMetal)?,
        linux: libraries(workspace, apt, Target::Linux)?,
    })
}

fn libraries(workspace: &Workspace, apt: &mut Apt, target: Target) -> Result<Libraries> {
    if std::env::var_os(FORCE_FALLBACK).is_none() {
        if installed(target) {
            return Ok(Libraries::Installed);
        }
        let progress = Progress::spinner(&format!("rustup target add {}", target.triple()));
        let mut command = Command::new("rustup");
        command
            .args(["target", "add", target.triple()])
            .current_dir(workspace.root());
        match run("adding a Rust target", &mut command, FIX) {
            Ok(_) if installed(target) => {
                progress.done();
                return Ok(Libraries::Installed);
            }
            _ => eprintln!("rustup could not; taking Debian's package of Rust's source instead"),
        }
    }
    let root = workspace.cache().join("rust-src");
    if let Some(library) = library(&root) {
        return Ok(Libraries::FromSource { library });
    }
    let release = release()?;
    let package = format!("rust-src={release}*");
    apt.alone(&[&package], NEWER_BACKPORTS, &root)?;
    let library = library(&root).ok_or_else(|| {
        Error::unsuitable(
            format!("the package {package} holds no source of core"),
            FIX,
        )
    })?;
    Ok(Libraries::FromSource { library })
}

/// Whether the toolchain has the target's libraries.
fn installed(target: Target) -> bool {
    let mut command = Command::new(rustc());
    command.args(["--print", "target-libdir", "--target", target.triple()]);
    let Ok(text) = run("asking rustc", &mut command, FIX) else {
        return false;
    };
    let Ok(entries) = std::fs::read_dir(text.trim()) else {
        return false;
    };
    let name = format!("lib{}-", target.library());
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&name))
}

fn rustc() -> std::ffi::OsString {
    std::env::var_os("RUSTC").unwrap_or("rustc".into())
}

/// The toolchain's release, such as 1.95.0: other source does not fit it.
fn release() -> Result<String> {
    let text = run("asking rustc", Command::new(rustc()).arg("-vV"), FIX)?;
    text.lines()
        .find_map(|line| line.strip_prefix("release: "))
        .map(str::to_owned)
        .ok_or_else(|| Error::unsuitable("rustc -vV names no release", FIX))
}

/// The `library` directory below an unpacked package.
fn library(root: &Path) -> Option<PathBuf> {
    let ready = |path: &Path| path.join("core/src/lib.rs").exists();
    let usual = root.join("usr/lib/rustlib/src/rust/library");
    if ready(&usual) {
        return Some(usual);
    }
    let entries = std::fs::read_dir(root.join("usr/src")).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path().join("library"))
        .find(|path| ready(path))
}
