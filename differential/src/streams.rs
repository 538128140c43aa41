//! Random stream tables (IHI 0070, 3.3, 5.1).

use crate::layout::STREAMS;
use crate::machine::DEVICES;
use crate::random::Random;
use std::collections::BTreeMap;

/// A stream table.
#[derive(Clone, Debug)]
pub struct Streams {
    /// `STRTAB_BASE`.
    pub base: u64,
    /// `STRTAB_BASE_CFG`.
    pub config: u32,
    /// Level 1 descriptors.
    pub words: BTreeMap<u64, u64>,
    /// Where the entries of the devices' streams go, where the author meant
    /// them to be.
    pub entries: BTreeMap<u32, u64>,
}

/// A table, now and then one that is too small for some stream.
pub fn table(random: &mut Random, two_level: bool) -> Streams {
    let log2 = if random.chance(95) {
        12 + random.below(3)
    } else {
        random.below(17)
    };
    if two_level {
        nested(random, log2)
    } else {
        linear(random, log2)
    }
}

fn linear(random: &mut Random, log2: u64) -> Streams {
    let bytes = 64u64 << log2;
    let place = STREAMS.start.next_multiple_of(bytes);
    let mut entries = BTreeMap::new();
    for device in DEVICES {
        let at = place + u64::from(device.stream) * 64;
        if u64::from(device.stream) >> log2 == 0 {
            entries.insert(device.stream, at);
        }
    }
    Streams {
        base: place | noise(random, bytes),
        config: log2 as u32,
        words: BTreeMap::new(),
        entries,
    }
}

fn nested(random: &mut Random, log2: u64) -> Streams {
    let split = random.pick(&[6u64, 8, 10]);
    let bytes = (8u64 << log2.saturating_sub(split)).max(64);
    let place = STREAMS.start + (random.below(16) * 0x1000).next_multiple_of(bytes);
    let mut next = STREAMS.start + 0x8_0000;
    let mut words = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for device in DEVICES {
        let stream = u64::from(device.stream);
        let (index, within) = (stream >> split, stream & ((1 << split) - 1));
        if stream >> log2 != 0 {
            continue;
        }
        let at = place + index * 8;
        let word = words.entry(at).or_insert_with(|| {
            let span = match random.below(20) {
                0 if random.chance(50) => 0,
                // Just large enough.
                1 => 65 - u64::from(within.leading_zeros()),
                2 if random.chance(25) => random.below(12),
                _ => split + 1,
            };
            let bytes = 64u64 << span.max(1).saturating_sub(1);
            let second = next.next_multiple_of(bytes);
            next = second + bytes + 0x1000;
            if random.chance(3) {
                return (crate::layout::HOLE.start + random.bits(30)) & !(bytes - 1) | span;
            }
            second | span | noise(random, bytes)
        });
        let span = *word & 0x1f;
        let bytes = 64u64 << span.max(1).saturating_sub(1);
        entries.insert(
            device.stream,
            (*word & 0x000f_ffff_ffff_ffc0 & !(bytes - 1)) + within * 64,
        );
    }
    // Now and then the first level is where nothing is.
    let place = if random.chance(2) {
        crate::layout::HOLE.start
    } else {
        place
    };
    Streams {
        base: place | noise(random, bytes),
        config: (1 << 16 | split << 6 | log2) as u32,
        words,
        entries,
    }
}

/// Address bits that alignment makes ignored, seldom.
fn noise(random: &mut Random, bytes: u64) -> u64 {
    if random.chance(1) {
        random.bits(40) & (bytes - 1) & !0x3f
    } else {
        0
    }
}
