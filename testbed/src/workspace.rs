//! Where things are, and how concurrent commands keep out of each other's way.

use crate::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The directories the project uses.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace this crate was built in.
    #[must_use]
    pub fn here() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// The root of the source tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's own target directory.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// What was downloaded and unpacked; safe to delete.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.target.join("portcullis-cache")
    }

    /// What was built, and the logs of the machines that ran.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.target.join("portcullis")
    }

    /// Holds the lock `name` until the returned value is dropped, so that two
    /// commands do not set up or build the same thing at once.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let directory = self.cache();
        create_dir(&directory)?;
        let path = directory.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("cannot open", &path))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another command that does the {name}");
            file.lock().map_err(Error::io("cannot lock", &path))?;
        }
        Ok(Lock { _file: file })
    }
}

/// A held lock; dropping it lets the next one in.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Makes a directory and those above it.
///
/// # Errors
///
/// [`Error::Io`] when that is not possible.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("cannot make the directory", path))
}

/// Writes a file in one step: readers see all of it or the old one.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be written.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        create_dir(directory)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, content).map_err(Error::io("cannot write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("cannot rename to", path))
}
