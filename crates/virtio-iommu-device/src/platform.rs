//! The driver's machine: memory and the interrupt.

use portcullis_addr::{Ipa, Range};

pub use portcullis_owner_memory::{Outside, Size};

/// Memory of the driver's that cannot change hands while this exists.
///
/// The driver may write it at any moment: each load is one access, and what was
/// loaded is not loaded again. Offsets are bytes from the start. An access lies
/// at an address that is a multiple of its size; one that is outside loads 0 and
/// stores nothing. Values are as memory has them; the device knows that virtio
/// is little-endian.
pub trait Window {
    /// Loads 8 bits.
    fn load8(&self, offset: u64) -> u8;

    /// Loads 16 bits.
    fn load16(&self, offset: u64) -> u16;

    /// Loads 32 bits.
    fn load32(&self, offset: u64) -> u32;

    /// Loads 64 bits.
    fn load64(&self, offset: u64) -> u64;

    /// Loads `N` times 64 bits, each in one access, in any order: one look at
    /// the bounds is enough for all of them.
    #[inline]
    fn words<const N: usize>(&self, offset: u64) -> [u64; N] {
        let mut at = offset;
        core::array::from_fn(|_| {
            let word = self.load64(at);
            at = at.wrapping_add(8);
            word
        })
    }

    /// Stores 8 bits.
    fn store8(&self, offset: u64, value: u8);

    /// Stores 16 bits.
    fn store16(&self, offset: u64, value: u16);

    /// Stores 32 bits.
    fn store32(&self, offset: u64, value: u32);

    /// Stores 32 bits, and 32 bits after them, in any order: one look at the
    /// bounds is enough for both.
    #[inline]
    fn store_pair(&self, offset: u64, values: [u32; 2]) {
        self.store32(offset, values[0]);
        self.store32(offset.wrapping_add(4), values[1]);
    }

    /// What was loaded before, anywhere, is as old as what the loads after this
    /// give, or older (an acquire fence).
    fn refresh(&self);

    /// What was stored before, anywhere, is seen by the driver before anything
    /// that is stored after (a release fence).
    fn publish(&self);

    /// Every access before, anywhere, comes before every access after: a load
    /// after a store, too.
    fn fence(&self);

    /// Whether a load or a store, anywhere, was answered by an error since this
    /// was last asked: memory that is broken, or where nothing is. What such a load
    /// gave means nothing.
    fn aborted(&self) -> bool;
}

/// The machine of the driver.
///
/// Rings are held while their queue is ready. Everything else, request buffers
/// and indirect tables, is reached by way of one page at a time: Linux allocates
/// a request with its answer in one piece, and the next one beside it, so that
/// holding the page once serves both reading and answering, and often the whole
/// burst.
pub trait Platform {
    /// Memory of rings.
    type Window: Window;

    /// One page of 4 KiB.
    type Page: Window;

    /// Holds `range`, every page it touches, until [`close`](Self::close). Pages
    /// may be held several times. At most 4 KiB are ever asked for at once, and
    /// six ranges held.
    ///
    /// # Errors
    /// [`Outside`]: nothing is held.
    fn open(&self, range: Range<Ipa>) -> Result<Self::Window, Outside>;

    /// Lets go of what [`open`](Self::open) held.
    fn close(&self, window: Self::Window);

    /// Holds the page that begins at `page`, a multiple of 4 KiB, until
    /// [`release`](Self::release), which comes before the call of the device
    /// returns. No second page is asked for before that.
    ///
    /// # Errors
    /// [`Outside`]: nothing is held.
    fn hold(&self, page: Ipa) -> Result<Self::Page, Outside>;

    /// Lets go of what [`hold`](Self::hold) held.
    fn release(&self, page: Self::Page);

    /// Signals the interrupt (4.2.3.4). An edge: it is signalled again for each
    /// notification, also while the one before is not acknowledged.
    fn raise(&self);
}
