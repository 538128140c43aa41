//! The memory of one owner, as its CPUs and its devices see it.

mod build;
mod receive;
mod register_page;
mod release;
mod shared_entries;

pub use build::{Sharing, TableShapes, input_bits};
pub use receive::ReceiveError;
pub use register_page::ShowError;

use core::fmt;
use portcullis_addr::{Address, Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_owner_memory::Layout;
use portcullis_ownership::{Ledger, Owner, TransferError};
use portcullis_pagetable::{
    Error as TableError, Execute, Invalidation, MemoryType, Stage2, Stage2Attributes, Table,
};
use shared_entries::{SHARED_LEVEL, SharedEntries};
use smmuv3_spec::Vmid;
use thiserror::Error;

use release::Unfinished;

/// Drops cached translations of one VMID, and returns only when none is in use any more.
pub trait Invalidate {
    /// Why it did not work.
    type Error: fmt::Debug;

    /// Invalidates `plan` on every CPU.
    ///
    /// # Errors
    /// Whatever keeps the implementation from knowing that it completed.
    fn cpus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Self::Error>;

    /// Invalidates `plan` on every SMMU.
    ///
    /// # Errors
    /// Whatever keeps the implementation from knowing that it completed. A
    /// failure on one SMMU is a failure of the whole.
    fn smmus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Self::Error>;
}

/// RAM is cacheable and executable as far as the owner's stage 1 says so.
const RAM: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Always,
};

/// Most bytes that change hands in one call, a multiple of which no call crosses: what
/// one table of pages maps. So each call is short; a caller with more to do makes
/// several, see [`chunks`].
pub const MAX_CALL_BYTES: u64 = 2 << 20;

/// The parts of `range` that change hands in one call each, ascending.
pub fn chunks<A: Address>(range: Range<A>) -> impl Iterator<Item = Range<A>> {
    cut(range, MAX_CALL_BYTES)
}

/// The parts of `range` that cross no multiple of `size`, ascending.
fn cut<A: Address>(range: Range<A>, size: u64) -> impl Iterator<Item = Range<A>> {
    let mut next = Some(range);
    core::iter::from_fn(move || {
        let rest = next?;
        let end = (rest.start().raw() / size + 1)
            .checked_mul(size)
            .map_or(rest.end(), A::new)
            .min(rest.end());
        next = Range::new(end, rest.end()).ok();
        Range::new(rest.start(), end).ok()
    })
}

/// Why an operation on an owner's memory failed.
#[derive(Debug, Error)]
pub enum SpaceError<E: fmt::Debug> {
    /// The range is not whole pages inside one [`MAX_CALL_BYTES`]. Nothing has changed.
    #[error("{0} is not whole pages inside a chunk of {MAX_CALL_BYTES:#x} bytes")]
    NotOneChunk(Range<Ipa>),
    /// The owner has no memory there, or not in one piece. Nothing has changed.
    #[error("{0} is not one piece of the owner's memory")]
    NotOnePiece(Range<Ipa>),
    /// The translation tables refused. Nothing has changed.
    #[error("translation tables: {0}")]
    Table(TableError<Ipa>),
    /// The ledger refused. Nothing has changed.
    #[error("ledger: {0}")]
    Ledger(TransferError),
    /// A step could not be undone for want of memory: what was out of the devices' table
    /// did not fit into it again, or what was in it could not be taken out. The pages are
    /// lost to every owner; after a [`release`](OwnerSpace::release) no table has them,
    /// after a [`receive`](OwnerSpace::receive) that of the owner's devices does.
    #[error("the pages at {0} are lost")]
    Lost(Range<Ipa>),
    /// An invalidation did not complete. The pages are out of the tables, but a walker
    /// may still hold a translation: [`OwnerSpace::retry_invalidation`] tries again.
    #[error("invalidation: {0:?}")]
    Invalidation(E),
    /// An earlier invalidation in this space is not complete. A walker may still hold an
    /// old block, with pages around those that left. Nothing has changed.
    /// [`OwnerSpace::retry_invalidation`] comes first. No other space is affected.
    #[error("an earlier invalidation did not complete")]
    Unfinished,
}

impl<E: fmt::Debug> From<TableError<Ipa>> for SpaceError<E> {
    fn from(error: TableError<Ipa>) -> Self {
        Self::Table(error)
    }
}

/// One run of an owner's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    at: Range<Ipa>,
    pages: Range<PhysAddr>,
}

/// How an owner's intermediate physical addresses are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// Each page is at its physical address. Owners that see the machine as it is.
    Identity,
    /// Each page is where it was [received](OwnerSpace::receive).
    Mapped,
}

/// Stage 2 of one owner's CPUs and of its devices, which the ledger decides.
pub struct OwnerSpace<'a, C, D> {
    ledger: Ledger<'a>,
    owner: Owner,
    vmid: Vmid,
    placement: Placement,
    cpu: Table<Stage2, C>,
    dma: Table<Stage2, D>,
    sharing: Sharing,
    shared: SharedEntries,
    /// A change whose invalidation did not complete.
    unfinished: Option<Unfinished<'a>>,
}

impl<'a, C: Memory + Allocator, D: Memory + Allocator> OwnerSpace<'a, C, D> {
    /// Whose memory it is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// What tags its translations, on CPUs and SMMUs.
    pub fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// Stage 2 of the owner's CPUs.
    pub fn cpu(&self) -> &Table<Stage2, C> {
        &self.cpu
    }

    /// Stage 2 of the owner's devices.
    pub fn dma(&self) -> &Table<Stage2, D> {
        &self.dma
    }

    /// Whether the two share tables.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The ledger that the tables follow.
    pub fn ledger(&self) -> &Ledger<'a> {
        &self.ledger
    }

    /// Whether the owner's CPUs may run at `at`: RAM is there, and it is the owner's.
    pub fn is_ram(&self, at: Ipa) -> bool {
        let page = Ipa::new(at.raw() & !(PAGE_SIZE - 1));
        Range::from_size(page, PAGE_SIZE)
            .ok()
            .and_then(|page| self.resolve(page))
            .and_then(|pages| self.ledger.entry(pages.start()))
            .is_some_and(|entry| entry.state().lets_map(self.owner))
    }

    /// Whether a change of this space is not complete, see
    /// [`SpaceError::Unfinished`].
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    fn is_shared(&self, at: Range<Ipa>) -> bool {
        let size = self.dma.geometry().level_bytes(SHARED_LEVEL);
        self.shared.contains(at.start().raw() / size)
    }

    /// An error while a change is not complete.
    fn certain<E: fmt::Debug>(&self) -> Result<(), SpaceError<E>> {
        match self.unfinished {
            Some(_) => Err(SpaceError::Unfinished),
            None => Ok(()),
        }
    }
}

impl<C: Memory + Allocator, D: Memory + Allocator> Layout for OwnerSpace<'_, C, D> {
    fn resolve(&self, range: Range<Ipa>) -> Option<Range<PhysAddr>> {
        match self.placement {
            Placement::Identity => Identity.resolve(range),
            Placement::Mapped => {
                let found = self.cpu.walk(range.start()).ok()?;
                let size = self.cpu.geometry().level_bytes(found.level);
                let left = size - (range.start().raw() & (size - 1));
                Range::from_size(found.output, left.min(range.size())).ok()
            }
        }
    }
}

/// Completes a plan of this very table; the table knows its own plans.
fn finish<M: Memory + Allocator>(table: &mut Table<Stage2, M>, plan: Invalidation<Ipa>) {
    let own = table.complete(plan);
    debug_assert!(own.is_ok());
}
