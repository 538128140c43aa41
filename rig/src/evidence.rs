//! Evidence for transfers of owners that have no tables.

use portcullis_addr::{PhysAddr, Range};
use portcullis_ownership::{Invalidated, Transfer, Unreachable};

struct NoTables(Range<PhysAddr>);

impl Invalidated for NoTables {
    fn pages(&self) -> Range<PhysAddr> {
        self.0
    }
}

/// The transfer of pages that no table has.
pub(crate) fn unreachable(transfer: Transfer<'_>) -> Unreachable<'_> {
    let evidence = NoTables(transfer.range());
    match transfer.invalidated(&evidence) {
        Ok(pages) => pages,
        Err(_) => unreachable!("the evidence is of these pages"),
    }
}

/// The new owner of pages that no table has gets them.
pub(crate) fn commit(transfer: Transfer<'_>) {
    unreachable(transfer).commit();
}
