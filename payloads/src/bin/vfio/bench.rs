//! What a program pays for handing its memory to a device.

use crate::buffer::Buffer;
use crate::container::{Container, Rights};
use crate::pages;
use crate::sys::{self, Fd, Levels};
use crate::text::{Context, Failure, Line};
use core::ffi::CStr;
use core::fmt::Write;

/// Where the device finds the buffer: apart from what the kernel reserves.
const AT: u64 = 0x8_0000_0000;
/// Most rounds.
const MOST: usize = 256;

/// Maps a buffer of `bytes` whose pages are scattered, and unmaps it, `rounds`
/// times; `line` gets, in ticks of the counter, the sum, the median and the 99th
/// percentile of both, and how many instructions EL2 took of all of each.
///
/// A round before them pays for what the kernel sets up once.
pub fn run(
    name: &CStr,
    group: &CStr,
    bytes: usize,
    rounds: usize,
    line: &mut Line,
) -> Result<(), Failure> {
    if rounds == 0 || rounds > MOST {
        return Err(Failure::Said("1 to 256 rounds"));
    }
    let page = pages::size()?;
    let container = Container::open(name, group)?;
    let memory = Buffer::scattered(bytes, page)?;
    if memory.adjacent(page)? > bytes / page / 16 {
        return Err(Failure::Said("the buffer is not scattered"));
    }
    let el2 = sys::instruction_counter(Levels::El2).context("open a counter")?;
    let (mut maps, mut unmaps) = ([0; MOST], [0; MOST]);
    let (mut map_el2, mut unmap_el2) = (0, 0);
    for round in 0..=rounds {
        let before = count(el2)?;
        let start = sys::counter();
        container.map(AT, memory.address(), bytes, Rights::ReadWrite)?;
        let mapped = sys::counter() - start;
        let between = count(el2)?;
        let start = sys::counter();
        container.unmap(AT, bytes)?;
        let unmapped = sys::counter() - start;
        let after = count(el2)?;
        if let Some(index) = round.checked_sub(1) {
            maps[index] = mapped;
            unmaps[index] = unmapped;
            map_el2 += between - before;
            unmap_el2 += after - between;
        }
    }
    write!(
        line,
        "count={rounds} cntfrq={} map_el2={map_el2} unmap_el2={unmap_el2}",
        sys::counter_frequency()
    )?;
    for (what, ticks) in [("map", &mut maps), ("unmap", &mut unmaps)] {
        let ticks = &mut ticks[..rounds];
        ticks.sort_unstable();
        write!(
            line,
            " {what}_sum={} {what}_p50={} {what}_p99={}",
            ticks.iter().sum::<u64>(),
            ticks[rounds / 2],
            ticks[rounds - 1 - rounds / 100]
        )?;
    }
    Ok(())
}

fn count(counter: Fd) -> Result<u64, Failure> {
    let mut value = [0; 8];
    sys::read(counter, &mut value).context("read the counter")?;
    Ok(u64::from_le_bytes(value))
}
