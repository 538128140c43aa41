//! The host's machine, as its virtio-iommu finds it.

use crate::fixup;
use crate::gic;
use crate::lend::{self, HeldPage, LentRing};
use portcullis_addr::{Ipa, Range};
use virtio_iommu_device::{Outside, Platform, Window};

/// The host's memory and one interrupt.
#[derive(Clone, Copy, Debug)]
pub struct HostMachine {
    /// INTID of the interrupt.
    pub line: u32,
}

impl Platform for HostMachine {
    type Window = LentRing;
    type Page = HeldPage;

    fn open(&self, range: Range<Ipa>) -> Result<LentRing, Outside> {
        LentRing::open(range).ok_or(Outside)
    }

    fn close(&self, window: LentRing) {
        window.close();
    }

    #[inline(always)]
    fn hold(&self, page: Ipa) -> Result<HeldPage, Outside> {
        HeldPage::hold(page).ok_or(Outside)
    }

    #[inline(always)]
    fn release(&self, page: HeldPage) {
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
                lend::refresh();
            }
            #[inline]
            fn publish(&self) {
                lend::publish();
            }
            #[inline]
            fn fence(&self) {
                lend::publish();
            }
            #[inline(always)]
            fn aborted(&self) -> bool {
                fixup::take_abort()
            }
        }
    };
}

window!(LentRing);
window!(HeldPage);
