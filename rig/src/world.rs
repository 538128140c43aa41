//! The machine's state as the rig follows it, and one step of a program.

use crate::finding::Finding;
use crate::host::Host;
use crate::machine::Machine;
use crate::map::{DOORBELL, OTHER, STREAMS, is_given, place};
use crate::memory::CpuMemory;
use crate::op::Op;
use crate::policy::{Allowed, Ranges, cpu_ranges, ranges};
use crate::port::Port;
use portcullis_isolation::OwnerSpace;
use smmuv3_driver::{self as driver, Error, Stage2};
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::StreamId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

pub(crate) type Driver<'m> = driver::Smmu<Port<'m>, &'m Machine, &'m Machine>;

pub(crate) struct World<'m> {
    pub(crate) machine: &'m Machine,
    /// One for each SMMU.
    pub(crate) drivers: Vec<Driver<'m>>,
    pub(crate) space: OwnerSpace<'m, CpuMemory<'m>, &'m Machine>,
    /// What streams of a domain walk.
    pub(crate) domains: [Stage2; 3],
    /// What the last domain is when it is reused, and what its streams reach.
    pub(crate) spare: (Stage2, Range<u64>),
    pub(crate) last: Range<u64>,
    /// Which domain each stream is in.
    pub(crate) at: BTreeMap<u32, u8>,
    /// Those of them that have a stage 1, and whether it lets everything pass
    /// that comes without a substream.
    pub(crate) nested: BTreeMap<u32, bool>,
    /// Streams that may still be in these domains too: a broken SMMU could not
    /// be made to forget them.
    pub(crate) limbo: Vec<(u32, u8)>,
    /// Some SMMU was broken at some time; its invalidations that failed left
    /// changes of tables unfinished for good.
    pub(crate) scarred: bool,
    /// The pages of which an invalidation failed: no other changes hands before that is
    /// finished.
    pub(crate) in_doubt: Option<portcullis_addr::Range<portcullis_addr::PhysAddr>>,
    /// Blocks that were being split when an invalidation failed: what the host
    /// kept of them is out of its tables too.
    pub(crate) torn: Vec<Range<u64>>,
    /// The emulated SMMUs of the host, one on each SMMU, or none.
    pub(crate) hosts: Vec<Host<'m>>,
}

impl<'m> World<'m> {
    pub(crate) fn step(&mut self, op: &Op) -> Result<(), Finding> {
        match *op {
            Op::During { after, action } => {
                let queue = &self.machine.interrupts;
                queue.borrow_mut().push_back((after, action));
                return Ok(());
            }
            Op::Starve { after } => {
                self.machine.starve.set(Some(after));
                return Ok(());
            }
            _ => {}
        }
        let before = self.allowed();
        *self.machine.allowed.borrow_mut() = before.clone();
        self.perform(op, &before)?;
        self.machine.starve.set(None);
        self.machine.starved.set(false);
        self.settle()
    }

    /// What must hold between operations.
    pub(crate) fn settle(&mut self) -> Result<(), Finding> {
        self.machine.rest();
        *self.machine.allowed.borrow_mut() = self.allowed();
        self.machine.check();
        let expected = self.machine.expected.borrow();
        if let Some(page) = expected.differs(self.space.ledger()) {
            self.machine.find(Finding::Ledger(page));
        }
        drop(expected);
        if let Some(finding) = self.machine.finding.get() {
            return Err(finding);
        }
        self.reachable()?;
        self.look_at_hosts()?;
        self.machine.finding.get().map_or(Ok(()), Err)
    }

    /// What each stream may use now, and the CPUs: the host's devices its
    /// pages and the doorbell, those of the other domains what is theirs.
    pub(crate) fn allowed(&self) -> Allowed {
        let host = self.machine.expected.borrow().host();
        let lists = [
            ranges(host.iter().cloned().chain([DOORBELL])),
            ranges([OTHER]),
            ranges([self.last.clone()]),
        ];
        let units = self.drivers.len();
        let mut allowed = Allowed {
            streams: vec![BTreeMap::new(); units],
            cpus: cpu_ranges(host),
        };
        for (stream, domain) in &self.at {
            let (unit, id) = place(*stream, units);
            let list = Rc::clone(&lists[usize::from(*domain)]);
            allowed.streams[unit].insert(id, list);
        }
        if self.machine.nested {
            for stream in (0..STREAMS).filter(|stream| is_given(*stream, units)) {
                let (unit, id) = place(stream, units);
                allowed.streams[unit].insert(id, Rc::clone(&lists[0]));
            }
        }
        for (stream, domain) in &self.limbo {
            let (unit, id) = place(*stream, units);
            let list = allowed.streams[unit].entry(id).or_default();
            let more = lists[usize::from(*domain)].iter();
            *list = ranges(list.iter().chain(more).cloned());
        }
        allowed
    }

