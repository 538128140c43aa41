//! A machine and a physical SMMU that remember what was done to them.
#![allow(dead_code, reason = "every test file uses its own part of it")]

use portcullis_addr::{Ipa, PhysAddr, Range};
use smmuv3_driver::{Features, Quirks};
use smmuv3_emulator::{
    Delivery, Emulator, Failure, IdConfig, Line, Msi, Outside, Physical, Platform, Progress,
    RangeConfig, Size, StreamConfig, Window,
};
use smmuv3_spec::command::Command;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};
use smmuv3_spec::{StreamId, Vmid, reg};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The owner's memory.
pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 4 << 20;
/// Where the command queue of [`Machine::enabled`] lies.
pub const COMMANDS: u64 = RAM + 0x1_0000;
/// log2 of its entries.
pub const LOG2: u32 = 5;
/// Physical addresses are IPAs plus this.
pub const OFFSET: u64 = 0x40_0000_0000;
/// Physical addresses of the register page.
pub const PAGE: u64 = 0x900_0000;
/// Physical streams are the owner's plus this.
pub const STREAMS: u32 = 0x100;
/// The owner's VMID.
pub const VMID: u16 = 0x2a;

#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Show(u32, u32),
    Store(u64, u32),
    Raise(Line),
    Issue([u64; 2]),
    Kick,
    Finish,
    Signal(Vec<Msi>),
    /// The events that there are were asked for.
    Events,
    Set(u32, StreamConfig),
    SetRange(u32, u32, RangeConfig),
    Close(u64),
}

pub type Log = Rc<RefCell<Vec<Act>>>;

#[derive(Clone)]
pub struct Board {
    pub ram: Rc<RefCell<Vec<u8>>>,
    pub shown: Rc<RefCell<BTreeMap<u32, u32>>>,
    pub log: Log,
    /// Windows that are held.
    pub held: Rc<Cell<u32>>,
    /// End of the owner's memory.
    pub end: Rc<Cell<u64>>,
    /// Largest range that was asked for.
    pub largest: Rc<Cell<u64>>,
    /// How often each offset of windows was loaded.
    pub loads: Rc<RefCell<BTreeMap<u64, u32>>>,
    /// Eight bytes of windows that answer with an error; 0 for none.
    pub broken: Rc<Cell<u64>>,
    /// They did.
    pub aborted: Rc<Cell<bool>>,
}

impl Board {
    pub fn new() -> Self {
        Self {
            ram: Rc::new(RefCell::new(vec![0; RAM_SIZE as usize])),
            shown: Rc::default(),
            log: Log::default(),
            held: Rc::default(),
            end: Rc::new(Cell::new(RAM + RAM_SIZE)),
            largest: Rc::default(),
            loads: Rc::default(),
            broken: Rc::default(),
            aborted: Rc::default(),
        }
    }

    pub fn read64(&self, at: u64) -> u64 {
        let at = (at - RAM) as usize;
        u64::from_le_bytes(self.ram.borrow()[at..at + 8].try_into().unwrap())
    }

    pub fn write64(&self, at: u64, value: u64) {
        let at = (at - RAM) as usize;
        self.ram.borrow_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    pub fn read32(&self, at: u64) -> u32 {
        let word = self.read64(at & !7);
        if at & 4 == 0 {
            word as u32
        } else {
            (word >> 32) as u32
        }
    }

    fn write32(&self, at: u64, value: u32) {
        let at = (at - RAM) as usize;
        self.ram.borrow_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub fn reads(&self, offset: u32) -> u32 {
        self.shown.borrow().get(&offset).copied().unwrap_or(0)
    }

    /// Whether an access of a window is answered with an error.
    fn breaks(&self, at: u64) -> bool {
        let breaks = self.broken.get() == at & !7;
        self.aborted.set(self.aborted.get() || breaks);
        breaks
    }

    fn inside(&self, range: Range<Ipa>) -> bool {
        range.start().raw() >= RAM && range.end().raw() <= self.end.get()
    }
}

#[derive(Debug)]
pub struct Held {
    range: Range<Ipa>,
    board: BoardRef,
}

#[derive(Clone)]
pub struct BoardRef(Board);

impl std::fmt::Debug for BoardRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("board")
    }
}

