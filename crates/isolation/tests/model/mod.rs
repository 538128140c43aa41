//! Models of SMMUs that do the worst, with the driver on top, and one look at
//! all that they could do after every store and every command.
#![allow(dead_code, missing_docs)]

use portcullis_addr::PhysAddr;
use portcullis_isolation::Smmus;
use portcullis_memory::{Allocator, Memory};
use smmuv3_driver::{Clock, Config, Registers, Smmu};
use smmuv3_model::{Fault, Mode, Policy, Profile, Ram, Smmu as Model, Violation};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::control::QueueBase;
use smmuv3_spec::{Asid, StreamId, Vmid, reg};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Where tables, queues and context descriptors come from.
pub const POOL: Range<u64> = 0x8000_0000..0x8040_0000;
/// What devices may be given.
pub const DATA: u64 = 0x9000_0000;
pub const DATA_SIZE: u64 = 0x40_0000;
/// A page of registers.
pub const DOORBELL: u64 = 0x4000_0000;
pub const PAGE: u64 = 0x1000;

pub const STREAMS: [StreamId; 2] = [StreamId(3), StreamId(70)];

/// The SMMU at `unit`, its streams, a page, and whether it may be written.
type Rights = BTreeSet<(usize, StreamId, u64, bool)>;

pub struct Machine {
    pub units: Vec<RefCell<Model>>,
    ram: RefCell<Ram>,
    live: RefCell<BTreeMap<u64, u64>>,
    rings: RefCell<Vec<Range<u64>>>,
    half: Cell<Option<(u64, u64)>>,
    rights: RefCell<Rights>,
    finding: Cell<Option<Violation>>,
    /// A command that gets lost.
    pub lost: Cell<Option<Opcode>>,
    pub starve: Cell<bool>,
    time: Cell<u64>,
    /// Everything was taken over.
    armed: Cell<bool>,
}

struct Rules<'m> {
    unit: usize,
    rights: &'m Rights,
    live: &'m BTreeMap<u64, u64>,
}

impl Policy for Rules<'_> {
    fn first_forbidden(&self, stream: StreamId, range: Range<u64>, write: bool) -> Option<u64> {
        let mut pages = (range.start & !(PAGE - 1)..range.end).step_by(PAGE as usize);
        let may = |page, write| self.rights.contains(&(self.unit, stream, page, write));
        pages.find(|page| !may(*page, true) && (write || !may(*page, false)))
    }

    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let block = self.live.range(..=range.start).next_back();
        let inside = block.is_some_and(|(at, bytes)| range.end <= at + bytes);
        (!inside).then_some(range.start)
    }
}

impl Machine {
    pub fn new(profiles: &[Profile]) -> Self {
        let coherent = profiles.iter().all(|profile| profile.idr0.cohacc());
        let ram = Ram::new([POOL, DATA..DATA + DATA_SIZE], coherent);
        let model = |profile: &Profile| {
            let mode = Mode::Greedy { seed: 5 };
            RefCell::new(Model::on(*profile, ram.clone(), mode, STREAMS))
        };
        Self {
            units: profiles.iter().map(model).collect(),
            rings: RefCell::new(vec![0..0; profiles.len()]),
            ram: RefCell::new(ram),
            live: RefCell::default(),
            half: Cell::new(None),
            rights: RefCell::default(),
            finding: Cell::new(None),
            lost: Cell::new(None),
            starve: Cell::new(false),
            time: Cell::new(0),
            armed: Cell::new(false),
        }
    }

