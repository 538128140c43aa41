//! The host: its part of each operation, and the emulated SMMU under it.

use crate::finding::Finding;
use crate::host::check::identity;
use crate::host::op::{BringUp, Entry, HostOp, Width};
use crate::host::reader::Reader;
use crate::host::side::Side;
use crate::host::stock::{Seen, Step, tell_of};
use crate::host::window::Held;
use crate::machine::Machine;
use crate::map::{RAM, REGISTERS, STREAMS, given, given_id, ids, is_given, place};
use crate::op::Op;
use crate::plant;
use crate::port::Port;
use crate::world::World;
use portcullis_addr::{PhysAddr, Range, RangeError};
use smmuv3_driver::Stage2;
use smmuv3_emulator::{AssignedStreams, ConfinedSmmu, Emulator, IdConfig, PageDelivery, Progress};
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{CmdqCons, Cr0, Gbpa, Gerror, QueueBase, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::id::{Idr0, Idr1};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::ste::{L1Std, Ste};
use smmuv3_spec::{StreamId, reg};

/// Times that an unfinished write is repeated before that counts as never done.
const FOREVER: u16 = 4000;
/// Polls after which a command counts as never consumed.
const POLLS: u32 = 4000;

/// The emulated SMMU of one physical SMMU.
pub(crate) struct Host<'m> {
    pub(crate) emulator: Emulator<Held<'m>>,
    /// What the registers that never change said at first.
    pub(crate) identity: [u32; 8],
    /// A write was given up before it was done, and no other has done the rest.
    pub(crate) unfinished: bool,
}

/// The streams of the host's behind an SMMU, with the same numbers there.
pub(crate) fn streams(units: usize) -> Vec<AssignedStreams> {
    let runs = given(units).into_iter();
    let given = runs.map(|(first, last, pcie)| AssignedStreams {
        first: StreamId(first),
        physical: StreamId(first),
        count: last - first + 1,
        pcie,
    });
    given.collect()
}

/// Where the host reads registers.
fn registers() -> Result<Range<PhysAddr>, RangeError> {
    let (start, size) = (REGISTERS.start, REGISTERS.end - REGISTERS.start);
    Range::from_size(PhysAddr::new(start), size)
}

/// Whether a write does the rest of one that was given up, too. Others are done
/// at once, and leave it.
fn goes_on(offset: u32, width: Width, value: u64) -> bool {
    width == Width::Word
        && match offset {
            reg::CR0 | reg::CMDQ_PROD | reg::GERRORN => true,
            // Truncation: the access has 32 bits.
            reg::GBPA => Gbpa::from(value as u32).update(),
            _ => false,
        }
}

/// The physical SMMU as an emulation may use it.
type Below<'a, 'm> = ConfinedSmmu<'a, Port<'m>, &'m Machine, &'m Machine, Reader<'m>>;

impl<'m> World<'m> {
    /// The host starts, with its streams behind stage 2 alone and an emulated
    /// SMMU on each SMMU. The other streams are another domain's.
    pub(crate) fn emulate_all(&mut self) -> Result<(), Finding> {
        let units = self.drivers.len();
        let stage2 = self.domains[0];
        *self.machine.allowed.borrow_mut() = self.allowed();
        for (unit, driver) in self.drivers.iter_mut().enumerate() {
            for (first, last, _) in given(units) {
                let confined = driver.attach_range(StreamId(first), StreamId(last), &stage2);
                confined.map_err(|_| Finding::Failed("attach_range"))?;
            }
            let config = IdConfig {
                page_requests: true,
                ipa_bits: 40,
                stream_bits: driver.stream_bits().min(10),
                coherent: driver.features().coherent(),
            };
            let emulator = Emulator::new(driver.features(), &config);
            emulator.show_registers(&Side {
                machine: self.machine,
                unit,
            });
            self.hosts.push(Host {
                emulator,
                identity: identity(self.machine, unit),
                unfinished: false,
            });
            if driver.features().stalls() {
                let ids = ids(units).filter(|id| given_id(*id, units) == Some(false));
                let mut may_stall = self.machine.may_stall.borrow_mut();
                may_stall.extend(ids.map(|id| (unit, StreamId(id))));
            }
        }
        for stream in (0..STREAMS).filter(|stream| !is_given(*stream, units)) {
            let step = Op::Attach { stream, domain: 1 };
            self.step(&step)?;
        }
        Ok(())
    }

