//! What a program pays for handing its memory to a device.

use crate::buffer::Buffer;
use crate::container::{Container, Rights};
use crate::pages;
use crate::sys;
use crate::text::{Failure, Line};
use core::ffi::CStr;
use core::fmt::Write;

/// Where the device finds the buffer: apart from what the kernel reserves.
const AT: u64 = 0x8_0000_0000;
/// Most rounds.
const MOST: usize = 256;

/// Maps a buffer of `bytes` whose pages are scattered, and unmaps it, `rounds`
/// times; `line` gets, in ticks of the counter, the sum, the median and the 99th
/// percentile of both.
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
    let (mut maps, mut unmaps) = ([0; MOST], [0; MOST]);
    for round in 0..=rounds {
        let start = sys::counter();
        container.map(AT, memory.address(), bytes, Rights::ReadWrite)?;
        let mapped = sys::counter();
        container.unmap(AT, bytes)?;
        let unmapped = sys::counter();
        if let Some(index) = round.checked_sub(1) {
            maps[index] = mapped - start;
            unmaps[index] = unmapped - mapped;
        }
    }
    write!(line, "count={rounds} cntfrq={}", sys::counter_frequency())?;
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
