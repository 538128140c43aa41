//! Where everything lies in the machine.

use portcullis_addr::PAGE_SIZE;
use portcullis_ownership::Owner;
use std::ops::Range;

/// Streams of the machine, over all SMMUs.
pub const STREAMS: u32 = 16;

/// RAM that the ledger describes.
pub(crate) const RAM: Range<u64> = 0x8000_0000..0x8080_0000;
/// Pages of [`RAM`].
pub(crate) const PAGES: u64 = (RAM.end - RAM.start) / PAGE_SIZE;
/// Who has a page of [`RAM`] at first, where not all of it is the host's.
pub(crate) fn first_owner(page: u64) -> Owner {
    match page {
        5 => Owner::HYPERVISOR,
        // Between it and this lie a part of a block, a whole one, and a part
        // that ends in the middle of a group.
        1300..1310 => Owner::NOBODY,
        _ => Owner::HOST,
    }
}

/// Memory of the tables and queues that SMMUs walk.
pub(crate) const POOL: Range<u64> = 0x9000_0000..0x9010_0000;
/// Memory of the tables that only CPUs walk.
pub(crate) const CPU_POOL: Range<u64> = 0x9800_0000..0x9810_0000;
/// Memory of the tables of domains that a host maps into: little, so that it
/// runs out.
pub(crate) const PARA_POOL: Range<u64> = 0x9900_0000..0x9902_4000;
/// Memory that devices of the other domain may use.
pub(crate) const OTHER: Range<u64> = 0xa000_0000..0xa001_0000;
/// Memory for the same domain with another table.
pub(crate) const SPARE: Range<u64> = 0xa010_0000..0xa012_0000;
/// Nobody's: where an earlier owner of an SMMU had its tables.
pub(crate) const OLD: Range<u64> = 0xb000_0000..0xb010_0000;
/// Where the model of the CPUs keeps what a CPU has in registers.
pub(crate) const CPU: Range<u64> = 0xb800_0000..0xb800_3000;
/// Where devices signal interrupts.
pub(crate) const DOORBELL: Range<u64> = 0x0809_0000..0x0809_1000;
/// More doorbells, of which no part can be taken away.
pub(crate) const DOORBELLS: Range<u64> = 0x080a_0000..0x080a_3000;
/// The registers that the host sees of its emulated SMMUs, one after the other.
pub(crate) const REGISTERS: Range<u64> = 0xb900_0000..0xb904_0000;
/// Where page 1 of the registers of an SMMU starts.
pub(crate) const PAGE_1: u32 = 0x1_0000;
/// What the host's CPUs do not get: everything around RAM, so that few entries
/// of their tables are no block of 1 GiB.
pub(crate) const WITHHELD: Range<u64> = RAM.end..0xc000_0000;

/// The last StreamID that a host with an emulated SMMU is given.
pub(crate) const LAST_GIVEN: u32 = 0x2ff;

/// Entries of a second-level stream table.
pub(crate) const LEAF: u32 = 64;

/// StreamIDs behind an SMMU, in the order in which streams get them. They lie
/// in four second-level tables of [`LEAF`] entries, of which two are like none
/// other's neighbours and two are next to each other. Some are first or last in
/// theirs, so that streams can cover a whole one; the others have no neighbour,
/// so that a wrong number hits nothing.
const STREAM_IDS: [u32; STREAMS as usize] = [
    0, 127, 64, 191, 10, 63, 128, 70, 1, 192, 255, 126, 65, 75, 150, 220,
];

/// Which SMMU a stream is behind, and its StreamID there.
pub(crate) fn place(stream: u32, units: usize) -> (usize, u32) {
    let (stream, units) = (stream % STREAMS, units as u32);
    let id = STREAM_IDS[(stream / units) as usize];
    ((stream % units) as usize, id)
}

/// Whether a stream is the host's where it has an emulated SMMU. The others are
/// another domain's.
pub(crate) fn is_given(stream: u32, units: usize) -> bool {
    stream % STREAMS / units as u32 % 4 != 3
}

/// The StreamIDs that the host is given behind each of `units` SMMUs, as first
/// and last of their runs, every other one functions of PCI Express: all up to
/// [`LAST_GIVEN`] but those of the others.
pub(crate) fn given(units: usize) -> Vec<(u32, u32, bool)> {
    let others = (0..STREAMS).filter(|stream| !is_given(*stream, units));
    let mut others: Vec<u32> = others.map(|stream| place(stream, units).1).collect();
    others.push(LAST_GIVEN + 1);
    others.sort_unstable();
    others.dedup();
    let mut runs = Vec::new();
    let mut first = 0;
    for other in others {
        if first < other {
            runs.push((first, other - 1, runs.len() % 2 == 0));
        }
        first = other + 1;
    }
    runs
}

/// Whether a StreamID is one of those, and if so of PCI Express.
pub(crate) fn given_id(id: u32, units: usize) -> Option<bool> {
    let mut runs = given(units).into_iter();
    let run = runs.find(|(first, last, _)| (*first..=*last).contains(&id));
    run.map(|(.., pcie)| pcie)
}

/// The StreamIDs of the streams behind each of `units` SMMUs, at least.
pub(crate) fn ids(units: usize) -> impl Iterator<Item = u32> {
    STREAM_IDS
        .into_iter()
        .take((STREAMS as usize).div_ceil(units))
}