    /// Lets the emulation do something with its physical SMMU.
    pub(crate) fn emulate<T>(
        &mut self,
        unit: usize,
        act: impl FnOnce(&mut Emulator<Held<'m>>, &Side<'m>, &mut Below<'_, 'm>) -> T,
    ) -> T {
        let side = Side {
            machine: self.machine,
            unit,
        };
        let stage2: Stage2 = self.domains[0];
        let streams = streams(self.drivers.len());
        let mut below = ConfinedSmmu {
            smmu: &mut self.drivers[unit],
            stage2,
            streams: &streams,
            device: registers().ok(),
            report: Reader {
                machine: self.machine,
                unit,
                read: Vec::new(),
            },
        };
        let emulated = &self.machine.units[unit].emulated;
        emulated.work.set(0);
        emulated.event_prod.set(None);
        emulated.acts.set(true);
        let result = act(&mut self.hosts[unit].emulator, &side, &mut below);
        emulated.acts.set(false);
        result
    }

    /// What the host does.
    pub(crate) fn host(&mut self, smmu: u32, op: &HostOp) -> Result<(), Finding> {
        let unit = smmu as usize % self.drivers.len();
        match *op {
            HostOp::Register {
                offset,
                width,
                value,
                patience,
            } => self.write(unit, offset, width, value, patience)?,
            HostOp::Cr0 { keep, set } => {
                let old = self.machine.shown(unit, reg::CR0);
                self.set(unit, reg::CR0, old & keep | set)?;
            }
            HostOp::Commands {
                list,
                count,
                tell,
                wait,
            } => {
                let count = usize::from(count).min(list.len());
                let prod = self.put(unit, &list[..count]);
                if tell {
                    self.set(unit, reg::CMDQ_PROD, prod)?;
                }
                if tell && wait {
                    self.wait(unit)?;
                }
            }
            HostOp::BringUp(how) => self.bring_up(unit, &how)?,
            HostOp::Entry(entry) => self.change_entry(unit, &entry)?,
            HostOp::Consume { requests, half } => self.consume(unit, requests, half)?,
            HostOp::Resume { retry } => self.resume(unit, retry)?,
            HostOp::Acknowledge => {
                let active = self.machine.shown(unit, reg::GERROR);
                self.set(unit, reg::GERRORN, active)?;
            }
            HostOp::Ask { stream, bits } => self.ask(stream, bits)?,
            HostOp::Pass { polls } => {
                for _ in 0..polls {
                    self.machine.pass(unit);
                }
            }
        }
        Ok(())
    }

    /// A write of a register, which the CPU repeats until it is done.
    fn write(
        &mut self,
        unit: usize,
        offset: u32,
        width: Width,
        value: u64,
        patience: u16,
    ) -> Result<(), Finding> {
        for _ in 0..=patience.min(FOREVER) {
            let progress = self.emulate(unit, |emulator, side, below| {
                emulator.write(side, below, offset, width.into(), value)
            });
            if progress == Progress::Again {
                self.hosts[unit].unfinished = true;
            } else if goes_on(offset, width, value) {
                self.hosts[unit].unfinished = false;
            }
            if progress == Progress::Done {
                return self.found();
            }
            // The CPU takes its interrupts in between.
            self.machine.seam();
            self.found()?;
        }
        if patience < FOREVER {
            return Ok(());
        }
        Err(Finding::Endless(offset))
    }

    /// What came up while the emulation ran.
    fn found(&self) -> Result<(), Finding> {
        self.machine.finding.get().map_or(Ok(()), Err)
    }

    fn set(&mut self, unit: usize, offset: u32, value: u32) -> Result<(), Finding> {
        self.write(unit, offset, Width::Word, value.into(), FOREVER)
    }

    /// Stores as the host, as far as its stage 2 lets it.
    fn store(&self, at: u64, value: u64) {
        // What is there already need not be stored; most of a new table is.
        let there = self.machine.ram.borrow().load(at) == Some(value);
        if !there && self.machine.cpu.reaches(at) {
            self.machine.store_of_host(at, value);
        }
    }

    /// Stores commands from CMDQ_PROD on; what CMDQ_PROD is after them.
    fn put(&self, unit: usize, commands: &[[u64; 2]]) -> u32 {
        let base = QueueBase::from(self.machine.shown64(unit, reg::CMDQ_BASE));
        let log2 = base.log2size().min(16);
        let prod = self.machine.shown(unit, reg::CMDQ_PROD);
        for (n, words) in (0..).zip(commands) {
            let at = self.command_at(unit, n);
            self.store(at, words[0]);
            self.store(at + 8, words[1]);
        }
        prod.wrapping_add(commands.len() as u32) & ((2 << log2) - 1)
    }

    /// Where a command lies, `n` after CMDQ_PROD.
    fn command_at(&self, unit: usize, n: u32) -> u64 {
        let base = QueueBase::from(self.machine.shown64(unit, reg::CMDQ_BASE));
        let log2 = base.log2size().min(16);
        let prod = self.machine.shown(unit, reg::CMDQ_PROD);
        let slot = u64::from(prod.wrapping_add(n)) & ((1 << log2) - 1);
        (base.addr_5() << 5) + slot * Command::SIZE
    }

