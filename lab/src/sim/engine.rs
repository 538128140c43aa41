//! Events in the order of their times.

use super::SimError;
use super::addresses::{Layout, Space};
use super::host::Host;
use super::initiator::{Buffer, Initiator, Order};
use super::jobs::Job;
use super::random::Random;
use super::report::Report;
use crate::machine::{Mode, Shape};
use crate::scenario::{Lifetime, Scenario};
use crate::units::Picos;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A device makes its next access.
    Access(usize),
    /// A buffer can be worked on.
    Ready(Job),
    /// A transfer is over.
    Over(Job),
    /// Somebody wants a CPU.
    Wanted(Job),
    /// A CPU has nothing to do.
    Free,
}

/// A simulation under way.
pub(super) struct Engine<'a> {
    pub(super) host: Host<'a>,
    pub(super) shape: Shape<'a>,
    scenario: &'a Scenario,
    pub(super) layout: Layout,
    pub(super) spaces: Vec<Space>,
    /// Bytes of a buffer.
    pub(super) bytes: u64,
    /// Transfers between a mapping and its unmapping.
    pub(super) transfers: u64,
    initiators: Vec<Initiator>,
    order: Order,
    random: Random,
    events: BinaryHeap<Reverse<(Picos, u64, Event)>>,
    number: u64,
    jobs: VecDeque<Job>,
    idle: u64,
    /// Before that nothing is mapped anew.
    next_map: Picos,
    live: usize,
}

impl<'a> Engine<'a> {
    /// `base` is where the buffers' memory begins.
    pub(super) fn new(
        host: Host<'a>,
        shape: &Shape<'a>,
        scenario: &'a Scenario,
        base: u64,
    ) -> Self {
        let live = scenario.buffers.live.get_ref().size();
        let bits = shape.platform.memory.ipa_bits.get().get();
        Self {
            host,
            shape: *shape,
            scenario,
            layout: Layout::new(scenario, base),
            spaces: vec![Space::new(scenario.buffers.iova, bits); shape.domains()],
            bytes: scenario.buffers.bytes.get_ref().get(),
            transfers: match scenario.buffers.lifetime {
                Lifetime::Static => u64::MAX,
                Lifetime::Transfers(count) => count.get(),
            },
            initiators: vec![Initiator::new(live); shape.initiators()],
            order: Order::new(scenario),
            random: Random::new(scenario.run.seed.get()),
            events: BinaryHeap::new(),
            number: 0,
            jobs: VecDeque::new(),
            idle: scenario.host.cpus.get(),
            next_map: Picos::ZERO,
            live,
        }
    }

    pub(super) fn buffer_number(&self, job: Job) -> u64 {
        (job.initiator * self.live + job.slot) as u64
    }

    pub(super) fn slot(&mut self, job: Job) -> Option<&mut Buffer> {
        let initiator = self.initiators.get_mut(job.initiator)?;
        initiator.buffers.get_mut(job.slot)
    }

    fn push(&mut self, at: Picos, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    pub(super) fn run(&mut self) -> Result<Report, SimError> {
        self.begin()?;
        let run = &self.scenario.run;
        let (count, warm_up) = (run.count.get(), run.warm_up.get());
        let mut began = Picos::ZERO;
        let mut warm = warm_up == 0;
        let mut now = Picos::ZERO;
        loop {
            let done = if self.transfers == 0 {
                self.host.counted().unmaps.count()
            } else {
                self.host.counted().translations.cost.count()
            };
            if !warm && done >= warm_up {
                warm = true;
                began = now;
                self.host.reset();
            } else if warm && done >= count {
                break;
            }
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                return Err(SimError::Idle {
                    mode: self.host.mode(),
                });
            };
            now = at;
            self.happen(event, now)?;
        }
        let dma = self.scenario.dma.bytes.get_ref().get();
        Ok(self.host.report(now - began, dma))
    }

