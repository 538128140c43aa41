//! An owner's machine, as its virtio-iommu finds it.

use crate::fixup;
use crate::gic;
use crate::owner_memory::{self, MappedRing, OwnerMemory, PinnedPage};
use portcullis_addr::{Ipa, Range};
use virtio_iommu_device::{Outside, Platform, Window};

/// The owner's memory. A constant, since the host is the only owner so far, and the page of
/// each request is pinned for it.
const MEMORY: OwnerMemory = OwnerMemory::HOST;

/// The owner's memory and one interrupt.
#[derive(Clone, Copy, Debug)]
pub struct HostMachine {
    /// INTID of the interrupt.
    pub line: u32,
}

impl Platform for HostMachine {
    type Window = MappedRing;
    type Page = PinnedPage;

    fn open(&self, range: Range<Ipa>) -> Result<MappedRing, Outside> {
        MEMORY.map_ring(range).ok_or(Outside)
    }

    fn close(&self, window: MappedRing) {
        window.close();
    }

    #[inline(always)]
    fn hold(&self, page: Ipa) -> Result<PinnedPage, Outside> {
        MEMORY.pin_page(page).ok_or(Outside)
    }

    #[inline(always)]
    fn release(&self, page: PinnedPage) {
        page.release();
    }

    fn raise(&self) {
        gic::raise(self.line);
    }
}

macro_rules! window {
    ($name:ty) => {
        impl Window for $name {
            #[inline]
            fn load8(&self, offset: u64) -> u8 {
                self.load8(offset)
            }
            #[inline]
            fn load16(&self, offset: u64) -> u16 {
                self.load16(offset)
            }
            #[inline]
            fn load32(&self, offset: u64) -> u32 {
                self.load32(offset)
            }
            #[inline]
            fn load64(&self, offset: u64) -> u64 {
                self.load64(offset)
            }
            #[inline(always)]
            fn words<const N: usize>(&self, offset: u64) -> [u64; N] {
                self.words(offset)
            }
            #[inline]
            fn store8(&self, offset: u64, value: u8) {
                self.store8(offset, value);
            }
            #[inline]
            fn store16(&self, offset: u64, value: u16) {
                self.store16(offset, value);
            }
            #[inline]
            fn store32(&self, offset: u64, value: u32) {
                self.store32(offset, value);
            }
            #[inline]
            fn refresh(&self) {
                owner_memory::refresh();
            }
            #[inline]
            fn publish(&self) {
                owner_memory::publish();
            }
            #[inline]
            fn fence(&self) {
                owner_memory::publish();
            }
            #[inline(always)]
            fn aborted(&self) -> bool {
                fixup::take_abort()
            }
        }
    };
}

window!(MappedRing);
window!(PinnedPage);
