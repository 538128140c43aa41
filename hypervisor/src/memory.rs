//! The hypervisor's own memory, as the libraries reach it.

mod share;

pub use share::{DMA_TABLES, ITS_TABLES, Tables};

use crate::lock::Mutex;
use crate::mmu;
use crate::sysreg::{dmb_sy, dsb_sy};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_pool::{Pool, PoolError};

/// Pages of tables that EL2's own map may take: they are part of the image, so
/// that the MMU can be on before anything is known about the machine.
const OWN_TABLES: usize = 48;

#[repr(C, align(4096))]
struct OwnTables(UnsafeCell<[u8; OWN_TABLES * PAGE_SIZE as usize]>);

// SAFETY: nothing makes a reference to the bytes; they are only reached as
// atomic words, through `Shared`.
unsafe impl Sync for OwnTables {}

static TABLES: OwnTables = OwnTables(UnsafeCell::new([0; OWN_TABLES * PAGE_SIZE as usize]));
static TABLE_POOL: Mutex<Option<Pool<1>>> = Mutex::new(None);

/// Bitmap words of the main pool: 1.25 GiB at most. `dma-tables` takes up to 1 GiB
/// of it and `trace` 64 MiB, and in nested mode each SMMU with 65,536 streams 4 MiB.
/// The ledger, a thousandth of RAM, is set aside before it.
const POOL_WORDS: usize = 5120;

static POOL: Mutex<Pool<POOL_WORDS>> = Mutex::new(Pool::empty());
static POOL_START: AtomicU64 = AtomicU64::new(0);
static POOL_WORDS_GIVEN: AtomicU64 = AtomicU64::new(0);
/// Bytes at the start that the allocator does not have, and how many of them are
/// given out.
static ASIDE: AtomicU64 = AtomicU64::new(0);
static ASIDE_USED: AtomicU64 = AtomicU64::new(0);

/// Where EL2's own tables lie, inside the image.
fn own_tables() -> Option<Range<PhysAddr>> {
    let start = PhysAddr::new(TABLES.0.get() as u64);
    Range::from_size(start, OWN_TABLES as u64 * PAGE_SIZE).ok()
}

/// Whether EL2's own map may take tables from the pool.
static TABLES_FROM_POOL: AtomicBool = AtomicBool::new(false);

/// Lets EL2's own map take tables from the pool. From now on no page of the
/// pool's is mapped in another way: that would unmap its neighbours for a
/// moment, and tables may be among them.
pub fn let_tables_grow() {
    TABLES_FROM_POOL.store(true, Ordering::Relaxed);
}

/// Hands the page pool to the allocator, but for its first `aside` bytes, whole
/// pages, which [`take_aside`] gives out. `range` is mapped at EL2.
///
/// # Errors
/// [`PoolError::TooLarge`]; nothing can be allocated then.
pub fn set_pool(range: Range<PhysAddr>, aside: u64) -> Result<(), PoolError> {
    let start = PhysAddr::new(range.start().raw().saturating_add(aside));
    let rest = Range::new(start, range.end()).map_err(|_| PoolError::Unaligned(range))?;
    POOL.lock().reset(rest)?;
    ASIDE.store(aside, Ordering::Relaxed);
    POOL_START.store(range.start().raw(), Ordering::Relaxed);
    POOL_WORDS_GIVEN.store(range.size() / 8, Ordering::Relaxed);
    #[cfg(feature = "digest")]
    fill(range, crate::digest::PATTERN);
    Ok(())
}

/// Whether `at` is in the pool or in EL2's own tables.
#[cfg(feature = "digest")]
#[must_use]
pub fn is_own(at: PhysAddr) -> bool {
    let offset = at.raw().wrapping_sub(POOL_START.load(Ordering::Relaxed));
    offset / 8 < POOL_WORDS_GIVEN.load(Ordering::Relaxed)
        || own_tables().is_some_and(|tables| tables.contains(at))
}

/// Calls `with` with the pages that are not given out, none of which is
/// meanwhile.
#[cfg(feature = "digest")]
pub fn with_unused_pages(with: impl FnOnce(&mut dyn Iterator<Item = PhysAddr>)) {
    with(&mut POOL.lock().unused());
}

/// Pages that are given out and pages there are.
#[must_use]
pub fn pool_use() -> (usize, usize) {
    let pages = |bytes: &AtomicU64| (bytes.load(Ordering::Relaxed) / PAGE_SIZE) as usize;
    let pool = POOL.lock();
    (
        pool.used_pages() + pages(&ASIDE_USED),
        pool.pages() + pages(&ASIDE),
    )
}

