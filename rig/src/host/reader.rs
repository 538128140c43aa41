//! What is read of a physical event queue, and what the host learns of it.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::given_id;
use smmuv3_driver::{Drained, Event};
use smmuv3_emulator::{Delivery, EventReport};
use smmuv3_spec::control::QueueBase;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::{StreamId, reg};

/// Reads while the emulation waits for them.
pub(crate) struct Reader<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) unit: usize,
    pub(crate) read: Vec<EventRecord>,
}

impl EventReport for Reader<'_> {
    fn event(&mut self, event: &Event, delivery: Delivery) {
        self.read.push(event.0);
        self.machine.look_at_told(self.unit, &event.0, delivery);
    }

    fn drained(&mut self, drained: &Drained) {
        let read = std::mem::take(&mut self.read);
        self.machine.look_at_drained(self.unit, &read, *drained);
    }
}

impl Machine {
    /// The driver hands on what the SMMU recorded, in order.
    pub(crate) fn look_at_drained(&self, unit: usize, read: &[EventRecord], drained: Drained) {
        let checked = self.units[unit].recorded.borrow_mut().check(read, drained);
        if let Err(number) = checked {
            self.find(Finding::Events(number));
        }
    }

    /// The host was told of its own events, and of nothing else: of what it
    /// reads, nothing is another's, neither the stream nor an address of stage
    /// 2.
    pub(crate) fn look_at_told(&self, unit: usize, record: &EventRecord, delivery: Delivery) {
        let emulated = &self.units[unit].emulated;
        let id = record.stream_bits();
        let given = given_id(id, self.units.len()).is_some();
        if given != (delivery != Delivery::NotOwned) {
            return self.find(Finding::Told(record.stream()));
        }
        emulated.told.set(emulated.told.get() + u64::from(given));
        let after = self.shown(unit, reg::EVENTQ_PROD);
        let Some(before) = emulated.event_prod.replace(None) else {
            return;
        };
        if (before ^ after) & 0x7fff_ffff == 0 {
            return;
        }
        let base = QueueBase::from(self.shown64(unit, reg::EVENTQ_BASE));
        let log2 = base.log2size().min(15);
        let bytes = EventRecord::SIZE << log2;
        let slot = u64::from(before) & ((1 << log2) - 1);
        let at = (base.addr_5() << 5 & !(bytes - 1)) + slot * EventRecord::SIZE;
        let word = |n: u64| self.ram.borrow().load(at + n * 8).unwrap_or(0);
        let told = EventRecord([word(0), word(1), word(2), word(3)]);
        let stage2 = told.kind().is_translation_fault() && told.s2();
        if !given || told.stream_bits() != id || stage2 {
            self.find(Finding::Told(StreamId(told.stream_bits())));
        }
    }
}
