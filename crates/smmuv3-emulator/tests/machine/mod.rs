//! A host's emulated SMMU on top of a model of the physical one: driver, stage
//! 2 and emulation are the real ones. Used by the conformance test, by the fuzz
//! target `emulator` and by the test that replays its corpus.
#![allow(dead_code)]

use portcullis_addr::{Identity, Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2 as Stage2Format, Stage2Attributes, Table,
};
use smmuv3_driver::{self as driver, Answer, Clock, Config, Registers, Stage2};
use smmuv3_emulator::{
    AssignedStreams, ConfinedSmmu, Delivery, Emulator, IdConfig, Line, Outside, PageDelivery,
    Platform, Progress, Size, Window,
};
use smmuv3_model::{Mode, Profile, Ram, Refusal, Signal, Smmu, Transaction};
use smmuv3_spec::command::Command;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, Vmid, reg};
use std::cell::{Cell, RefCell};
use std::ops;
use std::rc::Rc;

/// The host's memory.
pub const RAM: ops::Range<u64> = 0x8000_0000..0x8040_0000;
/// Where tables and queues of the physical SMMU lie.
pub const POOL: ops::Range<u64> = 0x9000_0000..0x9020_0000;
/// The registers that the host reads.
pub const SHOWN: ops::Range<u64> = 0xb900_0000..0xb902_0000;
/// Where devices and SMMUs send messages.
pub const DOORBELL: ops::Range<u64> = 0x0809_0000..0x0809_1000;
/// Streams that the host was assigned, first and last.
pub const STREAMS: (u32, u32) = (0, 255);
/// The first of them are functions of PCI Express.
pub const PCIE: u32 = 64;
const GIVEN: [AssignedStreams; 2] = [
    assigned(0, PCIE, true),
    assigned(PCIE, STREAMS.1 + 1 - PCIE, false),
];

const fn assigned(first: u32, count: u32, pcie: bool) -> AssignedStreams {
    AssignedStreams {
        first: StreamId(first),
        physical: StreamId(first),
        count,
        pcie,
    }
}

/// Most accesses that one write of a register may cost.
const MOST_WORK: u64 = 100_000;
/// Times that an unfinished write is repeated.
const PATIENCE: u32 = 10_000;

/// The hardware, and the seams.
pub struct Inner {
    pub smmu: RefCell<Smmu>,
    pub ram: RefCell<Ram>,
    free: Cell<u64>,
    time: Cell<u64>,
    /// Ranges that are held.
    pub held: RefCell<Vec<(u64, Range<Ipa>)>>,
    next: Cell<u64>,
    work: Cell<u64>,
    /// Interrupts by wire since the last call of [`Machine::take_lines`].
    lines: RefCell<Vec<Line>>,
    /// Words of the host's memory that the emulation stored to.
    stores: RefCell<Vec<u64>>,
    /// The physical SMMU may store to the registers.
    messages: bool,
}

/// A handle to it.
#[derive(Clone)]
pub struct Hardware(pub Rc<Inner>);

impl Inner {
    fn worked(&self) {
        self.work.set(self.work.get() + 1);
        assert!(self.work.get() < MOST_WORK, "too much work for one call");
    }

    fn is_held(&self, at: u64) -> bool {
        let held = self.held.borrow();
        held.iter()
            .any(|(_, range)| (range.start().raw()..range.end().raw()).contains(&at))
    }

    /// The physical SMMU's own stores go where they may.
    fn look_at_messages(&self) {
        for interrupt in self.smmu.borrow_mut().take_interrupts() {
            if let Signal::Msi { address, .. } = interrupt.signal {
                let cons = SHOWN.start + u64::from(reg::CMDQ_CONS);
                assert!(address == cons || self.is_held(address), "a message");
                self.stores.borrow_mut().push(address & !7);
            }
        }
    }

    fn store(&self, at: u64, value: u64) {
        let mut smmu = self.smmu.borrow_mut();
        assert!(smmu.store(at, value), "a store to {at:#x}");
        smmu.publish(at, 8);
    }

    fn store32(&self, at: u64, value: u32) {
        let word = self.ram.borrow().load(at & !7).unwrap_or(0);
        let shift = 8 * (at & 4);
        let word = word & !(0xffff_ffff << shift) | u64::from(value) << shift;
        self.store(at & !7, word);
    }
}