impl Window for Held {
    fn range(&self) -> Range<Ipa> {
        self.range
    }

    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        (offset < self.range.size())
            .then(|| PhysAddr::new(self.range.start().raw() + offset + OFFSET))
    }

    fn load(&self, offset: u64) -> u64 {
        *self.board.0.loads.borrow_mut().entry(offset).or_default() += 1;
        let at = self.range.start().raw() + offset;
        if offset + 8 > self.range.size() || self.board.0.breaks(at) {
            return 0;
        }
        self.board.0.read64(self.range.start().raw() + offset)
    }

    fn store(&self, offset: u64, value: u64) {
        let at = self.range.start().raw() + offset;
        if offset + 8 > self.range.size() || self.board.0.breaks(at) {
            return;
        }
        self.board.0.write64(at, value);
    }

    fn store32(&self, offset: u64, value: u32) {
        let at = self.range.start().raw() + offset;
        if offset + 4 > self.range.size() || self.board.0.breaks(at) {
            return;
        }
        self.board.0.log.borrow_mut().push(Act::Store(at, value));
        self.board.0.write32(at, value);
    }

    fn publish(&self, _: u64, _: u64) {}

    fn refresh(&self, offset: u64, bytes: u64) {
        assert!(offset + bytes <= self.range.size(), "refreshed outside");
    }

    fn aborted(&self) -> bool {
        self.board.0.aborted.take()
    }
}

impl Platform for Board {
    type Window = Held;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        let bytes = words.len() as u64 * 8;
        let range = Range::from_size(at, bytes).map_err(|_| Outside)?;
        if !self.inside(range) {
            return Err(Outside);
        }
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.read64(at.raw() + i as u64 * 8);
        }
        Ok(())
    }

    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside> {
        assert_eq!(at.raw() % 4, 0);
        let range = Range::from_size(at, 4).map_err(|_| Outside)?;
        if !self.inside(range) {
            return Err(Outside);
        }
        self.log.borrow_mut().push(Act::Store(at.raw(), value));
        self.write32(at.raw(), value);
        Ok(())
    }

    fn open(&self, range: Range<Ipa>) -> Result<Held, Outside> {
        self.largest.set(self.largest.get().max(range.size()));
        if !self.inside(range) {
            return Err(Outside);
        }
        self.held.set(self.held.get() + 1);
        Ok(Held {
            range,
            board: BoardRef(self.clone()),
        })
    }

    fn close(&self, window: Held) {
        self.held.set(self.held.get() - 1);
        self.log
            .borrow_mut()
            .push(Act::Close(window.range.start().raw()));
    }

    fn show(&self, offset: u32, value: u32) {
        assert_eq!(offset % 4, 0);
        assert!(offset % 0x1_0000 < 0x1000 && offset < 0x2_0000);
        self.shown.borrow_mut().insert(offset, value);
        self.log.borrow_mut().push(Act::Show(offset, value));
    }

    fn shown_at(&self, offset: u32) -> Option<PhysAddr> {
        Some(PhysAddr::new(PAGE + u64::from(offset)))
    }

    fn raise(&self, line: Line) {
        self.log.borrow_mut().push(Act::Raise(line));
    }
}

pub struct Recorder {
    pub log: Log,
    pub features: Features,
    /// The owner's streams, in its own numbers.
    pub streams: Vec<(u32, u32)>,
    /// What the next calls end in.
    pub finishes: Vec<Failure>,
    pub issues: Vec<Failure>,
    pub sets: Vec<Failure>,
    pub signals: Vec<Failure>,
    /// What is recorded, and not asked for yet.
    pub events: Vec<EventRecord>,
    /// What became of the rest.
    pub told: Vec<Delivery>,
    /// Streams that one call of `set_range` does.
    pub stride: u32,
}

