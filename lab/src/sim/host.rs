//! The host and its SMMU: mappings and unmappings done by the real code, what that
//! takes a CPU, and what accesses wait for. Whoever says what is mapped when, a
//! [scenario](super::run) or a [trace](crate::replay), pays by these rules.

use super::SimError;
use super::report::{Counted, Report};
use crate::machine::{Client, Machine, MachineError, Mode, Shape, Work};
use crate::measured::{Cost, Measured, Operation};
use crate::platform::{Platform, nanos};
use crate::scenario::Invalidation;
use crate::timing::{Memo, Queue, Turns, Unit};
use crate::units::{Instructions, Picos};
use portcullis_addr::{Iova, Ipa, Range};
use smmuv3_spec::command::{Command, Opcode, SIG_NONE};
use std::time::Duration;

/// Unmappings that a lazy host collects for each domain (IOVA_DEFAULT_FQ_SIZE).
const COLLECTED: usize = 256;

/// Something that was done and is not paid for.
#[must_use]
pub(crate) struct Done {
    operation: Operation,
    domain: usize,
    bytes: u64,
    /// Runs of memory in it.
    runs: u64,
    work: Work,
}

/// A host in one mode, on a machine.
pub(crate) struct Host<'a> {
    platform: &'a Platform,
    machine: &'a Machine,
    measured: &'a Measured,
    mode: Mode,
    client: &'a mut dyn Client,
    invalidation: Invalidation,
    memo: Memo<'a>,
    unit: Unit,
    queue: Queue,
    /// Unmappings of each domain that a lazy host has put off.
    pending: Vec<Vec<Range<Iova>>>,
    thousand: Picos,
    /// EL2 works for one CPU at a time, or for one of each virtio-iommu.
    el2: Vec<Turns>,
    /// Virtio-iommus have locks: each in the host's driver too, and all of them that of
    /// their SMMU.
    smmu: Option<Turns>,
    counted: Counted,
    simulated: u64,
}

impl<'a> Host<'a> {
    pub(crate) fn new(
        machine: &'a Machine,
        shape: &Shape<'a>,
        measured: &'a Measured,
        (mode, invalidation): (Mode, Invalidation),
        client: &'a mut dyn Client,
    ) -> Self {
        let platform = shape.platform;
        let mut host = Self {
            platform,
            machine,
            measured,
            mode,
            client,
            invalidation,
            memo: Memo::new(machine, shape),
            unit: Unit::of(platform),
            queue: Queue::new(&platform.smmu),
            pending: vec![Vec::new(); shape.domains()],
            thousand: platform.cpu.thousand(),
            el2: vec![Turns::default()],
            smmu: None,
            counted: Counted::default(),
            simulated: 0,
        };
        // What starting the SMMU took is nobody's cost.
        host.consume();
        host
    }