impl Registers for Hardware {
    fn read32(&self, offset: u32) -> u32 {
        self.0.worked();
        let value = self.0.smmu.borrow_mut().read32(offset);
        self.0.look_at_messages();
        value
    }
    fn write32(&self, offset: u32, value: u32) {
        self.0.worked();
        self.0.smmu.borrow_mut().write32(offset, value);
        self.0.look_at_messages();
    }
    fn read64(&self, offset: u32) -> u64 {
        self.0.smmu.borrow_mut().read64(offset)
    }
    fn write64(&self, offset: u32, value: u64) {
        self.0.smmu.borrow_mut().write64(offset, value);
    }
}

impl Clock for Hardware {
    fn now_us(&self) -> u64 {
        self.0.time.set(self.0.time.get() + 1);
        self.0.time.get()
    }
    fn relax(&self) {
        self.0.time.set(self.0.time.get() + 1000);
    }
}

impl Memory for Hardware {
    fn load(&self, at: PhysAddr) -> u64 {
        let value = self.0.ram.borrow().load(at.raw());
        value.expect("memory of the driver's")
    }
    fn store(&self, at: PhysAddr, value: u64) {
        self.0.worked();
        assert!(
            POOL.contains(&at.raw()),
            "the driver keeps to its own memory"
        );
        let stored = self.0.smmu.borrow_mut().store(at.raw(), value);
        assert!(stored, "memory of the driver's");
    }
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found == current {
            Memory::store(self, at, new);
            Ok(found)
        } else {
            Err(found)
        }
    }
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.0.smmu.borrow_mut().publish(at.raw(), bytes);
    }
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.0.smmu.borrow_mut().refresh(at.raw(), bytes);
    }
}

impl Allocator for Hardware {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let at = self.0.free.get().next_multiple_of(bytes);
        if at + bytes > POOL.end {
            return None;
        }
        self.0.free.set(at + bytes);
        Some(PhysAddr::new(at))
    }
    fn free(&self, _at: PhysAddr, _bytes: u64) {}
}

/// Memory of the host's that is held.
pub struct Held {
    hardware: Hardware,
    number: u64,
    range: Range<Ipa>,
}

impl Held {
    fn at(&self, offset: u64, bytes: u64) -> Option<u64> {
        self.hardware.0.worked();
        let end = offset.checked_add(bytes)?;
        let inside = offset.is_multiple_of(bytes) && end <= self.range.size();
        inside.then(|| self.range.start().raw() + offset)
    }
}

impl Window for Held {
    fn range(&self) -> Range<Ipa> {
        self.range
    }
    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        let inside = offset < self.range.size();
        inside.then(|| PhysAddr::new(self.range.start().raw() + offset))
    }
    fn load(&self, offset: u64) -> u64 {
        let at = self.at(offset, 8);
        at.and_then(|at| self.hardware.0.ram.borrow().load(at))
            .unwrap_or(0)
    }
    fn store(&self, offset: u64, value: u64) {
        if let Some(at) = self.at(offset, 8) {
            self.hardware.0.stores.borrow_mut().push(at);
            self.hardware.0.store(at, value);
        }
    }
    fn store32(&self, offset: u64, value: u32) {
        if let Some(at) = self.at(offset, 4) {
            self.hardware.0.stores.borrow_mut().push(at & !7);
            self.hardware.0.store32(at, value);
        }
    }
    fn publish(&self, _offset: u64, _bytes: u64) {}
    fn refresh(&self, offset: u64, bytes: u64) {
        let at = self.range.start().raw() + offset;
        self.hardware.0.smmu.borrow_mut().refresh(at, bytes);
    }

    fn aborted(&self) -> bool {
        false
    }
}

