//! Changing the device tree QEMU made, in the RAM file of a paused machine.

use crate::{Error, Result};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where QEMU puts the tree, from the start of RAM, on machines of 256 MiB up.
const OFFSET: u64 = 128 << 20;
const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
const FIX: &str = "look at how this release of QEMU lays out memory";

/// Reads the tree as bytes.
///
/// # Errors
///
/// [`Error::Unsuitable`] when there is none where it should be.
pub fn read(ram: &Path) -> Result<Vec<u8>> {
    let file = File::open(ram).map_err(Error::io("cannot open", ram))?;
    let mut header = [0; 8];
    file.read_exact_at(&mut header, OFFSET)
        .map_err(Error::io("cannot read", ram))?;
    if header[..4] != MAGIC {
        return Err(Error::unsuitable("no device tree at 128 MiB of RAM", FIX));
    }
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, OFFSET)
        .map_err(Error::io("cannot read", ram))?;
    Ok(bytes)
}

/// Writes bytes where the tree is.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be written.
pub fn write(ram: &Path, bytes: &[u8]) -> Result<()> {
    let file = File::options()
        .write(true)
        .open(ram)
        .map_err(Error::io("cannot open", ram))?;
    file.write_all_at(bytes, OFFSET)
        .map_err(Error::io("cannot write", ram))
}

/// Has `change` alter the tree.
///
/// # Errors
///
/// [`Error::Unsuitable`] when the tree cannot be read.
pub fn edit(ram: &Path, change: impl FnOnce(&mut DeviceTree)) -> Result<()> {
    let bytes = read(ram)?;
    let fdt = Fdt::new(&bytes)
        .map_err(|error| Error::unsuitable(format!("QEMU's device tree: {error}"), FIX))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    change(&mut tree);
    write(ram, &tree.to_dtb())
}
