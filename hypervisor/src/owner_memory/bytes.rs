//! Memory of an owner in accesses of any width: rings, and one page that a CPU
//! holds for as long as a call takes.

use super::{MappedMemory, OwnerMemory, attributes, unpin};
use crate::fixup;
use crate::machine;
use crate::mmu;
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};

/// Where EL2 has memory of an owner, and how much.
#[derive(Debug)]
struct Bytes {
    at: u64,
    /// 8 at least.
    bytes: u64,
}

impl Bytes {
    /// The address of `SIZE` bytes, a power of two up to 8, at `offset`; `None`
    /// outside or where they would not be aligned.
    #[inline(always)]
    fn place<const SIZE: u64>(&self, offset: u64) -> Option<u64> {
        let at = self.at.wrapping_add(offset);
        let inside = offset <= self.bytes.saturating_sub(SIZE);
        (inside && at & (SIZE - 1) == 0).then_some(at)
    }

    /// As [`place`](Self::place), of `count` times 64 bits.
    #[inline(always)]
    fn words(&self, offset: u64, count: u64) -> Option<u64> {
        let at = self.at.wrapping_add(offset);
        let inside = offset <= self.bytes.checked_sub(8 * count)?;
        (inside && at & 7 == 0).then_some(at)
    }
}

macro_rules! accesses {
    ($($load:ident $store:ident $type:ty, $size:literal;)*) => {
        $(
            /// Loads once; 0 outside.
            #[inline(always)]
            pub fn $load(&self, offset: u64) -> $type {
                match self.bytes().place::<$size>(offset) {
                    // SAFETY: inside pages that are mapped as memory and pinned
                    // as the owner's while `self` exists, aligned.
                    Some(at) => unsafe { fixup::$load::<0>(at) },
                    None => 0,
                }
            }

            /// Stores once; nothing outside.
            #[inline(always)]
            #[allow(dead_code, reason = "virtio stores no 64 bits at once")]
            pub fn $store(&self, offset: u64, value: $type) {
                if let Some(at) = self.bytes().place::<$size>(offset) {
                    // SAFETY: as for the load; the memory is none that Rust knows.
                    unsafe { fixup::$store(at, value) }
                }
            }
        )*

        /// Loads `N` times 64 bits, each once; 0 where not all of them are
        /// inside.
        #[inline(always)]
        pub fn words<const N: usize>(&self, offset: u64) -> [u64; N] {
            match self.bytes().words(offset, N as u64) {
                // SAFETY: as for the loads, from the first to the last.
                Some(at) => unsafe { words(at) },
                None => [0; N],
            }
        }
    };
}

/// Loads `N` times 64 bits from `at` on, each once, in as few instructions as can be.
///
/// # Safety
/// As for each load.
#[inline(always)]
unsafe fn words<const N: usize>(at: u64) -> [u64; N] {
    // SAFETY: as the caller promises; none is loaded that was not asked for.
    unsafe {
        match N {
            2 => {
                let all = fixup::load_pair::<0>(at);
                core::array::from_fn(|n| all[n])
            }
            3 => {
                let [a, b] = fixup::load_pair::<0>(at);
                let all = [a, b, fixup::load64::<16>(at)];
                core::array::from_fn(|n| all[n])
            }
            4 => {
                let ([a, b], [c, d]) = (fixup::load_pair::<0>(at), fixup::load_pair::<16>(at));
                let all = [a, b, c, d];
                core::array::from_fn(|n| all[n])
            }
            _ => core::array::from_fn(|n| fixup::load64::<0>(at + n as u64 * 8)),
        }
    }
}

/// A ring of an owner, mapped and pinned until it is closed.
#[derive(Debug)]
pub struct MappedRing {
    memory: MappedMemory,
    bytes: Bytes,
}

impl OwnerMemory {
    /// As [`map`](Self::map), from any address, and 8 bytes at least: no ring has
    /// less.
    pub fn map_ring(&self, range: Range<Ipa>) -> Option<MappedRing> {
        let start = range.start().raw();
        let words = Range::new(Ipa::new(start & !7), range.end()).ok()?;
        if range.size() < 8 {
            return None;
        }
        let memory = self.map(words)?;
        let bytes = Bytes {
            at: memory.physical.start().raw() + (start & 7),
            bytes: range.size(),
        };
        Some(MappedRing { memory, bytes })
    }

    /// Pins and maps the page at `page`. `None` when it is not the owner's. One
    /// at a time on each CPU.
    #[inline(always)]
    pub fn pin_page(&self, page: Ipa) -> Option<PinnedPage> {
        let page = Range::from_size(page, PAGE_SIZE).ok()?;
        let page = self.layout.physical(page);
        let ledger = machine::ledger()?;
        ledger.pin(page, self.owner).ok()?;
        match mmu::enter_page(page.start(), attributes()) {
            Some(at) => Some(PinnedPage {
                page,
                bytes: Bytes {
                    at,
                    bytes: PAGE_SIZE,
                },
            }),
            None => {
                unpin(ledger, page);
                None
            }
        }
    }
}

impl MappedRing {
    /// As [`MappedMemory::close`].
    pub fn close(self) {
        self.memory.close();
    }

    #[inline(always)]
    fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    accesses! {
        load8 store8 u8, 1;
        load16 store16 u16, 2;
        load32 store32 u32, 4;
        load64 store64 u64, 8;
    }
}

/// One page of an owner that this CPU has mapped, and pinned: unpinned it
/// stays mapped, and nothing looks at it.
#[derive(Debug)]
pub struct PinnedPage {
    page: Range<PhysAddr>,
    bytes: Bytes,
}

impl PinnedPage {
    /// Lets go of it.
    #[inline(always)]
    pub fn release(self) {
        if let Some(ledger) = machine::ledger() {
            unpin(ledger, self.page);
        }
    }

    #[inline(always)]
    fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    accesses! {
        load8 store8 u8, 1;
        load16 store16 u16, 2;
        load32 store32 u32, 4;
        load64 store64 u64, 8;
    }
}
