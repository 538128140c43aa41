//! Memory of an owner that EL2 reaches for an emulated device: its queues, as long as
//! they are enabled, and single words elsewhere.
//!
//! The owner goes on writing it. So there is never a Rust reference to it, only
//! single loads and stores, and each page is pinned in the ledger, so that it
//! stays the owner's as long as EL2 looks at it.

mod bytes;

pub use bytes::{MappedRing, PinnedPage};

use crate::fixup;
use crate::lock::Mutex;
use crate::machine;
use crate::mmu;
use crate::sysreg::{dmb_sy, dsb_sy};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::{Address, Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::MappedPages;
use portcullis_ownership::{Ledger, Owner};
use portcullis_pagetable::{Access, MemoryType};

/// Most windows: a few for each of 16 SMMUs.
const LIMIT: usize = 64;

/// The windows there are, which EL2 has mapped one to one.
static WINDOWS: Mutex<MappedPages<LIMIT>> = Mutex::new(MappedPages::new());

/// Whether the SMMUs see the caches. Where they do not, an owner maps what it
/// shares with them non-cacheable, and so does EL2.
static COHERENT: AtomicBool = AtomicBool::new(true);

/// Prepares the means of this module. To be called once, while one CPU runs.
/// `anchor` is a page of EL2's own.
pub fn prepare(coherent: bool, anchor: PhysAddr) -> Result<(), mmu::MapError> {
    COHERENT.store(coherent, Ordering::Relaxed);
    mmu::prepare_slots(anchor)
}

/// What memory is to EL2 that an owner shares with an SMMU.
fn attributes() -> MemoryType {
    if COHERENT.load(Ordering::Relaxed) {
        MemoryType::Normal
    } else {
        MemoryType::NormalNonCacheable
    }
}

/// The memory of one owner.
#[derive(Clone, Copy, Debug)]
pub struct OwnerMemory {
    owner: Owner,
    layout: Identity,
}

impl OwnerMemory {
    /// The host's, which is where the host sees it.
    pub const HOST: Self = Self {
        owner: Owner::HOST,
        layout: Identity,
    };

    /// The physical pages that `range` touches.
    fn pages(&self, range: Range<Ipa>) -> Option<Range<PhysAddr>> {
        self.layout.physical(range).page_outward()
    }

    /// Pins and maps every page that `range` touches, which starts at a multiple
    /// of 8. `None` when one is not the owner's, or there is no room; nothing
    /// has changed then.
    pub fn map(&self, range: Range<Ipa>) -> Option<MappedMemory> {
        self.map_as(attributes(), range)
    }

    /// As [`map`](Self::map), with the attributes `memory`.
    pub fn map_as(&self, memory: MemoryType, range: Range<Ipa>) -> Option<MappedMemory> {
        if !range.start().is_aligned(8) {
            return None;
        }
        let pages = self.pages(range)?;
        let ledger = machine::ledger()?;
        ledger.pin(pages, self.owner).ok()?;
        let mapped = WINDOWS.lock().add(
            pages,
            // Another window may come to share some of it, and stay when this one goes.
            |run| mmu::map_pages(run, memory, Access::ReadWrite).is_ok(),
            |run| mmu::unmap(run).is_ok(),
        );
        if mapped {
            return Some(MappedMemory {
                range,
                physical: self.layout.physical(range),
                words: range.size() / 8,
            });
        }
        unpin(ledger, pages);
        None
    }

    /// Calls `use_it` with an address at which this CPU has the `bytes` bytes at
    /// `at`, which do not cross a page. `None` when the page is not the owner's.
    fn with<T>(
        &self,
        memory: MemoryType,
        at: Ipa,
        bytes: u64,
        use_it: impl FnOnce(u64) -> T,
    ) -> Option<T> {
        let offset = at.raw() & (PAGE_SIZE - 1);
        if offset + bytes > PAGE_SIZE {
            return None;
        }
        let page = Range::from_size(Ipa::new(at.raw() - offset), PAGE_SIZE).ok()?;
        let page = self.layout.physical(page);
        let ledger = machine::ledger()?;
        let used = ledger.with_pinned(page, self.owner, || {
            mmu::enter_page(page.start(), memory).map(|mapped| use_it(mapped + offset))
        });
        used.ok()?
    }

    /// Copies words of the owner's from `at`, a multiple of 8. `false` when they are
    /// not all its own, or one cannot be read; what `words` holds then means nothing.
    pub fn read(&self, at: Ipa, words: &mut [u64]) -> bool {
        self.read_as(attributes(), at, words)
    }

    /// As [`read`](Self::read), with the attributes `memory`.
    pub fn read_as(&self, memory: MemoryType, at: Ipa, words: &mut [u64]) -> bool {
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
            let copied = self.with(memory, at, bytes, |mapped| {
                for (word, from) in now.iter_mut().zip((mapped..).step_by(8)) {
                    // SAFETY: as for `MappedMemory::load`: `with` has mapped and pinned
                    // the page, and the words lie in it.
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

    /// Stores 32 bits of the owner's at `at`, a multiple of 4, before anything that
    /// is stored next. `false` when it is not its own, or cannot be written.
    pub fn store32(&self, at: Ipa, value: u32) -> bool {
        at.is_aligned(4)
            && self
                .with(attributes(), at, 4, |mapped| {
                    // SAFETY: as for `MappedMemory::store32`.
                    unsafe { fixup::store32(mapped, value) }
                    dsb_sy();
                })
                .is_some_and(|()| !fixup::take_abort())
    }

    /// Stores 64 bits of the owner's at `at`, a multiple of 8, with the attributes
    /// `memory`. `false` when it is not its own, or cannot be written.
    pub fn store64_as(&self, memory: MemoryType, at: Ipa, value: u64) -> bool {
        at.is_aligned(8)
            && self
                .with(memory, at, 8, |mapped| {
                    // SAFETY: as for `MappedMemory::store`.
                    unsafe { fixup::store64(mapped, value) }
                })
                .is_some_and(|()| !fixup::take_abort())
    }
}

/// Takes back a pin of pages that EL2 looks at no more.
#[inline(always)]
fn unpin(ledger: &Ledger<'_>, pages: Range<PhysAddr>) {
    let counted = ledger.unpin(pages);
    debug_assert!(counted.is_ok());
}

/// Memory of an owner that is mapped at EL2 and pinned.
#[derive(Debug)]
pub struct MappedMemory {
    range: Range<Ipa>,
    /// Where it lies, and where EL2 has it.
    physical: Range<PhysAddr>,
    /// Whole words of 64 bits in it.
    words: u64,
}

impl MappedMemory {
    /// Unmaps it, unless another window needs the page, and lets go of it.
    pub fn close(self) {
        let Some(pages) = self.physical.page_outward() else {
            return;
        };
        // What could not be unmapped stays the owner's for ever.
        if WINDOWS.lock().remove(pages, |run| mmu::unmap(run).is_ok())
            && let Some(ledger) = machine::ledger()
        {
            unpin(ledger, pages);
        }
    }

    /// Where the owner has it.
    pub fn range(&self) -> Range<Ipa> {
        self.range
    }

    /// The address of the 64 bits at `offset`, a multiple of 8.
    #[inline]
    fn word(&self, offset: u64) -> Option<u64> {
        // What is no multiple of 8 has its lowest bits on top.
        let inside = offset.rotate_right(3) < self.words;
        inside.then(|| self.physical.start().raw().wrapping_add(offset))
    }

    /// The address of the 32 bits at `offset`, a multiple of 4.
    #[inline]
    fn half(&self, offset: u64) -> Option<u64> {
        let inside = (offset & !4).rotate_right(3) < self.words;
        inside.then(|| self.physical.start().raw().wrapping_add(offset))
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
            // owner's while `self` exists.
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
        let at = self.physical.start().raw().wrapping_add(offset);
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
/// Mapped as the owner maps it, no cache is in between.
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
