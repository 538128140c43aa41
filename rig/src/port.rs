//! The registers of one SMMU, and time.

use crate::machine::{Machine, Unit};
use crate::mutant::Mutant;
use smmuv3_driver::{Clock, Registers};
use smmuv3_model::Smmu;
use smmuv3_spec::command::Command;
use smmuv3_spec::control::QueueBase;
use smmuv3_spec::reg;

/// How the driver reaches one SMMU.
#[derive(Clone, Copy)]
pub(crate) struct Port<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) unit: usize,
}

impl Port<'_> {
    fn unit(&self) -> &Unit {
        &self.machine.units[self.unit]
    }
}

impl Port<'_> {
    /// Does something that may let transactions that wait go on: then they may
    /// write to memory, and be recorded.
    fn retrying<T>(&self, act: impl FnOnce(&mut Smmu) -> T) -> T {
        let before = self.unit().smmu.borrow().counts();
        let result = act(&mut self.unit().smmu.borrow_mut());
        let after = self.unit().smmu.borrow().counts();
        let (kept, lost) = (after.events - before.events, after.lost > before.lost);
        if after.syncs > before.syncs {
            self.unit().recorded.borrow_mut().synced();
        }
        self.unit().recorded.borrow_mut().flood(kept, lost);
        self.machine.spread(self.unit);
        if self.machine.nested {
            self.machine.look_at_messages(self.unit);
        }
        result
    }
}

impl Registers for Port<'_> {
    fn read32(&self, offset: u32) -> u32 {
        if offset == reg::EVENTQ_PROD {
            self.unit().recorded.borrow_mut().look();
        }
        let value = self.retrying(|smmu| {
            let value = smmu.read32(offset);
            match (self.machine.mutant, offset) {
                (Mutant::NoWait, reg::CMDQ_CONS) => smmu.read32(reg::CMDQ_PROD),
                (Mutant::NoFenceWait, reg::CR0ACK) => smmu.read32(reg::CR0),
                (Mutant::NoGbpa, reg::GBPA) => 1 << 20,
                _ => value,
            }
        });
        // What is acknowledged here came into force.
        if matches!(offset, reg::CR0ACK | reg::GBPA) {
            self.machine.check();
        }
        self.machine.seam();
        value
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut value = value;
        match (self.machine.mutant, offset) {
            (Mutant::NoGbpa, reg::GBPA) => return,
            (Mutant::NoWrap, reg::CMDQ_PROD) => {
                let base = self.unit().smmu.borrow_mut().read64(reg::CMDQ_BASE);
                value &= (1 << QueueBase::from(base).log2size()) - 1;
            }
            _ => {}
        }
        self.retrying(|smmu| smmu.write32(offset, value));
        if offset == reg::CR0 && value & 1 != 0 {
            self.machine.look_at_stream_table(self.unit());
        }
        match offset {
            // What was cached since the last CMD_SYNC still is.
            reg::CMDQ_PROD | reg::CR0 | reg::GBPA => self.machine.check(),
            reg::EVENTQ_PROD => self.unit().recorded.borrow_mut().clear(),
            _ => {}
        }
        self.machine.seam();
    }

    fn read64(&self, offset: u32) -> u64 {
        self.unit().smmu.borrow_mut().read64(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.unit().smmu.borrow_mut().write64(offset, value);
        if offset == reg::CMDQ_BASE {
            let base = QueueBase::from(value);
            let at = base.addr_5() << 5;
            *self.unit().ring.borrow_mut() = at..at + (Command::SIZE << base.log2size().min(19));
        }
        self.machine.seam();
    }
}

impl Machine {
    /// Time passes for an SMMU: as if somebody looked how far it is.
    pub(crate) fn pass(&self, unit: usize) {
        let port = Port {
            machine: self,
            unit,
        };
        let _ = port.read32(reg::CMDQ_CONS);
    }
}

impl Clock for Machine {
    fn now_us(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }

    fn relax(&self) {
        self.time.set(self.time.get() + 1000);
    }
}
