//! What must hold of an emulated SMMU between operations.

use crate::finding::Finding;
use crate::host::owner::streams;
use crate::host::side::Side;
use crate::machine::Machine;
use crate::map::{PAGE_1, STREAMS, place};
use crate::world::World;
use smmuv3_emulator::Delivery;
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{Cr0, Gbpa, QueueBase};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::{StreamId, reg};

/// Registers that never change.
const FIXED: [u32; 8] = [
    reg::IDR0,
    reg::IDR1,
    reg::IDR2,
    reg::IDR3,
    reg::IDR4,
    reg::IDR5,
    reg::IIDR,
    reg::AIDR,
];

impl World<'_> {
    /// All of it, for every emulated SMMU.
    pub(crate) fn look_at_hosts(&self) -> Result<(), Finding> {
        for unit in 0..self.hosts.len() {
            self.look_at_identity(unit)?;
            self.look_at_windows(unit)?;
            self.look_at_events(unit)?;
            if !self.is_excused(unit) && !self.hosts[unit].unfinished {
                self.look_at_switches(unit)?;
            }
        }
        Ok(())
    }

    fn look_at_identity(&self, unit: usize) -> Result<(), Finding> {
        for (offset, was) in FIXED.into_iter().zip(self.hosts[unit].identity) {
            if self.machine.shown(unit, offset) != was {
                return Err(Finding::Shown(offset));
            }
        }
        Ok(())
    }

    /// Every page that is held is there for a queue that is on.
    fn look_at_windows(&self, unit: usize) -> Result<(), Finding> {
        let host = &self.hosts[unit];
        let on = Cr0::from(self.machine.shown(unit, reg::CR0ACK));
        let queues = [
            (on.cmdqen(), reg::CMDQ_BASE, 4),
            (on.eventqen(), reg::EVENTQ_BASE, 5),
            (on.priqen(), reg::PRIQ_BASE, 4),
        ];
        let open = self.machine.units[unit].emulated.open.borrow();
        let kept = host.emulator.counts().unreleased_queues as usize;
        let enabled = queues.iter().filter(|(on, ..)| *on).count();
        if open.len() > enabled + kept {
            let first = open.values().next().map_or(0, |range| range.start);
            return Err(Finding::Memory(first));
        }
        for (_, base, log2) in queues.into_iter().filter(|(on, ..)| *on) {
            let value = QueueBase::from(self.machine.shown64(unit, base));
            let bytes = 1u64 << (value.log2size().min(16) + log2);
            // Aligned to its size (6.3.26); at least to 32 bytes.
            let start = value.addr_5() << 5 & !(bytes - 1);
            let known = open.values().find(|range| range.contains(&start));
            // None where the queue lies in memory that the host has not.
            if known.is_some_and(|range| range.end != start + bytes) && kept == 0 {
                return Err(Finding::Memory(start));
            }
        }
        Ok(())
    }

    /// While translation is off, GBPA decides for every stream.
    fn look_at_switches(&self, unit: usize) -> Result<(), Finding> {
        let (cr0, ack) = (
            self.machine.shown(unit, reg::CR0),
            self.machine.shown(unit, reg::CR0ACK),
        );
        if cr0 != ack {
            return Err(Finding::Shown(reg::CR0ACK));
        }
        let gbpa = Gbpa::from(self.machine.shown(unit, reg::GBPA));
        if gbpa.update() {
            return Err(Finding::Shown(reg::GBPA));
        }
        if Cr0::from(ack).smmuen() {
            return Ok(());
        }
        for stream in 0..STREAMS {
            let (at, id) = place(stream, self.hosts.len());
            if at != unit || !self.is_given(stream) {
                continue;
            }
            let usable = self.machine.expected.borrow().usable();
            for at in usable.iter().flat_map(|run| [run.start, run.end - 8]) {
                if self.is_torn(0, at) {
                    continue;
                }
                let access = Transaction::new(StreamId(id), at, Access::Write);
                let passed = self.machine.transact(unit, access) == Ok(at);
                if passed == gbpa.abort() {
                    return Err(Finding::Lost(stream, at));
                }
            }
        }
        Ok(())
    }

    /// Each event of the host's that was read is in its queue, or counted.
    fn look_at_events(&self, unit: usize) -> Result<(), Finding> {
        let counts = self.hosts[unit].emulator.counts();
        let known = counts.events_delivered + counts.events_overflowed + counts.events_dropped;
        if known != self.machine.units[unit].emulated.told.get() {
            return Err(Finding::Shown(reg::EVENTQ_PROD));
        }
        Ok(())
    }

    /// Hands an event of the physical SMMU to the host, if it is one of the
    /// host's streams.
    pub(crate) fn tell(&mut self, unit: usize, record: &EventRecord) {
        let streams = streams(self.hosts.len());
        let side = Side {
            machine: self.machine,
            unit,
        };
        self.machine.units[unit].emulated.event_prod.set(None);
        let emulator = &mut self.hosts[unit].emulator;
        let delivery = emulator.deliver_event(&side, streams.as_slice(), record);
        if let Delivery::Terminate { stream, stag } = delivery {
            let answer = Command::resume(stream, stag, false, true);
            let driver = &mut self.drivers[unit];
            // One that is fenced has ended what waited.
            if driver.issue(answer).is_ok() {
                driver.kick();
            }
        }
        self.machine.look_at_told(unit, record, delivery);
    }
}

/// What the registers that never change say.
pub(crate) fn identity(machine: &Machine, unit: usize) -> [u32; 8] {
    FIXED.map(|offset| machine.shown(unit, offset))
}

/// Offsets of registers that exist, for whoever wants to write to them.
pub(crate) const OFFSETS: [u32; 40] = [
    reg::CR0,
    reg::CR0,
    reg::CR0ACK,
    reg::CR1,
    reg::CR2,
    reg::STATUSR,
    reg::GBPA,
    reg::GBPA,
    reg::AGBPA,
    reg::IRQ_CTRL,
    reg::IRQ_CTRLACK,
    reg::GERROR,
    reg::GERRORN,
    reg::GERROR_IRQ_CFG0,
    reg::GERROR_IRQ_CFG1,
    reg::GERROR_IRQ_CFG2,
    reg::STRTAB_BASE,
    reg::STRTAB_BASE + 4,
    reg::STRTAB_BASE_CFG,
    reg::CMDQ_BASE,
    reg::CMDQ_BASE + 4,
    reg::CMDQ_PROD,
    reg::CMDQ_PROD,
    reg::CMDQ_CONS,
    reg::EVENTQ_BASE,
    reg::EVENTQ_IRQ_CFG0,
    reg::EVENTQ_IRQ_CFG1,
    reg::EVENTQ_IRQ_CFG2,
    reg::EVENTQ_PROD,
    reg::EVENTQ_CONS,
    reg::EVENTQ_CONS,
    reg::PRIQ_BASE,
    reg::PRIQ_IRQ_CFG0,
    reg::PRIQ_IRQ_CFG1,
    reg::PRIQ_IRQ_CFG2,
    reg::PRIQ_PROD,
    reg::PRIQ_CONS,
    reg::EVENTQ_PROD_ALIAS,
    reg::IDR0,
    PAGE_1,
];
