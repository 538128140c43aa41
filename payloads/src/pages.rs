//! Where the pages of this process lie.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Size of the kernel's pages in bytes.
#[must_use]
pub fn size() -> usize {
    rustix::param::page_size()
}

/// The kernel's list of where the pages of this process lie.
#[derive(Debug)]
pub struct Pages(File);

impl Pages {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> Result<Self> {
        const LIST: &str = "/proc/self/pagemap";
        File::open(LIST)
            .context("open /proc/self/pagemap")
            .map(Self)
    }

    /// Physical address of the page that holds `address`.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn physical(&self, address: usize) -> Result<u64> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let mut entry = [0; 8];
        let place = (address / size() * entry.len()) as u64;
        let read = self.0.read_exact_at(&mut entry, place);
        read.context("read /proc/self/pagemap")?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 || entry & FRAME == 0 {
            bail!("the kernel does not tell physical addresses");
        }
        Ok((entry & FRAME) * size() as u64)
    }
}