    /// Waits until commands are consumed.
    fn wait(&mut self, unit: usize) -> Result<(), Finding> {
        let machine = self.machine;
        let prod = machine.shown(unit, reg::CMDQ_PROD);
        for _ in 0..POLLS {
            let cons = CmdqCons::from(machine.shown(unit, reg::CMDQ_CONS));
            let log2 = QueueBase::from(machine.shown64(unit, reg::CMDQ_BASE)).log2size();
            let mask = (2u32 << log2.min(19)) - 1;
            let error = machine.shown(unit, reg::GERROR) ^ machine.shown(unit, reg::GERRORN);
            let on = Cr0::from(machine.shown(unit, reg::CR0ACK)).cmdqen();
            let distance = prod.wrapping_sub(cons.into()) & mask;
            // Nobody promises anything for indices that fit no state (3.5.1).
            if !on || error & 1 != 0 || distance == 0 || distance > 1 << log2.min(19) {
                return Ok(());
            }
            machine.pass(unit);
            self.found()?;
        }
        if self.is_excused(unit) {
            return Ok(());
        }
        Err(Finding::Stuck(unit))
    }

    /// Whether the physical SMMU is to blame for whatever does not work.
    pub(crate) fn is_excused(&self, unit: usize) -> bool {
        let active = self.machine.shown(unit, reg::GERROR) ^ self.machine.shown(unit, reg::GERRORN);
        let failed = Gerror::from(active).sfm_err();
        self.machine.units[unit].may_fail() || self.drivers[unit].is_fenced() || failed
    }

    pub(crate) fn seen(&self, unit: usize) -> Seen {
        Seen {
            idr0: Idr0::from(self.machine.shown(unit, reg::IDR0)),
            idr1: Idr1::from(self.machine.shown(unit, reg::IDR1)),
        }
    }

    fn bring_up(&mut self, unit: usize, how: &BringUp) -> Result<(), Finding> {
        let quiet = self.machine.interrupts.borrow().is_empty();
        let profiles: Vec<_> = self.profiles();
        for (at, value) in plant::stage1(how.planted(), how.shape, &profiles) {
            self.store(at, value);
        }
        let on = Cr0::from(self.machine.shown(unit, reg::CR0ACK));
        for step in how.steps(&self.seen(unit), on, self.drivers.len(), unit) {
            match step {
                Step::Store(at, value) => self.store(at, value),
                Step::Write(offset, width, value) => {
                    self.write(unit, offset, width, value, FOREVER)?;
                }
                Step::Commands(commands) => {
                    let prod = self.put(unit, &commands);
                    self.set(unit, reg::CMDQ_PROD, prod)?;
                    self.wait(unit)?;
                }
            }
        }
        if quiet {
            self.judge(unit, how)?;
        }
        Ok(())
    }

    fn profiles(&self) -> Vec<smmuv3_model::Profile> {
        let units = self.machine.units.iter();
        units.map(|unit| *unit.smmu.borrow().profile()).collect()
    }

    /// Where the entry of a stream is, by the registers and tables of the host.
    fn entry_at(&self, unit: usize, stream: u32) -> Option<u64> {
        let machine = self.machine;
        let base = StrtabBase::from(machine.shown64(unit, reg::STRTAB_BASE)).addr_6() << 6;
        let cfg = StrtabBaseCfg::from(machine.shown(unit, reg::STRTAB_BASE_CFG));
        let stream = u64::from(stream);
        if cfg.fmt() != 1 {
            return Some(base + stream * Ste::SIZE);
        }
        let split = cfg.split().min(10);
        let l1 = machine.ram.borrow().load(base + (stream >> split) * 8)?;
        let l1 = L1Std([l1]);
        Some(l1.l2ptr() + (stream & ((1 << split) - 1)) * Ste::SIZE)
    }

    fn change_entry(&mut self, unit: usize, entry: &Entry) -> Result<(), Finding> {
        let units = self.drivers.len();
        let stream = (entry.stream..entry.stream.saturating_add(STREAMS))
            .map(|stream| place(stream, units))
            .find(|(at, _)| *at == unit);
        let Some((_, id)) = stream else {
            return Ok(());
        };
        let Some(at) = self.entry_at(unit, id) else {
            return Ok(());
        };
        for n in (2..8).map(|n| at + n * 8) {
            self.store(n, entry.rest);
        }
        self.store(at + 8, entry.words[1]);
        self.store(at, entry.words[0]);
        if entry.tell {
            // Half of them wait by a message to the CMD_SYNC itself, as Linux
            // does.
            let message = self.seen(unit).idr0.msi() && entry.words[1] != 0;
            let word = message.then(|| self.command_at(unit, 1));
            let prod = self.put(unit, &tell_of(id, word));
            self.set(unit, reg::CMDQ_PROD, prod)?;
            self.wait(unit)?;
        }
        Ok(())
    }