/// As [`take_pages`], of what was set aside: for tables that are as large as RAM
/// makes them. Called by the boot alone.
pub fn take_aside(count: usize, value: u64) -> Option<Range<PhysAddr>> {
    let (used, all) = (
        ASIDE_USED.load(Ordering::Relaxed),
        ASIDE.load(Ordering::Relaxed),
    );
    let bytes = count as u64 * PAGE_SIZE;
    let after = used.checked_add(bytes).filter(|after| *after <= all)?;
    let start = POOL_START.load(Ordering::Relaxed).checked_add(used)?;
    let range = Range::from_size(PhysAddr::new(start), bytes).ok()?;
    ASIDE_USED.store(after, Ordering::Relaxed);
    fill(range, value);
    Some(range)
}

/// `count` pages that are never given back, every word of them `value`.
pub fn take_pages(count: usize, value: u64) -> Option<Range<PhysAddr>> {
    let at = POOL.lock().allocate(count, PAGE_SIZE)?;
    let range = Range::from_size(at, count as u64 * PAGE_SIZE).ok()?;
    fill(range, value);
    Some(range)
}

/// Fills pages that were just allocated, so that nobody else looks at them.
fn fill(pages: Range<PhysAddr>, value: u64) {
    let words = (pages.size() / 8) as usize;
    // Both ends are checked to be the hypervisor's, and memory is contiguous.
    let first = word(pages.start());
    word(PhysAddr::new(pages.end().raw() - 8));
    // SAFETY: the words from `first` on are mapped pages of the hypervisor's
    // that the caller has just taken from an allocator, which gives them to
    // nobody else.
    unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), words) }.fill(value);
}

/// The word at `at`, which must lie in the pool or in EL2's own tables.
#[inline]
fn word(at: PhysAddr) -> &'static AtomicU64 {
    // The pool starts on a page, so that what is not aligned to a word has
    // its lowest bits on top.
    let offset = at.raw().wrapping_sub(POOL_START.load(Ordering::Relaxed));
    if offset.rotate_right(3) >= POOL_WORDS_GIVEN.load(Ordering::Relaxed) {
        check_own(at);
    }
    // SAFETY: the address is aligned and inside memory that is the
    // hypervisor's for ever, mapped one to one, and only ever accessed as
    // atomic words.
    unsafe { AtomicU64::from_ptr(at.raw() as *mut u64) }
}

/// Stops everything unless `at` is a word of EL2's own tables.
#[cold]
fn check_own(at: PhysAddr) {
    let known = own_tables().is_some_and(|tables| tables.contains(at));
    if !known || !at.is_aligned(8) {
        crate::fatal::fatal(format_args!("no table or queue lies at {at}"));
    }
}

/// Memory that a walker or device shares with the CPUs.
///
/// It has a copy of where the pool is, so that an access is compared with what is in
/// registers already.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Where the pool starts.
    start: u64,
    /// Words of 64 bits that it has. 0 for one made before there was a pool, which
    /// looks each time where that is.
    words: u64,
    /// Whether the other side sees the CPUs' caches.
    coherent: bool,
}

impl Shared {
    /// For walkers that see the caches: every CPU's, and a coherent SMMU's. For
    /// single accesses; what is used often is [`new`](Self::new).
    pub const COHERENT: Self = Self {
        start: 0,
        words: 0,
        coherent: true,
    };

    /// For a device that sees the caches or not. There is a pool.
    #[must_use]
    pub fn new(coherent: bool) -> Self {
        Self {
            start: POOL_START.load(Ordering::Relaxed),
            words: POOL_WORDS_GIVEN.load(Ordering::Relaxed),
            coherent,
        }
    }

    /// As [`word`].
    #[inline]
    fn word(&self, at: PhysAddr) -> &'static AtomicU64 {
        let offset = at.raw().wrapping_sub(self.start);
        if offset.rotate_right(3) >= self.words {
            return elsewhere(at);
        }
        // SAFETY: as in `word`; the pool's place never changes once it is known.
        unsafe { AtomicU64::from_ptr(at.raw() as *mut u64) }
    }

    /// Where the first of `count` words from `at` on is, one at least, all of which
    /// lie in one allocation of the pool's or of EL2's own tables.
    #[inline(always)]
    fn run(&self, at: PhysAddr, count: u64) -> *mut u64 {
        let first = at.raw().wrapping_sub(self.start).rotate_right(3);
        // The first of those that begin a run which ends in the pool.
        if first < self.words.saturating_sub(count - 1) {
            return at.raw() as *mut u64;
        }
        // Both ends are checked, and memory between them is contiguous.
        let last = at.raw().wrapping_add((count - 1).wrapping_mul(8));
        elsewhere(PhysAddr::new(last));
        elsewhere(at).as_ptr()
    }
}

