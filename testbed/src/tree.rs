//! Changing the device tree QEMU made, in the RAM file of a paused machine.

use crate::{Error, Result};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where QEMU puts the tree, from the start of RAM, on machines of 256 MiB up
/// that start with a kernel…
const OFFSET: u64 = 128 << 20;
/// …and on those that start with firmware.
const WITH_FIRMWARE: u64 = 0;
const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
const FIX: &str = "look at how this release of QEMU lays out memory";

/// Reads the tree as bytes.
///
/// # Errors
///
/// [`Error::Unsuitable`] when there is none where it should be.
pub fn read(ram: &Path) -> Result<Vec<u8>> {
    read_at(ram, OFFSET)
}

fn read_at(ram: &Path, offset: u64) -> Result<Vec<u8>> {
    let file = File::open(ram).map_err(Error::io("cannot open", ram))?;
    let mut header = [0; 8];
    file.read_exact_at(&mut header, offset)
        .map_err(Error::io("cannot read", ram))?;
    if header[..4] != MAGIC {
        let what = format!("no device tree at {} MiB of RAM", offset >> 20);
        return Err(Error::unsuitable(what, FIX));
    }
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, offset)
        .map_err(Error::io("cannot read", ram))?;
    Ok(bytes)
}

/// Writes bytes where the tree is.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be written.
pub fn write(ram: &Path, bytes: &[u8]) -> Result<()> {
    write_at(ram, OFFSET, bytes)
}

fn write_at(ram: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let file = File::options()
        .write(true)
        .open(ram)
        .map_err(Error::io("cannot open", ram))?;
    file.write_all_at(bytes, offset)
        .map_err(Error::io("cannot write", ram))
}

/// Has `change` alter the tree.
///
/// # Errors
///
/// [`Error::Unsuitable`] when the tree cannot be read.
pub fn edit(ram: &Path, change: impl FnOnce(&mut DeviceTree)) -> Result<()> {
    edit_at(ram, OFFSET, change)
}

fn edit_at(ram: &Path, offset: u64, change: impl FnOnce(&mut DeviceTree)) -> Result<()> {
    let bytes = read_at(ram, offset)?;
    let fdt = Fdt::new(&bytes)
        .map_err(|error| Error::unsuitable(format!("QEMU's device tree: {error}"), FIX))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    change(&mut tree);
    write_at(ram, offset, &tree.to_dtb())
}

/// Gives a machine that starts with firmware the command line that no argument
/// of QEMU's can give it.
///
/// # Errors
///
/// [`Error::Unsuitable`] when the tree cannot be read or has no `/chosen`.
pub fn set_bootargs(ram: &Path, arguments: &str) -> Result<()> {
    let line = DeviceTreeProperty::new("bootargs", arguments)
        .map_err(|error| Error::unsuitable(format!("a command line: {error}"), FIX))?;
    let mut found = false;
    edit_at(ram, WITH_FIRMWARE, |tree| {
        if let Some(chosen) = tree.find_node_mut("/chosen") {
            chosen.add_property(line);
            found = true;
        }
    })?;
    if found {
        return Ok(());
    }
    Err(Error::unsuitable("a device tree without /chosen", FIX))
}