impl Platform for Hardware {
    type Window = Held;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        assert!(at.raw().is_multiple_of(8), "alignment of what is read");
        for (n, word) in (0..).zip(words) {
            self.0.worked();
            let at = at.raw().checked_add(n * 8).ok_or(Outside)?;
            if !RAM.contains(&at) {
                return Err(Outside);
            }
            *word = self.0.ram.borrow().load(at).ok_or(Outside)?;
        }
        Ok(())
    }
    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside> {
        let at = at.raw();
        assert!(at.is_multiple_of(4), "alignment of what is stored");
        if DOORBELL.contains(&at) {
            return Ok(());
        }
        if !RAM.contains(&at) {
            return Err(Outside);
        }
        self.0.stores.borrow_mut().push(at & !7);
        self.0.store32(at, value);
        Ok(())
    }
    fn open(&self, range: Range<Ipa>) -> Result<Held, Outside> {
        assert!(range.size() <= 1 << 20, "too much is held");
        if range.start().raw() < RAM.start || range.end().raw() > RAM.end {
            return Err(Outside);
        }
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        self.0.held.borrow_mut().push((number, range));
        Ok(Held {
            hardware: self.clone(),
            number,
            range,
        })
    }
    fn close(&self, window: Held) {
        let mut held = self.0.held.borrow_mut();
        let before = held.len();
        held.retain(|(number, _)| *number != window.number);
        assert_eq!(held.len() + 1, before, "what is not held is let go");
    }
    fn show(&self, offset: u32, value: u32) {
        self.0.worked();
        assert!(offset.is_multiple_of(4) && matches!(offset >> 12, 0 | 0x10));
        let at = SHOWN.start + u64::from(offset);
        let mut ram = self.0.ram.borrow_mut();
        let word = ram.load(at & !7).unwrap_or(0);
        let shift = 8 * (at & 4);
        let word = word & !(0xffff_ffff << shift) | u64::from(value) << shift;
        ram.settle(at & !7, word);
    }
    fn shown_at(&self, offset: u32) -> Option<PhysAddr> {
        let at = SHOWN.start + u64::from(offset);
        self.0.messages.then(|| PhysAddr::new(at))
    }
    fn raise(&self, line: Line) {
        self.0.lines.borrow_mut().push(line);
    }
}

type Driver = driver::Smmu<Hardware, Hardware, Hardware>;

/// All of it.
pub struct Machine {
    pub hardware: Hardware,
    pub driver: Driver,
    pub emulator: Emulator<Held>,
    stage2: Stage2,
}

impl Machine {
    /// Out of reset, the host's streams behind stage 2 alone.
    #[must_use]
    pub fn new(profile: Profile, mode: Mode, messages: bool, watched: &[StreamId]) -> Self {
        let ram = Ram::new([RAM, POOL, SHOWN], profile.idr0.cohacc());
        let mut smmu = Smmu::on(profile, ram.clone(), mode, watched.iter().copied());
        smmu.log_writes(true);
        smmu.add_doorbell(DOORBELL);
        let hardware = Hardware(Rc::new(Inner {
            smmu: RefCell::new(smmu),
            ram: RefCell::new(ram),
            free: Cell::new(POOL.start),
            time: Cell::new(0),
            held: RefCell::default(),
            next: Cell::new(0),
            work: Cell::new(0),
            lines: RefCell::default(),
            stores: RefCell::default(),
            messages,
        }));
        let each = || hardware.clone();
        let mut driver =
            Driver::new(each(), each(), each(), Config::default()).expect("a sound SMMU");
        let stage2 = identity(&hardware);
        let (first, last) = (StreamId(STREAMS.0), StreamId(STREAMS.1));
        driver
            .attach_range(first, last, &stage2)
            .expect("room for the streams");
        let config = IdConfig {
            page_requests: true,
            ipa_bits: 40,
            stream_bits: 8,
            coherent: driver.features().coherent(),
        };
        let emulator = Emulator::new(driver.features(), &config);
        emulator.show_registers(&hardware);
        hardware.0.smmu.borrow_mut().take_misuse();
        hardware.0.smmu.borrow_mut().take_commands();
        Self {
            hardware,
            driver,
            emulator,
            stage2,
        }
    }

    fn below<T>(
        &mut self,
        act: impl FnOnce(
            &mut Emulator<Held>,
            &Hardware,
            &mut ConfinedSmmu<'_, Hardware, Hardware, Hardware>,
        ) -> T,
    ) -> T {
        self.hardware.0.work.set(0);
        let shown = Range::from_size(PhysAddr::new(SHOWN.start), SHOWN.end - SHOWN.start);
        let mut below = ConfinedSmmu {
            smmu: &mut self.driver,
            stage2: self.stage2,
            streams: &GIVEN,
            device: shown.ok(),
            report: (),
        };
        act(&mut self.emulator, &self.hardware, &mut below)
    }

    /// One call of the emulation.
    pub fn write_once(&mut self, offset: u32, size: Size, value: u64) -> Progress {
        self.below(|emulator, hardware, below| emulator.write(hardware, below, offset, size, value))
    }

