//! A small SMMU for the driver's tests. It keeps the register protocols, runs
//! commands from what was published to it, and panics when the driver breaks a
//! rule that holds at every moment:
//!
//! - DMA that was closed never opens;
//! - guarded registers are written only while what guards them is off;
//! - SMMUEN is set only after everything was invalidated and synced;
//! - no command is overwritten before it was consumed;
//! - no memory is given back that a running SMMU may still find;
//! - whatever mixture of old and new words the SMMU may have fetched from a
//!   watched stream table entry is an abort or one of the allowed entries.
#![allow(dead_code, missing_docs)]

use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Arena, Memory};
use smmuv3_driver::{Clock, Registers};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::{Command, Opcode, TLBI_TG_ANY};
use smmuv3_spec::control::{CmdqCons, Cr0, Gbpa, OutputIndex, QueueBase, StrtabBaseCfg};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::id::{Idr0, Idr1, Idr3};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;
use smmuv3_spec::ste::{L1Std, Ste};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub mod watch;

pub use watch::Watch;

pub const RAM: u64 = 0x8000_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write32(u32, u32),
    Write64(u32, u64),
    Store(u64, u64),
    Command(Command),
}

/// Ways in which the device misbehaves.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// `GBPA.Update` stays set.
    pub gbpa_stuck: bool,
    /// `GBPA.ABORT` reads as 0 whatever is written.
    pub gbpa_deaf: bool,
    /// Bits of CR0 that CR0ACK does not follow when they are set.
    pub cr0_set_stuck: u32,
    /// Bits of CR0 that CR0ACK does not follow when they are cleared.
    pub cr0_clear_stuck: u32,
    pub irq_stuck: bool,
    /// No command is consumed from now on.
    pub commands_stuck: bool,
    /// Commands are consumed one at a time, at each read of CONS.
    pub slow: bool,
    /// The next command with this opcode ends in this error; 0 lets it pass.
    pub refuse: Vec<(Opcode, u8)>,
    /// What CMDQ_CONS reads as.
    pub cons: Option<u32>,
    /// The rules of the module's text are not checked: the driver was lied to.
    pub lenient: bool,
    /// The allocator has nothing left.
    pub no_memory: bool,
}

pub struct State {
    pub regs: BTreeMap<u32, u64>,
    pub faults: Faults,
    pub log: Vec<Op>,
    pub watch: Option<Watch>,
    /// Commands consumed, CMD_SYNC included.
    pub consumed: Vec<Command>,
    closed: bool,
    /// Second-level tables that the device may know of.
    tables: BTreeSet<u64>,
    config_clean: bool,
    tlb_clean: bool,
    clean_synced: bool,
}

pub struct Fake {
    pub arena: Arena,
    /// What was published: all that the device reads.
    view: RefCell<HashMap<u64, u64>>,
    pub state: RefCell<State>,
    time: Cell<u64>,
}

impl State {
    fn get(&self, offset: u32) -> u64 {
        self.regs.get(&offset).copied().unwrap_or(0)
    }

    pub fn get32(&self, offset: u32) -> u32 {
        self.get(offset) as u32
    }

    pub fn set(&mut self, offset: u32, value: impl Into<u64>) {
        self.regs.insert(offset, value.into());
    }

    pub fn ack(&self) -> Cr0 {
        Cr0::from(self.get32(reg::CR0ACK))
    }

    pub fn idr0(&self) -> Idr0 {
        Idr0::from(self.get32(reg::IDR0))
    }

    /// Whether any transaction could pass without the stream table.
    pub fn bypass(&self) -> bool {
        !self.ack().smmuen() && !Gbpa::from(self.get32(reg::GBPA)).abort()
    }

    fn check_closed(&mut self) {
        let opened = self.closed && self.bypass() && !self.faults.lenient;
        assert!(!opened, "DMA was opened");
        self.closed |= !self.bypass();
    }

    pub fn gerror_active(&self) -> u32 {
        self.get32(reg::GERROR) ^ self.get32(reg::GERRORN)
    }
}

