//! Pages that an owner gets.

use super::{Invalidate, OwnerSpace, Placement, RAM, SpaceError, chunks};
use core::fmt;
use portcullis_addr::{Ipa, PAGE_SIZE, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_ownership::Unreachable;
use portcullis_pagetable::Error as TableError;
use thiserror::Error;

/// Why an owner did not get pages.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct ReceiveError<'a, E: fmt::Debug> {
    /// What was wrong.
    pub error: SpaceError<E>,
    /// The pages, which no owner reaches: the caller gives them back, or to another.
    /// `None` after [`SpaceError::Invalidation`]: [`OwnerSpace::retry_invalidation`] has them.
    pub pages: Option<Unreachable<'a>>,
}

impl<'a, C: Memory + Allocator, D: Memory + Allocator> OwnerSpace<'a, C, D> {
    /// Maps pages that are on their way to the owner at `at` and on, in both tables,
    /// and commits the transfer: they are the owner's then.
    ///
    /// What was absent is in no TLB, so there is nothing to invalidate unless a step has
    /// to be undone. `at` is where the owner has nothing; of an owner that sees the
    /// machine as it is, the address of the pages.
    ///
    /// # Errors
    /// [`ReceiveError`]. No table has the pages then, but after [`SpaceError::Lost`] that
    /// of the owner's devices.
    pub fn receive<I: Invalidate>(
        &mut self,
        pages: Unreachable<'a>,
        at: Ipa,
        invalidate: &mut I,
    ) -> Result<(), ReceiveError<'a, I::Error>> {
        let at = match self.place(&pages, at) {
            Ok(at) => at,
            Err(error) => {
                let pages = Some(pages);
                return Err(ReceiveError { error, pages });
            }
        };
        let result = self.map_both(at, pages, invalidate);
        result.map(Unreachable::commit)
    }

    /// Where the pages go.
    fn place<E: fmt::Debug>(
        &self,
        pages: &Unreachable<'_>,
        at: Ipa,
    ) -> Result<Range<Ipa>, SpaceError<E>> {
        self.certain()?;
        let range = pages.range();
        let at = Range::from_size(at, range.size()).map_err(|_| TableError::InputTooLarge)?;
        if !at.is_aligned(PAGE_SIZE) || chunks(range).next() != Some(range) {
            return Err(SpaceError::NotOneChunk(at));
        }
        let elsewhere =
            self.placement == Placement::Identity && at.start().raw() != range.start().raw();
        if elsewhere || pages.to() != self.owner {
            return Err(SpaceError::NotOnePiece(at));
        }
        Ok(at)
    }

    fn map_both<I: Invalidate>(
        &mut self,
        at: Range<Ipa>,
        pages: Unreachable<'a>,
        invalidate: &mut I,
    ) -> Result<Unreachable<'a>, ReceiveError<'a, I::Error>> {
        let start = pages.range().start();
        let refused = |error: TableError<Ipa>, pages| ReceiveError {
            error: error.into(),
            pages: Some(pages),
        };
        if let Err(error) = self.dma.map(at, start, RAM) {
            return Err(refused(error, pages));
        }
        if self.is_shared(at) {
            return Ok(pages);
        }
        let Err(error) = self.cpu.map(at, start, RAM) else {
            return Ok(pages);
        };
        match self.dma.unmap(at) {
            Ok(plan) => match self.not_received(pages, plan, invalidate) {
                Ok(pages) => Err(refused(error, pages)),
                Err(error) => Err(ReceiveError { error, pages: None }),
            },
            // Devices go on having the pages, and no owner gets them.
            Err(_) => Err(ReceiveError {
                error: SpaceError::Lost(at),
                pages: None,
            }),
        }
    }
}
