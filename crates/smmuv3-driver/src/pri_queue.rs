//! The page request queue (IHI 0070, 8.1 and 8.2).

use crate::command_queue::Ring;
use crate::event_queue::Drained;
use crate::smmu::Hardware;
use crate::{Clock, Registers};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use smmuv3_spec::control::OutputIndex;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;

/// The consumer's side of the page request queue.
pub(crate) struct PriQueue {
    pub(crate) base: PhysAddr,
    pub(crate) ring: Ring,
    cons: u32,
    /// The overflow flag last acknowledged.
    acknowledged: bool,
}

impl PriQueue {
    pub(crate) fn new(base: PhysAddr, log2: u8) -> Self {
        Self {
            base,
            ring: Ring::new(log2),
            cons: 0,
            acknowledged: false,
        }
    }

    pub(crate) fn drain<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        limit: u32,
        mut handle: impl FnMut(PageRequest),
    ) -> Drained {
        let mut drained = Drained::default();
        let prod = OutputIndex::from(hw.regs.read32(reg::PRIQ_PROD));
        let end = prod.index() & self.ring.mask();
        let overflow = prod.overflow() != self.acknowledged;
        let mut waiting = self.ring.distance(self.cons, end);
        if waiting > self.ring.entries() {
            drained.inconsistent = true;
            self.cons = end;
            waiting = 0;
        }
        if waiting == 0 && !overflow && !drained.inconsistent {
            return drained;
        }
        drained.more = waiting > limit;
        for _ in 0..waiting.min(limit) {
            let offset = self.ring.slot(self.cons) * PageRequest::SIZE;
            let at = PhysAddr::new(self.base.raw() + offset);
            hw.mem.refresh(at, PageRequest::SIZE);
            let word = |offset| hw.mem.load(PhysAddr::new(at.raw() + offset));
            handle(PageRequest([word(0), word(8)]));
            self.cons = self.ring.next(self.cons);
            drained.events += 1;
        }
        // The records must have been read before the SMMU may overwrite them.
        hw.mem.refresh(self.base, 0);
        hw.mem.publish(self.base, 0);
        // Until all requests are read, the SMMU must continue to answer the
        // requests that it loses: a group whose end is lost would mix with the
        // next group of its index (8.1.1).
        if !drained.more {
            drained.overflowed = overflow;
            self.acknowledged = prod.overflow();
        }
        let cons = OutputIndex::new()
            .with_index(self.cons)
            .with_overflow(self.acknowledged);
        hw.regs.write32(reg::PRIQ_CONS, cons.into());
        drained
    }
}
