//! A machine for tests of single accesses: the model of a GIC, memory of three
//! kinds, and a host that writes what a test says. `rig` has the one for programs.
#![allow(dead_code, reason = "each test file uses its own part")]

use gicv3_its::{
    Clock, DeviceId, DeviceRange, Emulator, LpiCount, Outside, Platform, Progress, RdWrite,
    RedistributorId, Registers, Size, TableMemory, Target, Window, quiesce, quiesce_lpis,
};
use gicv3_model::{Gic, Profile, Ram};
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops;
use std::rc::Rc;

/// The host's memory.
pub const HOST: ops::Range<u64> = 0x4000_0000..0x4100_0000;
const TABLES: ops::Range<u64> = 0x9000_0000..0x9200_0000;
const SHARE: ops::Range<u64> = 0xa000_0000..0xa200_0000;

/// Where the host has its tables.
pub const CONFIGURATION: u64 = HOST.start;
pub const PENDING: u64 = HOST.start + 0x1_0000;
pub const DEVICES: u64 = HOST.start + 0x10_0000;
pub const COLLECTIONS: u64 = HOST.start + 0x20_0000;
pub const QUEUE: u64 = HOST.start + 0x30_0000;
pub const ITT: u64 = HOST.start + 0x80_0000;

pub const CTLR: u32 = 0;
pub const TYPER: u32 = 8;
pub const CBASER: u32 = 0x80;
pub const CWRITER: u32 = 0x88;
pub const CREADR: u32 = 0x90;
pub const BASER: u32 = 0x100;
const VALID: u64 = 1 << 63;

pub struct Machine {
    pub ram: Rc<Ram>,
    pub gic: Gic<Rc<Ram>>,
    next: Cell<u64>,
    live: RefCell<BTreeMap<u64, u64>>,
    /// Bytes given out of the share, ever.
    pub given: Cell<u64>,
    /// Words of tables that were loaded.
    pub loads: Cell<u64>,
    /// Windows that are held.
    pub windows: Cell<u64>,
    pub shown: RefCell<BTreeMap<u32, u64>>,
    time: Cell<u64>,
}

impl Machine {
    pub fn new(profile: Profile) -> Self {
        let ram = Rc::new(Ram::new([HOST, TABLES, SHARE], profile.coherent));
        Self {
            gic: Gic::new(Rc::clone(&ram), profile, 1),
            ram,
            next: Cell::new(TABLES.start),
            live: RefCell::default(),
            given: Cell::new(0),
            loads: Cell::new(0),
            windows: Cell::new(0),
            shown: RefCell::default(),
            time: Cell::new(0),
        }
    }

    pub fn poke(&self, at: u64, value: u64) {
        self.ram.store(PhysAddr::new(at), value);
    }

    pub fn peek(&self, at: u64) -> u64 {
        self.ram.load(PhysAddr::new(at))
    }

    fn zero(&self, at: u64, bytes: u64) {
        for word in (at..at + bytes).step_by(8) {
            self.poke(word, 0);
        }
        self.ram.publish(PhysAddr::new(at), bytes);
    }

    fn host(at: u64, bytes: u64) -> Result<(), Outside> {
        let end = at.checked_add(bytes).ok_or(Outside)?;
        let inside = HOST.start <= at && end <= HOST.end;
        inside.then_some(()).ok_or(Outside)
    }
}

impl Memory for &Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        self.loads.set(self.loads.get() + 1);
        self.ram.load(at)
    }
    fn store(&self, at: PhysAddr, value: u64) {
        self.ram.store(at, value);
    }
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.ram.compare_exchange(at, current, new)
    }
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.ram.publish(at, bytes);
    }
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.ram.refresh(at, bytes);
    }
}

impl TableMemory for &Machine {
    fn take(&self, bytes: u64, alignment: u64) -> Option<PhysAddr> {
        let at = self.next.get().next_multiple_of(alignment);
        assert!(bytes != 0 && at + bytes <= TABLES.end);
        self.next.set(at + bytes);
        self.zero(at, bytes);
        Some(PhysAddr::new(at))
    }
}

