//! Mapping: hold the pages, then fill the tables; piece by piece where a request
//! is large, and back again where one piece fails.

use super::{Domains, Job, RELEASE, TABLE, Trouble};
use crate::slots::SlotMemory;
use portcullis_addr::{Address, Iova, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, DmaDomain, DmaUnit, DomainId, MapError, Refusal, Step, SyncError,
};
use portcullis_ownership::{Bank, PinError};

/// Most bytes whose pages are counted in one turn: as many as are let go of.
const PIN_STEP: u64 = RELEASE;

/// What one piece does not cross, see [`DmaDomain::map`].
const SMALL: u64 = TABLE;
const LARGE: u64 = 1 << 30;

/// A request to map that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    index: usize,
    iova: Range<Iova>,
    to: PhysAddr,
    access: Access,
    /// Bytes from the start whose pages are held.
    held: u64,
    /// Bytes from the start that are in the tables.
    mapped: u64,
    /// What made it go back, if it does.
    undo: Option<Refusal>,
}

impl Mapping {
    /// Whether a block of memory is one of addresses, too.
    fn agrees(&self) -> bool {
        (self.iova.start().raw() ^ self.to.raw()) & (SMALL - 1) == 0
    }

    /// Most bytes that are pinned in one piece. Each piece begins and ends at the
    /// mapping's ends or at multiples of [`SMALL`] of its addresses, since that
    /// is where runs end that are unmapped. They are pinned apart unless that is
    /// where the ledger takes them apart.
    fn most(&self) -> u64 {
        if self.agrees() { PIN_STEP } else { SMALL }
    }

    /// Bytes of the piece that is pinned after what is held.
    fn next_piece(&self) -> u64 {
        let inside = (self.iova.start().raw() + self.held) & (SMALL - 1);
        (self.most() - inside).min(self.iova.size() - self.held)
    }

    /// Bytes of the last piece of what is held.
    fn last_piece(&self) -> u64 {
        let beyond = (self.iova.start().raw() + self.held).wrapping_neg() & (SMALL - 1);
        (self.most() - beyond).min(self.held)
    }
}

