//! Memory of the host's that its emulated SMMU holds.

use crate::finding::Finding;
use crate::machine::Machine;
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_ownership::Owner;
use smmuv3_emulator::Window;

/// Pages that are pinned.
pub(crate) struct Held<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) unit: usize,
    pub(crate) number: u64,
    pub(crate) range: Range<Ipa>,
}

impl Held<'_> {
    /// The address of an access that lies inside, where the host still has the
    /// page: it must, for it is pinned.
    fn at(&self, offset: u64, bytes: u64) -> Option<u64> {
        self.machine.worked(self.unit);
        let end = offset.checked_add(bytes)?;
        if !offset.is_multiple_of(bytes) || end > self.range.size() {
            return None;
        }
        let at = self.range.start().raw() + offset;
        let page = PhysAddr::new(at);
        let entry = self.machine.with_ledger(|ledger| ledger.entry(page));
        if !entry.is_some_and(|e| e.owner() == Owner::HOST && e.dma_count() > 0) {
            self.machine.find(Finding::Memory(at));
            return None;
        }
        Some(at)
    }
}

impl Window for Held<'_> {
    fn range(&self) -> Range<Ipa> {
        self.range
    }

    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        let inside = offset < self.range.size();
        inside.then(|| PhysAddr::new(self.range.start().raw() + offset))
    }

    fn load(&self, offset: u64) -> u64 {
        let Some(at) = self.at(offset, 8) else {
            return 0;
        };
        let value = self.machine.ram.borrow().load(at).unwrap_or(0);
        let emulated = &self.machine.units[self.unit].emulated;
        emulated.commands.borrow_mut().load(at, value);
        // Somebody may store right after.
        self.machine.seam();
        value
    }

    fn store(&self, offset: u64, value: u64) {
        if let Some(at) = self.at(offset, 8) {
            self.machine.raw_store(at, value);
        }
    }

    fn store32(&self, offset: u64, value: u32) {
        if let Some(at) = self.at(offset, 4) {
            self.machine.raw_store32(at, value);
        }
    }

    fn publish(&self, offset: u64, bytes: u64) {
        if let Some(first) = self.machine.units.first() {
            let at = self.range.start().raw() + offset;
            first.smmu.borrow_mut().publish(at, bytes);
        }
        self.machine.seam();
    }

    fn refresh(&self, offset: u64, bytes: u64) {
        if let Some(first) = self.machine.units.first() {
            let at = self.range.start().raw() + offset;
            first.smmu.borrow_mut().refresh(at, bytes);
        }
    }

    fn aborted(&self) -> bool {
        false
    }
}
