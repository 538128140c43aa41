//! Pages of the hypervisor's that an owner's CPUs may read: the registers of an
//! emulated device, so that a read costs no exit and every write does.

use super::OwnerSpace;
use core::fmt::{self, Display};
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_ownership::{Owner, PageState};
use portcullis_pagetable::{Error as TableError, Execute, MemoryType, Stage2Attributes};

/// Device-nGnRE, as EL2 maps the page itself: whatever the owner's stage 1 says,
/// both sides see one order of accesses and no cache.
const SHOWN: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Device,
    read: true,
    write: false,
    execute: Execute::Never,
};

/// Why a page could not be shown. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowError {
    /// The page is not the hypervisor's for good, or not a page.
    NotOurs(PhysAddr),
    /// The tables refused: something is mapped there already, or memory is
    /// missing.
    Table(TableError<Ipa>),
}

impl Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs(page) => write!(f, "the page {page} is not the hypervisor's"),
            Self::Table(error) => write!(f, "translation tables: {error}"),
        }
    }
}

impl core::error::Error for ShowError {}

impl<C: Memory + Allocator, D: Memory + Allocator> OwnerSpace<'_, C, D> {
    /// Lets the owner's CPUs read the page of the hypervisor's at `page`, at the
    /// address `at` where they have nothing. Devices do not get it, and it cannot be
    /// written or executed.
    ///
    /// What was absent is in no TLB, so there is nothing to invalidate.
    ///
    /// # Errors
    /// [`ShowError`]; nothing has changed.
    pub fn show(&mut self, at: Ipa, page: PhysAddr) -> Result<(), ShowError> {
        let ours = self
            .ledger
            .entry(page)
            .is_some_and(|entry| entry.state() == PageState::Owned(Owner::HYPERVISOR));
        if !ours {
            return Err(ShowError::NotOurs(page));
        }
        let range = Range::from_size(at, PAGE_SIZE).map_err(|_| ShowError::NotOurs(page))?;
        self.cpu.map(range, page, SHOWN).map_err(ShowError::Table)
    }
}