impl<'a, U: DmaUnit, M: SlotMemory<'a, U::Domain>> Domains<'a, U, M> {
    #[inline(always)]
    pub(super) fn map(
        &mut self,
        id: DomainId,
        iova: Range<Iova>,
        to: PhysAddr,
        access: Access,
    ) -> Step {
        // One page, or a few of them in one piece, is what most requests are. The domain
        // is looked up once.
        let one_piece = (iova.start().raw() ^ (iova.end().raw() - 1)) < SMALL;
        if one_piece
            && !access.intersects(Access::MMIO)
            && access.intersects(Access::READ | Access::WRITE)
            && self.doorbell_in(iova).is_none()
            && let Ok(memory) = Range::from_size(to, iova.size())
            && self.ledger.pin(memory, self.owner).is_ok()
        {
            let done = match self.slots.get_mut(id.0 as usize) {
                Some(slot) if !slot.dead => slot.domain.map(iova, to, access, false).is_ok(),
                _ => false,
            };
            if done {
                self.counts.maps += 1;
                return Step::Done(Ok(()));
            }
            self.unpin(memory);
        }
        let index = match self.existing(id) {
            Ok(index) => index,
            Err(refusal) => return self.refuse(refusal),
        };
        self.map_with_care(Mapping {
            index,
            iova,
            to,
            access,
            held: 0,
            mapped: 0,
            undo: None,
        })
    }

    /// Whatever is special, or wrong, about a request.
    #[cold]
    #[inline(never)]
    fn map_with_care(&mut self, mut job: Mapping) -> Step {
        if job.iova.end() > self.unit.input().end() || self.doorbell_in(job.iova).is_some() {
            return self.refuse(Refusal::OutOfRange);
        }
        if !job.access.intersects(Access::READ | Access::WRITE) {
            return self.refuse(Refusal::BadAccess);
        }
        let Ok(memory) = Range::from_size(job.to, job.iova.size()) else {
            return self.refuse(Refusal::NotOwned);
        };
        if job.access.contains(Access::MMIO) {
            // Of all registers, doorbells alone are for devices, to be written.
            if !self.doorbells().any(|doorbell| doorbell.covers(&memory)) {
                return self.refuse_memory(memory);
            }
            job.access = Access::WRITE | Access::MMIO;
            job.held = job.iova.size();
        } else if !self.is_ram(memory) {
            return self.refuse_memory(memory);
        }
        // Nothing of what went before may be in a TLB beside what comes.
        if self.flush().is_err() {
            return self.refuse(Refusal::Failed);
        }
        self.map_on(job)
    }

    /// The parts of `memory` that are RAM, ascending, each of another bank.
    fn parts(
        &self,
        memory: Range<PhysAddr>,
    ) -> impl Iterator<Item = Range<PhysAddr>> + use<'a, U, M> {
        let banks = self.ledger.banks().iter().map(Bank::range);
        banks.filter_map(move |bank| bank.intersection(&memory))
    }

    /// Whether all of `memory` is RAM, of one bank or of several that touch.
    fn is_ram(&self, memory: Range<PhysAddr>) -> bool {
        let size: u64 = self.parts(memory).map(|part| part.size()).sum();
        size == memory.size()
    }

    /// Counts a mapping of `memory`, which is RAM: all of it or nothing.
    fn pin(&mut self, memory: Range<PhysAddr>) -> Result<(), PinError> {
        // Each bank counts its own.
        for part in self.parts(memory) {
            if let Err(error) = self.ledger.pin(part, self.owner) {
                if let Ok(before) = Range::new(memory.start(), part.start()) {
                    self.unpin(before);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn refuse_memory(&mut self, memory: Range<PhysAddr>) -> Step {
        self.trouble = Some(Trouble::NotOwned(memory));
        self.refuse(Refusal::NotOwned)
    }

    pub(super) fn map_on(&mut self, mut job: Mapping) -> Step {
        if let Some(refusal) = job.undo {
            return self.map_back(job, refusal);
        }
        let size = job.iova.size();
        if job.held < size {
            let step = job.next_piece();
            let run = part(job.to, job.held, step);
            match run.map(|run| self.pin(run)) {
                Some(Ok(())) => job.held += step,
                Some(Err(PinError::CountOverflow { .. })) => {
                    return self.map_back(job, Refusal::NoMemory);
                }
                _ => {
                    self.trouble = run.map(Trouble::NotOwned);
                    return self.map_back(job, Refusal::NotOwned);
                }
            }
            if job.held < size {
                self.job = Job::Map(job);
                return Step::More;
            }
        }
        let (Some(at), Some(to)) = (
            job.iova.start().checked_add(job.mapped),
            job.to.checked_add(job.mapped),
        ) else {
            return self.map_back(job, Refusal::OutOfRange);
        };
        let span = if job.agrees() { LARGE } else { SMALL };
        let step = (span - (at.raw() & (span - 1))).min(size - job.mapped);
        let (rest, access) = (job.mapped != 0, job.access);
        let result = match (Range::from_size(at, step), self.slot(job.index)) {
            (Ok(range), Some(slot)) => slot.domain.map(range, to, access, rest),
            _ => Err(MapError::TooLarge),
        };
        if let Err(error) = result {
            if error == MapError::NoMemory {
                let id = u32::try_from(job.index).unwrap_or(u32::MAX);
                self.trouble = Some(Trouble::NoTables(DomainId(id)));
            }
            let refusal = match error {
                MapError::AlreadyMapped => Refusal::AlreadyMapped,
                MapError::TooLarge => Refusal::OutOfRange,
                MapError::BadAccess => Refusal::BadAccess,
                MapError::NoMemory => Refusal::NoMemory,
                MapError::FlushFirst => Refusal::Failed,
            };
            return self.map_back(job, refusal);
        }
        job.mapped += step;
        if job.mapped < size {
            self.job = Job::Map(job);
            return Step::More;
        }
        self.counts.maps += 1;
        Step::Done(Ok(()))
    }

    /// Takes back what was done of a request that is refused: out of the tables
    /// first, then, once no device can have it any more, out of the count.
    fn map_back(&mut self, mut job: Mapping, refusal: Refusal) -> Step {
        job.undo = Some(refusal);
        if job.mapped != 0 {
            match self.unmap_back(&job) {
                Ok(true) => {
                    self.job = Job::Map(job);
                    return Step::More;
                }
                Ok(false) => job.mapped = 0,
                Err(_) => {
                    // Held for ever.
                    self.counts.lost_pages += job.held / PAGE_SIZE;
                    return self.refuse(Refusal::Failed);
                }
            }
        }
        if !job.access.contains(Access::MMIO) && job.held != 0 {
            let step = job.last_piece();
            job.held -= step;
            if let Some(run) = part(job.to, job.held, step) {
                self.unpin(run);
            }
            if job.held != 0 {
                self.job = Job::Map(job);
                return Step::More;
            }
        }
        self.refuse(refusal)
    }

    /// Takes a bounded part of what was mapped out of the tables again; whether
    /// there is more. When there is not, nobody uses it any more.
    fn unmap_back(&mut self, job: &Mapping) -> Result<bool, SyncError> {
        let Ok(range) = Range::from_size(job.iova.start(), job.mapped) else {
            return Err(SyncError);
        };
        if self.dirty.mark(job.index).is_err() {
            self.flush()?;
            return Ok(true);
        }
        let taken = match self.slot(job.index) {
            Some(slot) => slot.domain.unmap_first(range),
            None => Ok(None),
        };
        if let Ok(Some(_)) = taken {
            return Ok(true);
        }
        self.flush()?;
        Ok(taken.is_err())
    }
}

/// `bytes` of memory, from `offset` behind `start`.
fn part(start: PhysAddr, offset: u64, bytes: u64) -> Option<Range<PhysAddr>> {
    Range::from_size(start.checked_add(offset)?, bytes).ok()
}
