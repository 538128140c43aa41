//! One program on both.

use crate::machine::{Machine, RAM};
use crate::program::{self, Step};
use smmuv3_emulator::{Line, Size};
use smmuv3_model::{Access, Misuse, Mode, Profile, Refusal, Signal, Smmu, Source, Transaction};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::control::{Cr0, QueueBase};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, reg};
use std::collections::BTreeSet;
use std::fmt;

/// What a device sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What it read; 0 for a write.
    Data(u64),
    /// An abort.
    Aborted,
    /// Nothing yet.
    Waits,
}

fn seen(result: Result<u64, Refusal>) -> Seen {
    match result {
        Ok(value) => Seen::Data(value),
        Err(Refusal::Ignored(_)) => Seen::Data(0),
        Err(Refusal::Stalled(_)) => Seen::Waits,
        Err(_) => Seen::Aborted,
    }
}

/// Where the two part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    Register { offset: u32, ours: u32, theirs: u32 },
    Memory { at: u64, ours: u64, theirs: u64 },
    Dma { ours: Seen, theirs: Seen },
    Interrupt { source: Source, ours: bool },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register {
                offset,
                ours,
                theirs,
            } => write!(f, "register {offset:#x}: {ours:#x}, and {theirs:#x} there"),
            Self::Memory { at, ours, theirs } => {
                write!(f, "memory at {at:#x}: {ours:#x}, and {theirs:#x} there")
            }
            Self::Dma { ours, theirs } => write!(f, "DMA: {ours:x?}, and {theirs:x?} there"),
            Self::Interrupt { source, ours } => {
                let who = if *ours { "only here" } else { "only there" };
                write!(f, "interrupt of {source:?}: {who}")
            }
        }
    }
}

/// Both, in the same state as far as anybody can see.
pub struct Pair {
    pub ours: Machine,
    pub theirs: Smmu,
    /// Streams whose entries changed without a command that says so.
    pub stale: bool,
    /// The event of the last access, as it is there.
    pub last: Option<EventRecord>,
    /// The same here, of the physical SMMU.
    pub mine: Option<EventRecord>,
    /// What the architecture leaves open, and the owner did all the same.
    pub misuse: Vec<Misuse>,
    /// Interrupts by wire and message there, and by message alone here.
    pub wires: u64,
    /// CMDQ_CONS with bits above a queue that just became smaller.
    pub shrunk: u64,
    /// CMDQ_CONS.ERR without an error.
    pub unknown: u64,
}

/// Every register of both pages; what lies between reads as zero.
fn offsets() -> impl Iterator<Item = u32> {
    (0..0x100).step_by(4).chain((0x1_00a0..0x1_00d0).step_by(4))
}

impl Pair {
    pub fn new(physical: Profile, messages: bool) -> Self {
        let ours = Machine::new(physical, Mode::Plain, messages, &[]);
        let word = |offset| ours.shown(offset);
        let profile = Profile {
            name: "what the registers say",
            idr0: Idr0::from(word(reg::IDR0)),
            idr1: Idr1::from(word(reg::IDR1)),
            idr3: Idr3::from(word(reg::IDR3)),
            idr5: Idr5::from(word(reg::IDR5)),
            iidr: Iidr::from(word(reg::IIDR)),
            aidr: Aidr::from(word(reg::AIDR)),
            gbpa: word(reg::GBPA),
        };
        let mut theirs = Smmu::new(profile, [RAM], Mode::Plain, []);
        theirs.add_doorbell(crate::machine::DOORBELL);
        theirs.log_writes(true);
        let mut pair = Self {
            ours,
            theirs,
            stale: false,
            last: None,
            mine: None,
            misuse: Vec::new(),
            wires: 0,
            shrunk: 0,
            unknown: 0,
        };
        for (at, value) in program::level1() {
            pair.store(at, value);
        }
        pair
    }

    fn store(&mut self, at: u64, value: u64) {
        self.ours.store(at, value);
        self.theirs.store(at, value);
        self.theirs.publish(at, 8);
    }

    fn write(&mut self, offset: u32, size: Size, value: u64) {
        self.ours.write(offset, size, value);
        match size {
            Size::Word => self.theirs.write32(offset, value as u32),
            Size::Double => self.theirs.write64(offset, value),
            // No register has these (6.2).
            Size::Byte | Size::Half => {}
        }
    }

