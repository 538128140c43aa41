//! The owner's side: memory, interrupts, and what its reads of registers see.

use portcullis_addr::{Ipa, PhysAddr, Range};
pub use portcullis_owner_memory::{Outside, Size, Window};

/// A wired interrupt of the emulated SMMU (IHI 0070, 3.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The event queue is no longer empty.
    Event,
    /// The PRI queue is no longer empty.
    Pri,
    /// A CMD_SYNC with a completion interrupt completed.
    Sync,
    /// A global error became active.
    Error,
}

/// The machine of the owner.
pub trait Platform {
    /// Memory that is held.
    type Window: Window;

    /// Copies `words.len()` words from `at`, which is a multiple of 8; each is
    /// loaded once.
    ///
    /// # Errors
    /// [`Outside`]: what `words` holds then means nothing.
    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside>;

    /// Stores 32 bits at `at`, which is a multiple of 4, as an MSI does.
    ///
    /// # Errors
    /// [`Outside`]: nothing was stored.
    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside>;

    /// Holds `range`, every page it touches, until [`close`](Self::close). Pages
    /// may be held several times. At most 1 MiB is ever asked for.
    ///
    /// # Errors
    /// [`Outside`]: nothing is held.
    fn open(&self, range: Range<Ipa>) -> Result<Self::Window, Outside>;

    /// Lets go of what [`open`](Self::open) held.
    fn close(&self, window: Self::Window);

    /// Makes reads of the 32 bits at `offset` of the registers give `value`.
    /// `offset` lies in the first 4 KiB of page 0 or of page 1 (from 0x10000).
    fn show(&self, offset: u32, value: u32);

    /// Where the physical SMMU would have to store 32 bits to do the same as
    /// [`show`](Self::show); `None` where it cannot.
    fn shown_at(&self, offset: u32) -> Option<PhysAddr>;

    /// Signals an edge on an interrupt line.
    fn raise(&self, line: Line);
}
