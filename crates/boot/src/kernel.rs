//! The header of an arm64 Linux Image (Linux,
//! `Documentation/arch/arm64/booting.rst`, "Call the kernel image") and, as
//! far as it tells the length of the file, the PE/COFF header of its EFI stub.

use crate::error::BootError;

/// Bytes in the header.
pub const HEADER_SIZE: u64 = 64;

/// `ARM\x64` as a little-endian number.
const MAGIC: u32 = 0x644d_5241;

/// The kernel must start this far past a multiple of it, in bytes.
pub const PLACEMENT: u64 = 2 << 20;

/// Page size that a kernel was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPages {
    /// The header does not say.
    Unspecified,
    /// 4 KiB
    Size4K,
    /// 16 KiB
    Size16K,
    /// 64 KiB
    Size64K,
}

/// What the header of an arm64 Image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHeader {
    /// Bytes from a 2 MiB boundary to the start of the image.
    pub text_offset: u64,
    /// Bytes that the kernel occupies once it runs, from its start; at least
    /// as many as its file has.
    pub image_size: u64,
    /// Page size, from the flags.
    pub pages: KernelPages,
    /// Whether the kernel may be anywhere in memory; otherwise it wants to be
    /// near the start of RAM, and older kernels cannot use what is below.
    pub anywhere: bool,
}

fn little(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(len)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

impl KernelHeader {
    /// Reads the header of the module `file`: all of its bytes, although only
    /// the headers are looked at.
    ///
    /// # Errors
    /// - [`BootError::KernelTruncated`]: fewer bytes than the header has, or
    ///   than the sections of the EFI stub need
    /// - [`BootError::KernelCompressed`]: gzip, xz, zstd, or a self-unpacking
    ///   EFI image
    /// - [`BootError::KernelMagic`]: not an Image
    /// - [`BootError::KernelBigEndian`], [`BootError::KernelTooOld`]
    pub fn parse(file: &[u8]) -> Result<Self, BootError> {
        if let Some(format) = compression(file) {
            return Err(BootError::KernelCompressed { format });
        }
        let have = file.len() as u64;
        let field = |at, len| {
            little(file, at, len).filter(|_| have >= HEADER_SIZE).ok_or(
                BootError::KernelTruncated {
                    have,
                    need: HEADER_SIZE,
                },
            )
        };
        let magic = field(0x38, 4)?;
        if magic != u64::from(MAGIC) {
            return Err(BootError::KernelMagic {
                found: u32::try_from(magic).unwrap_or_default(),
            });
        }
        let (text_offset, image_size, flags) = (field(8, 8)?, field(16, 8)?, field(24, 8)?);
        if image_size == 0 {
            return Err(BootError::KernelTooOld);
        }
        if flags & 1 != 0 {
            return Err(BootError::KernelBigEndian);
        }
        if let Some(need) = stub_size(file).filter(|need| *need > have) {
            return Err(BootError::KernelTruncated { have, need });
        }
        Ok(Self {
            text_offset,
            image_size: image_size.max(have),
            pages: match flags >> 1 & 3 {
                1 => KernelPages::Size4K,
                2 => KernelPages::Size16K,
                3 => KernelPages::Size64K,
                _ => KernelPages::Unspecified,
            },
            anywhere: flags & 8 != 0,
        })
    }
}

fn compression(file: &[u8]) -> Option<&'static str> {
    // EFI_ZBOOT puts "zimg" after the "MZ" of its stub.
    if file.get(4..8) == Some(b"zimg") {
        return Some("EFI zboot");
    }
    let formats: [(&[u8], &str); 5] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
        (b"BZh", "bzip2"),
    ];
    formats
        .iter()
        .find(|(start, _)| file.starts_with(start))
        .map(|(_, name)| *name)
}

/// Bytes of the file that the sections of the EFI stub occupy: the Image's own
/// header does not tell how long its file is. `None` without a stub.
fn stub_size(file: &[u8]) -> Option<u64> {
    if !file.starts_with(b"MZ") {
        return None;
    }
    let header = usize::try_from(little(file, 0x3c, 4)?).ok()?;
    if file.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let sections = little(file, header.checked_add(6)?, 2)?;
    let optional = usize::try_from(little(file, header.checked_add(20)?, 2)?).ok()?;
    let table = header.checked_add(24)?.checked_add(optional)?;
    let mut end = 0;
    for index in 0..usize::try_from(sections).ok()? {
        let entry = table.checked_add(index.checked_mul(40)?)?;
        let size = little(file, entry.checked_add(16)?, 4)?;
        let start = little(file, entry.checked_add(20)?, 4)?;
        end = end.max(start + size);
    }
    Some(end)
}
