//! The machine: memory of three kinds, the GIC, and what EL2 sees of them.

use super::found;
use super::layout::{EARLIER, HOST, SHARE, TABLES};
use super::op::GicSetup;
use crate::finding::Finding;
use gicv3_its::{Clock, Outside, Platform, Registers, TableMemory, Window};
use gicv3_model::{Gic, Ram};
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops;
use std::rc::Rc;

pub(super) type Physical = Gic<Rc<Ram>>;

pub(super) struct Machine {
    pub(super) setup: GicSetup,
    pub(super) ram: Rc<Ram>,
    pub(super) gic: Physical,
    /// Given out for good, and the end of that.
    taken: RefCell<Vec<ops::Range<u64>>>,
    next: Cell<u64>,
    /// Given out of the share, with its bytes.
    live: RefCell<BTreeMap<u64, u64>>,
    /// What the earlier owner's GIC may still use.
    pub(super) earlier: Cell<bool>,
    /// Allocations that still succeed.
    pub(super) starve: Cell<Option<u8>>,
    /// An allocation failed.
    pub(super) starved: Cell<bool>,
    /// Accesses of EL2's in this call.
    pub(super) work: Cell<u64>,
    /// Accesses since the start, to decide who does something in between.
    ticks: Cell<u64>,
    pub(super) finding: RefCell<Option<Finding>>,
    /// Pages that are the host's no more.
    pub(super) revoked: RefCell<BTreeSet<u64>>,
    /// What the host reads of ITS registers.
    pub(super) shown: RefCell<BTreeMap<(usize, u32), u64>>,
    /// What the host does in the middle: after how many accesses, where, what.
    pub(super) pokes: RefCell<VecDeque<(u8, u64, u64)>>,
    /// Windows that are held.
    pub(super) windows: Cell<u64>,
    time: Cell<u64>,
}

impl Machine {
    pub(super) fn new(setup: GicSetup) -> Self {
        let profile = setup.gic();
        let share = SHARE..SHARE + setup.share;
        let banks = [HOST, EARLIER, TABLES, share];
        let ram = Rc::new(Ram::new(banks, profile.coherent));
        Self {
            setup,
            gic: Gic::new(Rc::clone(&ram), profile, setup.seed),
            ram,
            taken: RefCell::default(),
            next: Cell::new(TABLES.start),
            live: RefCell::default(),
            earlier: Cell::new(setup.used),
            starve: Cell::new(None),
            starved: Cell::new(false),
            work: Cell::new(0),
            ticks: Cell::new(setup.seed),
            finding: RefCell::default(),
            revoked: RefCell::default(),
            shown: RefCell::default(),
            pokes: RefCell::default(),
            windows: Cell::new(0),
            time: Cell::new(0),
        }
    }

    pub(super) fn find(&self, text: String) {
        self.finding.borrow_mut().get_or_insert_with(|| found(text));
    }

    /// One access of EL2's: others may do something.
    fn tick(&self) {
        self.work.set(self.work.get() + 1);
        let ticks = self
            .ticks
            .get()
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        self.ticks.set(ticks);
        match ticks >> 58 {
            0..8 => self.gic.step(),
            8 => self.ram.evict(ticks),
            _ => {}
        }
        let mut pokes = self.pokes.borrow_mut();
        if let Some((after, at, value)) = pokes.front_mut() {
            if *after == 0 {
                self.ram.store(PhysAddr::new(*at), *value);
                pokes.pop_front();
            } else {
                *after -= 1;
            }
        }
    }

    /// Whether EL2 was given all of these bytes.
    fn is_given(&self, at: u64, bytes: u64) -> bool {
        let end = at.saturating_add(bytes);
        let whole = |start: u64, stop: u64| start <= at && end <= stop;
        let live = self.live.borrow();
        let below = live.range(..=at).next_back();
        below.is_some_and(|(start, bytes)| whole(*start, start + bytes))
            || self
                .taken
                .borrow()
                .iter()
                .any(|range| whole(range.start, range.end))
    }