impl Allocator for &Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let mut live = self.live.borrow_mut();
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
        self.given.set(self.given.get() + bytes);
        self.zero(at, bytes);
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        assert_eq!(self.live.borrow_mut().remove(&at.raw()), Some(bytes));
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

#[derive(Clone, Copy)]
pub enum Port<'m> {
    Its(&'m Machine),
    Rd(&'m Machine, usize),
}

impl Port<'_> {
    fn read(self, offset: u32, bytes: u32) -> u64 {
        match self {
            Self::Its(machine) => machine.gic.its_read(0, offset, bytes),
            Self::Rd(machine, cpu) => machine.gic.rd_read(cpu, offset, bytes),
        }
    }
    fn write(self, offset: u32, bytes: u32, value: u64) {
        match self {
            Self::Its(machine) => machine.gic.its_write(0, offset, bytes, value),
            Self::Rd(machine, cpu) => machine.gic.rd_write(cpu, offset, bytes, value),
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

pub struct Held<'m> {
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
        self.physical(offset)
            .map_or(0, |at| self.machine.ram.load(at))
    }
    fn store(&self, _offset: u64, _value: u64) {}
    fn store32(&self, _offset: u64, _value: u32) {}
    fn publish(&self, _offset: u64, _bytes: u64) {}
    fn refresh(&self, _offset: u64, _bytes: u64) {}
    fn aborted(&self) -> bool {
        false
    }
}

impl<'m> Platform for &'m Machine {
    type Window = Held<'m>;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        Machine::host(at.raw(), words.len() as u64 * 8)?;
        for (word, at) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            *word = self.ram.load(PhysAddr::new(at));
        }
        Ok(())
    }
    fn store(&self, at: Ipa, value: u64) -> Result<(), Outside> {
        Machine::host(at.raw(), 8)?;
        self.poke(at.raw(), value);
        Ok(())
    }
    fn open(&self, range: Range<Ipa>) -> Result<Held<'m>, Outside> {
        Machine::host(range.start().raw(), range.size())?;
        self.windows.set(self.windows.get() + 1);
        Ok(Held {
            machine: self,
            range,
        })
    }
    fn close(&self, _window: Held<'m>) {
        self.windows.set(self.windows.get() - 1);
    }
    fn show(&self, _its: usize, offset: u32, value: u64) {
        self.shown.borrow_mut().insert(offset, value);
    }
}

/// The host, with one ITS.
pub struct Host<'m> {
    pub machine: &'m Machine,
    pub emulator: Emulator<Port<'m>, &'m Machine, &'m Machine, Held<'m>>,
    queue: u64,
    written: u64,
}

impl<'m> Host<'m> {
    /// With every DeviceID up to `highest`, and the first CPU up.
    pub fn new(machine: &'m Machine, highest: u32) -> Self {
        Self::with_devices(machine, &[(0, highest)])
    }

    /// With these ranges of DeviceIDs, first and last, and the first CPU up.
    pub fn with_devices(machine: &'m Machine, devices: &[(u32, u32)]) -> Self {
        let profile = machine.gic.profile();
        quiesce(&Port::Its(machine), &machine).unwrap();
        for cpu in 0..profile.cpus {
            quiesce_lpis(&Port::Rd(machine, cpu), &machine).unwrap();
        }
        let count = LpiCount::new((profile.id_bits - 1) << 19 | 1 << 17).unwrap();
        let mut emulator = Emulator::new(&machine, machine, machine, count).unwrap();
        for cpu in 0..profile.cpus {
            let target = Target::from_word(profile.rdbase(cpu));
            assert!(emulator.add_redistributor(&machine, RedistributorId(cpu as u8), target));
        }
        let ranges: Vec<DeviceRange> = devices
            .iter()
            .map(|(first, last)| DeviceRange {
                first: DeviceId(*first),
                last: DeviceId(*last),
            })
            .collect();
        let cpus = profile.cpus as u8;
        emulator
            .add_its(&machine, 0, Port::Its(machine), &ranges, cpus)
            .unwrap();
        emulator.start(&machine, 0);
        let mut host = Self {
            machine,
            emulator,
            queue: QUEUE,
            written: 0,
        };
        host.bring_up(0);
        host
    }