/// As [`word`], out of the way of what is in the pool.
#[cold]
#[inline(never)]
fn elsewhere(at: PhysAddr) -> &'static AtomicU64 {
    word(at)
}

impl Memory for Shared {
    #[inline(always)]
    fn load_words<const N: usize>(&self, at: PhysAddr) -> [u64; N] {
        if N == 0 {
            return [0; N];
        }
        let from = self.run(at, N as u64);
        core::array::from_fn(|n| {
            // SAFETY: `run` has seen that the words from `from` on lie in memory of
            // the hypervisor's, which is only accessed as atomic words.
            unsafe { AtomicU64::from_ptr(from.add(n)) }.load(Ordering::Relaxed)
        })
    }

    #[inline(always)]
    fn store_words<const N: usize>(&self, at: PhysAddr, words: [u64; N]) {
        if N == 0 {
            return;
        }
        let to = self.run(at, N as u64);
        for (n, value) in words.into_iter().enumerate() {
            // SAFETY: as in `load_words`.
            unsafe { AtomicU64::from_ptr(to.add(n)) }.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn is_clear(&self, at: PhysAddr, count: u64) -> bool {
        if count == 0 {
            return true;
        }
        let mut from = self.run(at, count);
        let mut seen = 0u64;
        for _ in 0..count / 8 {
            let (a, b, c, d): (u64, u64, u64, u64);
            // SAFETY: the words lie in memory of the hypervisor's, as `run` has
            // seen. LDP is two accesses of 64 bits, each single-copy atomic
            // (DDI 0487, B2.2.1).
            unsafe {
                asm!(
                    "ldp {a}, {b}, [{from}]",
                    "ldp {c}, {d}, [{from}, #16]",
                    "orr {a}, {a}, {b}",
                    "orr {c}, {c}, {d}",
                    "orr {a}, {a}, {c}",
                    "ldp {b}, {c}, [{from}, #32]",
                    "orr {a}, {a}, {b}",
                    "ldp {b}, {d}, [{from}, #48]",
                    "orr {b}, {b}, {c}",
                    "orr {d}, {d}, {b}",
                    a = out(reg) a, b = out(reg) b, c = out(reg) c, d = out(reg) d,
                    from = in(reg) from,
                    options(nostack, readonly, preserves_flags),
                );
                from = from.add(8);
            }
            let _ = (b, c);
            seen |= a | d;
        }
        let rest = count & 7;
        for n in count - rest..count {
            seen |= self.load(PhysAddr::new(at.raw() + n * 8));
        }
        seen == 0
    }

    #[inline]
    fn store_run(&self, at: PhysAddr, count: u64, first: u64, step: u64) {
        if count == 0 {
            return;
        }
        let mut to = self.run(at, count);
        let mut value = first;
        for _ in 0..count / 8 {
            // SAFETY: as in `is_clear`; STP is two accesses of 64 bits as well.
            unsafe {
                if step == 0 {
                    asm!(
                        "stp {v}, {v}, [{to}]",
                        "stp {v}, {v}, [{to}, #16]",
                        "stp {v}, {v}, [{to}, #32]",
                        "stp {v}, {v}, [{to}, #48]",
                        v = in(reg) value, to = in(reg) to,
                        options(nostack, preserves_flags),
                    );
                } else {
                    asm!(
                        "add {n}, {v}, {step}",
                        "stp {v}, {n}, [{to}]",
                        "add {v}, {n}, {step}",
                        "add {n}, {v}, {step}",
                        "stp {v}, {n}, [{to}, #16]",
                        "add {v}, {n}, {step}",
                        "add {n}, {v}, {step}",
                        "stp {v}, {n}, [{to}, #32]",
                        "add {v}, {n}, {step}",
                        "add {n}, {v}, {step}",
                        "stp {v}, {n}, [{to}, #48]",
                        "add {v}, {n}, {step}",
                        v = inout(reg) value, n = out(reg) _, step = in(reg) step,
                        to = in(reg) to,
                        options(nostack, preserves_flags),
                    );
                }
                to = to.add(8);
            }
        }
        for n in count - (count & 7)..count {
            self.store(PhysAddr::new(at.raw() + n * 8), value);
            value = value.wrapping_add(step);
        }
    }

    #[inline]
    fn load(&self, at: PhysAddr) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, at: PhysAddr, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.word(at)
            .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline]
    fn publish(&self, at: PhysAddr, bytes: u64) {
        if !self.coherent && bytes != 0 {
            mmu::clean_to_memory(at.raw(), bytes);
        }
        dsb_sy();
    }

    #[inline]
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        if !self.coherent && bytes != 0 {
            mmu::discard_lines(at.raw(), bytes);
        }
        dmb_sy();
    }
}

