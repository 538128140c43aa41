//! Verified and counted transfers with the disk.

use crate::meter::{Meter, Rounds};
use anyhow::{Context, Result, bail, ensure};
use portcullis_payloads::mapping::Memory;
use portcullis_payloads::{pages, pattern};
use rustix::fs::OFlags;
use rustix::io::pread;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// The disk: where a script has said which it is; else NVMe's, or a virtio device's
/// where there is no other.
const DISKS: [&str; 3] = ["/dev/disk", "/dev/nvme0n1", "/dev/vda"];
/// Size of one transfer of [`verify`] and [`fill`].
const CHUNK: usize = 128 * 1024;
/// Size of one transfer of [`random_reads`] unless the lab says another.
pub const BLOCK: u64 = 4096;
/// The largest.
const MOST: u64 = 1 << 20;

/// A buffer that the disk's driver can hand to the device as it is.
fn buffer(length: usize) -> Result<Memory> {
    Memory::new(length, true).context("mmap of a buffer")
}

/// The same, its pages asked for in an order that leaves no two of them side by side
/// in memory: what a buffer that was used for long is made of.
fn scattered(length: usize) -> Result<Memory> {
    let page = pages::size();
    let mut memory = Memory::new(length, false).context("mmap of a buffer")?;
    for index in pattern::scattered(length.div_ceil(page)) {
        memory[index * page] = 1;
    }
    Ok(memory)
}

fn open(options: &mut OpenOptions) -> Result<File> {
    // Transfers go between the device and the caller's buffer.
    options.custom_flags(OFlags::DIRECT.bits().cast_signed());
    let [named, first, second] = DISKS;
    let disk = options.open(named).or_else(|_| options.open(first));
    let disk = disk.or_else(|_| options.open(second));
    disk.with_context(|| format!("open {first} or {second}"))
}

/// Cuts `length` bytes from `offset` on into parts, each with its place.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset.saturating_add(length);
    let starts = (offset..end).step_by(CHUNK);
    starts.map(move |at| (at, (end - at).min(CHUNK as u64) as usize))
}

/// Reads `length` bytes from `offset` and compares them with pattern `seed`.
pub fn verify(seed: u64, offset: u64, length: u64) -> Result<()> {
    let mut buffer = buffer(CHUNK)?;
    let disk = open(File::options().read(true))?;
    for (at, length) in parts(offset, length) {
        let part = &mut buffer[..length];
        disk.read_exact_at(part, at).context("read of the disk")?;
        pattern::check(part, seed, at)?;
    }
    Ok(())
}

/// Writes `length` bytes of pattern `seed` to `offset`.
pub fn fill(seed: u64, offset: u64, length: u64) -> Result<()> {
    let mut buffer = buffer(CHUNK)?;
    let disk = open(File::options().write(true))?;
    for (at, length) in parts(offset, length) {
        let part = &mut buffer[..length];
        pattern::fill(part, seed, at);
        disk.write_all_at(part, at).context("write of the disk")?;
    }
    disk.sync_all().context("flush of the disk")
}

/// Reads blocks of `block` bytes at places picked by `seed` within the first
/// `span` bytes, `rounds` times `each` of them; returns what the rounds cost.
///
/// How long the emulator's host takes for a read decides whether this CPU goes
/// idle meanwhile, which costs instructions: the cheapest of many short rounds
/// is the one where that did not happen. Work that is put off and done for many
/// reads at once shows in long rounds only.
pub fn random_reads(rounds: u64, each: u64, span: u64, seed: u64, block: u64) -> Result<Rounds> {
    if !(512..=MOST).contains(&block) || !block.is_power_of_two() {
        bail!("a block is a power of two, 512 to {MOST}");
    }
    let blocks = span / block;
    if blocks == 0 || rounds == 0 || each == 0 {
        bail!("there is nothing to read");
    }
    let mut buffer = scattered(block as usize)?;
    let disk = open(File::options().read(true))?;
    let mut costs = Rounds::new();
    for round in 0..rounds {
        let meter = Meter::start();
        for i in 0..each {
            let index = round.wrapping_mul(each).wrapping_add(i);
            let at = pattern::word(seed, index) % blocks * block;
            let read = pread(&disk, &mut buffer[..], at).context("read of the disk")?;
            ensure!(read == buffer.len(), "short read of the disk");
        }
        costs.add(meter.stop());
    }
    Ok(costs)
}
