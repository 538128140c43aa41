//! Pages of this process: how large they are, and where they lie.

use crate::sys::{self, Fd};
use crate::text::{Context, Failure};

/// Size of the kernel's pages in bytes, as it tells every program.
pub fn size() -> Result<usize, Failure> {
    const AT_PAGESZ: u64 = 6;
    let file = sys::open(c"/proc/self/auxv", sys::O_RDONLY).context("open /proc/self/auxv")?;
    let mut content = [0; 1024];
    let length = sys::read(file, &mut content);
    sys::close(file);
    let length = length.context("read of /proc/self/auxv")?;
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    content[..length]
        .chunks_exact(16)
        .find(|pair| word(&pair[..8]) == AT_PAGESZ)
        .map(|pair| word(&pair[8..]) as usize)
        .filter(|size| size.is_power_of_two())
        .ok_or(Failure::Said("the kernel does not tell its page size"))
}

/// The kernel's list of where the pages of this process lie.
pub struct Pages {
    file: Fd,
    size: usize,
}

impl Pages {
    /// Opens it.
    pub fn open() -> Result<Self, Failure> {
        Ok(Self {
            file: sys::open(c"/proc/self/pagemap", sys::O_RDONLY)
                .context("open /proc/self/pagemap")?,
            size: size()?,
        })
    }

    /// Physical address of the page that holds `address`.
    pub fn physical(&self, address: usize) -> Result<u64, Failure> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let mut entry = [0; 8];
        let place = (address / self.size * 8) as u64;
        sys::read_at(self.file, &mut entry, place).context("read of /proc/self/pagemap")?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 || entry & FRAME == 0 {
            return Err(Failure::Said("the kernel does not tell physical addresses"));
        }
        Ok((entry & FRAME) * self.size as u64)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        sys::close(self.file);
    }
}
