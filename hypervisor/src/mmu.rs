//! EL2's own translation, one to one, and cache and TLB maintenance.
//!
//! Only what EL2 uses is mapped: its image and pool, the registers it drives,
//! and during boot the tree and the modules it reads. The host's memory is not,
//! but for the pages that `owner_memory` is asked to reach.

use crate::image;
use crate::lock::Mutex;
use crate::memory::OwnMemory;
use crate::percpu::{self, MAX_CPUS, PER_CPU, SLOT_SETS, SLOT_WAYS};
use crate::sysreg::{dsb_sy, isb, read_sysreg, write_sysreg};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use portcullis_addr::{Address, Identity, PAGE_SIZE, PhysAddr, Range, Va};
use portcullis_memory::Memory;
use portcullis_pagetable::{
    Access, Bbm, El2Attributes, Error, Format, Geometry, Granule, MAIR, MemoryType, Stage1El2,
    Table,
};

type Map = Table<Stage1El2, OwnMemory>;

static MAP: Mutex<Option<Map>> = Mutex::new(None);
static ON: AtomicBool = AtomicBool::new(false);
static TTBR: AtomicU64 = AtomicU64::new(0);

/// SCTLR_EL2: RES1 bits, I, SA, C, M, and WXN: what is writable is never
/// executable, whatever a table says.
const SCTLR: u64 = 0x30c5_0830 | 1 << 19 | 1 << 12 | 1 << 3 | 1 << 2 | 1 << 0;

/// [`SCTLR`], and IESB where it exists: errors that EL2 caused are made known before
/// the host goes on, see `trap::lower_serror`.
fn sctlr() -> u64 {
    let iesb = read_sysreg!("id_aa64mmfr2_el1") >> 12 & 0xf != 0;
    SCTLR | u64::from(iesb) << 21
}

