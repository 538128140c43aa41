//! An ITS as its driver sees it: registers, tables and the command queue
//! (IHI 0069, 5.3 and 12.18). Nothing here is checked: that is for the other
//! side to do.

use crate::places::{clear, own};
use core::arch::asm;
use portcullis_hostile::{read, read64, write, write64};

const CTLR: u64 = 0x0;
const TYPER: u64 = 0x8;
const CBASER: u64 = 0x80;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
const BASER: u64 = 0x100;

const CTLR_ENABLED: u32 = 1 << 0;
const CTLR_QUIESCENT: u32 = 1 << 31;
/// GITS_TYPER.PTA: collections name a redistributor by its address.
const TYPER_PTA: u64 = 1 << 19;
const CREADR_STALLED: u64 = 1 << 0;
const VALID: u64 = 1 << 63;
/// Normal memory, not cached: this kernel runs with its caches off.
const NOT_CACHED: u64 = 1 << 59;
/// GITS_BASER.Indirect: a table of two levels.
pub const INDIRECT: u64 = 1 << 62;

/// Looks that are taken at a register before it counts as silent. Each is an
/// access that leaves the CPU.
const PATIENCE: u32 = 200_000;
/// The same where nothing answers: every write is tried, none is waited for.
const NO_PATIENCE: u32 = 2;

/// What a table is for (GITS_BASER.Type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// The device table.
    Devices = 1,
    /// The table of virtual processors.
    Processors = 2,
    /// The collection table.
    Collections = 4,
}

/// What came of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All were taken.
    Done,
    /// The ITS stopped at one and said so.
    Stalled,
    /// Nothing happened for long.
    Silent,
}

/// A command: four double words.
pub type Command = [u64; 4];

/// The commands of IHI 0069, 5.3, with whatever arguments.
pub mod command {
    use super::Command;

    const V: u64 = 1 << 63;

    const fn on_event(code: u64, device: u64, event: u64) -> Command {
        [code | device << 32, event, 0, 0]
    }
    /// Has a device's translations at `table`, for `1 << (size + 1)` events.
    pub const fn mapd(device: u64, size: u64, table: u64) -> Command {
        [0x08 | device << 32, size, table | V, 0]
    }
    /// Takes a device's translations away.
    pub const fn unmapd(device: u64) -> Command {
        [0x08 | device << 32, 0, 0, 0]
    }
    /// Has a collection go to a redistributor.
    pub const fn mapc(collection: u64, target: u64) -> Command {
        [0x09, 0, collection | target | V, 0]
    }
    /// Has an event raise an LPI.
    pub const fn mapti(device: u64, event: u64, lpi: u64, collection: u64) -> Command {
        [0x0a | device << 32, event | lpi << 32, collection, 0]
    }
    /// Has an event raise the LPI of the same number.
    pub const fn mapi(device: u64, event: u64, collection: u64) -> Command {
        [0x0b | device << 32, event, collection, 0]
    }
    /// Has an event go to another collection.
    pub const fn movi(device: u64, event: u64, collection: u64) -> Command {
        [0x01 | device << 32, event, collection, 0]
    }
    /// Moves what is pending at one redistributor to another.
    pub const fn movall(from: u64, to: u64) -> Command {
        [0x0e, 0, from, to]
    }
    /// Raises an event.
    pub const fn int(device: u64, event: u64) -> Command {
        on_event(0x03, device, event)
    }
    /// Takes an event's pending state away.
    pub const fn clear(device: u64, event: u64) -> Command {
        on_event(0x04, device, event)
    }
    /// Has the configuration of an event's LPI read again.
    pub const fn inv(device: u64, event: u64) -> Command {
        on_event(0x0c, device, event)
    }
    /// Has the configuration of a collection's LPIs read again.
    pub const fn invall(collection: u64) -> Command {
        [0x0d, 0, collection, 0]
    }
    /// Takes an event's translation away.
    pub const fn discard(device: u64, event: u64) -> Command {
        on_event(0x0f, device, event)
    }
    /// Waits for a redistributor.
    pub const fn sync(target: u64) -> Command {
        [0x05, 0, target, 0]
    }
    /// Has a virtual processor's pending LPIs at `pending` (GICv4.0).
    pub const fn vmapp(processor: u64, target: u64, pending: u64) -> Command {
        [0x29, processor << 32, target | V, pending | 15]
    }
    /// Has an event raise a virtual LPI (GICv4.0).
    pub const fn vmapti(device: u64, event: u64, processor: u64, lpi: u64) -> Command {
        [
            0x2a | device << 32,
            event | processor << 32,
            lpi | 1023 << 32,
            0,
        ]
    }
}

/// The ITS with the queue in this kernel's memory.
#[derive(Clone, Copy, Debug)]
pub struct Its {
    /// Its control frame.
    pub base: u64,
    /// Byte of the queue where the next command goes.
    next: u64,
    patience: u32,
}

impl Its {
    /// The ITS at `base`, where there may be none.
    pub fn at(base: u64) -> Self {
        let mut its = Self {
            base,
            next: 0,
            patience: NO_PATIENCE,
        };
        if its.is_there() {
            its.patience = PATIENCE;
        }
        its
    }

    /// Whether one answers: it says what it is.
    pub fn is_there(&self) -> bool {
        read64(self.base + TYPER) & 1 != 0
    }

    /// log2 of the events of a device, less one (GITS_TYPER.ID_bits).
    pub fn event_bits(&self) -> u64 {
        read64(self.base + TYPER) >> 8 & 0x1f
    }

