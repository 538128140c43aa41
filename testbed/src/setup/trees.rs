//! Device trees of real boards, as Debian compiles them for its arm64 kernel.

use super::apt::Apt;
use super::run;
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package of Debian 13's backports that has the trees: 5 MB.
const PACKAGE: &str = "pool/main/l/linux/linux-base-7.3.4+deb13-arm64_7.3.4-1~bpo13+1_arm64.deb";
const SHA256: &str = "84e0027833982d189bd1b2285511fc2e0c1f785c9adf66acd9d9243026706bb6";
const FIX: &str = "delete target/portcullis-cache/trees and try again; when Debian has replaced the \
                   package, name the new one in testbed/src/setup/trees.rs, and look at what \
                   changes in boards/verdicts.txt";

/// The trees, unpacked.
#[derive(Clone, Debug)]
pub struct Trees {
    directory: PathBuf,
}

impl Trees {
    /// Finds them, or downloads and unpacks the package.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt or the network.
    pub fn set_up(workspace: &Workspace) -> Result<Self> {
        let _lock = workspace.lock("set-up")?;
        let directory = workspace.cache().join("trees");
        let complete = directory.join("complete");
        if fs::read_to_string(&complete).ok().as_deref() != Some(SHA256) {
            let _ = fs::remove_dir_all(&directory);
            eprintln!("downloading device trees from Debian's arm64 kernel (5 MB)");
            let archive = directory.join("package.deb");
            Apt::new(workspace).file(PACKAGE, SHA256, &archive)?;
            let mut command = Command::new("dpkg-deb");
            command.arg("-x").arg(&archive).arg(&directory);
            run("unpacking device trees", &mut command, FIX)?;
            fs::remove_file(&archive).map_err(Error::io("cannot remove", &archive))?;
            workspace::write_atomically(&complete, SHA256.as_bytes())?;
        }
        // usr/lib/modules/VERSION/dtb
        let modules = directory.join("usr/lib/modules");
        let found = fs::read_dir(&modules).map_err(Error::io("cannot list", &modules))?;
        let mut found = found.flatten().map(|entry| entry.path().join("dtb"));
        match found.find(|path| path.is_dir()) {
            Some(directory) => Ok(Self { directory }),
            None => Err(Error::unsuitable("the package holds no device trees", FIX)),
        }
    }

    /// The package that they come from, with its version.
    #[must_use]
    pub fn package() -> &'static str {
        let name = PACKAGE.rsplit('/').next().unwrap_or(PACKAGE);
        name.trim_end_matches("_arm64.deb")
    }

    /// The name of each, such as `arm/fvp-base-revc.dtb`, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        collect(&self.directory, "", &mut names)?;
        names.sort();
        Ok(names)
    }

    /// The bytes of one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when there is none of that name.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
        fs::read(&path).map_err(Error::io("cannot read", &path))
    }
}

/// Adds the names of all trees below a directory.
fn collect(directory: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(Error::io("cannot list", directory))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), names)?;
        } else if name.ends_with(".dtb") {
            names.push(name);
        }
    }
    Ok(())
}
