//! Verified and counted transfers with the disk.

use crate::meter::{Meter, Rounds};
use crate::pages;
use crate::sys::{self, Fd};
use crate::text::{Context, Failure};
use core::ffi::CStr;
use portcullis_payloads::pattern;

/// The disk: where a script has said which it is; else NVMe's, or a virtio device's
/// where there is no other.
const DISKS: [&CStr; 3] = [c"/dev/disk", c"/dev/nvme0n1", c"/dev/vda"];
/// Size of one transfer of [`verify`] and [`fill`].
const CHUNK: usize = 128 * 1024;
/// Size of one transfer of [`random_reads`] unless the lab says another.
pub const BLOCK: u64 = 4096;
/// The largest.
const MOST: u64 = 1 << 20;

/// A buffer that the disk's driver can hand to the device as it is.
fn buffer(length: usize) -> Result<&'static mut [u8], Failure> {
    let flags = sys::MAP_PRIVATE | sys::MAP_ANONYMOUS | sys::MAP_POPULATE;
    let at = sys::map(None, 0, length, flags).context("mmap of a buffer")?;
    // SAFETY: the kernel just mapped `length` zeroed bytes for this caller
    // alone; they are never unmapped.
    Ok(unsafe { core::slice::from_raw_parts_mut(at, length) })
}

/// The same, its pages asked for in an order that leaves no two of them side by side
/// in memory: what a buffer that was used for long is made of.
fn scattered(length: usize) -> Result<&'static mut [u8], Failure> {
    let page = pages::size()?;
    let flags = sys::MAP_PRIVATE | sys::MAP_ANONYMOUS;
    let at = sys::map(None, 0, length, flags).context("mmap of a buffer")?;
    let pages = length.div_ceil(page);
    // An odd step meets every page of a power of two once.
    let step = pages / 8 * 5 + 3;
    for i in 0..pages {
        let offset = i.wrapping_mul(step) % pages * page;
        // SAFETY: within what the kernel just mapped for this caller alone.
        unsafe { at.add(offset).write_volatile(0) };
    }
    // SAFETY: as in `buffer`.
    Ok(unsafe { core::slice::from_raw_parts_mut(at, length) })
}

fn open(flags: usize) -> Result<Fd, Failure> {
    let [named, first, second] = DISKS;
    let flags = flags | sys::O_DIRECT;
    let disk = sys::open(named, flags).or_else(|_| sys::open(first, flags));
    let disk = disk.or_else(|_| sys::open(second, flags));
    disk.context("open /dev/nvme0n1 or /dev/vda")
}

/// Reads `length` bytes from `offset` and compares them with pattern `seed`.
pub fn verify(seed: u64, offset: u64, length: u64) -> Result<(), Failure> {
    let buffer = buffer(CHUNK)?;
    let disk = open(sys::O_RDONLY)?;
    let mut at = offset;
    while at < offset + length {
        let part = (offset + length - at).min(CHUNK as u64) as usize;
        let got = sys::read_at(disk, &mut buffer[..part], at).context("read of the disk")?;
        if got != part {
            return Err(Failure::Said("short read of the disk"));
        }
        if let Some(position) = pattern::first_difference(&buffer[..part], seed, at) {
            return Err(Failure::Differs(at + position as u64));
        }
        at += part as u64;
    }
    sys::close(disk);
    Ok(())
}

/// Writes `length` bytes of pattern `seed` to `offset`.
pub fn fill(seed: u64, offset: u64, length: u64) -> Result<(), Failure> {
    let buffer = buffer(CHUNK)?;
    let disk = open(sys::O_WRONLY)?;
    let mut at = offset;
    while at < offset + length {
        let part = (offset + length - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut buffer[..part], seed, at);
        let put = sys::write_at(disk, &buffer[..part], at).context("write of the disk")?;
        if put != part {
            return Err(Failure::Said("short write of the disk"));
        }
        at += part as u64;
    }
    sys::sync_file(disk).context("flush of the disk")?;
    sys::close(disk);
    Ok(())
}

/// Reads blocks of `block` bytes at places picked by `seed` within the first
/// `span` bytes, `rounds` times `each` of them; returns what the rounds cost.
///
/// How long the emulator's host takes for a read decides whether this CPU goes
/// idle meanwhile, which costs instructions: the cheapest of many short rounds
/// is the one where that did not happen. Work that is put off and done for many
/// reads at once shows in long rounds only.
pub fn random_reads(
    rounds: u64,
    each: u64,
    span: u64,
    seed: u64,
    block: u64,
) -> Result<Rounds, Failure> {
    if !(512..=MOST).contains(&block) || !block.is_power_of_two() {
        return Err(Failure::Said("a block is a power of two, 512 to 1048576"));
    }
    let blocks = span / block;
    if blocks == 0 || rounds == 0 || each == 0 {
        return Err(Failure::Said("there is nothing to read"));
    }
    let buffer = scattered(block as usize)?;
    let disk = open(sys::O_RDONLY)?;
    let mut costs = Rounds::new();
    for round in 0..rounds {
        let meter = Meter::start();
        for i in 0..each {
            let index = round.wrapping_mul(each).wrapping_add(i);
            let at = pattern::word(seed, index) % blocks * block;
            if sys::read_at(disk, buffer, at).context("read of the disk")? != buffer.len() {
                return Err(Failure::Said("short read of the disk"));
            }
        }
        costs.add(meter.stop());
    }
    sys::close(disk);
    Ok(costs)
}
