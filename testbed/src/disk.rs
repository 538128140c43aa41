//! The disk file behind the machine's NVMe device.

use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use portcullis_payloads::pattern;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Size of a disk in bytes.
pub const SIZE: u64 = 32 << 20;
/// The pattern a fresh disk holds.
pub const SEED: u64 = 0xd15c;

/// A disk file; it goes when the value is dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes a disk full of the pattern [`SEED`]; `name` must be unique among
    /// the machines of this process.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be written.
    pub fn new(workspace: &Workspace, name: &str) -> Result<Self> {
        let file = format!("disk-{name}-{}.raw", std::process::id());
        let path = workspace.output().join(file);
        let mut bytes = vec![0; SIZE as usize];
        pattern::fill(&mut bytes, SEED, 0);
        workspace::write_atomically(&path, &bytes)?;
        Ok(Self { path })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first byte of `length` bytes at `offset` that is not of pattern
    /// `seed`, or `None` when all are.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read.
    pub fn first_difference(&self, seed: u64, offset: u64, length: u64) -> Result<Option<u64>> {
        let file = File::open(&self.path).map_err(Error::io("cannot open", &self.path))?;
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset)
            .map_err(Error::io("cannot read", &self.path))?;
        Ok(pattern::first_difference(&bytes, seed, offset).map(|at| offset + at as u64))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // One left behind is overwritten or deleted with the target directory.
        let _ = std::fs::remove_file(&self.path);
    }
}
