//! Transfers in tests, where no table has the pages.
#![allow(dead_code, missing_docs)]

use portcullis_addr::{PhysAddr, Range};
use portcullis_ownership::{Invalidated, Transfer, Unreachable};

struct NoTables(Range<PhysAddr>);

impl Invalidated for NoTables {
    fn pages(&self) -> Range<PhysAddr> {
        self.0
    }
}

/// The transfer of pages that no table has.
pub fn unreachable(transfer: Transfer<'_>) -> Unreachable<'_> {
    let evidence = NoTables(transfer.range());
    transfer.invalidated(&evidence).unwrap()
}

/// Evidence of other pages than those of the transfer.
pub fn with_evidence_of<'a>(
    transfer: Transfer<'a>,
    pages: Range<PhysAddr>,
) -> Result<Unreachable<'a>, Transfer<'a>> {
    transfer.invalidated(&NoTables(pages)).map_err(|not| not.0)
}

pub fn commit(transfer: Transfer<'_>) {
    unreachable(transfer).commit();
}
