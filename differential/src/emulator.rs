//! A case on QEMU.

use crate::case::{Access, Case, Seen, Step, new_records};
use crate::layout::{self, SMMU};
use crate::machine::{DEVICES, Error, Machine};
use smmuv3_spec::reg;
use std::collections::BTreeSet;

/// CR0: event queue and command queue.
const QUEUES: u32 = 0b1100;
/// CR0: the queues, and translation.
const ALL: u32 = 0b1101;
const CFGI_ALL: [u64; 2] = [0x04, 31];
const TLBI_NSNH_ALL: [u64; 2] = [0x30, 0];
const SYNC: [u64; 2] = [0x46, 0];

/// QEMU with a case in it.
pub struct Emulator<'a> {
    machine: &'a mut Machine,
    case: &'a Case,
    written: BTreeSet<u64>,
    data: BTreeSet<u64>,
    produced: u32,
    commands: u32,
}

const fn register(offset: u32) -> u64 {
    SMMU + offset as u64
}

impl<'a> Emulator<'a> {
    /// Sets QEMU's SMMU up for `case` and enables it.
    ///
    /// # Errors
    /// See [`Error`], here and below.
    pub fn new(machine: &'a mut Machine, case: &'a Case) -> Result<Self, Error> {
        let mut written = BTreeSet::new();
        let q = &mut machine.qtest;
        for (at, word) in &case.words {
            q.writeq(*at, *word)?;
            written.insert(at >> 12);
        }
        q.writel(register(reg::CR0), 0)?;
        q.writeq(register(reg::STRTAB_BASE), case.table)?;
        q.writel(register(reg::STRTAB_BASE_CFG), case.table_config)?;
        q.writel(register(reg::CR2), case.cr2)?;
        // What earlier cases left in the caches goes, with a queue of its own
        // that starts over afterwards.
        q.writeq(register(reg::CMDQ_BASE), layout::CMDQ | 4)?;
        q.writel(register(reg::CMDQ_PROD), 0)?;
        q.writel(register(reg::CMDQ_CONS), 0)?;
        for (at, command) in (layout::CMDQ..)
            .step_by(16)
            .zip([CFGI_ALL, TLBI_NSNH_ALL, SYNC])
        {
            q.writeq(at, command[0])?;
            q.writeq(at + 8, command[1])?;
        }
        q.readl(register(reg::GERROR))?;
        let errors = q.run()?.last().map_or(0, |answer| answer.value()) as u32;
        q.writel(register(reg::GERRORN), errors)?;
        q.writel(register(reg::CR0), 0b1000)?;
        q.writel(register(reg::CMDQ_PROD), 3)?;
        q.writel(register(reg::CR0), 0)?;
        q.writeq(
            register(reg::CMDQ_BASE),
            layout::CMDQ | u64::from(case.command_log2),
        )?;
        q.writel(register(reg::CMDQ_PROD), case.command_start)?;
        q.writel(register(reg::CMDQ_CONS), case.command_start)?;
        q.clear(layout::CMDQ, 0x30)?;
        q.writeq(
            register(reg::EVENTQ_BASE),
            layout::EVENTQ | u64::from(case.event_log2),
        )?;
        q.writel(register(reg::EVENTQ_PROD), case.event_start)?;
        q.writel(register(reg::EVENTQ_CONS), case.event_start)?;
        q.writel(register(reg::CR0), QUEUES)?;
        q.writel(register(reg::CR0), ALL)?;
        q.run()?;
        Ok(Self {
            machine,
            case,
            written,
            data: BTreeSet::new(),
            produced: case.event_start,
            commands: case.command_start,
        })
    }

