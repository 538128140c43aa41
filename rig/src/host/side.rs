//! The host's machine, as its emulated SMMU reaches it.

use crate::everywhere::HOST_VMID;
use crate::finding::Finding;
use crate::host::complete::Commands;
use crate::host::window::Held;
use crate::machine::Machine;
use crate::map::{DOORBELL, PAGE_1, REGISTERS, given_id};
use portcullis_addr::{Identity, Ipa, PhysAddr, Range};
use portcullis_ownership::{Owner, PageState};
use smmuv3_emulator::{Line, Outside, Platform};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::reg;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops;

/// Most accesses to anything that one write of a register may cost.
const MOST_WORK: u64 = 60_000;

/// What the machine knows of one emulated SMMU.
#[derive(Default)]
pub(crate) struct Emulated {
    /// What is held, by number.
    pub(crate) open: RefCell<BTreeMap<u64, ops::Range<u64>>>,
    next: Cell<u64>,
    /// Accesses since the write began.
    pub(crate) work: Cell<u64>,
    /// Interrupts by wire.
    pub(crate) raised: Cell<u64>,
    /// The emulation runs: what goes into the physical queue is its doing.
    pub(crate) acts: Cell<bool>,
    /// Commands that went into the physical queue.
    pub(crate) issued: Cell<u64>,
    /// What the host read from EVENTQ_PROD, where that changed since somebody
    /// looked.
    pub(crate) event_prod: Cell<Option<u32>>,
    /// Events of the host's that the emulation was given.
    pub(crate) told: Cell<u64>,
    /// What the emulation makes of its command queue.
    pub(crate) commands: RefCell<Commands>,
}

/// The platform of one emulated SMMU.
#[derive(Clone, Copy)]
pub(crate) struct Side<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) unit: usize,
}

impl Machine {
    /// One access more for the write under way.
    pub(crate) fn worked(&self, unit: usize) {
        let work = &self.units[unit].emulated.work;
        work.set(work.get() + 1);
        if work.get() == MOST_WORK {
            self.find(Finding::Unbounded(MOST_WORK));
        }
    }

    /// Where reads of a register by the host go.
    pub(crate) fn register(unit: usize, offset: u32) -> u64 {
        REGISTERS.start + unit as u64 * u64::from(reg::SIZE) + u64::from(offset)
    }

    /// What the host reads from a register of 32 bits.
    pub(crate) fn shown(&self, unit: usize, offset: u32) -> u32 {
        let at = Self::register(unit, offset);
        let word = self.ram.borrow().load(at & !7).unwrap_or(0);
        (word >> (8 * (at & 4))) as u32
    }

    /// What the host reads from one of 64 bits.
    pub(crate) fn shown64(&self, unit: usize, offset: u32) -> u64 {
        u64::from(self.shown(unit, offset)) | u64::from(self.shown(unit, offset + 4)) << 32
    }

    /// A command on its way to the physical SMMU. One that the emulation caused
    /// names the host's streams and VMID, and nothing but stage 1 of that; but
    /// for what the driver does when it changes an entry.
    pub(crate) fn look_at_command(&self, index: usize, command: Command) {
        let emulated = &self.units[index].emulated;
        emulated.issued.set(emulated.issued.get() + 1);
        if !emulated.acts.get() {
            return;
        }
        let given = || given_id(command.stream_bits(), self.units.len()).is_some();
        let fine = match command.opcode() {
            Opcode::SYNC => true,
            Opcode::CFGI_STE_RANGE => command.range() == 31,
            Opcode::TLBI_NH_ALL
            | Opcode::TLBI_NH_ASID
            | Opcode::TLBI_NH_VA
            | Opcode::TLBI_NH_VAA
            | Opcode::TLBI_S12_VMALL => command.vmid() == HOST_VMID,
            Opcode::CFGI_STE
            | Opcode::CFGI_CD
            | Opcode::CFGI_CD_ALL
            | Opcode::ATC_INV
            | Opcode::PRI_RESP
            | Opcode::RESUME
            | Opcode::STALL_TERM => given() && !command.ssec(),
            _ => false,
        };
        if !fine {
            self.find(Finding::Issued(command));
        }
    }

