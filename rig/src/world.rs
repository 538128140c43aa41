//! The machine's state as the rig follows it, and one step of a program.

use crate::finding::Finding;
use crate::machine::{Allowed, Machine};
use crate::map::{DOORBELL, OTHER, PAGES, RAM, STREAMS};
use crate::mutant::Mutant;
use crate::op::Op;
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{HostError, HostSpace, Invalidate};
use portcullis_memory::Arena;
use portcullis_ownership::Owner;
use portcullis_pagetable::Invalidation;
use smmuv3_driver::{self as driver, Error, Stage2};
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::{StreamId, Vmid};
use std::collections::BTreeMap;

pub(crate) type Driver<'m> = driver::Smmu<&'m Machine, &'m Machine, &'m Machine>;

/// Invalidates on the one SMMU. The CPUs are not modelled.
struct Everywhere<'a, 'm> {
    driver: &'a mut Driver<'m>,
    mutant: Mutant,
}

impl Invalidate for Everywhere<'_, '_> {
    type Error = Error;

    fn cpus(&mut self, _plan: &Invalidation<Ipa>) -> Result<(), Error> {
        Ok(())
    }

    fn smmus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Error> {
        let Some(range) = plan.range() else {
            return Ok(());
        };
        let range = match self.mutant {
            Mutant::ForgetSmmus | Mutant::TooEarly => return Ok(()),
            Mutant::FirstPageOnly => Range::from_size(range.start(), PAGE_SIZE).unwrap(),
            _ => range,
        };
        let leaf = plan.leaf_only() || self.mutant == Mutant::CallerLeaf;
        let granule = driver::Granule::Size4K;
        self.driver
            .tlbi_ipa_range(Vmid(1), range, granule, plan.level(), leaf)
    }
}

pub(crate) struct World<'a, 'm> {
    pub(crate) machine: &'m Machine,
    pub(crate) driver: Driver<'m>,
    pub(crate) space: HostSpace<'a, &'a Arena, &'m Machine>,
    pub(crate) domains: [Stage2; 3],
    /// What the last domain is when it is reused, and what its streams reach.
    pub(crate) spare: (Stage2, Ranges),
    pub(crate) last: Ranges,
    /// Which domain each stream is in.
    pub(crate) at: BTreeMap<u32, u8>,
}

impl World<'_, '_> {
    pub(crate) fn step(&mut self, op: &Op) -> Result<(), Finding> {
        let before = self.allowed();
        *self.machine.allowed.borrow_mut() = before.clone();
        self.perform(op, &before)?;
        *self.machine.allowed.borrow_mut() = self.allowed();
        self.machine.check();
        if let Some(finding) = self.machine.finding.get() {
            return Err(finding);
        }
        self.reachable()
    }

    /// What each stream may use now: the host's devices its pages and the
    /// doorbell, those of the other domain what is theirs.
    fn allowed(&self) -> Allowed {
        let mut host = vec![DOORBELL];
        let runs = self.space.ledger().runs(Owner::HOST);
        host.extend(runs.map(|run| run.start().raw()..run.end().raw()));
        let mut allowed = Allowed::default();
        for (stream, domain) in &self.at {
            let ranges = match domain {
                0 => host.clone(),
                1 => vec![OTHER],
                _ => vec![self.last.clone()],
            };
            allowed.streams.insert(*stream, ranges);
        }
        allowed
    }

    /// Allows during an operation what is allowed before or after it.
    fn also(&self, before: &Allowed, streams: impl Iterator<Item = u32>, extra: &[Ranges]) {
        let mut allowed = before.clone();
        for stream in streams {
            let list = allowed.streams.entry(stream).or_default();
            list.extend(extra.iter().cloned());
        }
        for list in allowed.streams.values_mut() {
            list.sort_by_key(|range| (range.start, range.end));
        }
        *self.machine.allowed.borrow_mut() = allowed;
    }

    fn ranges_of(&self, domain: u8) -> Vec<Ranges> {
        match domain {
            0 => {}
            1 => return vec![OTHER],
            _ => return vec![self.last.clone()],
        }
        let runs = self.space.ledger().runs(Owner::HOST);
        let runs = runs.map(|run| run.start().raw()..run.end().raw());
        runs.chain([DOORBELL]).collect()
    }

