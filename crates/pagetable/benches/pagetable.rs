//! Portcullis beside two other crates: map, unmap and walk of ranges of
//! 4 KiB, 64 KiB, 2 MiB and 1 GiB.
//!
//! What is the same for all three: 4 KiB granule, 48 bits, four levels; tables
//! in ordinary memory whose physical address is its address here, so that no
//! translation costs anything; one allocator for everybody; blocks allowed;
//! the same ranges from the same state. That state is a tree in which each
//! target has neighbours on both sides, so that neither mapping nor unmapping it
//! allocates or frees a table. A target's own time is what is measured: 128 of
//! them are mapped in turn, then unmapped in turn.
//!
//! What each does:
//!
//! - Portcullis checks that nothing is mapped before it stores, sets the
//!   contiguous hint for 64 KiB, looks for tables that became empty, and
//!   returns the invalidation, which is then completed. All of it with tables
//!   that hardware may be walking.
//! - `aarch64-paging` overwrites what is there. The tables are not marked as in
//!   use, which saves it its break-before-make check and invalidation. It has no
//!   unmap: that is mapping with invalid flags. It leaves empty tables.
//! - What has to be invalidated reaches a place where an instruction could use
//!   it, in the form in which each crate gives it; the instruction itself is
//!   left out. Portcullis returns the range. With `aarch64-paging` the caller
//!   knows it. The cursor of `page_table_multiarch` notes the address of every
//!   entry that changed and hands each to `flush_tlb`, but for
//!   `target_os = "none"` only: here it would all be optimized away, so that one
//!   value for each entry that is cleared stands for it. For maps it does the
//!   same, and that is left out in its favour.
//! - `page_table_multiarch` checks each page for itself and picks blocks because
//!   it is told to (`allow_huge`). Its own aarch64 descriptors exist on aarch64
//!   only; the ones here are the same bits. It leaves empty tables. A range is
//!   walked by asking for each page, which is what it offers.
//!
//! Results: `target/criterion/<op>_<size>/<crate>/new/estimates.json`; the time
//! there is for one range.

use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{
    Constraints, El2, MemoryRegion, PageTable as PagingTable, RootTable, Translation,
};
use criterion::{Criterion, criterion_group, criterion_main};
use page_table_multiarch::{GenericPTE, MappingFlags, PageTable64, PagingHandler, PagingMetaData};
use portcullis_addr::{PhysAddr, Range, Va};
use portcullis_memory::{Allocator, Memory};
use portcullis_pagetable::{
    Access, Bbm, El2Attributes, Geometry, Granule, MemoryType, Stage1El2, Table,
};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};
use std::time::{Duration, Instant};

/// Targets of one round.
const TARGETS: u64 = 128;
const PAGE: u64 = 4096;

/// A row of the result: where target `n` is, and where its neighbours are.
struct Row {
    name: &'static str,
    size: u64,
}

const ROWS: [Row; 4] = [
    Row {
        name: "4KiB",
        size: PAGE,
    },
    Row {
        name: "64KiB",
        size: 16 * PAGE,
    },
    Row {
        name: "2MiB",
        size: 512 * PAGE,
    },
    Row {
        name: "1GiB",
        size: 512 * 512 * PAGE,
    },
];

impl Row {
    /// Every second slot of `size` bytes is a target; the slots between hold a
    /// page each, except where a slot is a page: then they hold that.
    fn target(&self, n: u64) -> u64 {
        self.size * 512 + (2 * n + 1) * self.size
    }

    fn neighbour(&self, n: u64) -> u64 {
        self.size * 512 + 2 * n * self.size
    }
}

/// What is measured, done by each crate in its way.
trait Subject {
    const NAME: &'static str;
    fn new() -> Self;
    fn map(&mut self, at: u64, size: u64);
    fn unmap(&mut self, at: u64, size: u64);
    /// Hands each output to `found`, so that nothing of it can be left out and
    /// nobody has to carry a sum along.
    fn walk(&self, at: u64, size: u64, found: impl FnMut(u64));
}

fn page_layout(bytes: u64) -> Layout {
    Layout::from_size_align(bytes as usize, bytes as usize).expect("a power of two")
}

fn allocate(bytes: u64) -> u64 {
    // SAFETY: the size is not 0.
    let at = unsafe { alloc_zeroed(page_layout(bytes)) };
    assert!(!at.is_null());
    at as u64
}

