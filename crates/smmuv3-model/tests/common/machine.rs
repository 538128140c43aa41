//! The machine that the code under test runs on: the model behind the seams,
//! with one deliberate mistake in between if asked for.

use super::mutant::Mutant;
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_driver::{Clock, Registers};
use smmuv3_model::{Misuse, Mode, Policy, Profile, Smmu, Violation};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::control::QueueBase;
use smmuv3_spec::{StreamId, reg};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

/// RAM that the ledger describes.
pub const RAM: Range<u64> = 0x8000_0000..0x8040_0000;
/// Memory of the hypervisor's tables and queues.
pub const POOL: Range<u64> = 0x9000_0000..0x9010_0000;
/// Memory that devices of the other domain may use.
pub const OTHER: Range<u64> = 0xa000_0000..0xa001_0000;
/// Memory for the same domain with another table.
pub const SPARE: Range<u64> = 0xa010_0000..0xa012_0000;
/// Nobody's: where an earlier owner of the SMMU had its tables.
pub const OLD: Range<u64> = 0xb000_0000..0xb010_0000;
pub const STREAMS: u32 = 16;

/// Why a run is not right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    Violation(Violation),
    Misuse(Misuse),
    /// The driver gave up although the hardware is sound.
    Failed(&'static str),
    /// A stream does not reach what it should.
    Lost(u32, u64),
}

/// What each stream may use.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    pub streams: BTreeMap<u32, Vec<Range<u64>>>,
}

pub struct Machine {
    pub smmu: RefCell<Smmu>,
    live: RefCell<BTreeMap<u64, u64>>,
    time: Cell<u64>,
    pub mutant: Mutant,
    held: RefCell<Vec<(u64, u64)>>,
    /// First word of a command whose second is still to come.
    half: Cell<Option<(u64, u64)>>,
    pub finding: Cell<Option<Finding>>,
    /// What holds between operations, and during the one under way.
    pub allowed: RefCell<Allowed>,
    pub armed: Cell<bool>,
    /// The driver changes the stream table.
    pub in_driver: Cell<bool>,
}

struct Rules<'a> {
    allowed: &'a Allowed,
    live: &'a BTreeMap<u64, u64>,
}

impl Policy for Rules<'_> {
    fn first_forbidden(&self, stream: StreamId, range: Range<u64>, _write: bool) -> Option<u64> {
        let allowed = self.allowed.streams.get(&stream.0);
        let mut at = range.start;
        // Ranges are ascending and disjoint.
        for ok in allowed.into_iter().flatten() {
            if ok.start <= at && at < ok.end {
                at = ok.end;
            }
        }
        (at < range.end).then_some(at)
    }

    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let block = self.live.range(..=range.start).next_back();
        let covered = block.is_some_and(|(start, size)| start + size >= range.end);
        (!covered).then_some(range.start)
    }
}

impl Machine {
    pub fn new(profile: Profile, mode: Mode, mutant: Mutant) -> Self {
        let streams = (0..STREAMS).map(|n| StreamId(n * 5));
        Self {
            smmu: RefCell::new(Smmu::new(
                profile,
                [RAM, POOL, OTHER, SPARE, OLD],
                mode,
                streams,
            )),
            live: RefCell::default(),
            time: Cell::new(0),
            mutant,
            held: RefCell::default(),
            half: Cell::new(None),
            finding: Cell::new(None),
            allowed: RefCell::default(),
            armed: Cell::new(false),
            in_driver: Cell::new(false),
        }
    }

    pub fn find(&self, finding: Finding) {
        if self.finding.get().is_none() {
            self.finding.set(Some(finding));
        }
    }

    /// Asks the oracle.
    pub fn check(&self) {
        if !self.armed.get() || self.finding.get().is_some() {
            return;
        }
        let (allowed, live) = (self.allowed.borrow(), self.live.borrow());
        let rules = Rules {
            allowed: &allowed,
            live: &live,
        };
        let mut smmu = self.smmu.borrow_mut();
        if let Err(violation) = smmu.check(&rules) {
            self.find(Finding::Violation(violation));
        }
        if let Some(misuse) = smmu.take_misuse().first() {
            self.find(Finding::Misuse(*misuse));
        }
    }

    /// The ring of the command queue.
    fn commands(&self) -> Range<u64> {
        let base = QueueBase::from(self.smmu.borrow_mut().read64(reg::CMDQ_BASE));
        let at = base.addr_5() << 5;
        at..at + (Command::SIZE << base.log2size())
    }

    fn raw_store(&self, at: u64, value: u64) {
        let done = self.smmu.borrow_mut().store(at, value);
        assert!(done, "store outside memory at {at:#x}");
    }

    fn command_store(&self, at: u64, value: u64) {
        // The first word is stored first; a mutant may want both at once.
        if at.is_multiple_of(16) {
            self.half.set(Some((at, value)));
            return;
        }
        let Some((first, word)) = self.half.take() else {
            return self.raw_store(at, value);
        };
        let command = self.mutant.command(Command([word, value]));
        self.raw_store(first, command.0[0]);
        self.raw_store(at, command.0[1]);
    }
}

