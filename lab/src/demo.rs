//! The demonstration.

use crate::Result;
use crate::setup::Lab;
use crate::workspace;
use portcullis_payloads::pattern;
use std::path::PathBuf;

/// Size of the disk of the checks, in bytes.
pub const DISK_SIZE: u64 = 64 << 20;
/// The pattern a fresh disk holds.
pub const DISK_SEED: u64 = 0xd15c;

/// Makes a disk full of the pattern [`DISK_SEED`], for the machine `name`.
///
/// # Errors
///
/// [`Error::Io`] when it cannot be written.
pub fn make_disk(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab
        .workspace
        .output()
        .join(format!("disk-{name}-{}.raw", std::process::id()));
    let mut bytes = vec![0; DISK_SIZE as usize];
    pattern::fill(&mut bytes, DISK_SEED, 0);
    workspace::write_atomically(&path, &bytes)?;
    Ok(path)
}