    /// What a collection names the redistributor of CPU `number` by, whose RD
    /// frame is at `frame`.
    pub fn target(&self, frame: u64, number: u64) -> u64 {
        if read64(self.base + TYPER) & TYPER_PTA != 0 {
            frame
        } else {
            number << 16
        }
    }

    /// Turns it off; whether it then says that it is quiet.
    pub fn off(&self) -> bool {
        write(self.base + CTLR, 0);
        (0..self.patience).any(|_| read(self.base + CTLR) & CTLR_QUIESCENT != 0)
    }

    /// Turns it on.
    pub fn on(&self) {
        write(self.base + CTLR, CTLR_ENABLED);
    }

    /// Writes the register of the table for `kind`: `pages` of 4 KiB at `at`;
    /// whether there is such a register.
    pub fn set_table(&self, kind: Kind, at: u64, pages: u64, more: u64) -> bool {
        let register = self.table_register(kind);
        if let Some(register) = register {
            write64(register, VALID | NOT_CACHED | more | at | (pages - 1));
        }
        register.is_some()
    }

    /// The register of the table for `kind`.
    pub fn table_register(&self, kind: Kind) -> Option<u64> {
        let mut all = (0..8).map(|n| self.base + BASER + n * 8);
        all.find(|at| read64(*at) >> 56 & 7 == kind as u64)
    }

    /// Has the queue at `at`, empty.
    pub fn set_queue(&mut self, at: u64) {
        let pages = own::QUEUE_BYTES / 0x1000;
        write64(self.base + CBASER, VALID | NOT_CACHED | at | (pages - 1));
        write64(self.base + CWRITER, 0);
        self.next = 0;
    }

    /// Writes both registers of the queue with one instruction, which no syndrome
    /// describes; where it would go on.
    fn set_queue_at_once(&mut self, at: u64) -> u64 {
        let pages = own::QUEUE_BYTES / 0x1000;
        let base = VALID | NOT_CACHED | at | (pages - 1);
        let mut register = self.base + CBASER;
        // SAFETY: two registers of the machine.
        unsafe {
            asm!("stp {base}, xzr, [{at}], #16", base = in(reg) base, at = inout(reg) register);
        }
        self.next = 0;
        register
    }

    /// As [`Self::start`], by accesses that no syndrome describes; whether the registers
    /// are as plain ones leave them, and those accesses have moved on.
    pub fn start_undescribed(&mut self) -> bool {
        self.start();
        let registers = || [CBASER, CWRITER, CREADR].map(|n| read64(self.base + n));
        let plain = registers();
        self.off();
        write64(self.base + CBASER, 0);
        let moved = self.set_queue_at_once(own::QUEUE) == self.base + CREADR;
        self.on();
        let registers = [CBASER, CWRITER, CREADR].map(|n| read64(self.base + n));
        moved && registers == plain
    }

    /// Has the queue carried out up to byte `end` by such an access; whether it has
    /// moved on, and what came of the commands.
    pub fn go_undescribed(&self, end: u64) -> (bool, Outcome) {
        let mut register = self.base + CWRITER;
        // SAFETY: a register of the machine.
        unsafe { asm!("str {end}, [{at}], #-8", end = in(reg) end, at = inout(reg) register) }
        (register == self.base + CBASER, self.wait(end))
    }

    /// Turns it on with empty tables of this kernel's own.
    pub fn start(&mut self) {
        self.off();
        clear(own::DEVICES, own::DEVICE_PAGES * 0x1000);
        clear(own::COLLECTIONS, 0x1000);
        clear(own::PROCESSORS, 0x1000);
        self.set_table(Kind::Devices, own::DEVICES, own::DEVICE_PAGES, 0);
        self.set_table(Kind::Collections, own::COLLECTIONS, 1, 0);
        self.set_table(Kind::Processors, own::PROCESSORS, 1, 0);
        self.set_queue(own::QUEUE);
        self.on();
    }

    /// Turns it on with another table for `kind`, and everything else as
    /// [`Self::start`] has it.
    pub fn start_with(&mut self, kind: Kind, at: u64, more: u64) {
        self.start();
        self.off();
        self.set_table(kind, at, 1, more);
        self.set_queue(own::QUEUE);
        self.on();
    }

    /// Puts commands into the queue and has them carried out.
    pub fn run(&mut self, commands: impl IntoIterator<Item = Command>) -> Outcome {
        let end = self.put(commands);
        self.go(end)
    }

    /// Puts commands into the queue; where it ends then.
    pub fn put(&mut self, commands: impl IntoIterator<Item = Command>) -> u64 {
        for command in commands {
            for (n, word) in (0..).zip(command) {
                write64(own::QUEUE + self.next + n * 8, word);
            }
            self.next = (self.next + 32) % own::QUEUE_BYTES;
        }
        self.next
    }

    /// Has the queue carried out up to byte `end`.
    pub fn go(&self, end: u64) -> Outcome {
        write64(self.base + CWRITER, end);
        self.wait(end)
    }

    fn wait(&self, end: u64) -> Outcome {
        for _ in 0..self.patience {
            let at = self.done();
            if at & CREADR_STALLED != 0 {
                return Outcome::Stalled;
            }
            if at == end {
                return Outcome::Done;
            }
        }
        Outcome::Silent
    }

    /// How far the ITS is in its queue (GITS_CREADR).
    pub fn done(&self) -> u64 {
        read64(self.base + CREADR)
    }
}
