//! The owner's machine.

use super::{Hardware, IPA, PHYS, SIZE};
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::Memory;
use smmuv3_emulator::{Line, Outside, Platform, Window};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The owner's machine.
#[derive(Clone, Copy)]
pub struct Board<'a> {
    pub hw: &'a Hardware,
    pub side: &'a Side,
}

#[derive(Default)]
pub struct Side {
    shown: RefCell<BTreeMap<u32, u32>>,
    pub raised: RefCell<Vec<Line>>,
    /// Words of the owner's memory that were read, by address.
    pub reads: RefCell<BTreeMap<u64, u32>>,
}

impl Side {
    pub fn shown(&self, offset: u32) -> u32 {
        self.shown.borrow().get(&offset).copied().unwrap_or(0)
    }
}

fn inside(range: Range<Ipa>) -> bool {
    range.start().raw() >= IPA && range.end().raw() <= IPA + SIZE
}

pub const fn phys(ipa: u64) -> PhysAddr {
    PhysAddr::new(ipa - IPA + PHYS)
}

pub struct Held<'a> {
    range: Range<Ipa>,
    hw: &'a Hardware,
}

impl Held<'_> {
    fn at(&self, offset: u64) -> PhysAddr {
        assert!(offset < self.range.size(), "outside of the window");
        phys(self.range.start().raw() + offset)
    }
}

impl Window for Held<'_> {
    fn range(&self) -> Range<Ipa> {
        self.range
    }
    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        (offset < self.range.size()).then(|| self.at(offset))
    }
    fn load(&self, offset: u64) -> u64 {
        self.hw.load(self.at(offset))
    }
    fn store(&self, offset: u64, value: u64) {
        self.hw.store(self.at(offset), value);
    }
    fn store32(&self, offset: u64, value: u32) {
        store32(self.hw, self.at(offset), value);
    }
    fn publish(&self, offset: u64, bytes: u64) {
        self.hw.publish(self.at(offset), bytes);
    }
    fn refresh(&self, offset: u64, bytes: u64) {
        self.hw.refresh(self.at(offset), bytes);
    }

    fn aborted(&self) -> bool {
        false
    }
}

fn store32(hw: &Hardware, at: PhysAddr, value: u32) {
    let word = PhysAddr::new(at.raw() & !7);
    let shift = (at.raw() & 4) * 8;
    let old = hw.load(word);
    hw.store(
        word,
        old & !(0xffff_ffff << shift) | u64::from(value) << shift,
    );
}

impl<'a> Platform for Board<'a> {
    type Window = Held<'a>;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        let range = Range::from_size(at, words.len() as u64 * 8).map_err(|_| Outside)?;
        if !inside(range) {
            return Err(Outside);
        }
        for (word, ipa) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            *self.side.reads.borrow_mut().entry(ipa).or_default() += 1;
            *word = self.hw.load(phys(ipa));
        }
        Ok(())
    }

    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside> {
        let range = Range::from_size(at, 4).map_err(|_| Outside)?;
        if !inside(range) {
            return Err(Outside);
        }
        store32(self.hw, phys(at.raw()), value);
        Ok(())
    }

    fn open(&self, range: Range<Ipa>) -> Result<Held<'a>, Outside> {
        inside(range)
            .then_some(Held { range, hw: self.hw })
            .ok_or(Outside)
    }

    fn close(&self, _: Held<'a>) {}

    fn show(&self, offset: u32, value: u32) {
        self.side.shown.borrow_mut().insert(offset, value);
    }

    fn shown_at(&self, _: u32) -> Option<PhysAddr> {
        None
    }

    fn raise(&self, line: Line) {
        self.side.raised.borrow_mut().push(line);
    }
}
