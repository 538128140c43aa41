//! What one device is about to do.

use super::random::Random;
use crate::scenario::{Dma, Lifetime, Pattern, Scenario};
use crate::units::Picos;
use std::collections::VecDeque;

/// One of its buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buffer {
    /// Where the device sees it.
    pub(super) iova: u64,
    /// Transfers until it is unmapped.
    pub(super) left: u64,
}

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    slot: usize,
    done: u64,
    /// When its last access so far is over.
    ends: Picos,
}

/// A device.
#[derive(Clone, Debug)]
pub(super) struct Initiator {
    pub(super) buffers: Vec<Buffer>,
    ready: VecDeque<usize>,
    current: Option<Transfer>,
    /// When its accesses under way are over.
    flying: VecDeque<Picos>,
    /// From when on its link is free.
    link: Picos,
    /// It has an access coming.
    pub(super) active: bool,
    cursor: u64,
}

/// The next access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) slot: usize,
    pub(super) offset: u64,
}

/// How accesses are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pattern: Pattern,
    bytes: u64,
    dma: u64,
    live: u64,
    /// Of a transfer.
    accesses: u64,
    forever: bool,
}

impl Order {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let Dma { bytes, pattern, .. } = &scenario.dma;
        Self {
            pattern: *pattern,
            bytes: scenario.buffers.bytes.get_ref().get(),
            dma: bytes.get_ref().get(),
            live: scenario.buffers.live.get_ref().get(),
            accesses: scenario.accesses(),
            forever: scenario.buffers.lifetime == Lifetime::Static,
        }
    }

    /// Where access `index` goes, of a row of `bytes`.
    fn offset(&self, index: u64, bytes: u64, random: &mut Random) -> u64 {
        let places = (bytes / self.dma).max(1);
        match self.pattern {
            Pattern::Sequential => index % places * self.dma,
            Pattern::Random => random.below(places) * self.dma,
            Pattern::Strided(step) => {
                let steps = bytes.div_ceil(step.get()).max(1);
                // Each round begins a little further on.
                let round = index / steps * self.dma % step.get();
                index % steps * step.get() + round
            }
            Pattern::Hot if random.below(10) == 0 => random.below(places) * self.dma,
            Pattern::Hot => random.below((places / 10).max(1)) * self.dma,
        }
    }
}

impl Initiator {
    pub(super) fn new(buffers: usize) -> Self {
        Self {
            buffers: vec![Buffer::default(); buffers],
            ready: VecDeque::new(),
            current: None,
            flying: VecDeque::new(),
            link: Picos::ZERO,
            active: false,
            cursor: 0,
        }
    }

    /// A buffer can be worked on.
    pub(super) fn ready(&mut self, slot: usize) {
        self.ready.push_back(slot);
    }

    /// The access that it makes now, if it has one.
    pub(super) fn next(&mut self, order: &Order, random: &mut Random) -> Option<Next> {
        if order.forever {
            let whole = order.bytes * order.live;
            let at = order.offset(self.cursor, whole, random) % whole;
            self.cursor += 1;
            return Some(Next {
                slot: (at / order.bytes) as usize,
                offset: at % order.bytes,
            });
        }
        if self.current.is_none() {
            let slot = match order.pattern {
                Pattern::Random if self.ready.len() > 1 => {
                    let at = random.below(self.ready.len() as u64) as usize;
                    self.ready.remove(at)?
                }
                _ => self.ready.pop_front()?,
            };
            self.current = Some(Transfer {
                slot,
                done: 0,
                ends: Picos::ZERO,
            });
        }
        let transfer = self.current.as_ref()?;
        let offset = order.offset(transfer.done, order.bytes, random) % order.bytes;
        Some(Next {
            slot: transfer.slot,
            offset,
        })
    }

    /// Its access at `now` is over at `end`. If that ends a transfer: of which
    /// buffer, and when.
    pub(super) fn did(
        &mut self,
        order: &Order,
        (now, end): (Picos, Picos),
        interval: Picos,
    ) -> Option<(usize, Picos)> {
        self.flying.push_back(end);
        self.link = now + interval;
        let transfer = self.current.as_mut()?;
        transfer.done += 1;
        transfer.ends = transfer.ends.max(end);
        if transfer.done < order.accesses {
            return None;
        }
        let ended = (transfer.slot, transfer.ends);
        self.current = None;
        Some(ended)
    }

    /// When its next access can come; `None` if there is none to make.
    pub(super) fn when(&mut self, order: &Order, outstanding: usize, now: Picos) -> Option<Picos> {
        if !order.forever && self.current.is_none() && self.ready.is_empty() {
            return None;
        }
        let mut at = self.link.max(now);
        // Answers come in the order of the accesses.
        while self.flying.len() >= outstanding {
            at = at.max(self.flying.pop_front().unwrap_or(now));
        }
        Some(at)
    }
}
