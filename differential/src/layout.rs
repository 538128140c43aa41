//! Where things are: the emulated machine's map, and the memory of a case.

use std::ops::Range;

/// The SMMU's registers on QEMU's `virt`.
pub const SMMU: u64 = 0x0905_0000;
/// PCI configuration space, with `highmem-ecam=off`: 16 buses.
pub const ECAM: u64 = 0x3f00_0000;
/// Where BARs are put.
pub const BARS: u64 = 0x1000_0000;

/// All memory. A block of 1 GiB maps it exactly.
pub const RAM: Range<u64> = 0x4000_0000..0x8000_0000;
/// The command queue, room for 2^10 commands.
pub const CMDQ: u64 = 0x4000_0000;
/// The event queue, room for 2^10 records.
pub const EVENTQ: u64 = 0x4001_0000;
/// Where a device's buffer is brought to be looked at.
pub const SCRATCH: u64 = 0x4002_0000;
/// Stream tables.
pub const STREAMS: Range<u64> = 0x4010_0000..0x4040_0000;
/// Translation tables and context descriptors.
pub const TABLES: Range<u64> = 0x4100_0000..0x4200_0000;
/// What devices read and write. Each word of it has a value of its own at the
/// start, see [`initial`].
pub const DATA: [Range<u64>; 2] = [0x5000_0000..0x5008_0000, 0x7ff8_0000..0x8000_0000];
/// Nothing answers here, on the emulated machine as well.
pub const HOLE: Range<u64> = 0x8000_0000..0x40_0000_0000;

/// What 32 bits of [`DATA`] hold at the start. Even, so that memory that is
/// read as a table by mistake or on purpose holds no valid descriptor, as
/// elsewhere.
#[must_use]
pub fn initial(at: u64) -> u32 {
    let number = (at >> 2) as u32;
    number.wrapping_mul(0x9e37_79b1) & !1 | 2
}

/// Whether devices may write there without changing a table.
#[must_use]
pub fn is_data(at: u64) -> bool {
    DATA.iter().any(|range| range.contains(&at))
}