impl Fake {
    /// An SMMU as QEMU has it: after reset, DMA passes.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut State)) -> Self {
        Self::sized(4 << 20, change)
    }

    /// With so many bytes of memory.
    pub fn sized(bytes: u64, change: impl FnOnce(&mut State)) -> Self {
        let mut state = State {
            regs: BTreeMap::new(),
            faults: Faults::default(),
            log: Vec::new(),
            watch: None,
            consumed: Vec::new(),
            closed: false,
            tables: BTreeSet::new(),
            config_clean: false,
            tlb_clean: false,
            clean_synced: false,
        };
        state.set(reg::IDR0, 0x0d44_101b_u32);
        state.set(reg::IDR1, 0x0273_0010_u32);
        state.set(reg::IDR3, 0x1414_u32);
        state.set(reg::IDR5, 0x74_u32);
        // Not 0, which would be QEMU with its workaround.
        state.set(reg::IIDR, 0x1230_0abc_u32);
        state.set(reg::AIDR, 1_u32);
        state.set(reg::GBPA, 0x1000_u32);
        change(&mut state);
        Self {
            arena: Arena::new(PhysAddr::new(RAM), bytes),
            view: RefCell::default(),
            state: RefCell::new(state),
            time: Cell::new(0),
        }
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.borrow_mut().faults);
    }

    pub fn log(&self) -> Vec<Op> {
        self.state.borrow().log.clone()
    }

    pub fn take_consumed(&self) -> Vec<Command> {
        std::mem::take(&mut self.state.borrow_mut().consumed)
    }

    /// Aborts everything by itself, with translation off.
    pub fn is_fenced(&self) -> bool {
        let state = self.state.borrow();
        let cr0 = Cr0::from(state.get32(reg::CR0));
        !cr0.smmuen() && Gbpa::from(state.get32(reg::GBPA)).abort()
    }

    fn seen(&self, at: u64) -> u64 {
        self.view.borrow().get(&at).copied().unwrap_or(0)
    }

    /// Where the entry of `stream` lies, as the device finds it.
    pub fn entry_address(&self, stream: StreamId) -> Option<u64> {
        let state = self.state.borrow();
        let base = state.get(reg::STRTAB_BASE) & 0x00ff_ffff_ffff_ffc0;
        let cfg = StrtabBaseCfg::from(state.get32(reg::STRTAB_BASE_CFG));
        let stream = u64::from(stream.0);
        if stream >> cfg.log2size() != 0 {
            return None;
        }
        if cfg.fmt() == 0 {
            return Some(base + stream * 64);
        }
        let l1 = L1Std([self.seen(base + (stream >> cfg.split()) * 8)]);
        if l1.span() == 0 || l1.span() > cfg.split() + 1 {
            return None;
        }
        let index = stream & ((1 << cfg.split()) - 1);
        (index >> (l1.span() - 1) == 0).then(|| l1.l2ptr() + index * 64)
    }

    /// The entry that the device fetches now; an invalid one where there is
    /// none.
    pub fn entry(&self, stream: StreamId) -> Ste {
        let Some(at) = self.entry_address(stream) else {
            return Ste::default();
        };
        Ste(std::array::from_fn(|w| self.seen(at + w as u64 * 8)))
    }

    /// The first level of a stream table that has two, in memory.
    fn first_level(&self) -> std::ops::Range<u64> {
        let state = self.state.borrow();
        let base = state.get(reg::STRTAB_BASE) & 0x00ff_ffff_ffff_ffc0;
        let cfg = StrtabBaseCfg::from(state.get32(reg::STRTAB_BASE_CFG));
        if cfg.fmt() == 0 {
            return 0..0;
        }
        base..base + (8 << cfg.log2size().saturating_sub(cfg.split()))
    }

    /// The second-level tables that are pointed to now.
    fn linked(&self) -> BTreeSet<u64> {
        let words = self.first_level().step_by(8);
        words
            .flat_map(|at| [self.seen(at), self.arena.load(PhysAddr::new(at))])
            .map(|word| L1Std([word]))
            .filter(|l1| l1.span() != 0)
            .map(|l1| l1.l2ptr())
            .collect()
    }

    /// Consumes up to `limit` commands.
    fn consume(&self, limit: u32) {
        for _ in 0..limit {
            let command = {
                let mut state = self.state.borrow_mut();
                let base = QueueBase::from(state.get(reg::CMDQ_BASE));
                let mask = (2u32 << base.log2size()) - 1;
                let cons = CmdqCons::from(state.get32(reg::CMDQ_CONS));
                let idle = cons.rd() == state.get32(reg::CMDQ_PROD) & mask;
                let stopped = state.gerror_active() & 1 != 0 || state.faults.commands_stuck;
                if idle || stopped || !state.ack().cmdqen() {
                    return;
                }
                let slot = u64::from(cons.rd() & (mask >> 1));
                let at = (base.addr_5() << 5) + slot * 16;
                let command = Command([self.seen(at), self.seen(at + 8)]);
                let error = match state.faults.refuse.first() {
                    Some((opcode, error)) if *opcode == command.opcode() => {
                        let error = *error;
                        state.faults.refuse.remove(0);
                        error
                    }
                    _ => u8::from(!legal(&state, &command)),
                };
                if error != 0 {
                    state.set(reg::CMDQ_CONS, u32::from(cons.with_err(error)));
                    let gerror = state.get32(reg::GERROR) ^ 1;
                    state.set(reg::GERROR, gerror);
                    return;
                }
                let next = CmdqCons::new().with_rd((cons.rd() + 1) & mask);
                state.set(reg::CMDQ_CONS, u32::from(next));
                state.log.push(Op::Command(command));
                state.consumed.push(command);
                match command.opcode() {
                    Opcode::CFGI_STE_RANGE if command.range() == 31 => state.config_clean = true,
                    Opcode::TLBI_NSNH_ALL => state.tlb_clean = state.config_clean,
                    Opcode::SYNC => state.clean_synced = state.tlb_clean,
                    _ => {}
                }
                command
            };
            let watched = self.state.borrow().watch.as_ref().map(|w| w.stream);
            match command.opcode() {
                Opcode::CFGI_STE if Some(command.stream()) == watched => self.refetch(),
                Opcode::CFGI_STE_RANGE => {
                    self.refetch();
                    let tables = self.linked();
                    self.state.borrow_mut().tables = tables;
                }
                _ => {}
            }
        }
    }

    /// Writes a page request, or discards it when the queue is full or has
    /// overflowed (8.1). The second is whether it was answered by itself.
    pub fn request(&self, request: PageRequest) -> (bool, bool) {
        let mut state = self.state.borrow_mut();
        let base = QueueBase::from(state.get(reg::PRIQ_BASE));
        let mask = (2u32 << base.log2size()) - 1;
        let prod = OutputIndex::from(state.get32(reg::PRIQ_PROD));
        let cons = OutputIndex::from(state.get32(reg::PRIQ_CONS));
        let overflowed = prod.overflow() != cons.overflow();
        if !state.ack().priqen() {
            return (false, request.last());
        }
        if overflowed || prod.index() ^ cons.index() == mask - (mask >> 1) {
            let flagged = prod.with_overflow(!cons.overflow());
            state.set(reg::PRIQ_PROD, u32::from(flagged));
            return (false, request.last());
        }
        let at = (base.addr_5() << 5) + u64::from(prod.index() & (mask >> 1)) * 16;
        for (w, value) in request.0.into_iter().enumerate() {
            self.arena.store(PhysAddr::new(at + w as u64 * 8), value);
        }
        let next = prod.with_index((prod.index() + 1) & mask);
        state.set(reg::PRIQ_PROD, u32::from(next));
        (true, false)
    }

    /// Writes an event record; `false` when the queue is full, which is an
    /// overflow.
    pub fn raise(&self, record: EventRecord) -> bool {
        let mut state = self.state.borrow_mut();
        let base = QueueBase::from(state.get(reg::EVENTQ_BASE));
        let mask = (2u32 << base.log2size()) - 1;
        let prod = OutputIndex::from(state.get32(reg::EVENTQ_PROD));
        let cons = OutputIndex::from(state.get32(reg::EVENTQ_CONS));
        if prod.index() ^ cons.index() == mask - (mask >> 1) {
            if prod.overflow() == cons.overflow() {
                let flagged = prod.with_overflow(!prod.overflow());
                state.set(reg::EVENTQ_PROD, u32::from(flagged));
            }
            return false;
        }
        let at = (base.addr_5() << 5) + u64::from(prod.index() & (mask >> 1)) * 32;
        for (w, value) in record.0.into_iter().enumerate() {
            self.arena.store(PhysAddr::new(at + w as u64 * 8), value);
        }
        let next = prod.with_index((prod.index() + 1) & mask);
        state.set(reg::EVENTQ_PROD, u32::from(next));
        true
    }

    /// Commands that the SMMU has not consumed must stay as they are.
    fn check_command_store(&self, at: u64) {
        let state = self.state.borrow();
        let base = QueueBase::from(state.get(reg::CMDQ_BASE));
        let start = base.addr_5() << 5;
        let entries = 1u32 << base.log2size();
        if !state.ack().cmdqen() || !(start..start + u64::from(entries) * 16).contains(&at) {
            return;
        }
        let slot = ((at - start) / 16) as u32;
        let mask = entries * 2 - 1;
        let cons = CmdqCons::from(state.get32(reg::CMDQ_CONS)).rd();
        let full = state.get32(reg::CMDQ_PROD).wrapping_sub(cons) & mask;
        let distance = slot.wrapping_sub(cons) & (entries - 1);
        let stopped = state.gerror_active() & 1 != 0 || state.faults.lenient;
        assert!(
            distance >= full || stopped,
            "a pending command was overwritten"
        );
    }
}

