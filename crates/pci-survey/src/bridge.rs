//! The way to every function.
//!
//! Only one path of bridges is open at a time, and the bridge at depth *n* of it
//! has bus *n* behind it. So the numbers never run out, and no two bridges claim
//! one number: all others on the buses of the path are closed. (PCI-to-PCI Bridge
//! Architecture 1.2, 3.2.5.3 to 3.2.5.5: a bridge forwards what is within its
//! secondary and subordinate bus number; both are 0 after reset.)

use crate::virtio::{Finding, judge};
use crate::{ConfigSpace, Function};
use core::ops::RangeInclusive;

/// Most bridges one behind the other.
pub const DEPTH_LIMIT: usize = 16;

/// Most buses that are looked at: as many as one host bridge can number.
pub const BUS_LIMIT: u32 = 256;

/// Most bridges on the buses of one path.
pub const SAVED_LIMIT: usize = 256;

/// Vendor and device.
const ID: u8 = 0x00;
/// Header type in bits 22:16.
const HEADER: u8 = 0x0c;
/// Primary, secondary and subordinate bus number of a bridge, from bit 0 on; a
/// timer above.
const BUS_NUMBERS: u8 = 0x18;
/// Header type of a PCI-to-PCI bridge.
const BRIDGE: u32 = 1;

/// What a survey saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// How many functions.
    pub functions: u32,
    /// How many bridges were not looked behind: they are too many, too deep, or
    /// there is no bus number for what is behind.
    pub unseen: u32,
}

/// A bridge whose bus numbers are to be put back.
#[derive(Clone, Copy)]
struct Saved {
    bridge: Function,
    numbers: u32,
}

/// A bus that is being looked at.
#[derive(Clone, Copy)]
struct Open {
    /// Its bridges are `saved` from this index on.
    first: usize,
    /// The next of them to be opened.
    next: usize,
}

struct Walk<'s> {
    space: &'s dyn ConfigSpace,
    buses: RangeInclusive<u8>,
    saved: [Option<Saved>; SAVED_LIMIT],
    saved_len: usize,
    /// Buses that may still be looked at: a function that is everywhere makes
    /// paths without number.
    left: u32,
    seen: Survey,
    report: &'s mut dyn FnMut(Function, Finding),
}

/// Looks at every function behind a host bridge whose buses have the numbers
/// `buses`, and hands what is wrong with one to `report`. All that was written
/// has its old value afterwards.
pub fn survey(
    space: &dyn ConfigSpace,
    buses: RangeInclusive<u8>,
    report: &mut dyn FnMut(Function, Finding),
) -> Survey {
    let mut walk = Walk {
        space,
        buses,
        saved: [None; SAVED_LIMIT],
        saved_len: 0,
        left: BUS_LIMIT,
        seen: Survey::default(),
        report,
    };
    walk.all();
    walk.seen
}

impl Walk<'_> {
    fn all(&mut self) {
        let mut path = [Open { first: 0, next: 0 }; DEPTH_LIMIT];
        let Some(root) = self.bus(0) else {
            return;
        };
        let mut depth = 0;
        self.look_at(root);
        loop {
            let Some(open) = path.get_mut(depth) else {
                return;
            };
            let bridge = self.saved.get(open.next).copied().flatten();
            if let Some(saved) = bridge.filter(|_| open.next < self.saved_len) {
                open.next += 1;
                let near = depth + 1 < DEPTH_LIMIT && self.left > 0;
                let behind = self.bus(depth + 1).filter(|_| near);
                let Some(behind) = behind else {
                    self.seen.unseen += 1;
                    continue;
                };
                self.open(saved, behind);
                let first = self.saved_len;
                self.look_at(behind);
                depth += 1;
                if let Some(slot) = path.get_mut(depth) {
                    *slot = Open { first, next: first };
                }
                continue;
            }
            // All behind this bus was seen.
            let first = open.first;
            self.put_back(first);
            let Some(above) = depth.checked_sub(1) else {
                return;
            };
            depth = above;
            // The bridge that led here is the last one that was opened.
            let opened = path.get(depth).and_then(|open| open.next.checked_sub(1));
            let opened = opened.and_then(|index| self.saved.get(index).copied().flatten());
            if let Some(saved) = opened {
                self.close(saved);
            }
        }
    }

    /// The number of the bus at a depth of the path.
    fn bus(&self, depth: usize) -> Option<u8> {
        let depth = u8::try_from(depth).ok()?;
        let bus = self.buses.start().checked_add(depth)?;
        self.buses.contains(&bus).then_some(bus)
    }

    /// Judges every function of a bus and closes its bridges.
    fn look_at(&mut self, bus: u8) {
        self.left = self.left.saturating_sub(1);
        // Every number, since the functions of one device need not start at 0
        // (PCI Express 5.0, 6.13).
        for devfn in 0..=u8::MAX {
            let function = Function { bus, devfn };
            let id = self.space.read(function, ID);
            // All ones is no vendor, and neither is 0 (PCI 3.0, 6.2.1).
            if matches!(id & 0xffff, 0 | 0xffff) {
                continue;
            }
            self.seen.functions += 1;
            let header = self.space.read(function, HEADER) >> 16 & 0x7f;
            if header == BRIDGE {
                self.save(function);
            } else if let Some(finding) = judge(self.space, function, id) {
                (self.report)(function, finding);
            }
        }
    }

    fn save(&mut self, bridge: Function) {
        let numbers = self.space.read(bridge, BUS_NUMBERS);
        let saved = Saved { bridge, numbers };
        match self.saved.get_mut(self.saved_len) {
            Some(slot) => {
                *slot = Some(saved);
                self.saved_len += 1;
                self.close(saved);
            }
            None => self.seen.unseen += 1,
        }
    }

    /// Has a bridge lead to the bus `behind`.
    fn open(&self, saved: Saved, behind: u8) {
        let numbers = [saved.bridge.bus, behind, *self.buses.end()];
        let numbers = numbers
            .iter()
            .rev()
            .fold(0, |all, n| all << 8 | u32::from(*n));
        self.set(saved, numbers);
    }

    /// Has a bridge lead nowhere.
    fn close(&self, saved: Saved) {
        self.set(saved, 0);
    }

    fn set(&self, saved: Saved, numbers: u32) {
        const TIMER: u32 = 0xff00_0000;
        let value = saved.numbers & TIMER | numbers & !TIMER;
        self.space.write(saved.bridge, BUS_NUMBERS, value);
    }

    /// Gives the bridges from `first` on, those of one bus, their numbers back.
    fn put_back(&mut self, first: usize) {
        while self.saved_len > first {
            self.saved_len -= 1;
            let slot = self.saved.get_mut(self.saved_len);
            if let Some(saved) = slot.and_then(Option::take) {
                self.space.write(saved.bridge, BUS_NUMBERS, saved.numbers);
            }
        }
    }
}
