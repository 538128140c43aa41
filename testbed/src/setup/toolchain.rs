//! Building for the Arm machine, with or without rustup's server.

use super::apt::{Apt, NEWER_BACKPORTS};
use super::run;
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of everything that runs on the Arm machine.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Set to anything, it makes the set-up act as if rustup's server were away.
pub const FORCE_FALLBACK: &str = "PORTCULLIS_BUILD_STD";

const FIX: &str = "install it by hand with `rustup target add aarch64-unknown-none-softfloat`";

/// How to build for [`TARGET`].
#[derive(Clone, Debug)]
pub enum Toolchain {
    /// The toolchain has the target's libraries.
    Installed,
    /// They are built from this source tree first.
    FromSource {
        /// The `library` directory of Rust's source.
        library: PathBuf,
    },
}

impl Toolchain {
    /// A cargo command `verb` for the target, with a target directory apart
    /// from the one of the build machine, so that neither waits for the other.
    #[must_use]
    pub fn cargo(&self, workspace: &Workspace, verb: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .arg(verb)
            .current_dir(workspace.root())
            .args(["--target", TARGET]);
        command.arg("--target-dir").arg(self.target_dir(workspace));
        // What cargo says about the program that runs us is not for the build
        // it starts.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                command.env_remove(name);
            }
        }
        if let Self::FromSource { library } = self {
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
    pub fn release_dir(&self, workspace: &Workspace) -> PathBuf {
        self.target_dir(workspace).join(TARGET).join("release")
    }

    fn target_dir(&self, workspace: &Workspace) -> PathBuf {
        workspace.target().join(match self {
            Self::Installed => "el2",
            Self::FromSource { .. } => "el2-from-source",
        })
    }
}

/// Makes sure that something can be built for the target.
///
/// # Errors
///
/// Any [`Error`] of apt or the network, when both ways fail.
pub fn prepare(workspace: &Workspace, apt: &mut Apt) -> Result<Toolchain> {
    if std::env::var_os(FORCE_FALLBACK).is_none() {
        if has_target() {
            return Ok(Toolchain::Installed);
        }
        let progress = Progress::spinner("rustup target add aarch64-unknown-none-softfloat");
        let mut command = Command::new("rustup");
        command
            .args(["target", "add", TARGET])
            .current_dir(workspace.root());
        match run("adding the Rust target", &mut command, FIX) {
            Ok(_) if has_target() => {
                progress.done();
                return Ok(Toolchain::Installed);
            }
            _ => eprintln!("rustup could not; taking Debian's package of Rust's source instead"),
        }
    }
    let root = workspace.cache().join("rust-src");
    if let Some(library) = library(&root) {
        return Ok(Toolchain::FromSource { library });
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
    Ok(Toolchain::FromSource { library })
}

/// Whether the toolchain has the target's core library.
fn has_target() -> bool {
    let mut command = Command::new(rustc());
    command.args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(text) = run("asking rustc", &mut command, FIX) else {
        return false;
    };
    let Ok(entries) = std::fs::read_dir(text.trim()) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
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