    /// Spreads the domains over so many virtio-iommus, one at least, each with its locks.
    pub(crate) fn lock_each(&mut self, viommus: usize) {
        self.el2 = vec![Turns::default(); viommus.max(1)];
        self.smmu = Some(Turns::default());
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Counts from here on.
    pub(crate) fn reset(&mut self) {
        self.counted = Counted::default();
        self.queue.reset();
    }

    /// What came of it in `elapsed`, with accesses of `dma_bytes`.
    pub(crate) fn report(&mut self, elapsed: Picos, dma_bytes: u64) -> Report {
        Report {
            mode: self.mode,
            counted: std::mem::take(&mut self.counted),
            queue: self.queue.clone(),
            elapsed,
            dma_bytes,
            tables: self.machine.peaks(),
            asked: self.memo.asked,
            simulated: self.simulated,
            wall: Duration::ZERO,
        }
    }

    fn failed(&self, error: MachineError) -> SimError {
        SimError::Machine {
            mode: self.mode,
            error,
        }
    }

    /// Maps `runs` from `iova` on, without any time passing.
    pub(crate) fn map(
        &mut self,
        domain: usize,
        iova: u64,
        runs: &[Range<Ipa>],
    ) -> Result<Done, SimError> {
        let mapped = self.client.map(domain, Iova::new(iova), runs);
        let work = mapped.map_err(|error| self.failed(error))?;
        Ok(Done {
            operation: Operation::Map,
            domain,
            bytes: runs.iter().map(Range::size).sum(),
            runs: runs.len() as u64,
            work,
        })
    }

    /// Takes the `bytes` that are mapped in `range` away, in so many runs of memory,
    /// without any time passing. Also says which addresses nobody can use any more: where the host is lazy,
    /// those of many unmappings at a time.
    pub(crate) fn unmap(
        &mut self,
        domain: usize,
        range: Range<Iova>,
        (bytes, runs): (u64, u64),
    ) -> Result<(Done, Vec<Range<Iova>>), SimError> {
        let done = |work| Done {
            operation: Operation::Unmap,
            domain,
            bytes,
            runs,
            work,
        };
        if self.mode == Mode::Identity {
            return Ok((done(Work::default()), Vec::new()));
        }
        if self.invalidation == Invalidation::Strict {
            let work = self.client.unmap(domain, range);
            let work = work.map_err(|error| self.failed(error))?;
            return Ok((done(work), vec![range]));
        }
        let work = self.client.unmap_lazily(domain, range);
        let mut work = work.map_err(|error| self.failed(error))?;
        let Some(list) = self.pending.get_mut(domain) else {
            return Ok((done(work), Vec::new()));
        };
        list.push(range);
        if list.len() < COLLECTED {
            return Ok((done(work), Vec::new()));
        }
        let free = std::mem::take(list);
        let flushed = self.client.flush(domain);
        work.entries += flushed.map_err(|error| self.failed(error))?.entries;
        Ok((done(work), free))
    }

    /// Takes all that is left of a domain away, at nobody's cost, with what was put
    /// off of it. Says which addresses nobody can use any more.
    pub(crate) fn close(
        &mut self,
        domain: usize,
        left: Vec<Range<Iova>>,
    ) -> Result<Vec<Range<Iova>>, SimError> {
        if self.mode == Mode::Identity {
            return Ok(Vec::new());
        }
        let mut free = left;
        for range in &free {
            let gone = self.client.unmap_lazily(domain, *range);
            gone.map_err(|error| self.failed(error))?;
        }
        let flushed = self.client.flush(domain);
        flushed.map_err(|error| self.failed(error))?;
        if let Some(list) = self.pending.get_mut(domain) {
            free.append(list);
        }
        self.consume();
        Ok(free)
    }

    /// Lets the time pass that something takes which a CPU begins at `now`; when it
    /// is done.
    pub(crate) fn pay(&mut self, done: &Done, now: Picos) -> Picos {
        let commands = self.consume();
        let cost = self.cost(done, &commands);
        let end = self.pass(cost, done, &commands, now);
        let (taken, instructions) = match done.operation {
            Operation::Map => (&mut self.counted.maps, &mut self.counted.map_instructions),
            Operation::Unmap => (
                &mut self.counted.unmaps,
                &mut self.counted.unmap_instructions,
            ),
        };
        taken.add(end - now);
        *instructions = *instructions + cost.host + cost.el2;
        self.counted.entries += done.work.entries;
        end
    }

    /// A device's access at `now`; when its data is there.
    pub(crate) fn access(
        &mut self,
        initiator: usize,
        address: u64,
        now: Picos,
    ) -> Result<Picos, SimError> {
        let translated = self
            .unit
            .translate(&mut self.memo, initiator, address, now)
            .ok_or(SimError::Refused {
                mode: self.mode,
                initiator,
                address,
            })?;
        self.counted.translations.add(now, &translated);
        self.simulated += 1;
        Ok(translated.at + nanos(&self.platform.memory.data_ns))
    }

    /// What the SMMU consumed takes its part out of the caches.
    pub(crate) fn consume(&mut self) -> Vec<Command> {
        let commands = self.machine.take_commands();
        let ranges = self.memo.ranges();
        for command in &commands {
            self.unit.drop(command, ranges);
            self.memo.drop(command);
        }
        commands
    }

    /// Instructions: what was measured for one command and one request, and more
    /// where there are more.
    fn cost(&self, done: &Done, commands: &[Command]) -> Cost {
        let (mode, invalidation) = (self.mode, self.invalidation);
        let mut cost =
            self.measured
                .cost(mode, invalidation, done.operation, (done.bytes, done.runs));
        let more = &self.measured.not_measured;
        let times = |count: u64, each: u64| Instructions((count * each) as f64);
        let syncs = commands.iter().filter(|c| c.opcode() == Opcode::SYNC);
        let others = (commands.len() - syncs.count()) as u64;
        // What was counted of a lazy host is an average that has its share of the
        // flushes, with all of their commands.
        let strict = invalidation == Invalidation::Strict;
        let further = if strict { others.saturating_sub(1) } else { 0 };
        match mode {
            Mode::Native | Mode::Identity => {}
            Mode::Nested => {
                let entries = if strict {
                    done.work.entries.saturating_sub(1)
                } else {
                    0
                };
                cost.el2 = cost.el2
                    + times(further, more.further_command_el2.get().get())
                    + times(entries, more.further_entry_el2.get().get());
            }
            Mode::Paravirt => {
                cost.el2 = cost.el2 + times(further, more.further_command_paravirt.get().get());
            }
        }
        if matches!(mode, Mode::Native | Mode::Nested) {
            cost.host = cost.host + times(further, more.further_command.get().get());
        }
        cost
    }

    /// Instructions of the host's driver under the lock of its virtio-iommu: it adds a
    /// request, tells the device, and looks for the answer. What is left, addresses and
    /// their bookkeeping, a driver that fills in tables itself has too, so that what it
    /// takes for less than its tables is counted as under the lock here.
    fn locked(&self, cost: Cost, done: &Done) -> Instructions {
        let (how, what) = (self.invalidation, (done.bytes, done.runs));
        let native = self.measured.cost(Mode::Native, how, done.operation, what);
        Instructions((cost.host - native.host).0.max(0.0))
    }

    /// Lets the time pass that a job takes; when it is done.
    fn pass(&mut self, cost: Cost, done: &Done, commands: &[Command], now: Picos) -> Picos {
        let (thousand, work) = (self.thousand, done.work);
        let locked = match self.smmu {
            Some(_) => self.locked(cost, done),
            None => Instructions(0.0),
        };
        let mut at = now + (cost.host - locked).at(thousand);
        if work.entries == 0 && cost.el2.0 <= 0.0 {
            return self.queue.run(at, commands).max(at);
        }
        // EL2 works for one CPU at a time.
        let trap = nanos(&self.platform.cpu.trap_ns).times(work.entries);
        let length = (locked + cost.el2).at(thousand) + trap;
        let viommus = self.el2.len().max(1);
        let Some(el2) = self.el2.get_mut(done.domain % viommus) else {
            return at;
        };
        let begun = el2.take(at, length);
        at = begun + length;
        // Where the SMMU tells the host itself, EL2 waits for nothing.
        let waits =
            |command: &Command| command.opcode() == Opcode::SYNC && command.cs() == SIG_NONE;
        let waits = commands.iter().any(waits);
        // The lock of the SMMU is had from the first command on, and for as long as the wait.
        let issued = match &mut self.smmu {
            Some(smmu) if waits => smmu.take(at, Picos(1)),
            _ => at,
        };
        let end = self.queue.run(issued, commands).max(at);
        if waits {
            el2.keep(begun, end);
            if let Some(smmu) = &mut self.smmu {
                smmu.keep(issued, end);
            }
        }
        end
    }
}
