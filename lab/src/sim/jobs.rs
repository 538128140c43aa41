//! Mappings and unmappings: done by the real code, and what that takes a CPU.

use super::SimError;
use super::engine::Engine;
use crate::machine::{MachineError, Mode, Work};
use crate::measured::{Cost, Operation};
use crate::platform::nanos;
use crate::scenario::Invalidation;
use crate::units::{Instructions, Picos};
use portcullis_addr::{Iova, Range};
use smmuv3_spec::command::{Command, Opcode, SIG_NONE};

/// Unmappings that a lazy host collects for each domain (IOVA_DEFAULT_FQ_SIZE).
const COLLECTED: usize = 256;

/// Something for a CPU to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    pub(super) map: bool,
    pub(super) initiator: usize,
    pub(super) slot: usize,
}

/// Unmappings of a domain that a lazy host has put off.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Vec<u64>);

impl Engine<'_> {
    fn failed(&self, error: MachineError) -> SimError {
        SimError::Machine {
            mode: self.mode,
            error,
        }
    }

    /// Does a job at `now`; when it is done.
    pub(super) fn work(&mut self, job: Job, now: Picos) -> Result<Picos, SimError> {
        let work = if job.map {
            self.map(job)?
        } else {
            self.unmap(job)?
        };
        let commands = self.consume();
        let operation = if job.map {
            Operation::Map
        } else {
            Operation::Unmap
        };
        let cost = self.cost(job, operation, &work, &commands);
        let end = self.pay(cost, work, &commands, now);
        let (taken, instructions) = if job.map {
            (&mut self.counted.maps, &mut self.counted.map_instructions)
        } else {
            (
                &mut self.counted.unmaps,
                &mut self.counted.unmap_instructions,
            )
        };
        taken.add(end - now);
        *instructions = *instructions + cost.host + cost.el2;
        self.counted.entries += work.entries;
        Ok(end)
    }

    /// Maps a buffer, without any time passing.
    pub(super) fn map(&mut self, job: Job) -> Result<Work, SimError> {
        let domain = self.shape.domain_of(job.initiator);
        let buffer = self.buffer_number(job);
        let bytes = self.bytes;
        let iova = match self.mode {
            // Where memory is.
            Mode::Identity => self.layout.physical(buffer, 0),
            _ => self
                .spaces
                .get_mut(domain)
                .and_then(|space| space.take(bytes))
                .ok_or(SimError::Addresses { mode: self.mode })?,
        };
        let left = self.transfers;
        if let Some(buffer) = self.slot(job) {
            (buffer.iova, buffer.left) = (iova, left);
        }
        let runs = self.layout.runs(buffer);
        self.runs = runs.len() as u64;
        let mapped = self.client.map(domain, Iova::new(iova), &runs);
        mapped.map_err(|error| self.failed(error))
    }

    fn unmap(&mut self, job: Job) -> Result<Work, SimError> {
        let domain = self.shape.domain_of(job.initiator);
        let iova = self.slot(job).map_or(0, |buffer| buffer.iova);
        let range = Range::from_size(Iova::new(iova), self.bytes)
            .map_err(|_| SimError::Addresses { mode: self.mode })?;
        if self.mode == Mode::Identity {
            return Ok(Work::default());
        }
        if self.invalidation == Invalidation::Strict {
            let work = self.client.unmap(domain, range);
            let work = work.map_err(|error| self.failed(error))?;
            self.give_back(domain, iova);
            return Ok(work);
        }
        let work = self.client.unmap_lazily(domain, range);
        let mut work = work.map_err(|error| self.failed(error))?;
        let Some(Pending(list)) = self.pending.get_mut(domain) else {
            return Ok(work);
        };
        list.push(iova);
        if list.len() >= COLLECTED {
            let list = std::mem::take(list);
            let flushed = self.client.flush(domain);
            work.entries += flushed.map_err(|error| self.failed(error))?.entries;
            for iova in list {
                self.give_back(domain, iova);
            }
        }
        Ok(work)
    }

    fn give_back(&mut self, domain: usize, iova: u64) {
        let bytes = self.bytes;
        if let Some(space) = self.spaces.get_mut(domain) {
            space.put(iova, bytes);
        }
    }

    /// What the SMMU consumed takes its part out of the caches.
    pub(super) fn consume(&mut self) -> Vec<Command> {
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
    fn cost(&self, job: Job, operation: Operation, work: &Work, commands: &[Command]) -> Cost {
        let (mode, invalidation) = (self.mode, self.invalidation);
        let mut cost = self
            .measured
            .cost(mode, invalidation, operation, self.bytes);
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
                    work.entries.saturating_sub(1)
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
        if job.map && mode == Mode::Paravirt {
            let requests = self.runs.saturating_sub(1);
            cost.el2 = cost.el2 + times(requests, more.further_request_el2.get().get());
            cost.host = cost.host + times(requests, more.further_request.get().get());
        }
        cost
    }

    /// Lets the time pass that a job takes; when it is done.
    fn pay(&mut self, cost: Cost, work: Work, commands: &[Command], now: Picos) -> Picos {
        let thousand = self.thousand;
        let mut at = now + cost.host.at(thousand);
        if work.entries == 0 && cost.el2.0 <= 0.0 {
            return self.queue.run(at, commands).max(at);
        }
        // EL2 works for one CPU at a time.
        let trap = nanos(&self.shape.platform.cpu.trap_ns).times(work.entries);
        at = at.max(self.el2) + cost.el2.at(thousand) + trap;
        let done = self.queue.run(at, commands).max(at);
        // Where the SMMU tells the host itself, EL2 waits for nothing.
        let waits =
            |command: &Command| command.opcode() == Opcode::SYNC && command.cs() == SIG_NONE;
        self.el2 = if commands.iter().any(waits) { done } else { at };
        done
    }
}
