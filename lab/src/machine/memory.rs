//! Memory and registers.

use super::zone::{Zone, ZoneRef};
use super::{MachineError, Shape};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{Bank, Entry, Owner};
use smmuv3_driver::{Clock, Registers};
use smmuv3_model::{Access, Fetches, Mode, Ram, Smmu, Transaction};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::Command;
use smmuv3_spec::reg;
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU32;

/// The hypervisor's tables and queues.
const HYPERVISOR: u64 = 0x1_0000_0000;
/// Where the host reads the registers of an emulated SMMU.
pub(super) const SHOWN: u64 = 0x1_f000_0000;
/// The host's RAM: first what its drivers have tables and queues in.
pub(super) const HOST: u64 = 0x2_0000_0000;
/// The part of it that they have; the buffers come behind.
pub(super) const HOST_TABLES: u64 = 1 << 30;

/// One machine.
pub struct Machine {
    ram: RefCell<Ram>,
    pub(super) smmu: RefCell<Smmu>,
    hypervisor: Zone,
    host: Zone,
    /// Bytes of the host's RAM.
    host_bytes: u64,
    entries: Vec<AtomicU32>,
    words: Vec<AtomicU32>,
    time: Cell<u64>,
}

impl Machine {
    /// Out of reset.
    ///
    /// # Errors
    /// [`MachineError::Memory`]: the load does not fit the address space of the
    /// hardware.
    pub fn new(shape: &Shape<'_>) -> Result<Self, MachineError> {
        let buffers = shape.memory();
        let size = (HOST_TABLES + buffers).next_multiple_of(1 << 30);
        let bits = shape.platform.memory.ipa_bits.get().get();
        if HOST + size > 1 << bits {
            return Err(MachineError::Memory("the buffers within ipa_bits"));
        }
        // A table of stage 2 for each page, where the host's memory is in pages,
        // and as much for what paravirt has.
        let tables = (size / 128 + (1 << 28)).next_power_of_two().min(2 << 30);
        let hypervisor = HYPERVISOR..HYPERVISOR + tables;
        let shown = SHOWN..SHOWN + u64::from(reg::SIZE);
        let host = HOST..HOST + HOST_TABLES;
        let profile = shape.platform.smmu.kind.get().profile();
        let banks = [hypervisor.clone(), shown, host.clone()];
        let ram = Ram::new(banks, profile.idr0.cohacc());
        let smmu = Smmu::on(profile, ram.clone(), Mode::Plain, []);
        let owned = || AtomicU32::new(Entry::initial(Owner::HOST));
        let words = Bank::words(host_ram(size));
        Ok(Self {
            ram: RefCell::new(ram),
            smmu: RefCell::new(smmu),
            hypervisor: Zone::new(hypervisor),
            host: Zone::new(host),
            host_bytes: size,
            entries: (0..size / PAGE_SIZE).map(|_| owned()).collect(),
            words: (0..words).map(|_| AtomicU32::new(0)).collect(),
            time: Cell::new(0),
        })
    }

    /// Memory of the hypervisor's.
    #[must_use]
    pub fn hypervisor(&self) -> ZoneRef<'_> {
        ZoneRef {
            machine: self,
            zone: &self.hypervisor,
        }
    }

    /// Memory that the host's drivers have tables and queues in.
    #[must_use]
    pub fn host(&self) -> ZoneRef<'_> {
        ZoneRef {
            machine: self,
            zone: &self.host,
        }
    }

    /// Most bytes of tables and queues at a time: the hypervisor's and the
    /// host's.
    #[must_use]
    pub fn peaks(&self) -> (u64, u64) {
        (self.hypervisor.peak(), self.host.peak())
    }

    /// The host's RAM.
    pub(super) fn host_ram(&self) -> Range<PhysAddr> {
        host_ram(self.host_bytes)
    }

    /// Who owns it: the host all of it.
    ///
    /// # Errors
    /// Never in practice: there is an entry for each page.
    pub(super) fn bank(&self) -> Result<Bank<'_>, MachineError> {
        Ok(Bank::new(self.host_ram(), &self.entries, &self.words)?)
    }

    /// Where buffers lie: their first byte.
    #[must_use]
    pub fn buffers(&self) -> u64 {
        HOST + HOST_TABLES
    }

    /// What an access makes an SMMU read that has cached nothing.
    #[must_use]
    pub fn fetches(&self, stream: StreamId, address: u64) -> Fetches {
        let access = Transaction::new(stream, address, Access::Write);
        self.smmu.borrow().fetches(access)
    }

    /// The commands that the SMMU consumed since the last call.
    pub fn take_commands(&self) -> Vec<Command> {
        self.smmu.borrow_mut().take_commands()
    }

    /// Whether the SMMU has ranges in its invalidations.
    #[must_use]
    pub fn has_ranges(&self) -> bool {
        self.smmu.borrow().profile().idr3.ril()
    }

    pub(super) fn load(&self, at: u64) -> u64 {
        self.ram.borrow().load(at).unwrap_or(0)
    }

    pub(super) fn store(&self, at: u64, value: u64) {
        let stored = self.ram.borrow_mut().settle(at, value);
        debug_assert!(stored, "{at:#x} is no memory");
    }

    pub(super) fn store32(&self, at: u64, value: u32) {
        let shift = 8 * (at & 4);
        let word = self.load(at & !7) & !(0xffff_ffff << shift);
        self.store(at & !7, word | u64::from(value) << shift);
    }

    pub(super) fn load32(&self, at: u64) -> u32 {
        // Truncation: one half of the word.
        (self.load(at & !7) >> (8 * (at & 4))) as u32
    }

    pub(super) fn clear(&self, at: u64, bytes: u64) {
        let mut ram = self.ram.borrow_mut();
        for word in (at..at + bytes).step_by(8) {
            ram.settle(word, 0);
        }
    }
}

fn host_ram(bytes: u64) -> Range<PhysAddr> {
    // Never fails: neither is empty, nor do they reach the end.
    match Range::from_size(PhysAddr::new(HOST), bytes.max(PAGE_SIZE)) {
        Ok(range) => range,
        Err(_) => unreachable!("the host's RAM is no empty range"),
    }
}

/// The registers of the physical SMMU.
#[derive(Clone, Copy)]
pub struct Port<'m>(pub(super) &'m Machine);

impl Registers for Port<'_> {
    fn read32(&self, offset: u32) -> u32 {
        self.0.smmu.borrow_mut().read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.smmu.borrow_mut().write32(offset, value);
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.smmu.borrow_mut().read64(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.smmu.borrow_mut().write64(offset, value);
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