    /// What the GIC did since the last time is looked at.
    pub(super) fn check_accesses(&self) {
        for access in self.gic.take_accesses() {
            let earlier = self.earlier.get() && access.is_within(std::slice::from_ref(&EARLIER));
            if !earlier && !self.is_given(access.at, access.bytes) {
                self.find(format!(
                    "the GIC's access is outside its memory: {access:x?}"
                ));
            }
        }
        if let Some(at) = self.ram.take_outside().first() {
            self.find(format!("access to {at:#x}, where there is no memory"));
        }
    }

    /// Where a page is, if the host has it.
    fn host(&self, at: u64, bytes: u64) -> Result<(), Outside> {
        let end = at.checked_add(bytes).ok_or(Outside)?;
        let inside = HOST.start <= at && end <= HOST.end;
        let revoked = self.revoked.borrow();
        let mut pages = at >> 12..end.div_ceil(4096);
        if inside && !pages.any(|page| revoked.contains(&page)) {
            Ok(())
        } else {
            Err(Outside)
        }
    }

    /// What the host stores.
    pub(super) fn poke(&self, at: u64, value: u64) {
        self.ram.store(PhysAddr::new(at), value);
    }

    fn zero(&self, at: u64, bytes: u64) {
        for word in (at..at + bytes).step_by(8) {
            self.ram.store(PhysAddr::new(word), 0);
        }
        self.ram.publish(PhysAddr::new(at), bytes);
    }
}

impl Memory for &Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        self.tick();
        if !self.is_given(at.raw(), 8) {
            self.find(format!("EL2 reads {at}, which it was not given"));
            return 0;
        }
        self.ram.load(at)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.tick();
        if !self.is_given(at.raw(), 8) {
            self.find(format!("EL2 writes {at}, which it was not given"));
            return;
        }
        self.ram.store(at, value);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.tick();
        self.ram.compare_exchange(at, current, new)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.tick();
        self.ram.publish(at, bytes);
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.tick();
        self.ram.refresh(at, bytes);
    }
}

impl TableMemory for &Machine {
    fn take(&self, bytes: u64, alignment: u64) -> Option<PhysAddr> {
        if !alignment.is_power_of_two() || alignment < 4096 || bytes == 0 {
            self.find(format!(
                "{bytes:#x} bytes at a multiple of {alignment:#x} asked for"
            ));
        }
        let at = self.next.get().checked_next_multiple_of(alignment)?;
        let end = at.checked_add(bytes)?;
        if end > TABLES.end {
            return None;
        }
        self.next.set(end);
        self.zero(at, bytes.next_multiple_of(8));
        self.taken.borrow_mut().push(at..end);
        Some(PhysAddr::new(at))
    }
}

impl Allocator for &Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.check_accesses();
        if let Some(after) = self.starve.get() {
            if after == 0 {
                self.starved.set(true);
                return None;
            }
            self.starve.set(Some(after - 1));
        }
        if !bytes.is_power_of_two() || bytes < 8 {
            self.find(format!("{bytes:#x} bytes asked for"));
            return None;
        }
        let mut live = self.live.borrow_mut();
        let mut at = SHARE.next_multiple_of(bytes);
        for (start, size) in live.iter() {
            if at + bytes <= *start {
                break;
            }
            at = at.max((start + size).next_multiple_of(bytes));
        }
        if at + bytes > SHARE + self.setup.share {
            self.starved.set(true);
            return None;
        }
        live.insert(at, bytes);
        drop(live);
        // A page at a time is work, as it is for EL2.
        self.work.set(self.work.get() + bytes / 4096);
        self.zero(at, bytes);
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        // What it did before is judged by what it had before.
        self.check_accesses();
        let size = self.live.borrow_mut().remove(&at.raw());
        if size != Some(bytes) {
            self.find(format!(
                "{at} of {bytes:#x} bytes given back, where {size:x?} was given"
            ));
        }
    }
}

impl Clock for &Machine {
    fn now_us(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }

    fn relax(&self) {
        self.time.set(self.time.get() + 500);
        self.gic.step();
    }
}