fn free(at: u64, bytes: u64) {
    // SAFETY: it came from `allocate` with the same size, and the crate under
    // test gives it back because nothing refers to it.
    unsafe { dealloc(at as *mut u8, page_layout(bytes)) }
}

struct Direct;

impl Direct {
    fn word(&self, at: PhysAddr) -> &AtomicU64 {
        // SAFETY: the tables lie in memory from `allocate`, which lives as long
        // as the table that holds this value, and only atomic accesses are made.
        unsafe { AtomicU64::from_ptr(at.raw() as *mut u64) }
    }
}

impl Memory for Direct {
    #[inline(always)]
    fn load(&self, at: PhysAddr) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(&self, at: PhysAddr, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.word(at)
            .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    /// The other crates have no barrier here either: theirs exist on aarch64
    /// only, and on this machine stores are seen in order.
    #[inline(always)]
    fn publish(&self, _at: PhysAddr, _bytes: u64) {
        compiler_fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn refresh(&self, _at: PhysAddr, _bytes: u64) {
        compiler_fence(Ordering::SeqCst);
    }
}

impl Allocator for Direct {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        Some(PhysAddr::new(allocate(bytes)))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        free(at.raw(), bytes);
    }
}

struct Portcullis(Table<Stage1El2, Direct>);

fn va(at: u64, size: u64) -> Range<Va> {
    Range::from_size(Va::new(at), size).expect("the benchmark's ranges are small")
}

impl Subject for Portcullis {
    const NAME: &'static str = "portcullis";

    fn new() -> Self {
        let geometry = Geometry::stage1(Granule::Size4K, 48, 48).expect("48 bits are possible");
        Self(Table::new(geometry, Bbm::Level0, Direct).expect("there is memory"))
    }

    #[inline(always)]
    fn map(&mut self, at: u64, size: u64) {
        let attributes = El2Attributes {
            memory: MemoryType::Normal,
            access: Access::ReadWrite,
        };
        self.0
            .map(va(at, size), PhysAddr::new(at), attributes)
            .expect("the target is free");
    }

    #[inline(always)]
    fn unmap(&mut self, at: u64, size: u64) {
        let plan = self.0.unmap(va(at, size)).expect("nothing is shared");
        if let Some(range) = plan.range() {
            black_box(range);
        }
        self.0.complete(plan).expect("the plan is of this table");
    }

    #[inline(always)]
    fn walk(&self, at: u64, size: u64, mut found: impl FnMut(u64)) {
        self.0
            .visit(va(at, size), |_, mapping| {
                black_box(mapping.attributes);
                found(mapping.output.raw());
            })
            .expect("the range is inside");
    }
}

struct Google(RootTable<El2, Identity>);

struct Identity;

impl Translation<El23Attributes> for Identity {
    fn allocate_table(&mut self) -> (NonNull<PagingTable<El23Attributes>>, PhysicalAddress) {
        let at = allocate(PAGE);
        let table = NonNull::new(at as *mut PagingTable<El23Attributes>).expect("not null");
        (table, PhysicalAddress(at as usize))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PagingTable<El23Attributes>>) {
        free(table.as_ptr() as u64, PAGE);
    }

    #[inline(always)]
    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PagingTable<El23Attributes>> {
        NonNull::new(pa.0 as *mut PagingTable<El23Attributes>).expect("not null")
    }
}

fn region(at: u64, size: u64) -> MemoryRegion {
    MemoryRegion::new(at as usize, (at + size) as usize)
}

impl Subject for Google {
    const NAME: &'static str = "aarch64-paging";

    fn new() -> Self {
        Self(RootTable::new(Identity, 0, El2))
    }

    #[inline(always)]
    fn map(&mut self, at: u64, size: u64) {
        let flags = El23Attributes::VALID
            | El23Attributes::ATTRIBUTE_INDEX_1
            | El23Attributes::INNER_SHAREABLE
            | El23Attributes::USER_RES1
            | El23Attributes::ACCESSED
            | El23Attributes::XN;
        self.0
            .map_range(
                &region(at, size),
                PhysicalAddress(at as usize),
                flags,
                Constraints::empty(),
            )
            .expect("the target is free");
    }

    #[inline(always)]
    fn unmap(&mut self, at: u64, size: u64) {
        self.0
            .map_range(
                &region(at, size),
                PhysicalAddress(0),
                El23Attributes::empty(),
                Constraints::empty(),
            )
            .expect("the target is mapped");
        black_box((at, at + size));
    }