    /// A write, repeated until it is done; how often.
    pub fn write(&mut self, offset: u32, size: Size, value: u64) -> u32 {
        for times in 1..PATIENCE {
            if self.write_once(offset, size, value) == Progress::Done {
                return times;
            }
        }
        panic!("the write to {offset:#x} is never done");
    }

    /// What the host reads.
    #[must_use]
    pub fn shown(&self, offset: u32) -> u32 {
        let at = SHOWN.start + u64::from(offset);
        let word = self.hardware.0.ram.borrow().load(at & !7).unwrap_or(0);
        (word >> (8 * (at & 4))) as u32
    }

    /// A store of the host's, seen by all.
    pub fn store(&self, at: u64, value: u64) {
        if RAM.contains(&at) {
            self.hardware.0.store(at & !7, value);
        }
    }

    /// What the host loads.
    #[must_use]
    pub fn load(&self, at: u64) -> u64 {
        self.hardware.0.ram.borrow().load(at).unwrap_or(0)
    }

    /// A device's access: where it went, or what it read.
    pub fn dma(&mut self, access: Transaction, write: Option<u64>) -> Result<u64, Refusal> {
        let mut smmu = self.hardware.0.smmu.borrow_mut();
        match write {
            Some(value) => smmu.write(access, value).map(|()| 0),
            None => smmu.read(access),
        }
    }

    /// An endpoint asks for a page.
    pub fn ask(&mut self, request: PageRequest) {
        let delivery = self
            .emulator
            .deliver_page_request(&self.hardware, &GIVEN[..], &request);
        assert_ne!(delivery, PageDelivery::NotOwned);
        if let PageDelivery::Respond(command) = delivery {
            self.driver.issue(command).expect("a sound SMMU");
            self.driver.kick();
        }
    }

    /// Hands the host the events of the physical SMMU. Returns them.
    pub fn drain(&mut self) -> Vec<EventRecord> {
        let mut read = Vec::new();
        self.hardware.0.work.set(0);
        self.driver.take_events(1 << 10, |event| {
            read.push(event.0);
            Answer::Later
        });
        for record in &read {
            self.tell(record);
        }
        read
    }

    /// Hands over one event, whoever wrote it.
    pub fn tell(&mut self, record: &EventRecord) {
        let delivery = self
            .emulator
            .deliver_event(&self.hardware, &GIVEN[..], record);
        if let Delivery::Terminate { stream, stag } = delivery {
            let answer = Command::resume(stream, stag, false, true);
            // One that is fenced has ended what waited.
            if self.driver.issue(answer).is_ok() {
                self.driver.kick();
            }
        }
    }

    /// Words of the host's memory that the emulation, the SMMU and devices
    /// stored to since the last call.
    pub fn take_stores(&self) -> Vec<u64> {
        let mut stores = std::mem::take(&mut *self.hardware.0.stores.borrow_mut());
        stores.extend(self.hardware.0.smmu.borrow_mut().take_writes());
        stores.retain(|at| RAM.contains(at));
        stores
    }

    /// Interrupts by wire since the last call.
    pub fn take_lines(&self) -> Vec<Line> {
        std::mem::take(&mut *self.hardware.0.lines.borrow_mut())
    }
}

/// Stage 2 of the host's streams: all its memory where it is, and the doorbell.
fn identity(hardware: &Hardware) -> Stage2 {
    let geometry = Geometry::stage2(Granule::Size4K, 40, 40).expect("a legal geometry");
    let attributes = Stage2Attributes {
        memory: MemoryType::Normal,
        read: true,
        write: true,
        execute: Execute::Always,
    };
    let mut table = Table::<Stage2Format, _>::new(geometry, Bbm::Level0, hardware.clone())
        .expect("room for a root");
    for part in [RAM, DOORBELL] {
        let size = part.end - part.start;
        let range = Range::<PhysAddr>::from_size(PhysAddr::new(part.start), size);
        let range = range.expect("not empty");
        let mapped = table.map(Identity.ipa(range), range.start(), attributes);
        mapped.expect("room for tables");
    }
    Stage2 {
        vmid: Vmid(1),
        root: table.root(),
        granule: driver::Granule::Size4K,
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        ps: geometry.ps() as u8,
    }
}
