//! The domains under test, with the books kept beside them.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::paravirt::para::{Outcome, name};
use crate::paravirt::spare::Spare;
use portcullis_addr::{Address, Iova, Ipa, PAGE_SIZE, Range};
use portcullis_dma_domain::{
    DmaUnit, Endpoint, Iommu, Limits, Request, Reserved, ReservedKind, Step, SyncError,
};
use portcullis_isolation::Domains;

/// Most accesses to memory that one call may cost.
const MOST_WORK: u64 = 40_000;

/// The domains under test.
pub(crate) struct Watched<'w, 'm, U: DmaUnit> {
    pub(crate) machine: &'m Machine,
    pub(crate) domains: Domains<'w, U, Spare<'w, U::Domain>>,
}

impl<U: DmaUnit> Watched<'_, '_, U> {
    /// Waits and pages lost.
    fn so_far(&self) -> (u64, u64) {
        let counts = self.domains.counts();
        (counts.syncs, counts.lost_pages)
    }

    fn call(&mut self, call: impl FnOnce(&mut Self) -> Step) -> Step {
        self.machine.refresh_allowed();
        self.machine.work.set(0);
        self.machine.turns.set(self.machine.turns.get() + 1);
        let step = call(self);
        let work = self.machine.work.get();
        if work > MOST_WORK {
            self.machine.find(Finding::Unbounded(work));
        }
        let exist = self
            .domains
            .iter()
            .filter_map(|(id, _)| u32::try_from(id).ok())
            .collect();
        let mut para = self.machine.para.borrow_mut();
        let outcome = match step {
            Step::More => None,
            Step::Done(result) => Some((result, Outcome::Now(result, false))),
            Step::AfterSync => Some((Ok(()), Outcome::Deferred)),
        };
        if let Some((result, outcome)) = outcome {
            let request = para.under.as_ref().map(|under| under.request);
            let detach = matches!(request, Some(Some(Request::Detach { .. })));
            let deferred = outcome == Outcome::Deferred;
            if let Some(under) = &mut para.under {
                under.waits = deferred;
            }
            let unmap = matches!(request, Some(Some(Request::Unmap { .. })));
            if deferred && !unmap || request.is_none() && result.is_err() {
                self.machine.find(Finding::Answer("step", 0));
            }
            if let Some(finding) = para.end(self.machine, result, &exist) {
                self.machine.find(finding);
            }
            para.note(request.flatten().map(|_| match outcome {
                Outcome::Now(result, _) => Outcome::Now(result, detach),
                other => other,
            }));
        }
        drop(para);
        self.machine.refresh_allowed();
        step
    }
}

impl<U: DmaUnit> Iommu for Watched<'_, '_, U> {
    fn limits(&self) -> Limits {
        self.domains.limits()
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        let has = self.domains.has(endpoint);
        if has != self.machine.endpoint(endpoint).is_some() {
            self.machine.find(Finding::Answer("has", endpoint.0.into()));
        }
        has
    }

    fn reserved(&self, endpoint: Endpoint, index: usize) -> Option<Reserved> {
        let reserved = self.domains.reserved(endpoint, index);
        // All doorbells, of which one at most is there as such (5.13.6.8.1.2).
        let para = self.machine.para.borrow();
        let known = self.machine.endpoint(endpoint).is_some();
        let bell = para.doorbells.get(index).filter(|_| known);
        let fine = match (&reserved, bell) {
            (Some(reserved), Some(bell)) => {
                let range = reserved.range;
                let same = (range.start().raw(), range.end().raw()) == (bell.start, bell.end);
                same && (index == 0 || reserved.kind == ReservedKind::Reserved)
            }
            (reserved, bell) => reserved.is_none() && bell.is_none(),
        };
        drop(para);
        if !fine {
            self.machine.find(Finding::Answer("reserved", index as u64));
        }
        reserved
    }

    fn begin(&mut self, request: Request) -> Step {
        let misaligned =
            |iova: Range<Iova>, to: Ipa| !iova.is_aligned(PAGE_SIZE) || !to.is_aligned(PAGE_SIZE);
        let wrong = match request {
            Request::Map { iova, to, .. } => misaligned(iova, to),
            _ => false,
        };
        // Whoever asks has checked that, and goes on with one at a time.
        if wrong || self.machine.para.borrow().under.is_some() {
            self.machine
                .find(Finding::Answer("request", name(&request).1));
        }
        self.machine.look_at_asked(&request);
        let waits = self.so_far();
        self.machine
            .para
            .borrow_mut()
            .begin(self.machine, &request, waits);
        self.call(|watched| watched.domains.begin(request))
    }

    fn go_on(&mut self) -> Step {
        if self.machine.para.borrow().under.is_none() {
            self.machine.find(Finding::Answer("go_on", 0));
        }
        self.call(|watched| watched.domains.go_on())
    }

    fn sync(&mut self) -> Result<(), SyncError> {
        if self.machine.para.borrow().under.is_some() {
            self.machine.find(Finding::Answer("sync", 0));
        }
        let result = self.domains.sync();
        let waits = self.so_far();
        self.machine.para.borrow_mut().synced(result.is_ok(), waits);
        self.machine.refresh_allowed();
        if result.is_err() && !self.machine.scarred.get() {
            self.machine.find(Finding::Failed("sync"));
        }
        // From now on nothing of it is in use.
        self.machine.check();
        result
    }

    fn reset(&mut self) -> Step {
        self.machine.para.borrow_mut().begin_reset();
        self.call(|watched| watched.domains.reset())
    }
}