    /// One step on both.
    pub fn step(&mut self, step: &Step) -> Result<(), Difference> {
        match step {
            Step::Write(offset, size, value) => self.write(*offset, *size, *value),
            Step::Store(at, value) => self.store(*at, *value),
            Step::BringUp { .. } => {
                for (offset, size, value) in program::bring_up_writes(step) {
                    self.write(offset, size, value);
                    self.same()?;
                }
                self.stale = false;
            }
            Step::Tables(seed) => {
                for (at, value) in program::tables(*seed) {
                    self.store(at, value);
                }
            }
            Step::Entry { stream, words, how } => self.change_entry(*stream, words, *how),
            Step::Commands(commands) => self.commands(commands),
            Step::Dma { .. } => self.dma(step)?,
            Step::Consume(requests) => self.consume(*requests),
            Step::Acknowledge => {
                let active = self.ours.shown(reg::GERROR);
                self.write(reg::GERRORN, Size::Word, active.into());
            }
            Step::Ask(bits) => self.ask(*bits),
            Step::Resume(retry) => self.resume(*retry),
        }
        // What waits may go on, and be recorded.
        self.ours.drain();
        self.same()
    }

    /// As many commands as the queue has room for.
    fn commands(&mut self, commands: &[[u64; 2]]) {
        let low = u64::from(self.ours.shown(reg::CMDQ_BASE));
        let base = QueueBase::from(low | u64::from(self.ours.shown(reg::CMDQ_BASE + 4)) << 32);
        let log2 = base.log2size().min(16);
        let mut prod = self.ours.shown(reg::CMDQ_PROD);
        for words in commands.iter().take(1 << log2) {
            let slot = u64::from(prod) & ((1 << log2) - 1);
            let at = (base.addr_5() << 5) + slot * Command::SIZE;
            self.store(at, words[0]);
            self.store(at + 8, words[1]);
            prod = prod.wrapping_add(1) & ((2 << log2) - 1);
        }
        self.write(reg::CMDQ_PROD, Size::Word, prod.into());
    }

    fn change_entry(&mut self, stream: u32, words: &[u64; 8], how: u8) {
        for place in program::entry_places(stream) {
            for (n, word) in (0..).zip(words) {
                self.store(place + n * 8, *word);
            }
        }
        let command = match how {
            0 => Command::cfgi_all().0,
            1 => Command::cfgi_ste(StreamId(stream), false).0,
            // The aligned 4 streams around it.
            2 => [0x04 | u64::from(stream) << 32, 1],
            _ => Command::cfgi_ste(StreamId(stream), true).0,
        };
        self.commands(&[command, Command::sync(0).0]);
        // A model that caches nothing sees the entry at once; the emulation when
        // it is told, which needs the queue.
        let mask = 0xf_ffff;
        let prod = self.theirs.read32(reg::CMDQ_PROD) & mask;
        let cons = self.theirs.read32(reg::CMDQ_CONS);
        let active = self.theirs.read32(reg::GERROR) ^ self.theirs.read32(reg::GERRORN);
        let on = self.theirs.read32(reg::CR0ACK) & 1 << 3 != 0;
        let carried_out = on && active & 1 == 0 && prod == cons & mask;
        self.stale |= !carried_out;
    }

    fn dma(&mut self, step: &Step) -> Result<(), Difference> {
        let Step::Dma {
            stream,
            substream,
            privileged,
            address,
            kind,
        } = *step
        else {
            return Ok(());
        };
        // A device cannot see whose memory is not there; writes go where no
        // structure is.
        let write = kind & 1 != 0 && !(RAM.start..program::TARGET).contains(&address);
        let what = if write { Access::Write } else { Access::Read };
        let access = Transaction {
            substream,
            privileged,
            ..Transaction::new(StreamId(stream), address, what)
        };
        let value = write.then_some(address ^ 0x5a5a);
        if stream > crate::machine::STREAMS.1 {
            // No device of the owner's has such a number.
            return Ok(());
        }
        let ours = self.ours.dma(access, value);
        self.mine = ours.err().and_then(|refusal| refusal.event());
        let ours = seen(ours);
        let pcie = stream < crate::machine::PCIE;
        assert!(!pcie || ours != Seen::Waits, "PCI Express cannot wait");
        let theirs = match value {
            Some(value) => self.theirs.write(access, value).map(|()| 0),
            None => self.theirs.read(access),
        };
        self.last = theirs.err().and_then(|refusal| refusal.event());
        let theirs = seen(theirs);
        if ours != theirs {
            return Err(Difference::Dma { ours, theirs });
        }
        Ok(())
    }

    fn consume(&mut self, requests: bool) {
        let (prod, cons) = if requests {
            (reg::PRIQ_PROD, reg::PRIQ_CONS)
        } else {
            (reg::EVENTQ_PROD, reg::EVENTQ_CONS)
        };
        let value = self.theirs.read32(prod);
        self.write(cons, Size::Word, value.into());
    }

    fn ask(&mut self, bits: [u64; 2]) {
        let stream = program::USED[(bits[0] as u32) as usize % program::USED.len()];
        let request = PageRequest(bits).with_stream(stream);
        if !self.theirs.profile().idr0.pri() {
            return;
        }
        self.ours.ask(request);
        let _ = self.theirs.page_request(request);
    }

