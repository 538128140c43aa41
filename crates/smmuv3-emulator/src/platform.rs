//! The interface to the owner's machine: its memory, its interrupts, and the
//! page where it reads registers.

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
    /// Memory of the owner that is held.
    type Window: Window;

    /// Copies `words.len()` words from `at`, a multiple of 8. Each word is
    /// loaded once.
    ///
    /// # Errors
    /// [`Outside`]: the content of `words` means nothing then.
    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside>;

    /// Stores 32 bits at `at`, a multiple of 4, as an MSI does.
    ///
    /// # Errors
    /// [`Outside`]: nothing was stored.
    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside>;

    /// Holds all pages that `range` touches, until [`close`](Self::close). A
    /// page may be held several times. `range` is never larger than 1 MiB.
    ///
    /// # Errors
    /// [`Outside`]: nothing is held.
    fn open(&self, range: Range<Ipa>) -> Result<Self::Window, Outside>;

    /// Releases the memory that [`open`](Self::open) held.
    fn close(&self, window: Self::Window);

    /// Makes the owner read `value` from the 32-bit register at `offset`.
    /// `offset` lies in the first 4 KiB of page 0 or of page 1 (from 0x10000).
    fn show(&self, offset: u32, value: u32);

    /// The address where a store by the physical SMMU does the same as
    /// [`show`](Self::show); `None` if there is none.
    fn shown_at(&self, offset: u32) -> Option<PhysAddr>;

    /// Signals an edge on an interrupt line.
    fn raise(&self, line: Line);
}