    pub fn bring_up(&mut self, cpu: usize) {
        let port = Port::Rd(self.machine, cpu);
        self.emulator
            .enable_redistributor(RedistributorId(cpu as u8), &port)
            .unwrap();
    }

    /// One turn of a write.
    pub fn write_once(&mut self, offset: u32, value: u64) -> Progress {
        let size = if offset == CTLR {
            Size::Word
        } else {
            Size::Double
        };
        self.emulator.write(&self.machine, 0, offset, size, value)
    }

    /// A write, until it is done.
    pub fn write(&mut self, offset: u32, value: u64) {
        let done = (0..10_000).any(|_| self.write_once(offset, value) == Progress::Done);
        assert!(done, "{offset:#x} is never done");
    }

    pub fn write_rd(&mut self, cpu: usize, offset: u32, size: Size, value: u64) {
        let id = RedistributorId(cpu as u8);
        let done = (0..10_000).any(|_| {
            let emulator = &mut self.emulator;
            match emulator.write_redistributor(&self.machine, id, offset, size, value) {
                RdWrite::Emulated(Progress::Again) => false,
                RdWrite::Control(value) => {
                    self.machine.gic.rd_write(cpu, 0, 4, value.into());
                    true
                }
                RdWrite::Emulated(Progress::Done) | RdWrite::Other => true,
            }
        });
        assert!(done);
    }

    /// Gives the ITS flat tables and a queue of 64 KiB at `queue`, and the first
    /// CPU its tables.
    pub fn give_tables(&mut self, queue: u64) {
        // 256 pages of 4 KiB, and one.
        self.write(BASER, VALID | DEVICES | 0xff);
        self.write(BASER + 8, VALID | COLLECTIONS);
        self.give_queue(queue);
    }

    pub fn give_queue(&mut self, queue: u64) {
        self.write(CBASER, VALID | queue | 0xf);
        self.write(CWRITER, 0);
        (self.queue, self.written) = (queue, 0);
    }

    pub fn enable_lpis(&mut self, cpu: usize) {
        self.write_rd(cpu, 0x70, Size::Double, CONFIGURATION | 15);
        self.write_rd(cpu, 0x78, Size::Double, PENDING + 0x1_0000 * cpu as u64);
        self.write_rd(cpu, 0, Size::Word, 1);
    }

    /// Puts commands into the queue; the result is what `GITS_CWRITER` is to be.
    pub fn queue(&mut self, commands: impl IntoIterator<Item = [u64; 4]>) -> u64 {
        for words in commands {
            for (word, at) in words
                .into_iter()
                .zip((self.queue + self.written..).step_by(8))
            {
                self.machine.poke(at, word);
            }
            self.written = (self.written + 32) % 0x1_0000;
        }
        self.written
    }

    pub fn send(&mut self, commands: impl IntoIterator<Item = [u64; 4]>) {
        let end = self.queue(commands);
        self.write(CWRITER, end);
    }

    /// Nothing happened that the architecture forbids.
    pub fn check(&self) {
        assert_eq!(self.machine.gic.take_violations(), []);
        assert_eq!(self.machine.gic.take_refused(), []);
        for access in self.machine.gic.take_accesses() {
            let own = [TABLES, SHARE];
            assert!(
                access.is_within(&own[..1]) || access.is_within(&own[1..]),
                "{access:x?}"
            );
        }
    }
}

pub fn mapd(device: u64, bits: u64) -> [u64; 4] {
    [device << 32 | 8, bits - 1, VALID | ITT, 0]
}
pub fn mapc(collection: u64, target: u64) -> [u64; 4] {
    [9, 0, VALID | target | collection, 0]
}
pub fn mapti(device: u64, event: u64, lpi: u64, collection: u64) -> [u64; 4] {
    [device << 32 | 0xa, lpi << 32 | event, collection, 0]
}
