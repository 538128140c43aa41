//! The owner's side: memory, interrupts, and what its reads of registers see.

use portcullis_addr::{Ipa, PhysAddr, Range};

/// An address that is not memory of the owner's, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not memory of the owner's")]
pub struct Outside;

/// Width of an access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

impl Size {
    /// Bytes of the access.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }
}

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

/// Memory of the owner's that cannot change hands while this exists.
///
/// The owner may write it at any moment: each load is one access, and what was
/// loaded is not loaded again. Offsets are bytes from the start and multiples of
/// the access; one that is outside loads 0 and stores nothing.
pub trait Window {
    /// Where it lies.
    fn range(&self) -> Range<Ipa>;

    /// Where `offset` lies for hardware that no translation stands before.
    /// `None` outside.
    fn physical(&self, offset: u64) -> Option<PhysAddr>;

    /// Loads 64 bits.
    fn load(&self, offset: u64) -> u64;

    /// Stores 64 bits.
    fn store(&self, offset: u64, value: u64);

    /// Stores 32 bits.
    fn store32(&self, offset: u64, value: u32);

    /// What was stored before is seen by the owner before anything that is
    /// stored after, and no later than it could see it if an SMMU had stored
    /// it.
    fn publish(&self, offset: u64, bytes: u64);

    /// What the owner stored, in the order that its write to a register
    /// promises, is what the loads after this see.
    fn refresh(&self, offset: u64, bytes: u64);

    /// Whether a load or a store in any window was answered by an error since
    /// this was last asked: memory that is broken, or where nothing is. What such
    /// a load gave means nothing.
    fn aborted(&self) -> bool;
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
