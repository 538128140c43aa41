//! What a program pays for handing its memory to a device.

use crate::buffer::Buffer;
use crate::container::{Container, Rights};
use anyhow::{Context, Result, bail};
use portcullis_payloads::instructions::{Instructions, Levels};
use portcullis_payloads::{counter, pages};
use std::fmt::Write;

/// Where the device finds the buffer: apart from what the kernel reserves.
const AT: u64 = 0x8_0000_0000;
/// Most rounds.
const MOST: usize = 256;

/// Maps a buffer of `bytes` whose pages are scattered, and unmaps it, `rounds`
/// times; returns, in ticks of the counter, the sum, the median and the 99th
/// percentile of both, and how many instructions EL2 took of all of each.
///
/// A round before them pays for what the kernel sets up once.
pub fn run(name: &str, group: &str, bytes: usize, rounds: usize) -> Result<String> {
    if rounds == 0 || rounds > MOST {
        bail!("1 to {MOST} rounds");
    }
    let page = pages::size();
    let container = Container::open(name, group)?;
    let memory = Buffer::scattered(bytes, page)?;
    if memory.adjacent(page)? > bytes / page / 16 {
        bail!("the buffer is not scattered");
    }
    let el2 = Instructions::open(Levels::El2).context("open a counter")?;
    let count = || el2.read().context("read the counter");
    let (mut maps, mut unmaps) = (Vec::with_capacity(MOST), Vec::with_capacity(MOST));
    let (mut map_el2, mut unmap_el2) = (0, 0);
    for round in 0..=rounds {
        let before = count()?;
        let start = counter::now();
        container.map(AT, &memory, bytes, Rights::ReadWrite)?;
        let mapped = counter::now() - start;
        let between = count()?;
        let start = counter::now();
        container.unmap(AT, bytes)?;
        let unmapped = counter::now() - start;
        let after = count()?;
        if round != 0 {
            maps.push(mapped);
            unmaps.push(unmapped);
            map_el2 += between - before;
            unmap_el2 += after - between;
        }
    }
    let mut line = format!(
        "count={rounds} cntfrq={} map_el2={map_el2} unmap_el2={unmap_el2}",
        counter::frequency()
    );
    for (what, ticks) in [("map", &mut maps), ("unmap", &mut unmaps)] {
        ticks.sort_unstable();
        write!(
            line,
            " {what}_sum={} {what}_p50={} {what}_p99={}",
            ticks.iter().sum::<u64>(),
            ticks[rounds / 2],
            ticks[rounds - 1 - rounds / 100]
        )?;
    }
    Ok(line)
}
