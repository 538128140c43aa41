//! Who has which page when the machine starts.

use crate::{Bank, Ledger, LedgerError, Owner, TransferError};
use portcullis_addr::{PhysAddr, Range};

/// A ledger of which no table was made yet, so that a page changes hands without any
/// invalidation. [`ledger`](Self::ledger) ends that.
pub struct Allotment<'a>(Ledger<'a>);

impl<'a> Allotment<'a> {
    /// `banks` are in ascending order; the pages are in the state that their entries
    /// hold.
    ///
    /// # Errors
    /// [`LedgerError::Order`] when the banks are not ascending and disjoint.
    pub fn new(banks: &'a [Bank<'a>]) -> Result<Self, LedgerError> {
        Ledger::new(banks).map(Self)
    }

    /// Gives pages of `from` to `to`. All are in one bank.
    ///
    /// # Errors
    /// [`TransferError`]; no page has changed then.
    pub fn assign(
        self,
        range: Range<PhysAddr>,
        from: Owner,
        to: Owner,
    ) -> Result<Self, TransferError> {
        self.0.begin(range, from, to)?.commit_unmapped();
        Ok(self)
    }

    /// The same for every page that `from` has.
    ///
    /// # Errors
    /// [`TransferError`], when another CPU has changed the entries meanwhile.
    pub fn assign_rest(self, from: Owner, to: Owner) -> Result<Self, TransferError> {
        let ledger = self.0;
        ledger
            .runs(from)
            .try_fold(self, |this, run| this.assign(run, from, to))
    }

    /// The ledger, from which tables may be made.
    #[must_use]
    pub fn ledger(self) -> Ledger<'a> {
        self.0
    }
}