/// Whether translation is on.
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Physical address bits of this CPU (ID_AA64MMFR0_EL1.PARange), 48 at most.
#[must_use]
pub fn physical_bits() -> u8 {
    match read_sysreg!("id_aa64mmfr0_el1") & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// What this CPU promises on changing block sizes (ID_AA64MMFR2_EL1.BBM).
#[must_use]
pub fn bbm() -> Bbm {
    match read_sysreg!("id_aa64mmfr2_el1") >> 52 & 0xf {
        0 => Bbm::Level0,
        1 => Bbm::Level1,
        _ => Bbm::Level2,
    }
}

/// Why EL2 could not be mapped.
pub type MapError = Error<Va>;

/// Maps the image and turns translation on. Called once, on the first CPU.
pub fn start() -> Result<(), MapError> {
    OwnMemory::prepare();
    let geometry =
        Geometry::stage1(Granule::Size4K, 48, physical_bits()).map_err(|_| Error::InputTooLarge)?;
    // Whoever changes EL2's map sees to it that nobody looks there at the same time.
    let mut map = Map::new(geometry, Bbm::Level0, OwnMemory)?;
    for section in image::sections() {
        map.map(
            Identity.va(section.range),
            section.range.start(),
            El2Attributes {
                memory: MemoryType::Normal,
                access: section.access,
            },
        )?;
    }
    // Translation control: 48 bits, 4 KiB, inner shareable write-back walks;
    // bits 31 and 23 are RES1 (DDI 0487, TCR_EL2 with E2H = 0).
    let tcr = 1 << 31
        | 1 << 23
        | geometry.ps() << 16
        | geometry.tg0() << 14
        | 3 << 12
        | 1 << 10
        | 1 << 8
        | geometry.t0sz();
    let root = map.root().raw();
    for cpu in &PER_CPU {
        cpu.ttbr.store(root, Ordering::Relaxed);
        cpu.tcr.store(tcr, Ordering::Relaxed);
        cpu.mair.store(MAIR, Ordering::Relaxed);
        cpu.sctlr.store(sctlr(), Ordering::Relaxed);
    }
    TTBR.store(root, Ordering::Relaxed);
    dsb_sy();
    // SAFETY: the tables map the image one to one, with the stack and this
    // code, so that execution goes on at the next instruction.
    unsafe {
        write_sysreg!("mair_el2", MAIR);
        write_sysreg!("tcr_el2", tcr);
        write_sysreg!("ttbr0_el2", root);
        asm!("tlbi alle2", "dsb nsh", "isb", options(nostack));
        write_sysreg!("sctlr_el2", sctlr());
    }
    isb();
    ON.store(true, Ordering::Relaxed);
    *MAP.lock() = Some(map);
    Ok(())
}

/// The first of EL2's own tables.
#[cfg(feature = "digest")]
#[must_use]
pub fn root() -> PhysAddr {
    PhysAddr::new(TTBR.load(Ordering::Relaxed))
}

/// Maps physical memory or registers one to one.
pub fn map(range: Range<PhysAddr>, memory: MemoryType, access: Access) -> Result<(), MapError> {
    let range = range.page_outward().ok_or(Error::InputTooLarge)?;
    let mut guard = MAP.lock();
    let map = guard.as_mut().ok_or(Error::Unfinished)?;
    map.map(
        Identity.va(range),
        range.start(),
        El2Attributes { memory, access },
    )?;
    dsb_sy();
    isb();
    Ok(())
}

/// Maps physical memory one to one as [`map`] does, but each page by an entry of
/// its own, so that a part of it can be unmapped while other CPUs are in the rest:
/// neither a block nor a contiguous group has to be broken for that. On failure
/// nothing is mapped.
pub fn map_pages(
    range: Range<PhysAddr>,
    memory: MemoryType,
    access: Access,
) -> Result<(), MapError> {
    let range = range.page_outward().ok_or(Error::InputTooLarge)?;
    let mut at = range.start();
    while at < range.end() {
        let page = Range::from_size(at, PAGE_SIZE).map_err(|_| Error::InputTooLarge)?;
        if let Err(error) = map(page, memory, access) {
            if let Ok(before) = Range::new(range.start(), at) {
                unmap(before)?;
            }
            return Err(error);
        }
        at = page.end();
    }
    Ok(())
}

/// Maps those pages of `range` that are not mapped yet. A page that is mapped
/// already must be mapped in the same way.
///
/// # Errors
/// [`Error::AlreadyMapped`] for a page with other attributes: a device where
/// memory is, or the other way round.
pub fn map_missing(
    range: Range<PhysAddr>,
    memory: MemoryType,
    access: Access,
) -> Result<(), MapError> {
    let range = range.page_outward().ok_or(Error::InputTooLarge)?;
    let mut at = range.start();
    while at < range.end() {
        let page = Range::from_size(at, PAGE_SIZE).map_err(|_| Error::InputTooLarge)?;
        match map(page, memory, access) {
            Err(Error::AlreadyMapped { .. }) if is_mapped(at, memory, access) => {}
            result => result?,
        }
        at = page.end();
    }
    Ok(())
}

fn is_mapped(at: PhysAddr, memory: MemoryType, access: Access) -> bool {
    let guard = MAP.lock();
    let mapping = guard.as_ref().map(|map| map.walk(Va::new(at.raw())));
    matches!(mapping, Some(Ok(mapping)) if mapping.attributes == El2Attributes { memory, access })
}

/// Removes a mapping, on every CPU. What is removed of a block or contiguous group
/// takes the rest of it away for a moment.
pub fn unmap(range: Range<PhysAddr>) -> Result<(), MapError> {
    let range = range.page_outward().ok_or(Error::InputTooLarge)?;
    let mut guard = MAP.lock();
    let map = guard.as_mut().ok_or(Error::Unfinished)?;
    let plan = map.unmap(Identity.va(range))?;
    dsb_sy();
    // Twice: see `invalidate_host_tlb`.
    // SAFETY: dropping cached translations never changes what memory holds.
    unsafe {
        asm!(
            "tlbi alle2is",
            "dsb ish",
            "tlbi alle2is",
            "dsb ish",
            "isb",
            options(nostack)
        )
    }
    let own = map.complete(plan);
    debug_assert!(own.is_ok());
    Ok(())
}

/// Where each CPU reaches a few pages, by its index: the last 2 MiB of EL2's
/// addresses, where no machine has anything.
const SLOTS: u64 = (1 << 48) - (2 << 20);

/// Pages of one CPU.
const SLOTS_EACH: usize = SLOT_SETS * SLOT_WAYS;

// All CPUs' pages are in one table.
const _: () = assert!(MAX_CPUS * SLOTS_EACH <= 512);

/// The table of level 3 for [`SLOTS`]; 0 while there is none.
static SLOT_TABLE: AtomicU64 = AtomicU64::new(0);

fn slot(index: usize) -> u64 {
    SLOTS + index as u64 * PAGE_SIZE
}

/// Makes the table for the slots, by mapping `anchor`, a page of EL2's own, to the
/// last of them. From then on entries of the table are written here and nowhere
/// else. It is never freed, since nothing in it is ever unmapped.
pub fn prepare_slots(anchor: PhysAddr) -> Result<(), MapError> {
    const TABLE: u64 = 0b11;
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    let at = slot(MAX_CPUS * SLOTS_EACH - 1);
    let page = Range::from_size(Va::new(at), PAGE_SIZE).map_err(|_| Error::InputTooLarge)?;
    let mut guard = MAP.lock();
    let map = guard.as_mut().ok_or(Error::Unfinished)?;
    let attributes = El2Attributes {
        memory: MemoryType::Normal,
        access: Access::ReadOnly,
    };
    map.map(page, anchor, attributes)?;
    dsb_sy();
    isb();
    let mut table = map.root().raw();
    for shift in [39, 30, 21] {
        let entry = OwnMemory.load(PhysAddr::new(table + (at >> shift & 511) * 8));
        if entry & TABLE != TABLE {
            return Err(Error::Unfinished);
        }
        table = entry & ADDRESS;
    }
    let slots = PER_CPU.iter().flat_map(|cpu| cpu.slots.iter().flatten());
    for (index, slot) in slots.enumerate() {
        slot.at.store(self::slot(index), Ordering::Relaxed);
    }
    SLOT_TABLE.store(table, Ordering::Relaxed);
    Ok(())
}

/// Maps the page at `page` for this CPU alone, until it maps another one this
/// way, and says where. `None` before [`prepare_slots`].
///
/// The page stays mapped, since the next one is likely to be it again. Nothing
/// is reached by that which the caller has not made sure of: it pins the page
/// for as long as it uses the address.
///
/// Takes no lock, and drops no other translation than this one: no other CPU
/// uses the address.
#[inline]
pub fn enter_page(page: PhysAddr, memory: MemoryType) -> Option<u64> {
    let key = key_of(page, memory);
    for slot in &percpu::this().slots[set_of(page)] {
        if slot.page.load(Ordering::Relaxed) == key {
            return Some(slot.at.load(Ordering::Relaxed));
        }
    }
    enter_other_page(page, memory)
}

/// What a slot says of the page that it has, and how that is mapped.
#[inline(always)]
fn key_of(page: PhysAddr, memory: MemoryType) -> u64 {
    page.raw() | 0b10 | u64::from(memory == MemoryType::NormalNonCacheable)
}

/// The set that a page can be in.
#[inline(always)]
fn set_of(page: PhysAddr) -> usize {
    // Steps of the golden ratio spread whatever has a pattern. Truncation: pages that
    // are 16 TiB apart are the same to it.
    let spread = ((page.raw() / PAGE_SIZE) as u32).wrapping_mul(0x9e37_79b9);
    (spread >> (32 - SLOT_SETS.trailing_zeros())) as usize
}

#[cold]
#[inline(never)]
fn enter_other_page(page: PhysAddr, memory: MemoryType) -> Option<u64> {
    const PAGE: u64 = 0b11;
    // The one of the set that was not changed last.
    let cpu = percpu::this();
    let set = set_of(page);
    let turn = cpu.turns.get(set)?;
    let way = turn.load(Ordering::Relaxed) as usize % SLOT_WAYS;
    turn.store((way + 1) as u32, Ordering::Relaxed);
    let slot = cpu.slots.get(set)?.get(way)?;
    let at = slot.at.load(Ordering::Relaxed);
    let entry = slot_entry(at)?;
    if !page.is_aligned(PAGE_SIZE) {
        return None;
    }
    let attributes = Stage1El2::encode(El2Attributes {
        memory,
        access: Access::ReadWrite,
    });
    slot.page.store(0, Ordering::Relaxed);
    OwnMemory.store(entry, 0);
    dsb_sy();
    // Twice: see `invalidate_host_tlb`.
    // SAFETY: dropping cached translations never changes what memory holds.
    unsafe {
        asm!(
            "tlbi vae2, {0}",
            "dsb nsh",
            "tlbi vae2, {0}",
            "dsb nsh",
            in(reg) at >> 12,
            options(nostack)
        );
    }
    OwnMemory.store(entry, page.raw() | attributes | PAGE);
    dsb_sy();
    isb();
    slot.page.store(key_of(page, memory), Ordering::Relaxed);
    Some(at)
}

/// The entry of the table of level 3 that maps the slot at `at`.
fn slot_entry(at: u64) -> Option<PhysAddr> {
    let table = SLOT_TABLE.load(Ordering::Relaxed);
    (table != 0).then(|| PhysAddr::new(table + (at >> 12 & 511) * 8))
}

/// What EL2 has at an address, for a failure report. Takes no lock for granted.
#[must_use]
pub fn describe(address: u64) -> &'static str {
    let below = |top: &AtomicU64, size: u64| {
        let guard_end = top.load(Ordering::Relaxed).wrapping_sub(size);
        guard_end.wrapping_sub(address).wrapping_sub(1) < PAGE_SIZE
    };
    if PER_CPU.iter().any(|cpu| {
        below(&cpu.stack, crate::boot::STACK) || below(&cpu.fatal_stack, crate::boot::FATAL_STACK)
    }) {
        return "a guard page: a stack overflowed";
    }
    let address = PhysAddr::new(address);
    if !image::range().contains(address) {
        return "not the image";
    }
    match image::sections()
        .iter()
        .find(|section| section.range.contains(address))
        .map(|section| section.access)
    {
        Some(Access::ReadExecute) => "the image's code",
        Some(Access::ReadOnly) => "the image's constants",
        Some(Access::ReadWrite) => "the image's data",
        None => "a guard page: a stack overflowed",
    }
}