    /// Everything is mapped. Buffers that are to be mapped anew have been in use for
    /// a while, each for another, so that the load is even from the start.
    fn begin(&mut self) -> Result<(), SimError> {
        for slot in 0..self.live {
            for initiator in 0..self.initiators.len() {
                let job = Job {
                    map: true,
                    initiator,
                    slot,
                };
                if self.transfers == 0 {
                    self.push(Picos::ZERO, Event::Wanted(job));
                    continue;
                }
                // At nobody's cost.
                let _ = self.map(job)?;
                let left = 1 + self.random.below(self.transfers);
                if let Some(buffer) = self.slot(job) {
                    buffer.left = left;
                }
                if self.transfers != u64::MAX
                    && let Some(initiator) = self.initiators.get_mut(job.initiator)
                {
                    initiator.ready(slot);
                }
            }
        }
        if self.transfers != 0 {
            self.host.consume();
            // Devices do not march in step either.
            let Picos(interval) = self.scenario.interval();
            for initiator in 0..self.initiators.len() {
                let at = Picos(self.random.below(interval.max(1)));
                self.wake(initiator, at);
            }
        }
        Ok(())
    }

    /// Has a device make its next access, if it has one and does not yet.
    fn wake(&mut self, index: usize, now: Picos) {
        let outstanding = self.scenario.dma.outstanding.size();
        let Some(initiator) = self.initiators.get_mut(index) else {
            return;
        };
        if initiator.active {
            return;
        }
        if let Some(at) = initiator.when(&self.order, outstanding, now) {
            initiator.active = true;
            self.push(at, Event::Access(index));
        }
    }

    fn happen(&mut self, event: Event, now: Picos) -> Result<(), SimError> {
        match event {
            Event::Access(index) => self.access(index, now)?,
            Event::Ready(job) => {
                if self.transfers == 0 {
                    self.push(now, Event::Wanted(Job { map: false, ..job }));
                } else if let Some(initiator) = self.initiators.get_mut(job.initiator) {
                    initiator.ready(job.slot);
                    self.wake(job.initiator, now);
                }
            }
            Event::Over(job) => {
                let left = self.slot(job).map_or(0, |buffer| {
                    buffer.left = buffer.left.saturating_sub(1);
                    buffer.left
                });
                if left == 0 {
                    self.push(now, Event::Wanted(Job { map: false, ..job }));
                } else {
                    self.push(now, Event::Ready(job));
                }
            }
            Event::Wanted(job) => {
                self.jobs.push_back(job);
                self.dispatch(now)?;
            }
            Event::Free => {
                self.idle += 1;
                self.dispatch(now)?;
            }
        }
        Ok(())
    }

    /// Gives jobs to CPUs.
    fn dispatch(&mut self, now: Picos) -> Result<(), SimError> {
        while self.idle > 0
            && let Some(job) = self.jobs.pop_front()
        {
            self.idle -= 1;
            let end = self.work(job, now)?;
            self.push(end, Event::Free);
            if job.map {
                self.push(end, Event::Ready(job));
            } else {
                let again = Job { map: true, ..job };
                let at = (end + self.pause()).max(self.next_map);
                self.next_map = at + self.scenario.map_interval();
                self.push(at, Event::Wanted(again));
            }
        }
        Ok(())
    }

    /// Between an unmapping and the next mapping: half as long to one and a half
    /// times as long as the scenario says, since threads do not march in step.
    fn pause(&mut self) -> Picos {
        let Picos(whole) = self.scenario.pause();
        if whole == 0 {
            return Picos::ZERO;
        }
        Picos(whole / 2 + self.random.below(whole))
    }

    fn access(&mut self, index: usize, now: Picos) -> Result<(), SimError> {
        let number = index * self.live;
        let Some(initiator) = self.initiators.get_mut(index) else {
            return Ok(());
        };
        initiator.active = false;
        let Some(next) = initiator.next(&self.order, &mut self.random) else {
            return Ok(());
        };
        let address = match self.host.mode() {
            Mode::Identity => {
                let buffer = (number + next.slot) as u64;
                self.layout.physical(buffer, next.offset)
            }
            _ => {
                let buffer = initiator.buffers.get(next.slot);
                buffer.map_or(0, |buffer| buffer.iova) + next.offset
            }
        };
        let end = self.host.access(index, address, now)?;
        let over = initiator.did(&self.order, (now, end), self.scenario.interval());
        if let Some((slot, at)) = over {
            let job = Job {
                map: false,
                initiator: index,
                slot,
            };
            self.push(at, Event::Over(job));
        }
        self.wake(index, now);
        Ok(())
    }
}