    #[inline(always)]
    fn walk(&self, at: u64, size: u64, mut found: impl FnMut(u64)) {
        self.0
            .walk_range(
                &region(at, size),
                &mut |chunk: &MemoryRegion, descriptor, _level| {
                    black_box(VirtualAddress(chunk.start().0));
                    black_box(descriptor.flags());
                    found(descriptor.output_address().0 as u64);
                    Ok(())
                },
            )
            .expect("the target is mapped");
    }
}

/// The bits of the crate's own `A64PTE`.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct ArmEntry(u64);

impl ArmEntry {
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

    #[inline(always)]
    fn bits(flags: MappingFlags, is_huge: bool) -> u64 {
        let mut bits = 1 | 1 << 10 | 1 << 6;
        if !flags.contains(MappingFlags::DEVICE) {
            bits |= 1 << 2 | 0b11 << 8;
        }
        if !flags.contains(MappingFlags::WRITE) {
            bits |= 1 << 7;
        }
        if !flags.contains(MappingFlags::EXECUTE) {
            bits |= 1 << 54;
        }
        if !is_huge {
            bits |= 1 << 1;
        }
        bits
    }
}

impl GenericPTE for ArmEntry {
    #[inline(always)]
    fn new_page(paddr: memory_addr::PhysAddr, flags: MappingFlags, is_huge: bool) -> Self {
        Self(paddr.as_usize() as u64 & Self::ADDRESS | Self::bits(flags, is_huge))
    }

    #[inline(always)]
    fn new_table(paddr: memory_addr::PhysAddr) -> Self {
        Self(paddr.as_usize() as u64 & Self::ADDRESS | 0b11)
    }

    #[inline(always)]
    fn paddr(&self) -> memory_addr::PhysAddr {
        memory_addr::PhysAddr::from((self.0 & Self::ADDRESS) as usize)
    }

    #[inline(always)]
    fn flags(&self) -> MappingFlags {
        let mut flags = MappingFlags::READ;
        if self.0 & 1 << 7 == 0 {
            flags |= MappingFlags::WRITE;
        }
        if self.0 & 1 << 54 == 0 {
            flags |= MappingFlags::EXECUTE;
        }
        if self.0 >> 2 & 0b111 == 0 {
            flags |= MappingFlags::DEVICE;
        }
        flags
    }

    fn set_paddr(&mut self, paddr: memory_addr::PhysAddr) {
        self.0 = self.0 & !Self::ADDRESS | paddr.as_usize() as u64 & Self::ADDRESS;
    }

    fn set_flags(&mut self, flags: MappingFlags, is_huge: bool) {
        self.0 = self.0 & Self::ADDRESS | Self::bits(flags, is_huge);
    }

    fn bits(self) -> usize {
        self.0 as usize
    }

    #[inline(always)]
    fn is_unused(&self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn is_present(&self) -> bool {
        self.0 & 1 != 0
    }

    #[inline(always)]
    fn is_huge(&self) -> bool {
        self.0 & 0b10 == 0
    }

    /// Stands for the address that the cursor notes for each entry it clears.
    #[inline(always)]
    fn clear(&mut self) {
        black_box(&raw const *self);
        self.0 = 0;
    }
}

struct FourLevels;

impl PagingMetaData for FourLevels {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = memory_addr::VirtAddr;

    fn flush_tlb(_vaddr: Option<memory_addr::VirtAddr>) {}
}

struct Frames;

impl PagingHandler for Frames {
    fn alloc_frames(num: usize, align: usize) -> Option<memory_addr::PhysAddr> {
        assert!(num == 1 && align == PAGE as usize);
        Some(memory_addr::PhysAddr::from(allocate(PAGE) as usize))
    }

    fn dealloc_frames(paddr: memory_addr::PhysAddr, _num: usize) {
        free(paddr.as_usize() as u64, PAGE);
    }

    #[inline(always)]
    fn phys_to_virt(paddr: memory_addr::PhysAddr) -> memory_addr::VirtAddr {
        memory_addr::VirtAddr::from(paddr.as_usize())
    }
}

struct Multiarch(PageTable64<FourLevels, ArmEntry, Frames>);

impl Subject for Multiarch {
    const NAME: &'static str = "page_table_multiarch";

    fn new() -> Self {
        Self(PageTable64::try_new().expect("there is memory"))
    }