    fn consume(&mut self, unit: usize, requests: bool, half: bool) -> Result<(), Finding> {
        let (prod, cons, base) = if requests {
            (reg::PRIQ_PROD, reg::PRIQ_CONS, reg::PRIQ_BASE)
        } else {
            (reg::EVENTQ_PROD, reg::EVENTQ_CONS, reg::EVENTQ_BASE)
        };
        let to = self.machine.shown(unit, prod);
        let from = self.machine.shown(unit, cons);
        let log2 = QueueBase::from(self.machine.shown64(unit, base)).log2size();
        let mask = (2u32 << log2.min(19)) - 1;
        let count = to.wrapping_sub(from) & mask;
        let count = if half { count / 2 } else { count };
        let index = from.wrapping_add(count) & mask;
        self.set(unit, cons, to & 1 << 31 | index)
    }

    /// Answers the stalls that the event queue tells of, newest first.
    fn resume(&mut self, unit: usize, retry: bool) -> Result<(), Finding> {
        let base = QueueBase::from(self.machine.shown64(unit, reg::EVENTQ_BASE));
        let log2 = base.log2size().min(7);
        let mut answers = Vec::new();
        for slot in 0..1u64 << log2 {
            let at = (base.addr_5() << 5) + slot * EventRecord::SIZE;
            let word = |n: u64| self.machine.ram.borrow().load(at + n * 8).unwrap_or(0);
            let record = EventRecord([word(0), word(1), word(2), word(3)]);
            if record.stall() {
                let stream = record.stream_bits();
                let answer = Command::new(smmuv3_spec::command::Opcode::RESUME)
                    .with_stream_bits(stream)
                    .with_stag(record.stag())
                    .with_retry(retry);
                answers.push(answer.0);
            }
        }
        answers.truncate(3);
        answers.push(Command::sync(0).0);
        let prod = self.put(unit, &answers);
        self.set(unit, reg::CMDQ_PROD, prod)?;
        self.wait(unit)
    }

    /// A device asks for a page. The driver knows no page requests: whoever
    /// reads the queue gives them to the emulation.
    fn ask(&mut self, stream: u32, bits: [u64; 2]) -> Result<(), Finding> {
        let (unit, id) = place(stream, self.drivers.len());
        let request = PageRequest(bits).with_stream(id);
        let profile = *self.machine.units[unit].smmu.borrow().profile();
        if !self.is_given(stream) || !profile.idr0.pri() {
            return Ok(());
        }
        let delivery = self.emulate(unit, |emulator, side, below| {
            emulator.deliver_page_request(side, below, &request)
        });
        match delivery {
            PageDelivery::NotOwned => return Err(Finding::Told(StreamId(id))),
            PageDelivery::Done => {}
            PageDelivery::Respond(command) => {
                // The answer of one that is fenced is lost.
                if self.drivers[unit].issue(command).is_ok() {
                    self.drivers[unit].kick();
                }
            }
        }
        self.found()
    }

    /// What was brought up without a disturbance works, for each stream as its
    /// entry says.
    fn judge(&mut self, unit: usize, how: &BringUp) -> Result<(), Finding> {
        let units = self.drivers.len();
        let usable = self.machine.expected.borrow().usable();
        let has = |at: u64, bytes: u64| {
            let mut runs = usable.iter();
            runs.any(|run| run.start <= at && at + bytes <= run.end)
        };
        let target = RAM.start + 0x30_0000 + 0x1000;
        if self.is_excused(unit)
            || self.scarred
            || how.shape != 0
            || !has(how.page(0), 16 << 12)
            || !has(target, 8)
            || self.is_torn(0, target)
        {
            return Ok(());
        }
        for stream in 0..STREAMS {
            let (at, id) = place(stream, units);
            if at != unit || !self.is_given(stream) {
                continue;
            }
            let access = Transaction::new(StreamId(id), target, Access::Write);
            let passed = self.machine.transact(unit, access) == Ok(target);
            use crate::host::stock::Kind;
            if passed != matches!(how.kind(stream), Kind::Bypass | Kind::Stage1) {
                return Err(Finding::Lost(stream, target));
            }
        }
        Ok(())
    }

    /// Whether the host was given a stream.
    pub(crate) fn is_given(&self, stream: u32) -> bool {
        !self.hosts.is_empty() && is_given(stream, self.drivers.len())
    }
}
