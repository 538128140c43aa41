//! Memory of the host's that EL2 reaches for an emulated device: its queues, as
//! long as they are enabled, and single words elsewhere.
//!
//! The host goes on writing it. So there is never a Rust reference to it, only
//! single loads and stores, and each page is pinned in the ledger, so that it
//! stays the host's as long as EL2 looks at it.

mod bytes;

pub use bytes::{HeldPage, LentRing};

use crate::fixup;
use crate::lock::Mutex;
use crate::machine;
use crate::mmu;
use crate::sysreg::{dmb_sy, dsb_sy};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::{Address, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::Windows;
use portcullis_ownership::Owner;
use portcullis_pagetable::{Access, MemoryType};

/// Most windows: a few for each of 16 SMMUs.
const LIMIT: usize = 64;

/// The windows there are, which EL2 has mapped one to one.
static LENT: Mutex<Windows<LIMIT>> = Mutex::new(Windows::new());

/// Whether the SMMUs see the caches. Where they do not, the host maps what it
/// shares with them non-cacheable, and so does EL2.
static COHERENT: AtomicBool = AtomicBool::new(true);

/// Prepares the means of this module. To be called once, while one CPU runs.
/// `anchor` is a page of EL2's own.
pub fn prepare(coherent: bool, anchor: PhysAddr) -> Result<(), mmu::MapError> {
    COHERENT.store(coherent, Ordering::Relaxed);
    mmu::prepare_slots(anchor)
}

fn memory() -> MemoryType {
    if COHERENT.load(Ordering::Relaxed) {
        MemoryType::Normal
    } else {
        MemoryType::NormalNonCacheable
    }
}

/// Memory of the host's that is mapped at EL2 and pinned.
#[derive(Debug)]
pub struct Lent {
    range: Range<PhysAddr>,
    /// Whole words of 64 bits in it.
    words: u64,
}

/// What belongs to the host at an address is at the same physical one.
fn identity(range: Range<Ipa>) -> Option<Range<PhysAddr>> {
    Range::from_size(PhysAddr::new(range.start().raw()), range.size()).ok()
}

impl Lent {
    /// Pins and maps every page that `range` touches, which starts at a multiple
    /// of 8. `None` when one is not the host's, or there is no room; nothing
    /// has changed then.
    pub fn open(range: Range<Ipa>) -> Option<Self> {
        Self::open_as(memory(), range)
    }

    /// As [`open`](Self::open), with the attributes `memory`.
    pub fn open_as(memory: MemoryType, range: Range<Ipa>) -> Option<Self> {
        let range = identity(range)?;
        if !range.start().is_aligned(8) {
            return None;
        }
        let pages = range.page_outward()?;
        let ledger = machine::ledger()?;
        ledger.pin(pages, Owner::HOST).ok()?;
        let mapped = LENT.lock().add(
            pages,
            // Another window may come to share some of it, and stay when this one goes.
            |run| mmu::map_pages(run, memory, Access::ReadWrite).is_ok(),
            |run| mmu::unmap(run).is_ok(),
        );
        if mapped {
            let words = range.size() / 8;
            return Some(Self { range, words });
        }
        let counted = ledger.unpin(pages);
        debug_assert!(counted.is_ok());
        None
    }

    /// Unmaps it, unless another window needs the page, and lets go of it.
    pub fn close(self) {
        let Some(pages) = self.range.page_outward() else {
            return;
        };
        // What could not be unmapped stays the host's for ever.
        if LENT.lock().remove(pages, |run| mmu::unmap(run).is_ok())
            && let Some(ledger) = machine::ledger()
        {
            let counted = ledger.unpin(pages);
            debug_assert!(counted.is_ok());
        }
    }

    /// Where it is.
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    /// The address of the 64 bits at `offset`, a multiple of 8.
    #[inline]
    fn word(&self, offset: u64) -> Option<u64> {
        // What is no multiple of 8 has its lowest bits on top.
        let inside = offset.rotate_right(3) < self.words;
        inside.then(|| self.range.start().raw().wrapping_add(offset))
    }

    /// The address of the 32 bits at `offset`, a multiple of 4.
    #[inline]
    fn half(&self, offset: u64) -> Option<u64> {
        let inside = (offset & !4).rotate_right(3) < self.words;
        inside.then(|| self.range.start().raw().wrapping_add(offset))
    }

    /// The physical address of the 32 bits at `offset`.
    pub fn physical(&self, offset: u64) -> Option<PhysAddr> {
        self.half(offset).map(PhysAddr::new)
    }

    /// Loads 64 bits, once; 0 outside.
    #[inline]
    pub fn load(&self, offset: u64) -> u64 {
        match self.word(offset) {
            // SAFETY: inside pages that are mapped as memory and stay the
            // host's while `self` exists.
            Some(at) => unsafe { fixup::load64::<0>(at) },
            None => 0,
        }
    }

    /// Loads `N` times 64 bits from `offset` on, a multiple of 8, each once; 0 where
    /// not all of them are inside.
    #[inline]
    pub fn load_words<const N: usize>(&self, offset: u64) -> [u64; N] {
        let first = offset.rotate_right(3);
        if first >= self.words || self.words - first < N as u64 {
            return [0; N];
        }
        let at = self.range.start().raw().wrapping_add(offset);
        core::array::from_fn(|n| {
            let from = at.wrapping_add(n as u64 * 8);
            // SAFETY: as for `load`, from the first to the last.
            unsafe { fixup::load64::<0>(from) }
        })
    }

    /// Stores 64 bits; nothing outside.
    #[inline]
    pub fn store(&self, offset: u64, value: u64) {
        if let Some(at) = self.word(offset) {
            // SAFETY: as for `load`; the memory is none that Rust knows.
            unsafe { fixup::store64(at, value) }
        }
    }

    /// Stores 32 bits; nothing outside.
    #[inline]
    pub fn store32(&self, offset: u64, value: u32) {
        if let Some(at) = self.half(offset) {
            // SAFETY: as for `store`.
            unsafe { fixup::store32(at, value) }
        }
    }
}

/// Orders what was stored before what is stored next, for every observer.
/// Mapped as the host maps it, no cache is in between.
#[inline]
pub fn publish() {
    dmb_sy();
}

/// Orders what was loaded, or what a trapped store of this CPU promised, before
/// what is loaded next.
#[inline]
pub fn refresh() {
    dmb_sy();
}

/// Calls `use_it` with an address at which this CPU has the `bytes` bytes at
/// `at`, which do not cross a page. `None` when the page is not the host's.
fn with<T>(memory: MemoryType, at: Ipa, bytes: u64, use_it: impl FnOnce(u64) -> T) -> Option<T> {
    let offset = at.raw() & (PAGE_SIZE - 1);
    if offset + bytes > PAGE_SIZE {
        return None;
    }
    let page = PhysAddr::new(at.raw() - offset);
    let pages = Range::from_size(page, PAGE_SIZE).ok()?;
    let ledger = machine::ledger()?;
    let used = ledger.with_pinned(pages, Owner::HOST, || {
        mmu::enter_page(page, memory).map(|mapped| use_it(mapped + offset))
    });
    used.ok()?
}

/// Copies words of the host's from `at`, a multiple of 8. `false` when they are
/// not all its own, or one cannot be read; what `words` holds then means nothing.
pub fn read(at: Ipa, words: &mut [u64]) -> bool {
    read_as(memory(), at, words)
}

/// As [`read`], with the attributes `memory`.
pub fn read_as(memory: MemoryType, at: Ipa, words: &mut [u64]) -> bool {
    let mut at = at;
    let mut rest = words;
    if !at.is_aligned(8) {
        return false;
    }
    while !rest.is_empty() {
        let here = (PAGE_SIZE - (at.raw() & (PAGE_SIZE - 1))) / 8;
        let count = rest.len().min(usize::try_from(here).unwrap_or(1));
        let (now, later) = rest.split_at_mut(count);
        let bytes = count as u64 * 8;
        let copied = with(memory, at, bytes, |mapped| {
            for (word, from) in now.iter_mut().zip((mapped..).step_by(8)) {
                // SAFETY: as for `Lent::load`: `with` has mapped and pinned the
                // page, and the words lie in it.
                *word = unsafe { fixup::load64::<0>(from) };
            }
        });
        let next = at.raw().checked_add(bytes).map(Ipa::new);
        match (copied.filter(|()| !fixup::take_abort()), next) {
            (Some(()), Some(next)) => (at, rest) = (next, later),
            _ => return false,
        }
    }
    true
}

/// Stores 32 bits of the host's at `at`, a multiple of 4, before anything that
/// is stored next. `false` when it is not its own, or cannot be written.
pub fn store32(at: Ipa, value: u32) -> bool {
    at.is_aligned(4)
        && with(memory(), at, 4, |mapped| {
            // SAFETY: as for `Lent::store32`.
            unsafe { fixup::store32(mapped, value) }
            dsb_sy();
        })
        .is_some_and(|()| !fixup::take_abort())
}

/// Stores 64 bits of the host's at `at`, a multiple of 8, with the attributes
/// `memory`. `false` when it is not its own, or cannot be written.
pub fn store64_as(memory: MemoryType, at: Ipa, value: u64) -> bool {
    at.is_aligned(8)
        && with(memory, at, 8, |mapped| {
            // SAFETY: as for `Lent::store`.
            unsafe { fixup::store64(mapped, value) }
        })
        .is_some_and(|()| !fixup::take_abort())
}