impl Shared {
    /// `bytes` of memory in one piece, at any page. For good.
    pub fn take(bytes: u64) -> Option<PhysAddr> {
        let count = usize::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
        POOL.lock().allocate(count, PAGE_SIZE)
    }
}

impl Allocator for Shared {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let count = usize::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
        let at = POOL.lock().allocate(count, bytes)?;
        fill(Range::from_size(at, count as u64 * PAGE_SIZE).ok()?, 0);
        self.publish(at, count as u64 * PAGE_SIZE);
        Some(at)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let Ok(count) = usize::try_from(bytes.div_ceil(PAGE_SIZE)) else {
            return;
        };
        #[cfg(feature = "digest")]
        if let Ok(range) = Range::from_size(at, count as u64 * PAGE_SIZE) {
            fill(range, crate::digest::PATTERN);
        }
        let freed = POOL.lock().free(at, count);
        if let Err(error) = freed {
            crate::fatal::fatal(format_args!("{error}"));
        }
    }
}

impl gicv3_its::TableMemory for Shared {
    fn take(&self, bytes: u64, alignment: u64) -> Option<PhysAddr> {
        let count = usize::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
        let at = POOL.lock().allocate(count, alignment)?;
        let bytes = count as u64 * PAGE_SIZE;
        fill(Range::from_size(at, bytes).ok()?, 0);
        self.publish(at, bytes);
        Some(at)
    }
}

/// Memory for EL2's own tables: pages of the image, and of the pool when those
/// are used up.
#[derive(Clone, Copy, Debug)]
pub struct OwnMemory;

impl OwnMemory {
    /// Makes the pages available. To be called once, before the MMU is on: no
    /// exclusive access is made here, since those may not work yet.
    pub fn prepare() {
        let pool = own_tables().and_then(|range| Pool::new(range).ok());
        // SAFETY: the only CPU that runs, before anything else uses the pool.
        unsafe { *TABLE_POOL.as_mut_ptr() = pool }
    }

    /// As [`word`], which also finds the tables that the pool had to
    /// give.
    #[inline]
    fn word(at: PhysAddr) -> &'static AtomicU64 {
        let own = at.raw().wrapping_sub(TABLES.0.get() as u64);
        if own >= OWN_TABLES as u64 * PAGE_SIZE || !at.is_aligned(8) {
            return word(at);
        }
        // SAFETY: aligned, inside the tables, mapped one to one, and only ever
        // accessed as atomic words.
        unsafe { AtomicU64::from_ptr(at.raw() as *mut u64) }
    }

    fn with<T>(f: impl FnOnce(&mut Pool<1>) -> Option<T>) -> Option<T> {
        if mmu::is_on() {
            f(TABLE_POOL.lock().as_mut()?)
        } else {
            // SAFETY: with the MMU off, one CPU runs, and nothing else holds a
            // reference.
            f(unsafe { (*TABLE_POOL.as_mut_ptr()).as_mut()? })
        }
    }
}

impl Memory for OwnMemory {
    #[inline]
    fn load(&self, at: PhysAddr) -> u64 {
        Self::word(at).load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, at: PhysAddr, value: u64) {
        Self::word(at).store(value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        Self::word(at).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        Shared::COHERENT.publish(at, bytes);
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        Shared::COHERENT.refresh(at, bytes);
    }
}

impl Allocator for OwnMemory {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let count = usize::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
        let Some(at) = Self::with(|pool| pool.allocate(count, bytes)) else {
            let grow = TABLES_FROM_POOL.load(Ordering::Relaxed);
            return grow.then(|| Shared::COHERENT.allocate(bytes))?;
        };
        fill(Range::from_size(at, count as u64 * PAGE_SIZE).ok()?, 0);
        Some(at)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let Ok(count) = usize::try_from(bytes.div_ceil(PAGE_SIZE)) else {
            return;
        };
        if !own_tables().is_some_and(|tables| tables.contains(at)) {
            return Shared::COHERENT.free(at, bytes);
        }
        // A page that is not taken back is lost, no more.
        let _ = Self::with(|pool| pool.free(at, count).ok());
    }
}
