//! The C compiler for the Arm machine: for kernel modules and for firmware.

use super::apt::{Apt, STABLE};
use crate::Result;
use crate::workspace::{self, Workspace};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The compiler Debian builds the kernel with.
const PACKAGE: &str = "gcc-12-aarch64-linux-gnu";

/// The compiler's name.
pub const PROGRAM: &str = "aarch64-linux-gnu-gcc-12";

/// An unpacked compiler.
#[derive(Clone, Debug)]
pub struct Compiler {
    root: PathBuf,
}

impl Compiler {
    /// Finds it, or downloads and unpacks it. The caller holds the lock of the
    /// set-up.
    ///
    /// # Errors
    ///
    /// Any [`Error`](crate::Error) of apt or the network.
    pub(super) fn set_up(workspace: &Workspace, apt: &mut Apt) -> Result<Self> {
        let root = workspace.cache().join("compiler");
        if !root.join("complete").exists() {
            let _ = fs::remove_dir_all(&root);
            apt.with_dependencies(PACKAGE, STABLE, &root)?;
            workspace::write_atomically(&root.join("complete"), b"")?;
        }
        Ok(Self { root })
    }

    /// A `make` that finds the compiler.
    #[must_use]
    pub fn make(&self) -> Command {
        let mut command = Command::new("make");
        command
            .arg("CROSS_COMPILE=aarch64-linux-gnu-")
            .arg(format!("CC={PROGRAM}"));
        self.show_to(&mut command);
        // The jobs of a cargo above would be taken for make's own.
        command.env_remove("MAKEFLAGS").env_remove("MFLAGS");
        command
    }

    /// Has a command find the compiler, by the name of [`PROGRAM`].
    pub fn show_to(&self, command: &mut Command) {
        let mut path = self.root.join("usr/bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        command
            .env("PATH", path)
            .env("LD_LIBRARY_PATH", OsString::from(libraries));
    }
}
