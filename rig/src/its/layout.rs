//! What lies where.

use std::ops::Range;

/// The host's memory.
pub(super) const HOST: Range<u64> = 0x4000_0000..0x4040_0000;
/// Tables that an earlier owner of the GIC left.
pub(super) const EARLIER: Range<u64> = 0x8000_0000..0x8040_0000;
/// EL2's memory for tables that last.
pub(super) const TABLES: Range<u64> = 0x9000_0000..0x9080_0000;
/// EL2's memory for what depends on the host's devices.
pub(super) const SHARE: u64 = 0xa000_0000;

/// The configuration table of the host.
pub(super) const CONFIG: u64 = HOST.start;

/// The pending table of a CPU.
pub(super) fn pending(cpu: usize) -> u64 {
    HOST.start + 0x1_0000 * (cpu as u64 + 1)
}

/// What an ITS has of the host's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area(u64);

impl Area {
    /// The first or the second that ITS `its` has.
    pub(super) fn new(its: usize, second: bool) -> Self {
        let its = HOST.start + 0x10_0000 * (its as u64 + 1);
        Self(its + if second { 0x8_0000 } else { 0 })
    }

    pub(super) fn all(self) -> Range<u64> {
        self.0..self.0 + 0x8_0000
    }

    /// One page.
    pub(super) fn queue(self) -> u64 {
        self.0
    }

    pub(super) fn devices(self) -> u64 {
        self.0 + 0x1_0000
    }

    pub(super) fn collections(self) -> u64 {
        self.0 + 0x2_0000
    }

    /// A page of the second level.
    pub(super) fn page(self, index: u64) -> u64 {
        self.0 + 0x3_0000 + index * 0x1000
    }

    /// The ITT of a device by its number.
    pub(super) fn itt(self, number: u64) -> u64 {
        self.0 + 0x4_0000 + number * 0x1000
    }
}

/// DeviceIDs that are the host's, by number.
pub(super) const DEVICES: [u32; 10] = [0, 1, 2, 5, 0x10, 0x1f, 0x100, 0x101, 0x107, 0x3ff];
/// The ranges that they are in.
pub(super) const RANGES: [Range<u32>; 3] = [0..0x20, 0x100..0x108, 0x3ff..0x400];

/// Whether a DeviceID is the host's.
pub(super) fn is_host(device: u32) -> bool {
    RANGES.iter().any(|range| range.contains(&device))
}

/// LPIs that programs use, by number.
pub(super) const LPIS: u8 = 24;

/// An LPI by its number: the first ones, and the last ones.
pub(super) fn lpi(number: u8, host: u32) -> u32 {
    let number = u32::from(number % LPIS);
    if number < 16 {
        8192 + number
    } else {
        8192 + host - u32::from(LPIS) + number
    }
}

/// Collections that programs use.
pub(super) const COLLECTIONS: u8 = 5;