    fn perform(&mut self, op: &Op, before: &Allowed) -> Result<(), Finding> {
        match *op {
            Op::Attach { stream, domain } => {
                let (stream, domain) = (stream % STREAMS * 5, domain % 3);
                self.also(before, [stream].into_iter(), &self.ranges_of(domain));
                let stage2 = self.domains[usize::from(domain)];
                self.drive(|d| d.attach(StreamId(stream), &stage2), "attach")?;
                self.at.insert(stream, domain);
            }
            Op::AttachRange {
                first,
                last,
                domain,
            } => {
                let (a, b) = (first % (STREAMS * 5), last % (STREAMS * 5));
                let (first, last, domain) = (a.min(b), a.max(b), domain % 3);
                let streams = (first..=last).filter(|stream| stream % 5 == 0);
                self.also(before, streams.clone(), &self.ranges_of(domain));
                let stage2 = self.domains[usize::from(domain)];
                let (first, last) = (StreamId(first), StreamId(last));
                self.drive(|d| d.attach_range(first, last, &stage2), "attach_range")?;
                self.at.extend(streams.map(|stream| (stream, domain)));
            }
            Op::Block { stream } => {
                let stream = stream % STREAMS * 5;
                self.drive(|d| d.block(StreamId(stream)), "block")?;
                self.at.remove(&stream);
            }
            Op::Take { page, count } => self.take(pages(page, count))?,
            Op::Give { page, count } => {
                let range = pages(page, count);
                let host = self.at.iter().filter(|(_, domain)| **domain == 0);
                let streams: Vec<u32> = host.map(|(stream, _)| *stream).collect();
                let extra = range.start().raw()..range.end().raw();
                self.also(before, streams.into_iter(), std::slice::from_ref(&extra));
                let mut everywhere = Everywhere {
                    driver: &mut self.driver,
                    mutant: self.machine.mutant,
                };
                let given = self.space.give(range, Owner::HYPERVISOR, &mut everywhere);
                self.judge(given, "give")?;
            }
            Op::Dma {
                stream,
                address,
                write,
            } => {
                let access = if write { Access::Write } else { Access::Read };
                let stream = StreamId(stream % STREAMS * 5);
                let transaction = Transaction::new(stream, address, access);
                // What it reaches is judged by the oracle.
                let _ = self.machine.smmu.borrow_mut().translate(transaction);
            }
            Op::Scribble { page, word, value } => {
                let at = PhysAddr::new(RAM.start + page % PAGES * PAGE_SIZE + word % 512 * 8);
                if self.space.is_host_ram(at) {
                    self.machine.smmu.borrow_mut().store(at.raw(), value);
                }
            }
            Op::Drain => {
                self.driver.drain_events(64, |_| {});
                self.driver.handle_gerror();
            }
            Op::Reuse => {
                if self.at.values().all(|domain| *domain != 2) {
                    std::mem::swap(&mut self.domains[2], &mut self.spare.0);
                    std::mem::swap(&mut self.last, &mut self.spare.1);
                }
            }
            Op::Restart => {
                self.driver.fence().map_err(|_| Finding::Failed("fence"))?;
                self.machine.check();
                let restarted = self.driver.restart();
                self.explain(restarted.is_ok(), "restart")?;
            }
        }
        Ok(())
    }

    fn take(&mut self, range: Range<PhysAddr>) -> Result<(), Finding> {
        let mutant = self.machine.mutant;
        let ledger = *self.space.ledger();
        if mutant == Mutant::LedgerOnly {
            if let Ok(transfer) = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR) {
                transfer.commit();
            }
            return Ok(());
        }
        if mutant == Mutant::TooEarly {
            let granule = driver::Granule::Size4K;
            self.drive(
                |d| d.tlbi_ipa_range(Vmid(1), range.identity(), granule, None, false),
                "tlbi",
            )?;
        }
        let mut everywhere = Everywhere {
            driver: &mut self.driver,
            mutant,
        };
        let taken = self.space.take(range, Owner::HYPERVISOR, &mut everywhere);
        self.judge(taken, "take")
    }

    fn drive(
        &mut self,
        call: impl FnOnce(&mut Driver<'_>) -> Result<(), Error>,
        what: &'static str,
    ) -> Result<(), Finding> {
        self.machine.in_driver.set(true);
        let result = call(&mut self.driver);
        self.machine.in_driver.set(false);
        self.explain(result.is_ok(), what)
    }

    /// What the ledger refuses is part of the game; nothing else may fail.
    fn judge(
        &self,
        result: Result<(), HostError<Error>>,
        what: &'static str,
    ) -> Result<(), Finding> {
        self.explain(matches!(result, Ok(()) | Err(HostError::Ledger(_))), what)
    }

    fn explain(&self, fine: bool, what: &'static str) -> Result<(), Finding> {
        if fine {
            return Ok(());
        }
        // What came first is the better explanation.
        self.machine.check();
        Err(self.machine.finding.get().unwrap_or(Finding::Failed(what)))
    }

    /// Each attached stream must reach what it has: a rig in which nothing
    /// works would find nothing.
    fn reachable(&self) -> Result<(), Finding> {
        let mut smmu = self.machine.smmu.borrow_mut();
        for (stream, domain) in &self.at {
            let stage2 = &self.domains[usize::from(*domain)];
            let lost = Err(Finding::Lost(*stream, 0));
            match smmu.agreed(StreamId(*stream)) {
                Some(r) if r.vmid == stage2.vmid.0 && r.root == stage2.root.raw() => {}
                _ => return lost,
            }
            for range in self.ranges_of(*domain) {
                for at in [range.start, range.end - 8] {
                    let access = Transaction::new(StreamId(*stream), at, Access::Write);
                    if smmu.translate(access) != Ok(at) {
                        return Err(Finding::Lost(*stream, at));
                    }
                }
            }
        }
        Ok(())
    }
}

pub(crate) type Ranges = std::ops::Range<u64>;

pub(crate) fn range(start: u64, size: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), size).unwrap()
}

/// `count` pages (1 to 16, or a whole block) from `page`, inside RAM.
fn pages(page: u64, count: u64) -> Range<PhysAddr> {
    let count = match count % 20 {
        18 => 512,
        19 => 32,
        n => n.clamp(1, 16),
    };
    let first = (page % PAGES).min(PAGES - count);
    let first = if count > 16 {
        first / count * count
    } else {
        first
    };
    range(RAM.start + first * PAGE_SIZE, count * PAGE_SIZE)
}