/// What this SMMU would call CERROR_ILL (IHI 0070, chapter 4).
fn legal(state: &State, command: &Command) -> bool {
    let idr0 = state.idr0();
    let ranges = Idr3::from(state.get32(reg::IDR3)).ril();
    match command.opcode() {
        Opcode::TLBI_EL2_ALL => idr0.hyp(),
        Opcode::TLBI_NH_ALL => idr0.s1p(),
        Opcode::TLBI_S12_VMALL => idr0.s2p(),
        Opcode::TLBI_S2_IPA => {
            let plain = command.num() == 0 && command.scale() == 0 && command.ttl() == 0;
            idr0.s2p() && (command.tg() == TLBI_TG_ANY) == plain && (plain || ranges)
        }
        Opcode::TLBI_NH_ASID | Opcode::TLBI_NH_VA | Opcode::TLBI_NH_VAA => idr0.s1p(),
        Opcode::ATC_INV => idr0.ats(),
        Opcode::PRI_RESP => idr0.pri(),
        Opcode::RESUME | Opcode::STALL_TERM => idr0.stall_model() != 1,
        Opcode::CFGI_STE | Opcode::CFGI_STE_RANGE | Opcode::TLBI_NSNH_ALL => true,
        Opcode::SYNC => command.cs() != 3,
        _ => false,
    }
}