impl Recorder {
    fn act(&self, act: Act) {
        self.log.borrow_mut().push(act);
    }
}

fn outcome(failures: &mut Vec<Failure>) -> Result<(), Failure> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.remove(0))
    }
}

impl Physical for Recorder {
    fn features(&self) -> &Features {
        &self.features
    }

    fn vmid(&self) -> Vmid {
        Vmid(VMID)
    }

    fn stream(&self, stream: StreamId) -> Option<StreamId> {
        self.streams
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&stream.0))
            .then(|| StreamId(stream.0 + STREAMS))
    }

    fn is_invalid(&self, _: StreamId) -> bool {
        false
    }

    fn next_streams(&self, from: StreamId) -> Option<(StreamId, StreamId)> {
        self.streams
            .iter()
            .find(|(_, last)| *last >= from.0)
            .map(|(first, last)| (StreamId(*first.max(&from.0)), StreamId(*last)))
    }

    fn set(&mut self, stream: StreamId, wanted: &StreamConfig) -> Result<(), Failure> {
        self.act(Act::Set(stream.0, *wanted));
        outcome(&mut self.sets)
    }

    fn set_range(
        &mut self,
        first: StreamId,
        last: StreamId,
        wanted: &RangeConfig,
    ) -> Result<Option<StreamId>, Failure> {
        self.act(Act::SetRange(first.0, last.0, *wanted));
        outcome(&mut self.sets)?;
        Ok((last.0 - first.0 >= self.stride).then(|| StreamId(first.0 + self.stride)))
    }

    fn issue(&mut self, command: Command) -> Result<(), Failure> {
        self.act(Act::Issue(command.0));
        outcome(&mut self.issues)
    }

    fn kick(&mut self) {
        self.act(Act::Kick);
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.act(Act::Finish);
        outcome(&mut self.finishes)
    }

    fn take_events(
        &mut self,
        mut tell: impl FnMut(Option<StreamId>, &EventRecord) -> Delivery,
    ) -> u32 {
        self.act(Act::Events);
        let events = std::mem::take(&mut self.events);
        for event in &events {
            let stream = Physical::owner_stream(self, event.stream());
            self.told.push(tell(stream, event));
        }
        events.len() as u32
    }

    fn signal(&mut self, messages: &[Msi]) -> Result<bool, Failure> {
        if !self.features.idr0.msi() {
            return Ok(false);
        }
        outcome(&mut self.signals)?;
        self.act(Act::Signal(messages.to_vec()));
        Ok(true)
    }
}

/// A physical SMMU that has everything.
pub fn features() -> Features {
    Features {
        // S2P S1P TTF=2 COHACC HTTU=2 HYP ATS ASID16 SEV PRI VMID16 CD2L
        // ST_LEVEL=1; no MSI.
        idr0: Idr0::from(0x080d_569b),
        idr1: Idr1::from(0x0e73_9d10),
        idr3: Idr3::from(0x6634),
        idr5: Idr5::from(0x0040_0075),
        iidr: Iidr::from(0x4832_143b),
        aidr: Aidr::from(2),
        quirks: Quirks::empty(),
    }
}

pub const CONFIG: IdConfig = IdConfig {
    page_requests: true,
    ipa_bits: 40,
    stream_bits: 16,
    coherent: true,
};

pub struct Machine {
    pub board: Board,
    pub physical: Recorder,
    pub smmu: Emulator<Held>,
}

impl Machine {
    pub fn with(features: Features, config: &IdConfig) -> Self {
        let board = Board::new();
        let smmu = Emulator::new(&features, config);
        smmu.show_registers(&board);
        let physical = Recorder {
            log: board.log.clone(),
            features,
            streams: vec![(8, 15), (0x20, 0x20)],
            finishes: vec![],
            issues: vec![],
            sets: vec![],
            signals: vec![],
            events: vec![],
            told: vec![],
            stride: u32::MAX,
        };
        let this = Self {
            board,
            physical,
            smmu,
        };
        this.take();
        this
    }

