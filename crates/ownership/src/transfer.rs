//! Pages that change hands, one type for each step.
//!
//! ```text
//! Ledger::begin ─→ Transfer ──(proof)──→ Unreachable ─→ commit        Owned by the new owner
//!                     │                      │     └──→ commit_dirty  Dirty, for the new owner
//!                     └─→ cancel             └────────→ give_back     Owned by the old owner
//! Ledger::begin_scrub ─→ Scrub ─→ done ─→ Unreachable, which goes on as above
//!                          └────→ stop                                Dirty, as before
//! ```
//!
//! There is no way from a [`Transfer`] to a commit but through a [`Unreachable`], and
//! none to that but with [evidence](Invalidated). A value that is dropped leaves its pages
//! *leaving* for ever: lost to every owner, which is the safe way to fail.

use crate::span::Span;
use crate::{Owner, PageState};
use core::fmt;
use portcullis_addr::{PhysAddr, Range};

/// Evidence that no CPU and no SMMU reaches some pages any more through the tables of
/// the owner that is about to lose them.
///
/// The type is made where tables and invalidation meet, after the pages were taken out of
/// **every** table of that owner and the invalidation was **completed** by every walker
/// of them (DDI 0487, D8.17; IHI 0070, 4.4). It must not be possible to make one in
/// another way.
pub trait Invalidated {
    /// The pages of which this is known.
    fn pages(&self) -> Range<PhysAddr>;
}

/// Pages on their way from one owner to another, which the old owner may still reach.
#[must_use = "the pages stay lost to both owners until the transfer is committed or cancelled"]
pub struct Transfer<'a> {
    pages: Span<'a>,
    range: Range<PhysAddr>,
    before: PageState,
    to: Owner,
}

/// The evidence is of other pages. The transfer goes on as before.
#[derive(Debug)]
pub struct NotCovered<'a>(pub Transfer<'a>);

impl fmt::Display for NotCovered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not all of {} is known to be invalidated", self.0.range)
    }
}

impl core::error::Error for NotCovered<'_> {}

impl<'a> Transfer<'a> {
    pub(crate) fn new(
        pages: Span<'a>,
        range: Range<PhysAddr>,
        before: PageState,
        to: Owner,
    ) -> Self {
        Self {
            pages,
            range,
            before,
            to,
        }
    }

    /// The pages that change hands.
    #[must_use]
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    /// Who is to get the pages.
    #[must_use]
    pub fn to(&self) -> Owner {
        self.to
    }

    /// The same, now that the old owner reaches the pages no more.
    ///
    /// # Errors
    /// [`NotCovered`], with the transfer, when `evidence` is not of all the pages.
    pub fn invalidated(
        self,
        evidence: &impl Invalidated,
    ) -> Result<Unreachable<'a>, NotCovered<'a>> {
        if evidence.pages().covers(&self.range) {
            Ok(Unreachable(self))
        } else {
            Err(NotCovered(self))
        }
    }

    /// For pages that are in no table.
    pub(crate) fn commit_unmapped(self) {
        self.pages.settle(PageState::Owned(self.to));
    }

    /// Leaves the pages as they were before. To be called only while, or once again, the
    /// old owner's translations are what they were.
    pub fn cancel(self) {
        self.pages.settle(self.before);
    }
}

impl fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            range, before, to, ..
        } = self;
        write!(f, "Transfer({range} {before}, to {to})")
    }
}

/// Pages on their way from one owner to another, which no owner reaches.
#[must_use = "the pages stay lost to both owners until the transfer is committed"]
#[derive(Debug)]
pub struct Unreachable<'a>(Transfer<'a>);

impl Unreachable<'_> {
    /// The pages that change hands.
    #[must_use]
    pub fn range(&self) -> Range<PhysAddr> {
        self.0.range
    }

    /// Who is to get the pages.
    #[must_use]
    pub fn to(&self) -> Owner {
        self.0.to
    }

    /// The new owner has the pages, with what the old one wrote.
    pub fn commit(self) {
        self.0.pages.settle(PageState::Owned(self.0.to));
    }

    /// The new owner gets the pages when the hypervisor has overwritten what the old one
    /// wrote, see [`Ledger::begin_scrub`](crate::Ledger::begin_scrub).
    pub fn commit_dirty(self) {
        self.0.pages.settle(PageState::Dirty(self.0.to));
    }

    /// The pages are what they were before: the old owner's, which does not reach them
    /// before they are mapped for it, or dirty.
    pub fn give_back(self) {
        self.0.cancel();
    }
}

/// Dirty pages that the hypervisor is overwriting. Dropped, they stay lost.
#[must_use = "the pages stay lost until they are overwritten"]
pub struct Scrub<'a> {
    pages: Span<'a>,
    range: Range<PhysAddr>,
    owner: Owner,
}

impl<'a> Scrub<'a> {
    pub(crate) fn new(pages: Span<'a>, range: Range<PhysAddr>, owner: Owner) -> Self {
        Self {
            pages,
            range,
            owner,
        }
    }

    /// The pages, which only the caller uses meanwhile.
    #[must_use]
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    /// All of it was overwritten, and the stores are where the new owner will look,
    /// with its caches off too: the pages are on their way to it. No owner reached them
    /// since they were dirty, so no more evidence is needed.
    pub fn done(self) -> Unreachable<'a> {
        let before = PageState::Dirty(self.owner);
        Unreachable(Transfer::new(self.pages, self.range, before, self.owner))
    }

    /// Not all of it was overwritten: the pages stay dirty.
    pub fn stop(self) {
        self.pages.settle(PageState::Dirty(self.owner));
    }
}

impl fmt::Debug for Scrub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrub({} for {})", self.range, self.owner)
    }
}