    /// Allows during an operation what is allowed before or after it.
    pub(crate) fn also(
        &self,
        before: &Allowed,
        streams: impl IntoIterator<Item = u32>,
        extra: &[Range<u64>],
    ) {
        let mut allowed = before.clone();
        // Streams that had the same keep the same.
        let mut joined: Vec<(Ranges, Ranges)> = Vec::new();
        for stream in streams {
            let (unit, id) = place(stream, self.drivers.len());
            let list = allowed.streams[unit].entry(id).or_default();
            let known = joined.iter().find(|(old, _)| Rc::ptr_eq(old, list));
            *list = match known {
                Some((_, new)) => Rc::clone(new),
                None => {
                    let new = ranges(list.iter().chain(extra).cloned());
                    joined.push((Rc::clone(list), Rc::clone(&new)));
                    new
                }
            };
        }
        *self.machine.allowed.borrow_mut() = allowed;
    }

    /// What streams of a domain must reach.
    pub(crate) fn ranges_of(&self, domain: u8) -> Vec<Range<u64>> {
        match domain {
            0 => {
                let mut host = self.machine.expected.borrow().usable();
                host.push(DOORBELL);
                host
            }
            1 => vec![OTHER],
            _ => vec![self.last.clone()],
        }
    }

    /// Calls the driver of one SMMU. A fenced one refuses, and so does one
    /// without memory: `false`.
    pub(crate) fn drive(
        &mut self,
        unit: usize,
        what: &'static str,
        call: impl FnOnce(&mut Driver<'_>) -> Result<(), Error>,
    ) -> Result<bool, Finding> {
        let fenced = self.drivers[unit].is_fenced();
        self.machine.in_driver.set(true);
        let result = call(&mut self.drivers[unit]);
        self.machine.in_driver.set(false);
        if fenced != (result == Err(Error::Fenced)) {
            return Err(Finding::Answer(what, unit as u64));
        }
        let hardware = &self.machine.units[unit];
        let excused = match result {
            Ok(()) => return Ok(true),
            Err(Error::NoMemory { .. }) => self.machine.starved.get(),
            // Something must have been the matter before.
            Err(Error::Fenced) => true,
            Err(Error::Command { .. }) => hardware.may_fail(),
            Err(_) => hardware.broken.get(),
        };
        self.explain(excused, what)?;
        Ok(false)
    }

    pub(crate) fn explain(&self, fine: bool, what: &'static str) -> Result<(), Finding> {
        if fine {
            return Ok(());
        }
        // What came first is the better explanation.
        self.machine.check();
        Err(self.machine.finding.get().unwrap_or(Finding::Failed(what)))
    }

    pub(crate) fn is_torn(&self, domain: usize, at: u64) -> bool {
        domain == 0 && self.torn.iter().any(|block| block.contains(&at))
    }

    /// Each attached stream must reach what it has: a rig in which nothing
    /// works would find nothing.
    fn reachable(&self) -> Result<(), Finding> {
        let lists = [0, 1, 2].map(|domain| self.ranges_of(domain));
        for (stream, domain) in &self.at {
            let (unit, id) = place(*stream, self.drivers.len());
            if self.drivers[unit].is_fenced() || self.machine.units[unit].broken.get() {
                continue;
            }
            let domain = usize::from(*domain);
            let stage2 = &self.domains[domain];
            let agreed = self.machine.units[unit]
                .smmu
                .borrow_mut()
                .agreed(StreamId(id));
            match agreed {
                Some(r) if r.vmid == stage2.vmid.0 && r.root == stage2.root.raw() => {}
                _ => return Err(Finding::Lost(*stream, 0)),
            }
            // Where else a stage 1 leads is its owner's affair.
            if self.nested.get(stream) == Some(&false) {
                continue;
            }
            for range in &lists[domain] {
                for at in ends(range) {
                    if self.is_torn(domain, at) {
                        continue;
                    }
                    let access = Transaction::new(StreamId(id), at, Access::Write);
                    if self.machine.transact(unit, access) != Ok(at) {
                        return Err(Finding::Lost(*stream, at));
                    }
                }
            }
        }
        for range in &lists[0] {
            for at in ends(range) {
                if !self.is_torn(0, at) && !self.machine.cpu.reaches(at) {
                    return Err(Finding::CpuLost(at));
                }
            }
        }
        Ok(())
    }
}

/// The first and the last word.
fn ends(range: &Range<u64>) -> [u64; 2] {
    [range.start, range.end - 8]
}
