//! What both machines have where, and what cases name.

use std::ops::Range;

/// Redistributors.
pub const CPUS: usize = 3;

/// The host's memory.
pub const HOST: Range<u64> = 0x4800_0000..0x4810_0000;
/// The command queue, one page.
pub const QUEUE: u64 = HOST.start;
/// Bytes of it.
pub const QUEUE_BYTES: u64 = 0x1000;
/// The device table: one page, of either level.
pub const DEVICES: u64 = HOST.start + 0x1_0000;
/// The only page of its second level.
pub const SECOND: u64 = HOST.start + 0x2_0000;
/// The collection table, one page.
pub const COLLECTIONS: u64 = HOST.start + 0x3_0000;
/// Entries of a page of either table, on both sides.
pub const PER_PAGE: u32 = 512;
/// The interrupt translation tables.
pub const ITTS: u64 = HOST.start + 0x4_0000;
/// From one of them to the next: room for [`EVENTS`] entries of either format.
pub const ITT_STRIDE: u64 = 0x100;
/// Events of the largest device.
pub const EVENTS: u32 = 16;
/// The configuration table.
pub const CONFIG: u64 = HOST.start + 0x5_0000;

/// The pending table of a redistributor.
#[must_use]
pub fn pending(cpu: usize) -> u64 {
    HOST.start + 0x8_0000 + 0x1_0000 * cpu as u64
}

/// DeviceIDs that have tables of their own, two each.
pub const NAMED: [u32; 6] = [0, 1, 5, 0x1f, 0x100, 0x40];
/// The one of them that is not the host's.
pub const FOREIGN: u32 = 0x40;
/// The DeviceIDs that are.
pub const RANGES: [Range<u32>; 2] = [0..0x20, 0x100..0x108];
/// Interrupt translation tables.
pub const SLOTS: u64 = 2 * NAMED.len() as u64;

/// The number of one more table, for EventIDs that are LPIs, as MAPI has them.
pub const WIDE: u64 = 0x700;
/// Bits of an EventID there.
pub const WIDE_BITS: u8 = 14;
/// The device that may have it.
pub const WIDE_DEVICE: u32 = 5;
/// Events of it that cases name, if the table has room for them.
pub const WIDE_EVENTS: [Range<u32>; 2] = [0..18, 8192..8320];

/// Of them those that MAPI maps as a rule: LPIs that MAPTI does not name as a rule.
pub const MAPI_EVENTS: Range<u32> = 8288..8304;

/// Where interrupt translation table `slot` is.
#[must_use]
pub fn itt(slot: u64) -> u64 {
    ITTS + slot * ITT_STRIDE
}

/// Bytes of it.
#[must_use]
pub fn itt_bytes(slot: u64) -> u64 {
    match slot {
        WIDE => 12 << WIDE_BITS,
        _ => ITT_STRIDE,
    }
}

/// The events that a device may have.
#[must_use]
pub fn events(device: u32) -> Vec<u32> {
    let wide = [8192..8200, MAPI_EVENTS];
    let wide = wide.into_iter().flatten();
    let wide = wide.filter(|_| device == WIDE_DEVICE);
    (0..EVENTS).chain(wide).collect()
}

/// The LPIs that cases name: the first ones, those around the end of what our
/// host has, and the last ones.
pub const LPIS: [Range<u32>; 3] = [8192..8320, 40956..40964, 65532..65536];
/// Bits of an INTID.
pub const INTID_BITS: u32 = 16;
/// LPIs from here on are not our host's (`GICD_TYPER.num_LPIs`).
pub const OUR_LPI_END: u32 = 8192 + 32768;
/// Collections that our host has.
pub const OUR_COLLECTIONS: u16 = 256;

/// Collections that cases name: below that limit, at it, in the table and
/// beyond it.
pub const ICIDS: [u16; 8] = [0, 1, 2, 255, 256, 511, 512, 0xffff];