    pub fn new() -> Self {
        Self::with(features(), &CONFIG)
    }

    /// One whose command queue is enabled, as Linux does it.
    pub fn enabled() -> Self {
        Self::with_commands(features())
    }

    pub fn with_commands(features: Features) -> Self {
        let mut this = Self::with(features, &CONFIG);
        this.double(reg::CMDQ_BASE, COMMANDS | 1 << 62 | u64::from(LOG2));
        this.word(reg::CMDQ_PROD, 0);
        this.word(reg::CMDQ_CONS, 0);
        this.word(reg::CR0, 0x8);
        assert_eq!(this.reads(reg::CR0ACK), 0x8);
        this.take();
        this
    }

    pub fn write(&mut self, offset: u32, size: Size, value: u64) -> Progress {
        self.smmu
            .write(&self.board, &mut self.physical, offset, size, value)
    }

    /// A 32-bit write that takes effect at once.
    #[track_caller]
    pub fn word(&mut self, offset: u32, value: u32) {
        assert_eq!(
            self.write(offset, Size::Word, value.into()),
            Progress::Done,
            "{offset:#x}"
        );
    }

    #[track_caller]
    pub fn double(&mut self, offset: u32, value: u64) {
        assert_eq!(self.write(offset, Size::Double, value), Progress::Done);
    }

    /// Repeats a write until it took effect; how often it was done.
    pub fn until_done(&mut self, offset: u32, value: u32) -> u32 {
        for times in 1..10_000 {
            if self.write(offset, Size::Word, value.into()) == Progress::Done {
                return times;
            }
        }
        panic!("never done");
    }

    pub fn reads(&self, offset: u32) -> u32 {
        self.board.reads(offset)
    }

    pub fn reads64(&self, offset: u32) -> u64 {
        u64::from(self.reads(offset)) | u64::from(self.reads(offset + 4)) << 32
    }

    /// What was done since the last call.
    pub fn take(&self) -> Vec<Act> {
        std::mem::take(&mut *self.board.log.borrow_mut())
    }

    /// The commands that were issued since the last call.
    pub fn issued(&self) -> Vec<[u64; 2]> {
        self.take()
            .into_iter()
            .filter_map(|act| match act {
                Act::Issue(command) => Some(command),
                _ => None,
            })
            .collect()
    }

    /// Puts commands behind `CMDQ_PROD` and returns its new value.
    pub fn put(&mut self, commands: &[[u64; 2]]) -> u32 {
        let mut prod = self.reads(reg::CMDQ_PROD);
        for command in commands {
            let at = COMMANDS + u64::from(prod & ((1 << LOG2) - 1)) * 16;
            self.board.write64(at, command[0]);
            self.board.write64(at + 8, command[1]);
            prod = (prod + 1) & ((2 << LOG2) - 1);
        }
        prod
    }

    /// The 32-bit write of `offset` until it took effect; what each time did.
    pub fn repeat(&mut self, offset: u32, value: u32) -> Vec<Vec<Act>> {
        let mut all = vec![];
        loop {
            let progress = self.write(offset, Size::Word, value.into());
            all.push(self.take());
            if progress == Progress::Done {
                return all;
            }
            assert!(all.len() < 10_000, "never done");
        }
    }

    /// Submits commands.
    pub fn submit(&mut self, commands: &[[u64; 2]]) -> Progress {
        let prod = self.put(commands);
        self.write(reg::CMDQ_PROD, Size::Word, prod.into())
    }

    /// Where the command at `index` lies.
    pub fn command_at(index: u32) -> u64 {
        COMMANDS + u64::from(index & ((1 << LOG2) - 1)) * 16
    }
}
