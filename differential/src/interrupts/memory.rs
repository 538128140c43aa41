//! The machine below our emulated ITS: memory, and the model of a GIC.

use super::layout::{CPUS, HOST};
use gicv3_its::{Clock, Outside, Platform, Registers, TableMemory, Window};
use gicv3_model::{Caching, Gic, Pace, Profile, Ram};
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// EL2's memory for tables that last.
const TABLES: std::ops::Range<u64> = 0x9000_0000..0x9020_0000;
/// EL2's memory for what depends on the host's devices: two pages for each, and
/// more.
const SHARE: std::ops::Range<u64> = 0xa000_0000..0xa010_0000;

/// What is below the emulation.
pub struct Machine {
    pub(super) gic: Gic<Rc<Ram>>,
    pub(super) ram: Rc<Ram>,
    /// What of the tables' memory is given out.
    next: Cell<u64>,
    /// Given out of the share, with its bytes.
    live: RefCell<BTreeMap<u64, u64>>,
    /// What the host reads of ITS registers.
    pub(super) shown: RefCell<BTreeMap<u32, u64>>,
    time: Cell<u64>,
}

impl Machine {
    /// A new one. A greedy GIC caches all that it may, and is late.
    #[must_use]
    pub fn new(greedy: bool) -> Rc<Self> {
        let mut profile = Profile {
            cpus: CPUS,
            ..Profile::qemu()
        };
        if greedy {
            profile.caching = Caching::Greedy;
            profile.pace = Pace::OnPoll;
        }
        let ram = Rc::new(Ram::new([HOST, TABLES, SHARE], profile.coherent));
        Rc::new(Self {
            gic: Gic::new(Rc::clone(&ram), profile, 1),
            ram,
            next: Cell::new(TABLES.start),
            live: RefCell::default(),
            shown: RefCell::default(),
            time: Cell::new(0),
        })
    }

    fn host(at: u64, bytes: u64) -> Result<(), Outside> {
        let end = at.checked_add(bytes).ok_or(Outside)?;
        let inside = HOST.start <= at && end <= HOST.end;
        inside.then_some(()).ok_or(Outside)
    }

    pub(super) fn zero(&self, at: u64, bytes: u64) {
        for word in (at..at + bytes).step_by(8) {
            self.ram.store(PhysAddr::new(word), 0);
        }
        self.ram.publish(PhysAddr::new(at), bytes);
    }
}

/// EL2's way to it.
#[derive(Clone)]
pub struct Way(pub(super) Rc<Machine>);

impl Memory for Way {
    fn load(&self, at: PhysAddr) -> u64 {
        self.0.ram.load(at)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.0.ram.store(at, value);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.0.ram.compare_exchange(at, current, new)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.0.ram.publish(at, bytes);
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.0.ram.refresh(at, bytes);
    }
}

impl TableMemory for Way {
    fn take(&self, bytes: u64, alignment: u64) -> Option<PhysAddr> {
        let at = self.0.next.get().checked_next_multiple_of(alignment)?;
        let end = at.checked_add(bytes)?;
        if end > TABLES.end {
            return None;
        }
        // Memory is zeroed when it is made.
        self.0.next.set(end);
        Some(PhysAddr::new(at))
    }
}

impl Allocator for Way {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let mut live = self.0.live.borrow_mut();
        let mut at = SHARE.start;
        for (start, size) in live.iter() {
            if at + bytes <= *start {
                break;
            }
            at = at.max((start + size).next_multiple_of(bytes));
        }
        if at + bytes > SHARE.end {
            return None;
        }
        live.insert(at, bytes);
        drop(live);
        self.0.zero(at, bytes);
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, _bytes: u64) {
        self.0.live.borrow_mut().remove(&at.raw());
    }
}

impl Clock for Way {
    fn now_us(&self) -> u64 {
        self.0.time.set(self.0.time.get() + 1);
        self.0.time.get()
    }

    fn relax(&self) {
        self.0.time.set(self.0.time.get() + 500);
        self.0.gic.step();
    }
}

/// A frame of the GIC's.
#[derive(Clone)]
pub enum Port {
    /// The control frame of the ITS.
    Its(Rc<Machine>),
    /// The RD frame of a redistributor.
    Rd(Rc<Machine>, usize),
}

impl Port {
    fn read(&self, offset: u32, bytes: u32) -> u64 {
        match self {
            Self::Its(machine) => machine.gic.its_read(0, offset, bytes),
            Self::Rd(machine, cpu) => machine.gic.rd_read(*cpu, offset, bytes),
        }
    }

    fn write(&self, offset: u32, bytes: u32, value: u64) {
        match self {
            Self::Its(machine) => machine.gic.its_write(0, offset, bytes, value),
            Self::Rd(machine, cpu) => machine.gic.rd_write(*cpu, offset, bytes, value),
        }
    }
}

impl Registers for Port {
    fn read32(&self, offset: u32) -> u32 {
        // Truncation: 32 bits are read.
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
pub struct Held {
    machine: Rc<Machine>,
    range: Range<Ipa>,
}

impl Window for Held {
    fn range(&self) -> Range<Ipa> {
        self.range
    }

    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        (offset < self.range.size()).then(|| PhysAddr::new(self.range.start().raw() + offset))
    }

    fn load(&self, offset: u64) -> u64 {
        let at = self.physical(offset);
        at.map_or(0, |at| self.machine.ram.load(at))
    }

    fn store(&self, _offset: u64, _value: u64) {}

    fn store32(&self, _offset: u64, _value: u32) {}

    fn publish(&self, _offset: u64, _bytes: u64) {}

    fn refresh(&self, _offset: u64, _bytes: u64) {}

    fn aborted(&self) -> bool {
        false
    }
}

impl Platform for Way {
    type Window = Held;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        Machine::host(at.raw(), words.len() as u64 * 8)?;
        for (at, word) in (at.raw()..).step_by(8).zip(words) {
            *word = self.0.ram.load(PhysAddr::new(at));
        }
        Ok(())
    }

    fn store(&self, at: Ipa, value: u64) -> Result<(), Outside> {
        Machine::host(at.raw(), 8)?;
        self.0.ram.store(PhysAddr::new(at.raw()), value);
        Ok(())
    }

    fn open(&self, range: Range<Ipa>) -> Result<Held, Outside> {
        Machine::host(range.start().raw(), range.size())?;
        Ok(Held {
            machine: Rc::clone(&self.0),
            range,
        })
    }

    fn close(&self, _window: Held) {}

    fn show(&self, _its: usize, offset: u32, value: u64) {
        self.0.shown.borrow_mut().insert(offset, value);
    }
}
