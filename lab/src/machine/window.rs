//! The host's machine, as its emulated SMMU reaches it.

use super::Machine;
use super::memory::SHOWN;
use portcullis_addr::{Ipa, PhysAddr, Range};
use smmuv3_emulator::{Line, Outside, Platform, Window};

/// Memory of the host's that is held. It never changes hands here.
pub(super) struct Held<'m> {
    machine: &'m Machine,
    range: Range<Ipa>,
}

impl Held<'_> {
    fn at(&self, offset: u64, bytes: u64) -> Option<u64> {
        let end = offset.checked_add(bytes)?;
        (end <= self.range.size()).then(|| self.range.start().raw() + offset)
    }
}

impl Window for Held<'_> {
    fn range(&self) -> Range<Ipa> {
        self.range
    }

    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        self.at(offset, 1).map(PhysAddr::new)
    }

    fn load(&self, offset: u64) -> u64 {
        self.at(offset, 8).map_or(0, |at| self.machine.load(at))
    }

    fn store(&self, offset: u64, value: u64) {
        if let Some(at) = self.at(offset, 8) {
            self.machine.store(at, value);
        }
    }

    fn store32(&self, offset: u64, value: u32) {
        if let Some(at) = self.at(offset, 4) {
            self.machine.store32(at, value);
        }
    }

    fn publish(&self, _offset: u64, _bytes: u64) {}

    fn refresh(&self, _offset: u64, _bytes: u64) {}

    fn aborted(&self) -> bool {
        false
    }
}

/// The platform of the emulated SMMU.
#[derive(Clone, Copy)]
pub(super) struct Side<'m>(pub(super) &'m Machine);

impl Side<'_> {
    fn is_of_host(&self, at: u64, bytes: u64) -> bool {
        let ram = self.0.host_ram();
        let end = at.checked_add(bytes);
        at >= ram.start().raw() && end.is_some_and(|end| end <= ram.end().raw())
    }

    /// What the host reads from a register of 32 bits.
    pub(super) fn shown(&self, offset: u32) -> u32 {
        self.0.load32(SHOWN + u64::from(offset))
    }
}

impl<'m> Platform for Side<'m> {
    type Window = Held<'m>;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        for (word, at) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            if !self.is_of_host(at, 8) {
                return Err(Outside);
            }
            *word = self.0.load(at);
        }
        Ok(())
    }

    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside> {
        if !self.is_of_host(at.raw(), 4) {
            return Err(Outside);
        }
        self.0.store32(at.raw(), value);
        Ok(())
    }

    fn open(&self, range: Range<Ipa>) -> Result<Held<'m>, Outside> {
        if !self.is_of_host(range.start().raw(), range.size()) {
            return Err(Outside);
        }
        Ok(Held {
            machine: self.0,
            range,
        })
    }

    fn close(&self, _window: Held<'m>) {}

    fn show(&self, offset: u32, value: u32) {
        self.0.store32(SHOWN + u64::from(offset), value);
    }

    fn shown_at(&self, offset: u32) -> Option<PhysAddr> {
        Some(PhysAddr::new(SHOWN + u64::from(offset)))
    }

    fn raise(&self, _line: Line) {}
}
