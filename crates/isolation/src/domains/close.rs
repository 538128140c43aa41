//! Ending domains, one or all.

use super::unmap::Left;
use super::{Domains, Job};
use crate::slots::{Search, SlotMemory};
use portcullis_addr::{Iova, Range};
use portcullis_dma_domain::{DmaUnit, Endpoint, Refusal, Step};

/// Endpoints looked at in one turn.
const ENDPOINTS: u32 = 256;

/// A domain without endpoints that is going.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    index: usize,
    /// Where something may still be mapped.
    at: Iova,
    /// Another one, which goes after it.
    next: Option<usize>,
    /// What to answer in the end.
    then: Result<(), Refusal>,
}

/// Everything is taken back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resetting {
    /// Endpoints from this one on may be attached.
    Block(Endpoint),
    /// Domains from this one on may be there.
    Close(usize, Iova),
}

impl<'a, U: DmaUnit, M: SlotMemory<'a, U::Domain>> Domains<'a, U, M> {
    /// Ends a domain that no endpoint is in, and answers `then`.
    pub(super) fn close(&mut self, index: usize, then: Result<(), Refusal>) -> Step {
        self.close_both(index, None, then)
    }

    /// The same of two domains, if there are two.
    pub(super) fn close_both(
        &mut self,
        index: usize,
        next: Option<usize>,
        then: Result<(), Refusal>,
    ) -> Step {
        self.close_on(Closing {
            index,
            at: Iova::new(0),
            next,
            then,
        })
    }

    #[inline(never)]
    pub(super) fn close_on(&mut self, job: Closing) -> Step {
        match (self.close_some(job.index, job.at), job.next) {
            (Some(at), _) => {
                self.job = Job::Close(Closing { at, ..job });
                Step::More
            }
            (None, Some(index)) => {
                self.job = Job::Close(Closing {
                    index,
                    at: Iova::new(0),
                    next: None,
                    then: job.then,
                });
                Step::More
            }
            (None, None) => Step::Done(job.then),
        }
    }

    /// Does a part of it, and says where to go on. A domain that something may
    /// still use keeps its place, so that nobody gets its memory or its number.
    fn close_some(&mut self, index: usize, at: Iova) -> Option<Iova> {
        let slot = self.slot(index)?;
        if slot.dead {
            return None;
        }
        if let Ok(left) = Range::new(at, self.unit.input().end()) {
            match self.unmap_some(index, left, true) {
                Left::Nothing => {}
                Left::From(at) => return Some(at),
                // Another that waited failed, and not this one: it goes on.
                Left::Failed if !self.slot(index)?.dead => return Some(at),
                Left::Failed => return None,
            }
        }
        let flushed = self.flush();
        let slot = self.slots.get_mut(index)?;
        if flushed.is_err() && slot.dead {
            return None;
        }
        if self.unit.forget(&mut slot.domain).is_err() {
            slot.dead = true;
            self.counts.failed += 1;
            return None;
        }
        self.unit.destroy(self.slots.take(index)?.domain);
        None
    }

    pub(super) fn begin_reset(&mut self) -> Step {
        if !matches!(self.job, Job::None) {
            // A request is under way, and has to end first.
            return self.refuse(Refusal::Failed);
        }
        self.reset_on(Resetting::Block(Endpoint(0)))
    }

    #[inline(never)]
    pub(super) fn reset_on(&mut self, job: Resetting) -> Step {
        let next = match job {
            Resetting::Block(from) => match self.unit.next_attached(from, ENDPOINTS) {
                Ok(Some(endpoint)) => {
                    self.block_for_reset(endpoint);
                    match endpoint.0.checked_add(1) {
                        Some(next) => Resetting::Block(Endpoint(next)),
                        None => Resetting::Close(0, Iova::new(0)),
                    }
                }
                Ok(None) => Resetting::Close(0, Iova::new(0)),
                Err(next) => Resetting::Block(next),
            },
            Resetting::Close(index, at) => match self.slots.search(index) {
                Search::Found(found) => {
                    let at = if found == index { at } else { Iova::new(0) };
                    match self.close_some(found, at) {
                        Some(at) => Resetting::Close(found, at),
                        None => Resetting::Close(found + 1, Iova::new(0)),
                    }
                }
                Search::NoneBelow(next) => Resetting::Close(next, Iova::new(0)),
                Search::End => {
                    if self.free {
                        self.release();
                        self.job = Job::Reset(job);
                        return Step::More;
                    }
                    // The next driver has nothing to do with it.
                    let failed = core::mem::take(&mut self.failed);
                    return Step::Done(if failed { Err(Refusal::Failed) } else { Ok(()) });
                }
            },
        };
        self.job = Job::Reset(next);
        Step::More
    }

    fn block_for_reset(&mut self, endpoint: Endpoint) {
        let at = self.unit.slot_of(endpoint);
        if let Some(index) = at.or_else(|| self.unit.stranded(endpoint))
            // A failure has fenced: the endpoint is blocked all the same.
            && self.block(index, endpoint).0.is_err()
        {
            self.counts.failed += 1;
        }
    }
}
