//! The rings, and what goes through them (IHI 0070, 3.5, 7.1, 7.2, 7.4).

use crate::irq::Source;
use crate::misuse::Misuse;
use crate::smmu::{Mode, Smmu};
use smmuv3_spec::command::{Command, CommandError, Opcode};
use smmuv3_spec::control::{CmdqCons, Cr0, Gerror, OutputIndex, QueueBase};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;

/// A queue in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    base: u64,
    entry: u64,
    /// Bits of an index and its wrap bit (3.5.1).
    pub(crate) mask: u32,
}

impl Ring {
    /// `most` is the largest size that IDR1 allows, and caps what the register
    /// says. A queue is aligned to its size, and to 32 bytes, by ignoring
    /// address bits (6.3.26).
    fn of(base: u64, most: u8, entry: u64) -> Self {
        let base = QueueBase::from(base);
        let log2 = base.log2size().min(most).min(19);
        let bytes = (entry << log2).max(32);
        Self {
            base: (base.addr_5() << 5) & !(bytes - 1),
            entry,
            mask: (2 << log2) - 1,
        }
    }

    /// Entries that it holds.
    fn size(&self) -> u32 {
        self.mask / 2 + 1
    }

    /// Entries between two indices.
    fn used(&self, prod: u32, cons: u32) -> u32 {
        prod.wrapping_sub(cons) & self.mask
    }

    /// Where the entry at an index is.
    fn at(&self, index: u32) -> u64 {
        self.base + u64::from(index & (self.mask >> 1)) * self.entry
    }
}

impl Smmu {
    pub(crate) fn command_ring(&self) -> Ring {
        let most = self.profile.idr1.cmdqs();
        Ring::of(self.regs.cmdq_base, most, Command::SIZE)
    }

    fn event_ring(&self) -> Ring {
        let most = self.profile.idr1.eventqs();
        Ring::of(self.regs.eventq_base, most, EventRecord::SIZE)
    }

    fn request_ring(&self) -> Ring {
        let most = self.profile.idr1.priqs();
        Ring::of(self.regs.priq_base, most, PageRequest::SIZE)
    }

    pub(crate) fn gerror_active(&self) -> Gerror {
        Gerror::from(self.regs.gerror ^ self.regs.gerrorn)
    }

    /// Queues that are being enabled must hold no more than their size (3.5.1).
    pub(crate) fn check_indices(&mut self, on: Cr0) {
        let r = &self.regs;
        let queues = [
            (
                on.cmdqen(),
                reg::CMDQ_BASE,
                self.command_ring(),
                r.cmdq_prod,
                r.cmdq_cons,
            ),
            (
                on.eventqen(),
                reg::EVENTQ_BASE,
                self.event_ring(),
                r.eventq_prod,
                r.eventq_cons,
            ),
            (
                on.priqen(),
                reg::PRIQ_BASE,
                self.request_ring(),
                r.priq_prod,
                r.priq_cons,
            ),
        ];
        for (on, offset, ring, prod, cons) in queues {
            if on && ring.used(prod, cons) > ring.size() {
                let (prod, cons) = (prod & ring.mask, cons & ring.mask);
                self.misuse.push(Misuse::Index { offset, prod, cons });
            }
        }
    }

    /// `CMDQ_PROD` was written.
    pub(crate) fn produced(&mut self, value: u32) {
        let ring = self.command_ring();
        let cons = self.regs.cmdq_cons & ring.mask;
        let prod = value & ring.mask;
        if self.enabled().cmdqen() {
            // It only moves forward, except that commands can be taken back
            // while an error is active (7.1).
            let from = if self.gerror_active().cmdq_err() {
                cons
            } else {
                self.regs.cmdq_prod & ring.mask
            };
            if ring.used(from, cons) + ring.used(prod, from) > ring.size() {
                self.misuse.push(Misuse::Overrun { prod, cons });
                return;
            }
        }
        self.regs.cmdq_prod = value;
        self.poll_if_plain();
        // Now and then a greedy one is already there.
        if self.mode != Mode::Plain && !self.faults.is_stuck() && self.draw(4) == 0 {
            self.poll_commands();
        }
    }

    /// `CMDQ_CONS` is being read: a greedy SMMU moves mostly now, and not far.
    pub(crate) fn poll_commands(&mut self) {
        if self.faults.stuck() {
            return;
        }
        if self.mode == Mode::Plain {
            self.run_commands(u32::MAX);
        } else {
            let most = self.draw(4);
            self.run_commands(most);
        }
    }