    pub fn drivers(&self) -> Vec<RefCell<Driver<'_>>> {
        let drivers = (0..self.units.len())
            .map(|unit| {
                let port = Port {
                    machine: self,
                    unit,
                };
                let driver = Smmu::new(port, self, self, Config::default());
                RefCell::new(driver.unwrap())
            })
            .collect();
        self.armed.set(true);
        drivers
    }

    /// From now on the stream may use the page.
    pub fn allow(&self, unit: usize, stream: StreamId, page: u64, write: bool) {
        self.rights
            .borrow_mut()
            .insert((unit, stream, page & !(PAGE - 1), write));
    }

    /// From now on no stream may use the page, or the stream none at all.
    pub fn forbid(&self, goes: impl Fn(StreamId, u64) -> bool) {
        let mut rights = self.rights.borrow_mut();
        rights.retain(|(_, stream, page, _)| !goes(*stream, *page));
        drop(rights);
        self.check();
    }

    pub fn check(&self) {
        if !self.armed.get() {
            return;
        }
        let (rights, live) = (self.rights.borrow(), self.live.borrow());
        for (unit, model) in self.units.iter().enumerate() {
            let mut model = model.borrow_mut();
            let rules = Rules {
                unit,
                rights: &rights,
                live: &live,
            };
            if let Err(violation) = model.check(&rules) {
                self.find(violation);
            }
            assert_eq!(model.take_misuse(), []);
        }
    }

    fn find(&self, violation: Violation) {
        if self.finding.get().is_none() {
            self.finding.set(Some(violation));
        }
    }

    pub fn take_finding(&self) -> Option<Violation> {
        self.finding.take()
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        self.check();
        if let Some(violation) = self.take_finding() {
            panic!("{violation}");
        }
    }

    pub fn bytes_in_use(&self) -> u64 {
        self.live.borrow().values().sum()
    }

    pub fn is_live(&self, at: u64) -> bool {
        self.live.borrow().contains_key(&at)
    }

    /// What a device would read there.
    pub fn put(&self, at: u64, value: u64) {
        assert!(self.ram.borrow_mut().settle(at, value));
    }

    pub fn words(&self, at: PhysAddr) -> [u64; 8] {
        std::array::from_fn(|word| {
            let at = at.raw() + word as u64 * 8;
            self.ram.borrow().load(at).unwrap()
        })
    }

    /// The entry of a stream in the table of an SMMU that has a linear one.
    pub fn entry(&self, unit: usize, stream: StreamId) -> [u64; 8] {
        let base = self.units[unit].borrow_mut().read64(reg::STRTAB_BASE);
        let at = (base & 0x00ff_ffff_ffff_ffc0) + u64::from(stream.0) * 64;
        self.words(PhysAddr::new(at))
    }

    pub fn inject(&self, unit: usize, fault: Fault) {
        self.units[unit].borrow_mut().inject(fault);
    }

    pub fn opcodes(&self, unit: usize) -> Vec<Opcode> {
        let commands = self.units[unit].borrow_mut().take_commands();
        commands.iter().map(Command::opcode).collect()
    }

    /// A command in the place of the one that gets lost.
    fn instead_of(&self, command: Command) -> Command {
        if self.lost.get() == Some(command.opcode()) {
            // What nobody uses.
            Command::tlbi_nh_asid(Vmid(0), Asid(0xff))
        } else {
            command
        }
    }

    fn raw_store(&self, at: u64, value: u64) {
        for (unit, model) in self.units.iter().enumerate() {
            if unit == 0 {
                assert!(model.borrow_mut().store(at, value), "{at:#x}");
            } else {
                model.borrow_mut().saw_store(at);
            }
        }
        self.check();
    }
}

impl Memory for Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        self.ram.borrow().load(at.raw()).unwrap()
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let at = at.raw();
        if !self.rings.borrow().iter().any(|ring| ring.contains(&at)) {
            self.raw_store(at, value);
        } else if at.is_multiple_of(16) {
            self.half.set(Some((at, value)));
        } else {
            let (first, word) = self.half.take().unwrap();
            let command = self.instead_of(Command([word, value]));
            self.raw_store(first, command.0[0]);
            self.raw_store(at, command.0[1]);
        }
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found == current {
            self.store(at, new);
            Ok(found)
        } else {
            Err(found)
        }
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.units[0].borrow_mut().publish(at.raw(), bytes);
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.units[0].borrow_mut().refresh(at.raw(), bytes);
    }
}

impl Allocator for Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        if self.starve.get() {
            return None;
        }
        let mut live = self.live.borrow_mut();
        let mut at = POOL.start.next_multiple_of(bytes);
        for (start, size) in live.iter() {
            if at + bytes <= *start {
                break;
            }
            at = at.max(start + size).next_multiple_of(bytes);
        }
        if at + bytes > POOL.end {
            return None;
        }
        live.insert(at, bytes);
        for word in (at..at + bytes).step_by(8) {
            self.put(word, 0);
        }
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let at = at.raw();
        assert_eq!(self.live.borrow_mut().remove(&at), Some(bytes));
        for model in &self.units {
            if let Some(violation) = model.borrow().holds_table_in(at, bytes) {
                self.find(violation);
            }
        }
    }
}

impl Clock for Machine {
    fn now_us(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }

    fn relax(&self) {
        self.time.set(self.time.get() + 1000);
    }
}

#[derive(Clone, Copy)]
pub struct Port<'m> {
    machine: &'m Machine,
    unit: usize,
}

impl Port<'_> {
    fn model(&self) -> std::cell::RefMut<'_, Model> {
        self.machine.units[self.unit].borrow_mut()
    }
}

impl Registers for Port<'_> {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.model().read32(offset);
        if offset == reg::CMDQ_CONS {
            self.machine.check();
        }
        value
    }

    fn write32(&self, offset: u32, value: u32) {
        self.model().write32(offset, value);
        if offset == reg::CMDQ_PROD {
            self.machine.check();
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        self.model().read64(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.model().write64(offset, value);
        if offset == reg::CMDQ_BASE {
            let base = QueueBase::from(value);
            let at = base.addr_5() << 5;
            self.machine.rings.borrow_mut()[self.unit] = at..at + (16 << base.log2size());
        }
    }
}

pub type Driver<'m> = Smmu<Port<'m>, &'m Machine, &'m Machine>;

#[derive(Clone, Copy)]
pub struct All<'d, 'm>(pub &'d [RefCell<Driver<'m>>]);

impl<'m> Smmus for All<'_, 'm> {
    type Registers = Port<'m>;
    type Memory = &'m Machine;
    type Clock = &'m Machine;

    fn at<T>(&self, index: usize, with: impl FnOnce(&mut Driver<'m>) -> T) -> Option<T> {
        Some(with(&mut self.0.get(index)?.borrow_mut()))
    }
}