fn line_bytes() -> u64 {
    4 << (read_sysreg!("ctr_el0") >> 16 & 0xf)
}

/// Cleans the data cache to the point of coherency, so that an observer without
/// coherency sees what was stored.
pub fn clean_to_memory(start: u64, bytes: u64) {
    let line = line_bytes();
    let end = start.saturating_add(bytes);
    let mut at = start & !(line - 1);
    while at < end {
        // SAFETY: cleaning writes back what is in the cache already.
        unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at = at.saturating_add(line);
    }
    dsb_sy();
}

/// Drops lines that the CPU does not own, so that what a device wrote is seen.
/// Dirty neighbours in the same line are written back first.
pub fn discard_lines(start: u64, bytes: u64) {
    let line = line_bytes();
    let end = start.saturating_add(bytes);
    let mut at = start & !(line - 1);
    while at < end {
        // SAFETY: clean and invalidate loses nothing that was stored.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at = at.saturating_add(line);
    }
    dsb_sy();
}

/// Drops everything that this CPU has cached of stages 1 and 2 of EL1 and EL0.
///
/// Twice, as everywhere here: on some parts an access that is under way may use the
/// old translation once more after the first time (Cortex-A76 1286807, Cortex-A510
/// 2441007, and others that Linux has under `ARM64_WORKAROUND_REPEAT_TLBI`). It
/// happens seldom enough to do so on all of them.
pub fn invalidate_host_tlb() {
    dsb_sy();
    // SAFETY: dropping cached translations never changes what memory holds.
    unsafe {
        asm!(
            "tlbi alle1",
            "dsb nsh",
            "tlbi alle1",
            "dsb nsh",
            "ic iallu",
            "dsb nsh",
            "isb",
            options(nostack)
        )
    }
}