/// A frame of the GIC's.
#[derive(Clone, Copy)]
pub(super) enum Port<'m> {
    Its(&'m Machine, usize),
    Rd(&'m Machine, usize),
}

impl Port<'_> {
    fn read(&self, offset: u32, bytes: u32) -> u64 {
        match self {
            Self::Its(machine, its) => {
                machine.tick();
                machine.gic.its_read(*its, offset, bytes)
            }
            Self::Rd(machine, cpu) => {
                machine.tick();
                machine.gic.rd_read(*cpu, offset, bytes)
            }
        }
    }

    fn write(&self, offset: u32, bytes: u32, value: u64) {
        match self {
            Self::Its(machine, its) => {
                machine.tick();
                machine.gic.its_write(*its, offset, bytes, value);
            }
            Self::Rd(machine, cpu) => {
                machine.tick();
                machine.gic.rd_write(*cpu, offset, bytes, value);
            }
        }
    }
}

impl Registers for Port<'_> {
    fn read32(&self, offset: u32) -> u32 {
        self.read(offset, 4) as u32
    }

    fn write32(&self, offset: u32, value: u32) {
        self.write(offset, 4, value.into());
    }

    fn read64(&self, offset: u32) -> u64 {
        self.read(offset, 8)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.write(offset, 8, value);
    }
}

/// Memory of the host's that is held.
pub(super) struct Held<'m> {
    machine: &'m Machine,
    range: Range<Ipa>,
}

impl Window for Held<'_> {
    fn range(&self) -> Range<Ipa> {
        self.range
    }

    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        (offset < self.range.size()).then(|| PhysAddr::new(self.range.start().raw() + offset))
    }

    fn load(&self, offset: u64) -> u64 {
        self.machine.tick();
        if !offset.is_multiple_of(8) || offset + 8 > self.range.size() {
            self.machine
                .find(format!("load at {offset:#x} of a window"));
            return 0;
        }
        let at = self.range.start().raw() + offset;
        self.machine.ram.load(PhysAddr::new(at))
    }

    fn store(&self, offset: u64, _value: u64) {
        self.machine
            .find(format!("store at {offset:#x} of a command queue"));
    }

    fn store32(&self, offset: u64, value: u32) {
        self.store(offset, value.into());
    }

    fn publish(&self, _offset: u64, _bytes: u64) {
        self.machine.tick();
    }

    fn refresh(&self, _offset: u64, _bytes: u64) {
        self.machine.tick();
    }

    fn aborted(&self) -> bool {
        false
    }
}

impl<'m> Platform for &'m Machine {
    type Window = Held<'m>;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        self.tick();
        let (at, bytes) = (at.raw(), words.len() as u64 * 8);
        let one_page = at >> 12 == at.saturating_add(bytes.saturating_sub(1)) >> 12;
        if at % 8 != 0 || bytes > 512 || !one_page {
            self.find(format!(
                "{bytes} bytes read at {at:#x} of the host's memory"
            ));
        }
        self.work.set(self.work.get() + words.len() as u64 / 8);
        self.host(at, bytes)?;
        for (n, word) in (0..).zip(words.iter_mut()) {
            *word = self.ram.load(PhysAddr::new(at + n * 8));
        }
        Ok(())
    }

    fn store(&self, at: Ipa, value: u64) -> Result<(), Outside> {
        self.tick();
        if !at.raw().is_multiple_of(8) {
            self.find(format!("store at {at} of the host's memory"));
        }
        self.host(at.raw(), 8)?;
        self.ram.store(PhysAddr::new(at.raw()), value);
        Ok(())
    }

    fn open(&self, range: Range<Ipa>) -> Result<Held<'m>, Outside> {
        self.tick();
        if range.size() > 1 << 20 {
            self.find(format!("{:#x} bytes to be held", range.size()));
        }
        self.host(range.start().raw(), range.size())?;
        self.windows.set(self.windows.get() + 1);
        Ok(Held {
            machine: self,
            range,
        })
    }

    fn close(&self, _window: Held<'m>) {
        self.windows.set(self.windows.get() - 1);
    }

    fn show(&self, its: usize, offset: u32, value: u64) {
        self.tick();
        if !offset.is_multiple_of(8) {
            self.find(format!("register {offset:#x} shown"));
        }
        self.shown.borrow_mut().insert((its, offset), value);
    }
}
