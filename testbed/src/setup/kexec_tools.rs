//! kexec-tools for the Arm machine, which loads a kernel for the case that the running
//! one panics.

use super::apt::{Apt, STABLE};
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The program, its loader, and the libraries that these name, in Debian 12.
const FILES: [&str; 12] = [
    "sbin/kexec",
    "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    "lib/aarch64-linux-gnu/libc.so.6",
    "lib/aarch64-linux-gnu/libz.so.1",
    "lib/aarch64-linux-gnu/libxenctrl.so.4.17",
    "lib/aarch64-linux-gnu/libxentoollog.so.1",
    "lib/aarch64-linux-gnu/libxencall.so.1",
    "lib/aarch64-linux-gnu/libxenevtchn.so.1",
    "lib/aarch64-linux-gnu/libxengnttab.so.1",
    "lib/aarch64-linux-gnu/libxenforeignmemory.so.1",
    "lib/aarch64-linux-gnu/libxendevicemodel.so.1",
    "lib/aarch64-linux-gnu/libxentoolcore.so.1",
];

/// Unpacked programs.
#[derive(Clone, Debug)]
pub struct KexecTools {
    /// The files, for one directory of the host's.
    pub files: Vec<PathBuf>,
}

impl KexecTools {
    /// Finds them, or downloads (2 MB, the C library among them) and unpacks them.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt or the network.
    pub fn set_up(workspace: &Workspace) -> Result<Self> {
        let root = workspace.cache().join("kexec-tools");
        let _lock = workspace.lock("set-up")?;
        if !root.join("complete").exists() {
            let _ = fs::remove_dir_all(&root);
            let mut apt = Apt::new(workspace);
            apt.with_dependencies("kexec-tools:arm64", STABLE, &root)?;
            workspace::write_atomically(&root.join("complete"), b"")?;
        }
        let files = FILES.iter().map(|name| find(&root, name));
        let files = files.collect::<Result<_>>()?;
        Ok(Self { files })
    }
}

/// Debian moves what is at the root below `/usr` in time.
fn find(root: &Path, name: &str) -> Result<PathBuf> {
    let places = [root.join(name), root.join("usr").join(name)];
    let found = places.into_iter().find(|path| path.exists());
    found.ok_or_else(|| {
        Error::unsuitable(
            format!("kexec-tools and what it depends on hold no {name}"),
            "report this",
        )
    })
}