    fn resume(&mut self, retry: bool) {
        let waiting = self.theirs.stalled();
        let mine = self.ours.hardware.0.smmu.borrow().stalled();
        let Some(((stream, theirs), (_, ours))) = waiting.first().zip(mine.first()) else {
            return;
        };
        if ours != theirs {
            return;
        }
        let command = Command::resume(*stream, *theirs, retry, !retry);
        self.commands(&[command.0, Command::sync(0).0]);
    }

    /// Whether anybody could tell them apart.
    fn same(&mut self) -> Result<(), Difference> {
        self.misuse.extend(self.theirs.take_misuse());
        self.same_interrupts()?;
        let mut stores: BTreeSet<u64> = self.ours.take_stores().into_iter().collect();
        stores.extend(self.theirs.take_writes());
        for at in stores {
            let (ours, theirs) = (self.ours.load(at), self.theirs.load(at).unwrap_or(0));
            if ours != theirs {
                return Err(Difference::Memory { at, ours, theirs });
            }
        }
        for offset in offsets() {
            let (ours, theirs) = (self.ours.shown(offset), self.theirs.read32(offset));
            if offset == reg::CMDQ_CONS && self.same_consumer(ours, theirs) {
                continue;
            }
            if ours != theirs {
                return Err(Difference::Register {
                    offset,
                    ours,
                    theirs,
                });
            }
        }
        self.look_below();
        Ok(())
    }

    /// What the physical SMMU was asked for is the owner's to ask, and legal; and
    /// no more is held than there are queues.
    fn look_below(&mut self) {
        let mut smmu = self.ours.hardware.0.smmu.borrow_mut();
        for misuse in smmu.take_misuse() {
            // The owner's own addresses.
            assert!(matches!(misuse, Misuse::Misaligned(_)), "below: {misuse}");
        }
        for command in smmu.take_commands() {
            let opcode = command.opcode();
            let tagged = (0x10..0x40).contains(&opcode.0);
            assert!(!tagged || command.vmid_bits() == 1, "VMID of {command:?}");
            assert_ne!(opcode, Opcode::TLBI_NSNH_ALL, "everybody's");
        }
        let on = Cr0::from(self.ours.shown(reg::CR0ACK));
        let queues = [on.cmdqen(), on.eventqen(), on.priqen()];
        let queues = queues.iter().filter(|on| **on).count();
        let held = self.ours.hardware.0.held.borrow().len();
        assert!(held <= queues, "{held} held for {queues} queues");
    }

    /// Whether CMDQ_CONS says the same as far as it says anything (6.3.28).
    fn same_consumer(&mut self, ours: u32, theirs: u32) -> bool {
        const ERR: u32 = 0x7f00_0000;
        let log2 = QueueBase::from(self.theirs.read64(reg::CMDQ_BASE)).log2size();
        let errors = self.theirs.read32(reg::GERROR) ^ self.theirs.read32(reg::GERRORN);
        let differ = ours ^ theirs;
        if errors & 1 != 0 && differ & ERR != 0 || differ & ((2 << log2.min(19)) - 1) != 0 {
            return false;
        }
        // Without an error it has no reason; a queue that is smaller than before
        // and not started yet has an old index.
        self.unknown += u64::from(differ & ERR != 0);
        self.shrunk += u64::from(differ & !ERR != 0);
        true
    }

    /// Whether the source tells by message: a wire as well is a choice (3.18).
    fn sends_message(&mut self, source: Source, consumed: &[Command]) -> bool {
        let mut address = |offset| self.theirs.read64(offset) & 0x000f_ffff_ffff_fffc;
        let to = match source {
            Source::EventQueue => address(reg::EVENTQ_IRQ_CFG0),
            Source::PriQueue => address(reg::PRIQ_IRQ_CFG0),
            Source::GlobalError => address(reg::GERROR_IRQ_CFG0),
            Source::Sync => {
                let syncs = consumed.iter().filter(|c| c.opcode() == Opcode::SYNC);
                syncs.map(Command::msi_address).max().unwrap_or(0)
            }
        };
        self.theirs.profile().idr0.msi() && to != 0
    }

    fn same_interrupts(&mut self) -> Result<(), Difference> {
        let ours = self.ours.take_lines();
        let interrupts = self.theirs.take_interrupts();
        let consumed = self.theirs.take_commands();
        let theirs: BTreeSet<Source> = interrupts
            .iter()
            .filter(|interrupt| interrupt.signal == Signal::Wired)
            .map(|interrupt| interrupt.source)
            .collect();
        for (line, source) in [
            (Line::Event, Source::EventQueue),
            (Line::Pri, Source::PriQueue),
            (Line::Sync, Source::Sync),
            (Line::Error, Source::GlobalError),
        ] {
            let raised = ours.contains(&line);
            if !raised && theirs.contains(&source) && self.sends_message(source, &consumed) {
                self.wires += 1;
            } else if raised != theirs.contains(&source) {
                return Err(Difference::Interrupt {
                    source,
                    ours: raised,
                });
            }
        }
        Ok(())
    }
}