impl Registers for Fake {
    fn read32(&self, offset: u32) -> u32 {
        if offset == reg::CMDQ_CONS {
            if self.state.borrow().faults.slow {
                self.consume(1);
            }
            if let Some(cons) = self.state.borrow().faults.cons {
                return cons;
            }
        }
        self.state.borrow().get32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.state.borrow_mut();
        state.log.push(Op::Write32(offset, value));
        let ack = if state.faults.lenient {
            Cr0::new()
        } else {
            state.ack()
        };
        match offset {
            reg::GBPA => {
                let gbpa = Gbpa::from(value);
                assert!(gbpa.update(), "GBPA written without Update (6.3.14.1)");
                let abort = gbpa.abort() && !state.faults.gbpa_deaf;
                let stuck = state.faults.gbpa_stuck;
                state.set(offset, u32::from(gbpa.with_abort(abort).with_update(stuck)));
            }
            reg::CR0 => {
                let set_stuck = state.faults.cr0_set_stuck;
                let clear_stuck = state.faults.cr0_clear_stuck;
                let before = u32::from(ack);
                let follow = (value & !(set_stuck & !before)) | (before & clear_stuck);
                if !ack.smmuen() && Cr0::from(follow).smmuen() && !state.faults.lenient {
                    assert!(state.clean_synced, "enabled without invalidation");
                    assert!(
                        !state.idr0().ats() || Cr0::from(value).atschk(),
                        "enabled with translated traffic unchecked"
                    );
                }
                if !Cr0::from(follow).smmuen() {
                    state.config_clean = false;
                    state.tlb_clean = false;
                    state.clean_synced = false;
                }
                state.set(reg::CR0, value);
                state.set(reg::CR0ACK, follow);
            }
            reg::IRQ_CTRL => {
                state.set(offset, value);
                if !state.faults.irq_stuck {
                    state.set(reg::IRQ_CTRLACK, value);
                }
            }
            reg::CMDQ_CONS => assert!(!ack.cmdqen(), "CMDQ_CONS is guarded"),
            reg::EVENTQ_PROD => assert!(!ack.eventqen(), "EVENTQ_PROD is guarded"),
            reg::PRIQ_PROD => assert!(!ack.priqen(), "PRIQ_PROD is guarded"),
            reg::CR1 | reg::CR2 | reg::STRTAB_BASE_CFG => {
                assert!(!ack.smmuen(), "{offset:#x} is guarded");
            }
            _ => {}
        }
        if !matches!(offset, reg::GBPA | reg::CR0 | reg::IRQ_CTRL) {
            state.set(offset, value);
        }
        state.check_closed();
        let slow = state.faults.slow;
        drop(state);
        if !slow && matches!(offset, reg::CMDQ_PROD | reg::GERRORN | reg::CR0) {
            self.consume(u32::MAX);
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        self.state.borrow().get(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        let mut state = self.state.borrow_mut();
        state.log.push(Op::Write64(offset, value));
        let (ack, irq) = (state.ack(), state.get32(reg::IRQ_CTRLACK));
        match offset {
            reg::STRTAB_BASE => assert!(
                state.faults.lenient || !ack.smmuen(),
                "STRTAB_BASE is guarded"
            ),
            reg::CMDQ_BASE => assert!(
                state.faults.lenient || !ack.cmdqen(),
                "CMDQ_BASE is guarded"
            ),
            reg::EVENTQ_BASE => assert!(
                state.faults.lenient || !ack.eventqen(),
                "EVENTQ_BASE is guarded"
            ),
            reg::PRIQ_BASE => assert!(
                state.faults.lenient || !ack.priqen(),
                "PRIQ_BASE is guarded"
            ),
            _ => assert!(irq == 0 || state.faults.lenient, "{offset:#x} is guarded"),
        }
        state.set(offset, value);
    }
}

impl Memory for Fake {
    fn load(&self, at: PhysAddr) -> u64 {
        self.arena.load(at)
    }

    fn store(&self, at: PhysAddr, value: u64) {
        self.check_command_store(at.raw());
        if self.first_level().contains(&at.raw()) {
            let old = L1Std([self.arena.load(at)]).l2ptr();
            let new = L1Std([value]).l2ptr();
            self.state.borrow_mut().tables.extend([old, new]);
            self.check_descriptor(at.raw(), L1Std([value]));
        }
        self.arena.store(at, value);
        self.state.borrow_mut().log.push(Op::Store(at.raw(), value));
        self.check_watch(at.raw(), value);
    }

    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn publish(&self, at: PhysAddr, bytes: u64) {
        for at in (at.raw()..at.raw() + bytes).step_by(8) {
            let value = self.arena.load(PhysAddr::new(at));
            self.view.borrow_mut().insert(at, value);
        }
    }

    fn refresh(&self, _at: PhysAddr, _bytes: u64) {}
}

impl Allocator for Fake {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        if self.state.borrow().faults.no_memory {
            return None;
        }
        let at = self.arena.allocate(bytes)?;
        self.publish(at, bytes);
        Some(at)
    }

    fn free(&self, at: PhysAddr, bytes: u64) {
        let linked = self.linked();
        let state = self.state.borrow();
        let cr0 = state.ack();
        let off = !cr0.smmuen() && !cr0.cmdqen() && !cr0.eventqen();
        let table = |at: &u64| !linked.contains(at) && !state.tables.contains(at);
        // Queues, and the first level, are never given back before.
        let second = bytes == 64 * 64 && table(&at.raw());
        assert!(
            state.faults.lenient || off || second,
            "memory freed under a running SMMU"
        );
        self.arena.free(at, bytes);
    }
}

impl Clock for Fake {
    fn now_us(&self) -> u64 {
        self.time.get()
    }

    fn relax(&self) {
        self.time.set(self.time.get() + 10_000);
    }
}

/// The sizes that `Idr1` of the fake allows for the command queue.
pub fn set_cmdq_limit(state: &mut State, log2: u8) {
    let idr1 = Idr1::from(state.get32(reg::IDR1)).with_cmdqs(log2);
    state.set(reg::IDR1, u32::from(idr1));
}