    /// Does one step; `probe` is where memory is looked at after a write.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn step(&mut self, step: &Step, probe: Option<u64>) -> Result<Seen, Error> {
        let mut seen = Seen::default();
        match step {
            Step::Access(access) => self.access(access)?,
            Step::Store(words) => {
                for (at, word) in words {
                    self.machine.qtest.writeq(*at, *word)?;
                    self.written.insert(at >> 12);
                }
            }
            Step::Commands(commands) => {
                let mask = (2 << self.case.command_log2) - 1;
                for command in commands {
                    let at = layout::CMDQ + u64::from(self.commands & (mask >> 1)) * 16;
                    self.machine.qtest.writeq(at, command[0])?;
                    self.machine.qtest.writeq(at + 8, command[1])?;
                    self.written.insert(at >> 12);
                    self.commands = (self.commands + 1) & mask;
                }
                self.machine
                    .qtest
                    .writel(register(reg::CMDQ_PROD), self.commands)?;
            }
            Step::Acknowledge => {
                let q = &mut self.machine.qtest;
                q.readl(register(reg::GERROR))?;
                let errors = q.run()?.last().map_or(0, |answer| answer.value());
                q.writel(register(reg::GERRORN), errors as u32)?;
            }
        }
        let q = &mut self.machine.qtest;
        q.readl(register(reg::EVENTQ_PROD))?;
        q.readl(register(reg::CMDQ_CONS))?;
        q.readl(register(reg::GERROR))?;
        q.readl(register(reg::GERRORN))?;
        if let Some(at) = probe {
            q.readl(at)?;
        }
        let answers = q.run()?;
        let value = |index: usize| answers.get(index).map_or(0, |answer| answer.value()) as u32;
        seen.produced = value(0);
        seen.consumed = value(1);
        seen.errors = value(2) ^ value(3);
        let records = new_records(self.produced, seen.produced, self.case.event_log2);
        for at in &records {
            q.read(*at, 32)?;
        }
        if self.case.drain {
            q.writel(register(reg::EVENTQ_CONS), seen.produced)?;
        }
        for answer in q.run()? {
            if let Ok(record) = answer.words().try_into() {
                seen.events.push(record);
            }
        }
        self.written.extend(records.iter().map(|at| at >> 12));
        self.produced = seen.produced;
        if let Step::Access(access) = step {
            seen.data = match access.write {
                Some(_) => probe.map(|_| value(4)),
                None => Some(self.buffer(access)?),
            };
            if access.write.is_some() {
                self.data.extend(probe);
            }
        }
        Ok(seen)
    }

    fn access(&mut self, access: &Access) -> Result<(), Error> {
        let device = DEVICES[access.device];
        let Some(value) = access.write else {
            return self.machine.device_reads(device, access.address, 4);
        };
        // Its buffer gets the value with translation off.
        let q = &mut self.machine.qtest;
        q.writel(layout::SCRATCH, value)?;
        q.writel(register(reg::CR0), QUEUES)?;
        self.machine.device_reads(device, layout::SCRATCH, 4)?;
        self.machine.qtest.writel(register(reg::CR0), ALL)?;
        self.machine.device_writes(device, access.address, 4)
    }

    /// What a device's buffer holds.
    fn buffer(&mut self, access: &Access) -> Result<u32, Error> {
        let device = DEVICES[access.device];
        self.machine.qtest.writel(register(reg::CR0), QUEUES)?;
        self.machine.device_writes(device, layout::SCRATCH, 4)?;
        let q = &mut self.machine.qtest;
        q.writel(register(reg::CR0), ALL)?;
        q.readl(layout::SCRATCH)?;
        Ok(q.run()?.last().map_or(0, |answer| answer.value()) as u32)
    }

    /// Leaves memory as it was. After a disagreement nobody knows what was
    /// written, and `all` of it is done anew.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn finish(self, all: bool) -> Result<(), Error> {
        self.machine.qtest.writel(register(reg::CR0), 0)?;
        for page in self.written {
            self.machine.qtest.clear(page << 12, 4096)?;
        }
        if all {
            self.machine.fill()?;
        }
        for at in self.data {
            self.machine.qtest.writel(at, layout::initial(at))?;
        }
        self.machine.qtest.run()?;
        Ok(())
    }
}