    pub(crate) fn run_commands(&mut self, most: u32) {
        for _ in 0..most {
            let may = self.enabled().cmdqen() && !self.gerror_active().cmdq_err();
            if !may || self.faults.is_stuck() {
                return;
            }
            let ring = self.command_ring();
            let cons = self.regs.cmdq_cons & ring.mask;
            let used = ring.used(self.regs.cmdq_prod, cons);
            // Of what 3.5.1 allows with inconsistent indices, nothing.
            if used == 0 || used > ring.size() {
                return;
            }
            let full = used == ring.size();
            let at = ring.at(cons);
            // What was not published is not seen.
            let words = (self.ram.views(at), self.ram.views(at + 8));
            let injected = self.faults.command.take();
            let result = match (injected, words) {
                (Some(error), _) => Err(error),
                (None, (Some((low, _)), Some((high, _)))) => self.process(Command([low, high])),
                (None, _) => Err(CommandError::ABT),
            };
            let (next, error) = match result {
                Ok(_) => (cons.wrapping_add(1) & ring.mask, CommandError::NONE),
                // CONS stays at the command (7.1).
                Err(error) => (cons, error),
            };
            let value = CmdqCons::new().with_rd(next).with_err(error.0);
            self.regs.cmdq_cons = value.into();
            // What tells of it comes after what it tells of (3.18).
            match result {
                Ok(command) => {
                    self.counts.commands += 1;
                    self.consumed.push(command);
                    if full {
                        self.wake();
                    }
                    if command.opcode() == Opcode::SYNC {
                        self.counts.syncs += 1;
                        self.signal_completion(&command);
                    }
                }
                Err(_) => self.activate(Gerror::new().with_cmdq_err(true)),
            }
        }
    }

    /// Writes an event record, or notes that it was lost (7.2, 7.4).
    pub(crate) fn record(&mut self, record: EventRecord) {
        if self.regs.stopped {
            return;
        }
        if self.event_room() {
            self.write_event(record);
        } else if self.events_pass() {
            // It is full, so that the record is lost.
            self.counts.lost += 1;
            self.regs.eventq_prod = overflowed(self.regs.eventq_prod, self.regs.eventq_cons);
        }
    }

    /// Whether the event queue is on and not broken (7.2.1).
    fn events_pass(&self) -> bool {
        self.enabled().eventqen() && !self.gerror_active().eventq_abt_err()
    }

    /// Whether the event queue takes a record now.
    pub(crate) fn event_room(&self) -> bool {
        let ring = self.event_ring();
        let used = ring.used(self.regs.eventq_prod, self.regs.eventq_cons);
        self.events_pass() && used < ring.size()
    }

    fn write_event(&mut self, record: EventRecord) {
        let ring = self.event_ring();
        let prod = OutputIndex::from(self.regs.eventq_prod);
        let empty = ring.used(self.regs.eventq_prod, self.regs.eventq_cons) == 0;
        let at = ring.at(prod.index());
        if !(self.ram.contains(at) && self.ram.contains(at + 24)) {
            // A synchronous abort: PROD stays (7.2.2).
            self.counts.lost += 1;
            self.activate(Gerror::new().with_eventq_abt_err(true));
            return;
        }
        for (index, word) in (0..).zip(record.0) {
            self.device_store(at + index * 8, word);
        }
        self.counts.events += 1;
        let next = prod.index().wrapping_add(1) & ring.mask;
        self.regs.eventq_prod = prod.with_index(next).into();
        if empty {
            self.raise(Source::EventQueue);
        }
    }

    /// `EVENTQ_CONS` was written.
    pub(crate) fn events_consumed(&mut self, value: u32) {
        let (ring, r) = (self.event_ring(), &self.regs);
        if self.enabled().eventqen() {
            self.look_at_consumer(reg::EVENTQ_BASE, ring, r.eventq_prod, r.eventq_cons, value);
        }
        self.regs.eventq_cons = value;
        self.retry_unrecorded();
    }

    /// `PRIQ_CONS` was written.
    pub(crate) fn requests_consumed(&mut self, value: u32) {
        let (ring, r) = (self.request_ring(), &self.regs);
        if self.enabled().priqen() {
            self.look_at_consumer(reg::PRIQ_BASE, ring, r.priq_prod, r.priq_cons, value);
        }
        self.regs.priq_cons = value;
    }

    /// A consumer index moves forward, and not past the producer (3.5.1).
    fn look_at_consumer(&mut self, offset: u32, ring: Ring, prod: u32, old: u32, new: u32) {
        if ring.used(new, old) > ring.used(prod, old) {
            let (prod, cons) = (prod & ring.mask, new & ring.mask);
            self.misuse.push(Misuse::Index { offset, prod, cons });
        }
    }

    pub(crate) fn request_queue_full(&self) -> bool {
        let ring = self.request_ring();
        ring.used(self.regs.priq_prod, self.regs.priq_cons) >= ring.size()
    }

    /// Appends a page request; `false` when the write aborts. `true` in the
    /// second place when the queue was empty.
    pub(crate) fn write_request(&mut self, request: PageRequest) -> (bool, bool) {
        let ring = self.request_ring();
        let prod = OutputIndex::from(self.regs.priq_prod);
        let empty = ring.used(self.regs.priq_prod, self.regs.priq_cons) == 0;
        let at = ring.at(prod.index());
        if !(self.ram.contains(at) && self.ram.contains(at + 8)) {
            self.activate(Gerror::new().with_priq_abt_err(true));
            return (false, empty);
        }
        for (index, word) in (0..).zip(request.0) {
            self.device_store(at + index * 8, word);
        }
        let next = prod.index().wrapping_add(1) & ring.mask;
        self.regs.priq_prod = prod.with_index(next).into();
        (true, empty)
    }
}

/// `prod` with its overflow flag toggled, unless an overflow is unacknowledged
/// already (7.4).
pub(crate) fn overflowed(prod: u32, cons: u32) -> u32 {
    let (prod, cons) = (OutputIndex::from(prod), OutputIndex::from(cons));
    if prod.overflow() == cons.overflow() {
        prod.with_overflow(!prod.overflow()).into()
    } else {
        prod.into()
    }
}
