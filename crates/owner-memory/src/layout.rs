//! Where an owner's intermediate physical addresses lie in physical memory.

use portcullis_addr::{Identity, Ipa, PhysAddr, Range};

/// Translates an owner's intermediate physical addresses.
///
/// An answer says where memory is, and not whose it is: before the memory is used, it is
/// pinned in the ledger, for that owner.
pub trait Layout {
    /// Where `range` begins in physical memory, and how much of it lies there in one
    /// piece: no more than `range` has, and less if what follows lies elsewhere. `None`
    /// where the owner has nothing.
    fn resolve(&self, range: Range<Ipa>) -> Option<Range<PhysAddr>>;
}

impl Layout for Identity {
    #[inline(always)]
    fn resolve(&self, range: Range<Ipa>) -> Option<Range<PhysAddr>> {
        Some(self.physical(range))
    }
}