impl Memory for Machine {
    fn load(&self, at: PhysAddr) -> u64 {
        let held = self.held.borrow();
        if let Some((_, value)) = held.iter().rfind(|(a, _)| *a == at.raw()) {
            return *value;
        }
        let value = self.smmu.borrow().load(at.raw());
        value.unwrap_or_else(|| panic!("load outside memory at {at}"))
    }

    fn store(&self, at: PhysAddr, value: u64) {
        let at = at.raw();
        if self.commands().contains(&at) {
            self.command_store(at, value);
        } else if self.mutant == Mutant::EntryValidFirst
            && self.in_driver.get()
            && !at.is_multiple_of(64)
        {
            self.held.borrow_mut().push((at, value));
        } else {
            self.raw_store(at, value);
            let held = std::mem::take(&mut *self.held.borrow_mut());
            for (at, value) in held {
                self.raw_store(at, value);
            }
        }
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.store(at, new);
        Ok(found)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        let queue = self.commands().contains(&at.raw());
        if queue || !self.mutant.skips_publish(bytes) {
            self.smmu.borrow_mut().publish(at.raw(), bytes);
        }
    }

    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.smmu.borrow_mut().refresh(at.raw(), bytes);
    }
}

impl Allocator for Machine {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
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
            self.smmu.borrow_mut().ram_mut().settle(word, 0);
        }
        Some(PhysAddr::new(at))
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let size = self.live.borrow_mut().remove(&at.raw());
        assert_eq!(size, Some(bytes), "free of {at}");
        // No observer may hold a pointer to it any more.
        let held = self.smmu.borrow().holds_table_in(at.raw(), bytes);
        if let Some(violation) = held.filter(|_| self.armed.get()) {
            self.find(Finding::Violation(violation));
        }
    }
}

impl Registers for Machine {
    fn read32(&self, offset: u32) -> u32 {
        let mut smmu = self.smmu.borrow_mut();
        let value = smmu.read32(offset);
        match (self.mutant, offset) {
            (Mutant::NoWait, reg::CMDQ_CONS) => smmu.read32(reg::CMDQ_PROD),
            (Mutant::NoFenceWait, reg::CR0ACK) => smmu.read32(reg::CR0),
            (Mutant::NoGbpa, reg::GBPA) => 1 << 20,
            _ => value,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut value = value;
        match (self.mutant, offset) {
            (Mutant::NoGbpa, reg::GBPA) => return,
            (Mutant::NoWrap, reg::CMDQ_PROD) => {
                let log2 =
                    QueueBase::from(self.smmu.borrow_mut().read64(reg::CMDQ_BASE)).log2size();
                value &= (1 << log2) - 1;
            }
            _ => {}
        }
        self.smmu.borrow_mut().write32(offset, value);
        if offset == reg::CMDQ_PROD {
            // What was cached since the last CMD_SYNC still is.
            self.check();
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        self.smmu.borrow_mut().read64(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.smmu.borrow_mut().write64(offset, value);
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

impl Mutant {
    fn skips_publish(self, bytes: u64) -> bool {
        match self {
            Self::NoPublish => true,
            Self::NoEntryPublish => bytes == 64,
            _ => false,
        }
    }

    /// The command that is sent in place of `command`.
    fn command(self, command: Command) -> Command {
        let idle = Command::sync(0);
        let opcode = command.opcode();
        match (self, opcode) {
            (Self::NoTlbi, Opcode::TLBI_S2_IPA | Opcode::TLBI_S12_VMALL)
            | (Self::NoTlbiIpa, Opcode::TLBI_S2_IPA)
            | (Self::NoTlbiVmid, Opcode::TLBI_S12_VMALL)
            | (Self::NoCfgi, Opcode::CFGI_STE)
            | (Self::NoCfgiAll, Opcode::CFGI_STE_RANGE)
            | (Self::NoTlbiAll, Opcode::TLBI_NSNH_ALL) => idle,
            (Self::NoSync, Opcode::SYNC) => Command::prefetch_config(StreamId(0), None),
            (Self::WrongVmid, Opcode::TLBI_S2_IPA | Opcode::TLBI_S12_VMALL) => {
                command.with_vmid_bits(command.vmid_bits() ^ 4)
            }
            (Self::LeafOnly, Opcode::TLBI_S2_IPA) => command.with_leaf(true),
            (Self::ConfigLeafOnly, Opcode::CFGI_STE) => command.with_leaf(true),
            (Self::WrongStream, Opcode::CFGI_STE) => {
                command.with_stream_bits(command.stream_bits() + 1)
            }
            (Self::LevelHint, Opcode::TLBI_S2_IPA) if command.tg() != 0 => command.with_ttl(3),
            (Self::ShortRange, Opcode::TLBI_S2_IPA) if command.num() > 0 => {
                command.with_num(command.num() - 1)
            }
            (Self::SmallScale, Opcode::TLBI_S2_IPA) if command.scale() > 0 => {
                command.with_scale(command.scale() - 1)
            }
            (Self::NextPage, Opcode::TLBI_S2_IPA) => {
                command.with_address(command.address() + 0x20_0000)
            }
            _ => command,
        }
    }
}