    #[inline(always)]
    fn map(&mut self, at: u64, size: u64) {
        let to = |va: memory_addr::VirtAddr| memory_addr::PhysAddr::from(va.as_usize());
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        self.0
            .cursor()
            .map_region((at as usize).into(), to, size as usize, flags, true)
            .expect("the target is free");
    }

    #[inline(always)]
    fn unmap(&mut self, at: u64, size: u64) {
        self.0
            .cursor()
            .unmap_region((at as usize).into(), size as usize)
            .expect("the target is mapped");
    }

    #[inline(always)]
    fn walk(&self, at: u64, size: u64, mut found: impl FnMut(u64)) {
        let mut here = at;
        while here < at + size {
            let (output, flags, bytes) = self
                .0
                .query((here as usize).into())
                .expect("the target is mapped");
            black_box(flags);
            found(output.as_usize() as u64);
            here += bytes as u64;
        }
    }
}

/// The state that every measurement starts from.
fn populated<S: Subject>(row: &Row) -> S {
    let mut subject = S::new();
    for n in 0..=TARGETS {
        subject.map(row.neighbour(n), row.size);
    }
    // The rest of the root is not empty either.
    for n in 2..256 {
        subject.map(n << 39, PAGE);
    }
    subject
}

#[inline(always)]
fn all(row: &Row, mut step: impl FnMut(u64, u64)) {
    for n in 0..TARGETS {
        step(black_box(row.target(n)), black_box(row.size));
    }
}

/// Time for `ranges` ranges, to the next whole round.
fn measure(ranges: u64, mut round: impl FnMut() -> Duration) -> Duration {
    let rounds = ranges.div_ceil(TARGETS);
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        total += round();
    }
    total.mul_f64(ranges as f64 / (rounds * TARGETS) as f64)
}

fn map<S: Subject>(criterion: &mut Criterion, row: &Row, table: &mut S) {
    let mut group = criterion.benchmark_group(format!("map/{}", row.name));
    group.bench_function(S::NAME, |bencher| {
        bencher.iter_custom(|ranges| {
            measure(ranges, || {
                let start = Instant::now();
                all(row, |at, size| table.map(at, size));
                let time = start.elapsed();
                all(row, |at, size| table.unmap(at, size));
                time
            })
        });
    });
    group.finish();
}

fn unmap<S: Subject>(criterion: &mut Criterion, row: &Row, table: &mut S) {
    let mut group = criterion.benchmark_group(format!("unmap/{}", row.name));
    group.bench_function(S::NAME, |bencher| {
        bencher.iter_custom(|ranges| {
            measure(ranges, || {
                all(row, |at, size| table.map(at, size));
                let start = Instant::now();
                all(row, |at, size| table.unmap(at, size));
                start.elapsed()
            })
        });
    });
    group.finish();
}

fn walk<S: Subject>(criterion: &mut Criterion, row: &Row, table: &mut S) {
    all(row, |at, size| table.map(at, size));
    let mut group = criterion.benchmark_group(format!("walk/{}", row.name));
    group.bench_function(S::NAME, |bencher| {
        bencher.iter_custom(|ranges| {
            measure(ranges, || {
                let start = Instant::now();
                all(row, |at, size| {
                    table.walk(at, size, |output| {
                        black_box(output);
                    });
                });
                start.elapsed()
            })
        });
    });
    group.finish();
    all(row, |at, size| {
        let (mut first, mut entries) = (None, 0);
        table.walk(at, size, |output| {
            first = first.or(Some(output));
            entries += 1;
        });
        let expected = if size < 512 * PAGE { size / PAGE } else { 1 };
        assert_eq!((first, entries), (Some(at), expected), "a wrong walk");
    });
}

/// What is compared is measured one after the other, so that the state of the
/// machine is much the same for all three.
fn rows(criterion: &mut Criterion) {
    for row in &ROWS {
        let mut portcullis = populated::<Portcullis>(row);
        let mut google = populated::<Google>(row);
        let mut multiarch = populated::<Multiarch>(row);
        map(criterion, row, &mut portcullis);
        map(criterion, row, &mut google);
        map(criterion, row, &mut multiarch);
        unmap(criterion, row, &mut portcullis);
        unmap(criterion, row, &mut google);
        unmap(criterion, row, &mut multiarch);
        walk(criterion, row, &mut portcullis);
        walk(criterion, row, &mut google);
        walk(criterion, row, &mut multiarch);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = rows
}
criterion_main!(benches);
