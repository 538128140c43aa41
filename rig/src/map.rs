//! Where everything lies in the machine.

use portcullis_addr::PAGE_SIZE;
use std::ops::Range;

/// RAM that the ledger describes.
pub const RAM: Range<u64> = 0x8000_0000..0x8040_0000;
/// Memory of the hypervisor's tables and queues.
pub const POOL: Range<u64> = 0x9000_0000..0x9010_0000;
/// Memory that devices of the other domain may use.
pub const OTHER: Range<u64> = 0xa000_0000..0xa001_0000;
/// Memory for the same domain with another table.
pub const SPARE: Range<u64> = 0xa010_0000..0xa012_0000;
/// Nobody's: where an earlier owner of the SMMU had its tables.
pub const OLD: Range<u64> = 0xb000_0000..0xb010_0000;
/// Streams of the machine.
pub const STREAMS: u32 = 16;
/// Where devices signal interrupts.
pub const DOORBELL: Range<u64> = 0x0809_0000..0x0809_1000;
/// Pages of [`RAM`].
pub const PAGES: u64 = (RAM.end - RAM.start) / PAGE_SIZE;
