//! Unmapping: out of the tables, invalidated together, then out of the count.

use super::{Domains, Job};
use crate::slots::SlotMemory;
use portcullis_addr::{Iova, Range};
use portcullis_dma_domain::{DmaDomain, DmaUnit, DomainId, FlushFirst, Mapped, Refusal, Step};

/// Runs that are taken away in one turn; each is at most one table.
const RUNS: usize = 8;

/// A request to unmap that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unmapping {
    index: usize,
    /// What is left of it.
    left: Range<Iova>,
}

/// How far a part of it came.
pub(super) enum Left {
    /// Nothing is mapped there any more.
    Nothing,
    /// There may be more from here on.
    From(Iova),
    /// What was taken away before could not be invalidated.
    Failed,
}

impl<'a, U: DmaUnit, M: SlotMemory<'a, U::Domain>> Domains<'a, U, M> {
    #[inline(always)]
    pub(super) fn unmap(&mut self, id: DomainId, iova: Range<Iova>) -> Step {
        // One run is what most requests are. The domain is looked up once.
        let plain = self.can_hold() && self.doorbell_in(iova).is_none();
        let index = id.0 as usize;
        let Some(slot) = self.slots.get_mut(index) else {
            return self.refuse(Refusal::NoDomain);
        };
        if slot.dead {
            return self.refuse(Refusal::Failed);
        }
        let (start, end) = (iova.start(), iova.end());
        if (start.raw() | end.raw()) & self.within_page != 0
            || !self.unit.input().covers(&iova)
            || slot.domain.reaches_across(start)
            || slot.domain.reaches_across(end)
        {
            return self.unmap_with_care(index, iova);
        }
        if plain
            && self.dirty.mark(index).is_ok()
            && let Ok(Some(taken)) = slot.domain.unmap_first(iova)
        {
            self.hold_taken(&taken);
            if taken.iova.end() == iova.end() {
                self.counts.unmaps += 1;
                return Step::AfterSync;
            }
        }
        self.unmap_on(Unmapping { index, left: iova })
    }

    /// A range that ends within a page, outside of what is translated, or at an
    /// address that something reaches across.
    ///
    /// Mappings that lie in it go, unless one is cut (virtio 1.2, 5.13.6.6.2). A
    /// mapping consists of whole pages of the input range, so all that is left
    /// of a range that cuts none is the pages inside; there may be none.
    #[cold]
    #[inline(never)]
    fn unmap_with_care(&mut self, index: usize, iova: Range<Iova>) -> Step {
        for at in [iova.start(), iova.end()] {
            let across = self
                .slot(index)
                .is_some_and(|slot| slot.domain.reaches_across(at));
            // A doorbell is not the owner's mapping: it stays, and is not cut.
            if across && !self.is_inside_doorbell(at) {
                return self.refuse(Refusal::WouldSplit);
            }
        }
        let within = self.within_page;
        let inward = |range: Range<Iova>| {
            let start = range.start().raw().checked_add(within)? & !within;
            let end = range.end().raw() & !within;
            Range::new(Iova::new(start), Iova::new(end)).ok()
        };
        let inside = iova.intersection(&self.unit.input());
        match inside.and_then(inward) {
            Some(left) => self.unmap_on(Unmapping { index, left }),
            None => {
                self.counts.unmaps += 1;
                Step::AfterSync
            }
        }
    }

    /// Holds what a run was mapped to.
    #[inline(always)]
    fn hold_taken(&mut self, taken: &Mapped) {
        if !taken.mmio
            && let Ok(run) = Range::from_size(taken.to, taken.iova.size())
        {
            self.hold(run);
        }
    }

    /// Takes away the first run in `range`, and says where it ended.
    fn take_run(&mut self, index: usize, range: Range<Iova>) -> Result<Option<Iova>, FlushFirst> {
        if !self.can_hold() {
            return Err(FlushFirst);
        }
        // Whatever it says: it may have taken tables out and nothing else, and
        // those wait for a flush too.
        self.dirty.mark(index)?;
        let Some(slot) = self.slot(index) else {
            return Ok(None);
        };
        let Some(taken) = slot.domain.unmap_first(range)? else {
            return Ok(None);
        };
        self.hold_taken(&taken);
        Ok(Some(taken.iova.end()))
    }

    #[inline(never)]
    pub(super) fn unmap_on(&mut self, job: Unmapping) -> Step {
        let left = match self.unmap_some(job.index, job.left, false) {
            Left::Nothing => None,
            Left::From(at) => Range::new(at, job.left.end()).ok(),
            Left::Failed => return self.refuse(Refusal::Failed),
        };
        match left {
            Some(left) => {
                self.job = Job::Unmap(Unmapping { left, ..job });
                Step::More
            }
            None => {
                self.counts.unmaps += 1;
                Step::AfterSync
            }
        }
    }

    /// Takes away a bounded number of runs in `range`; doorbells only if
    /// `all`.
    pub(super) fn unmap_some(&mut self, index: usize, range: Range<Iova>, all: bool) -> Left {
        let mut at = range.start();
        for _ in 0..RUNS {
            let Ok(rest) = Range::new(at, range.end()) else {
                return Left::Nothing;
            };
            let doorbell = self.doorbell_in(rest).filter(|_| !all);
            let before = match doorbell {
                Some(doorbell) if doorbell.start() <= at => {
                    at = doorbell.end();
                    continue;
                }
                Some(doorbell) => Range::new(at, doorbell.start()).unwrap_or(rest),
                None => rest,
            };
            match self.take_run(index, before) {
                Ok(Some(end)) => at = end,
                Ok(None) => at = before.end(),
                Err(FlushFirst) if self.flush().is_ok() => {}
                Err(FlushFirst) => return Left::Failed,
            }
        }
        Left::From(at)
    }
}