    /// Whether the host may use all of it now.
    fn is_of_host(&self, at: u64) -> bool {
        let entry = self.with_ledger(|ledger| ledger.entry(PhysAddr::new(at)));
        entry.is_some_and(|e| e.state() == PageState::Owned(Owner::HOST))
    }
}

/// The pages that a range touches.
fn outward(range: Range<Ipa>) -> Option<Range<PhysAddr>> {
    Identity.physical(range).page_outward()
}

impl<'m> Platform for Side<'m> {
    type Window = Held<'m>;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        if !at.raw().is_multiple_of(8) {
            self.machine.find(Finding::Memory(at.raw()));
            return Err(Outside);
        }
        for (n, word) in (0..).zip(words) {
            self.machine.worked(self.unit);
            let at = at.raw().checked_add(n * 8).ok_or(Outside)?;
            if !self.machine.is_of_host(at) {
                return Err(Outside);
            }
            *word = self.machine.ram.borrow().load(at).ok_or(Outside)?;
            self.machine.seam();
        }
        Ok(())
    }

    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside> {
        self.machine.worked(self.unit);
        let at = at.raw();
        if !at.is_multiple_of(4) {
            self.machine.find(Finding::Memory(at));
            return Err(Outside);
        }
        if DOORBELL.contains(&at) {
            return Ok(());
        }
        if !self.machine.is_of_host(at) {
            return Err(Outside);
        }
        self.machine.raw_store32(at, value);
        Ok(())
    }

    fn open(&self, range: Range<Ipa>) -> Result<Held<'m>, Outside> {
        let machine = self.machine;
        machine.worked(self.unit);
        if range.size() > 1 << 20 {
            machine.find(Finding::Unbounded(range.size()));
        }
        let pages = outward(range).ok_or(Outside)?;
        let expected = machine.expected.borrow_mut().pin(pages);
        let pinned = machine.with_ledger(|ledger| ledger.pin(pages, Owner::HOST));
        if expected != pinned {
            machine.find(Finding::Answer("pin", pages.start().raw()));
        }
        pinned.map_err(|_| Outside)?;
        let emulated = &machine.units[self.unit].emulated;
        let number = emulated.next.get();
        emulated.next.set(number + 1);
        let bytes = range.start().raw()..range.end().raw();
        emulated.open.borrow_mut().insert(number, bytes);
        machine.seam();
        Ok(Held {
            machine,
            unit: self.unit,
            number,
            range,
        })
    }

    fn close(&self, window: Held<'m>) {
        let machine = self.machine;
        machine.worked(self.unit);
        let emulated = &machine.units[self.unit].emulated;
        let known = emulated.open.borrow_mut().remove(&window.number);
        let pages = outward(window.range).filter(|_| known.is_some());
        let Some(pages) = pages else {
            return machine.find(Finding::Memory(window.range.start().raw()));
        };
        let expected = machine.expected.borrow_mut().unpin(pages);
        let unpinned = machine.with_ledger(|ledger| ledger.unpin(pages));
        if expected != unpinned {
            machine.find(Finding::Answer("unpin", pages.start().raw()));
        }
        machine.seam();
    }

    fn show(&self, offset: u32, value: u32) {
        self.machine.worked(self.unit);
        let page = offset & !0xfff;
        if !offset.is_multiple_of(4) || page != 0 && page != PAGE_1 {
            return self.machine.find(Finding::Memory(offset.into()));
        }
        let emulated = &self.machine.units[self.unit].emulated;
        if offset == reg::CMDQ_CONS && emulated.acts.get() {
            self.machine.look_at_completion(self.unit, value);
        }
        if offset == reg::EVENTQ_PROD {
            let before = self.machine.shown(self.unit, offset);
            emulated.event_prod.set(Some(before));
        }
        let at = Machine::register(self.unit, offset);
        let mut ram = self.machine.ram.borrow_mut();
        let word = ram.load(at & !7).unwrap_or(0);
        let shift = 8 * (at & 4);
        let word = word & !(0xffff_ffff << shift) | u64::from(value) << shift;
        ram.settle(at & !7, word);
    }

    fn shown_at(&self, offset: u32) -> Option<PhysAddr> {
        let at = Machine::register(self.unit, offset);
        self.machine.messages.then(|| PhysAddr::new(at))
    }

    fn raise(&self, _line: Line) {
        let raised = &self.machine.units[self.unit].emulated.raised;
        raised.set(raised.get() + 1);
    }
}
