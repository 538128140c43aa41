//! Pages that an owner gives away.

use super::{Invalidate, MAX_CALL_BYTES, OwnerSpace, RAM, Run, SpaceError, chunks, finish};
use core::fmt;
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_owner_memory::Layout;
use portcullis_ownership::{Invalidated, Owner, Transfer, Unreachable};
use portcullis_pagetable::Invalidation;

/// Evidence that the owner's CPUs and devices reach some pages no more. Made by
/// [`OwnerSpace::out_of_cpus`] alone, which is the end of the only way there.
struct OutOfBoth(Range<PhysAddr>);

impl Invalidated for OutOfBoth {
    fn pages(&self) -> Range<PhysAddr> {
        self.0
    }
}

/// A change whose invalidation did not complete: what is left to do.
pub(super) enum Unfinished<'a> {
    /// The pages are out of the devices' table, which the SMMUs may not know yet.
    Smmus {
        transfer: Transfer<'a>,
        run: Run,
        plan: Invalidation<Ipa>,
    },
    /// The pages are out of both tables, and the SMMUs know. The plan is of the table
    /// that the CPUs walk there.
    Cpus {
        transfer: Transfer<'a>,
        run: Run,
        plan: Invalidation<Ipa>,
    },
    /// The pages were received, and are out of the devices' table again; they were never
    /// in the CPUs'.
    Received {
        pages: Unreachable<'a>,
        plan: Invalidation<Ipa>,
    },
}

impl<'a, C: Memory + Allocator, D: Memory + Allocator> OwnerSpace<'a, C, D> {
    /// Takes the memory at `at` away from the owner: out of both tables, invalidated on
    /// every CPU and SMMU. The caller then commits the transfer, or has `to`
    /// [receive](Self::receive) the pages.
    ///
    /// `at` is whole pages inside one [`MAX_CALL_BYTES`], and one piece of memory.
    ///
    /// # Errors
    /// [`SpaceError`], which says what is left.
    pub fn release<I: Invalidate>(
        &mut self,
        at: Range<Ipa>,
        to: Owner,
        invalidate: &mut I,
    ) -> Result<Unreachable<'a>, SpaceError<I::Error>> {
        self.certain()?;
        if !at.is_aligned(PAGE_SIZE) || chunks(at).next() != Some(at) {
            return Err(SpaceError::NotOneChunk(at));
        }
        let pages = self
            .resolve(at)
            .filter(|pages| pages.size() == at.size())
            .ok_or(SpaceError::NotOnePiece(at))?;
        let transfer = self
            .ledger
            .begin(pages, self.owner, to)
            .map_err(SpaceError::Ledger)?;
        let run = Run { at, pages };
        // Devices first: they cannot be told to stop.
        match self.dma.unmap(at) {
            Ok(plan) => self.out_of_devices(transfer, run, plan, invalidate),
            Err(error) => {
                transfer.cancel();
                Err(error.into())
            }
        }
    }

    /// Goes on with a change whose invalidation did not complete, and asks for that
    /// again: worth a try when the SMMU that failed was restarted, which drops all that
    /// it held (IHI 0070, 3.11), or when the reason has gone.
    ///
    /// `Ok(None)`: nothing was left to do. Else the pages, as from
    /// [`release`](Self::release); after a [`receive`](Self::receive) that failed, those
    /// that were to be received.
    ///
    /// # Errors
    /// [`SpaceError::Invalidation`]: it is as before. [`SpaceError::Lost`],
    /// [`SpaceError::Table`] as for [`release`](Self::release).
    pub fn retry_invalidation<I: Invalidate>(
        &mut self,
        invalidate: &mut I,
    ) -> Result<Option<Unreachable<'a>>, SpaceError<I::Error>> {
        match self.unfinished.take() {
            None => Ok(None),
            Some(Unfinished::Smmus {
                transfer,
                run,
                plan,
            }) => self
                .out_of_devices(transfer, run, plan, invalidate)
                .map(Some),
            Some(Unfinished::Cpus {
                transfer,
                run,
                plan,
            }) => self.out_of_cpus(transfer, run, plan, invalidate).map(Some),
            Some(Unfinished::Received { pages, plan }) => {
                self.not_received(pages, plan, invalidate).map(Some)
            }
        }
    }

    /// The pages are out of the devices' table, by `plan`.
    fn out_of_devices<I: Invalidate>(
        &mut self,
        transfer: Transfer<'a>,
        run: Run,
        plan: Invalidation<Ipa>,
        invalidate: &mut I,
    ) -> Result<Unreachable<'a>, SpaceError<I::Error>> {
        if let Err(error) = invalidate.smmus(self.vmid, &plan) {
            self.unfinished = Some(Unfinished::Smmus {
                transfer,
                run,
                plan,
            });
            return Err(SpaceError::Invalidation(error));
        }
        if self.is_shared(run.at) {
            // The same entries, so the same plan.
            return self.out_of_cpus(transfer, run, plan, invalidate);
        }
        finish(&mut self.dma, plan);
        match self.cpu.unmap(run.at) {
            Ok(plan) => self.out_of_cpus(transfer, run, plan, invalidate),
            Err(error) => {
                if self.dma.map(run.at, run.pages.start(), RAM).is_err() {
                    drop(transfer);
                    return Err(SpaceError::Lost(run.at));
                }
                transfer.cancel();
                Err(error.into())
            }
        }
    }

    /// The pages are out of both tables, the SMMUs know, and `plan` is what the CPUs are
    /// to know.
    fn out_of_cpus<I: Invalidate>(
        &mut self,
        transfer: Transfer<'a>,
        run: Run,
        plan: Invalidation<Ipa>,
        invalidate: &mut I,
    ) -> Result<Unreachable<'a>, SpaceError<I::Error>> {
        if let Err(error) = invalidate.cpus(self.vmid, &plan) {
            self.unfinished = Some(Unfinished::Cpus {
                transfer,
                run,
                plan,
            });
            return Err(SpaceError::Invalidation(error));
        }
        if self.is_shared(run.at) {
            finish(&mut self.dma, plan);
        } else {
            finish(&mut self.cpu, plan);
        }
        transfer
            .invalidated(&OutOfBoth(run.pages))
            .map_err(|_| SpaceError::Lost(run.at))
    }

    /// Pages that were mapped for devices are out of their table again, by `plan`.
    pub(super) fn not_received<I: Invalidate>(
        &mut self,
        pages: Unreachable<'a>,
        plan: Invalidation<Ipa>,
        invalidate: &mut I,
    ) -> Result<Unreachable<'a>, SpaceError<I::Error>> {
        if let Err(error) = invalidate.smmus(self.vmid, &plan) {
            self.unfinished = Some(Unfinished::Received { pages, plan });
            return Err(SpaceError::Invalidation(error));
        }
        finish(&mut self.dma, plan);
        Ok(pages)
    }
}

impl fmt::Debug for Unfinished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (walkers, pages) = match self {
            Self::Smmus { transfer, .. } => ("SMMUs", transfer.range()),
            Self::Cpus { transfer, .. } => ("CPUs", transfer.range()),
            Self::Received { pages, .. } => ("SMMUs", pages.range()),
        };
        write!(f, "{walkers} may hold {pages}")
    }
}

const _: () = assert!(MAX_CALL_BYTES.is_multiple_of(PAGE_SIZE));
