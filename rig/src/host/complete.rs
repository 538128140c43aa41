//! When the host may see that its commands are consumed.

use crate::finding::Finding;
use crate::machine::Machine;
use smmuv3_model::Signal;
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::control::{Cr0, QueueBase};
use smmuv3_spec::reg;
use std::collections::BTreeMap;

/// The host's commands, as its emulated SMMU took them.
#[derive(Default)]
pub(crate) struct Commands {
    /// First words, as they were loaded last, by address.
    loaded: BTreeMap<u64, u64>,
    /// CMDQ_CONS, up to which this knows them.
    cons: u32,
    /// Since the last CMD_SYNC there was something.
    some: bool,
    /// And something else than TLBIs.
    others: bool,
}

/// What is among commands that are consumed.
struct Consumed {
    /// A CMD_SYNC.
    synced: bool,
    /// One that comes not just after TLBIs, so that it promises events (4.7.3).
    promised: bool,
}

impl Commands {
    /// The emulation loads a word of what it holds.
    pub(crate) fn load(&mut self, at: u64, value: u64) {
        if at.is_multiple_of(Command::SIZE) {
            self.loaded.insert(at, value);
        }
    }

    /// The host is told that CMDQ_CONS is `cons`, of the queue at `base`.
    fn consume(&mut self, base: QueueBase, cons: u32) -> Consumed {
        let log2 = base.log2size().min(16);
        let (mask, slots) = ((2u32 << log2) - 1, 1u64 << log2);
        let bytes = Command::SIZE << log2;
        let start = (base.addr_5() << 5) & !(bytes.max(32) - 1);
        let mut consumed = Consumed {
            synced: false,
            promised: false,
        };
        let count = cons.wrapping_sub(self.cons) & mask;
        for n in 0..count.min(1 << log2) {
            let slot = u64::from(self.cons.wrapping_add(n)) % slots;
            let word = self.loaded.get(&(start + slot * Command::SIZE));
            match Command([word.copied().unwrap_or(0), 0]).opcode() {
                Opcode::SYNC => {
                    consumed.synced = true;
                    consumed.promised |= self.others || !self.some;
                    (self.some, self.others) = (false, false);
                }
                Opcode::TLBI_NH_ALL
                | Opcode::TLBI_NH_ASID
                | Opcode::TLBI_NH_VA
                | Opcode::TLBI_NH_VAA
                | Opcode::TLBI_NSNH_ALL => self.some = true,
                _ => (self.some, self.others) = (true, true),
            }
        }
        self.cons = cons & mask;
        consumed
    }
}

impl Machine {
    /// The messages that the physical SMMU sent meanwhile: only into what is
    /// held, and to CMDQ_CONS as the host sees it.
    pub(crate) fn look_at_messages(&self, index: usize) {
        let unit = &self.units[index];
        let messages = unit.smmu.borrow_mut().take_interrupts();
        let cons = Self::register(index, reg::CMDQ_CONS);
        for interrupt in messages {
            let Signal::Msi { address, data, .. } = interrupt.signal else {
                continue;
            };
            let open = unit.emulated.open.borrow();
            let held = open.values().any(|range| range.contains(&address));
            if address == cons {
                let consumed = self.consume(index, data);
                self.look_at_promise(index, data, &consumed);
            } else if !held {
                self.find(Finding::Message(address));
            }
        }
    }

    /// The host is told that commands are consumed. If a CMD_SYNC is among them,
    /// the physical SMMU has nothing left to do.
    pub(crate) fn look_at_completion(&self, index: usize, cons: u32) {
        let unit = &self.units[index];
        if !Cr0::from(self.shown(index, reg::CR0ACK)).cmdqen() {
            unit.emulated.commands.borrow_mut().cons = cons;
            return;
        }
        let consumed = self.consume(index, cons);
        // A refused command is consumed again, as another one.
        let done = unit.smmu.borrow().counts().commands;
        if consumed.synced && !unit.may_fail() && done < unit.emulated.issued.get() {
            self.find(Finding::Early(cons));
        }
        self.look_at_promise(index, cons, &consumed);
    }

    fn consume(&self, index: usize, cons: u32) -> Consumed {
        let base = QueueBase::from(self.shown64(index, reg::CMDQ_BASE));
        let mut commands = self.units[index].emulated.commands.borrow_mut();
        commands.consume(base, cons)
    }

    /// What was recorded before a CMD_SYNC that promises events was handed to
    /// the host.
    fn look_at_promise(&self, index: usize, cons: u32, consumed: &Consumed) {
        let unit = &self.units[index];
        if consumed.promised && !unit.may_fail() && unit.recorded.borrow().owed() {
            self.find(Finding::Untold(cons));
        }
    }
}
