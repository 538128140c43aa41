//! How much memory tables take, beside what the architecture needs for the same
//! mappings: counted from the requests alone, a table wherever one of them has
//! something smaller than an entry of the level above.

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::Arena;
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2, Stage2Attributes, Table,
};
use std::collections::BTreeSet;

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const RAM: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Never,
};

/// Where a request is, how long, and where it leads.
type Request = (u64, u64, u64);

/// Pages of tables that the requests need, the root with them.
fn needed(requests: &[Request]) -> u64 {
    let (mut second, mut third) = (BTreeSet::new(), BTreeSet::new());
    for &(at, bytes, to) in requests {
        let mut from = at;
        while from < at + bytes {
            let end = (at + bytes).min((from / BLOCK + 1) * BLOCK);
            second.insert(from / GIB);
            if end - from != BLOCK || (from ^ (to + from - at)) & (BLOCK - 1) != 0 {
                third.insert(from / BLOCK);
            }
            from = end;
        }
    }
    1 + (second.len() + third.len()) as u64
}

/// A number that has no pattern, for `n`.
fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// One after the other, downwards as Linux gives them out; each at a place that
/// has nothing to do with the one before.
fn buffers(count: u64, bytes: u64) -> Vec<Request> {
    (0..count)
        .map(|n| {
            (
                (4 << 30) - (n + 1) * bytes,
                bytes,
                (scatter(n) * PAGE) % (1 << 38),
            )
        })
        .collect()
}

fn shapes() -> Vec<(&'static str, Vec<Request>)> {
    let in_step = |count: u64, bytes: u64| {
        (0..count)
            .map(|n| (GIB + n * bytes, bytes, 8 * GIB + n * bytes))
            .collect()
    };
    vec![
        ("1 page", buffers(1, PAGE)),
        ("10 pages", buffers(10, PAGE)),
        ("100,000 pages", buffers(100_000, PAGE)),
        ("2,000 of 64 KiB", buffers(2_000, 64 << 10)),
        ("300 of 1 MiB", buffers(300, 1 << 20)),
        ("64 MiB of scattered pages", buffers(16_384, PAGE)),
        ("64 MiB in one", in_step(1, 64 << 20)),
        // The first that does not do without a page for its kept tables.
        ("50 MiB of pages that join", in_step(12_800, PAGE)),
        ("64 MiB of pages that join", in_step(16_384, PAGE)),
        ("1 GiB of pages that join", in_step(262_144, PAGE)),
        ("1 GiB of 64 KiB that join", in_step(16_384, 64 << 10)),
    ]
}

#[test]
fn tables_take_little_more_than_the_architecture_needs() {
    println!("mappings                      needed  taken   ratio");
    for (name, requests) in shapes() {
        let arena = Arena::new(PhysAddr::new(0x1_0000_0000), 0x80_0000);
        let geometry = Geometry::stage2(Granule::Size4K, 39, 40).unwrap();
        let mut table: Table<Stage2, &Arena> = Table::new(geometry, Bbm::Level2, &arena).unwrap();
        let range = |at, bytes| Range::from_size(Ipa::new(at), bytes).unwrap();
        for &(at, bytes, to) in &requests {
            let to = PhysAddr::new(to);
            table
                .map_recorded(range(at, bytes), to, RAM, false)
                .unwrap();
        }
        let (must, taken) = (needed(&requests), arena.bytes_in_use() / PAGE);
        println!(
            "{name:28} {must:7} {taken:6} {:7.4}",
            taken as f64 / must as f64
        );
        assert!(taken >= must, "{name}: a table is missing in the count");
        assert!(
            taken * 100 <= must * 105,
            "{name}: {taken} pages where {must} would do"
        );

        // Half of them gone, in no order, one table may be empty and stay.
        let (gone, left): (Vec<_>, Vec<_>) = requests
            .iter()
            .partition(|(at, ..)| scatter(at / PAGE) & 1 == 0);
        for &(at, bytes, _) in &gone {
            let taken = table.unmap_first(range(at, bytes)).unwrap().unwrap();
            assert_eq!(taken.range, range(at, bytes));
            table.complete(taken.plan).unwrap();
        }
        let (must, taken) = (needed(&left), arena.bytes_in_use() / PAGE);
        // An empty table may have the one above it stay, too.
        assert!(taken <= must * 105 / 100 + 2, "{name}: {taken}, {must}");
        while let Some(plan) = table.sweep(None).unwrap() {
            table.complete(plan).unwrap();
        }
        let taken = arena.bytes_in_use() / PAGE;
        assert!(taken <= must * 105 / 100, "{name}: {taken} {must}, half");
        table.destroy();
        assert_eq!(arena.bytes_in_use(), 0);
    }
}
