//! The host, its books, and the emulation on the machine.

use super::books::Books;
use super::found;
use super::layout::{EARLIER, RANGES, lpi};
use super::machine::{Held, Machine, Port};
use super::op::{GicSetup, ItsOp};
use crate::finding::Finding;
use gicv3_its::{
    DeviceId, DeviceRange, Emulator, LpiCount, Progress, RdWrite, RedistributorId, Report, Size,
    Target, quiesce, quiesce_lpis,
};
use std::collections::BTreeSet;

/// Accesses of one call at most: what the emulation's budget comes to, twice.
const WORK: u64 = 16_384;
/// Times that a write may ask to be done again.
const TURNS: u32 = 20_000;

type Emulation<'m> = Emulator<Port<'m>, &'m Machine, &'m Machine, Held<'m>>;

pub(super) struct World<'m> {
    pub(super) machine: &'m Machine,
    pub(super) emulator: Emulation<'m>,
    pub(super) count: LpiCount,
    pub(super) units: usize,
    pub(super) cpus: usize,
    pub(super) stock: bool,
    pub(super) indirect: bool,
    pub(super) books: Books,
    /// Which of its two areas an ITS of the host's uses.
    pub(super) second: Vec<bool>,
    /// CPUs that came up.
    pub(super) up: BTreeSet<usize>,
    /// ITSs of which something broke.
    pub(super) broken: BTreeSet<usize>,
    /// ITSs and redistributors with a write that was not done again.
    pub(super) begun: BTreeSet<usize>,
    pub(super) begun_rd: BTreeSet<usize>,
    /// Redistributors whose LPIs the host has enabled, as its last write said.
    pub(super) rd_on: BTreeSet<usize>,
    /// What was reported in this step.
    pub(super) reports: Vec<Report>,
}

impl<'m> World<'m> {
    pub(super) fn new(machine: &'m Machine, setup: GicSetup) -> Result<Self, Finding> {
        let profile = setup.gic();
        if setup.used {
            earlier(machine, profile.clear_enable);
        }
        for its in 0..profile.units {
            let coherent = quiesce(&Port::Its(machine, its), &machine);
            if coherent != Ok(profile.coherent) {
                return Err(found(format!("quiesce: {coherent:?}")));
            }
        }
        for cpu in 0..profile.cpus {
            let coherent = quiesce_lpis(&Port::Rd(machine, cpu), &machine);
            if coherent != Ok(profile.coherent) {
                return Err(found(format!("quiesce_lpis: {coherent:?}")));
            }
        }
        machine.check_accesses();
        // What comes now may use nothing of the old.
        machine.earlier.set(false);
        let typer = (profile.id_bits - 1) << 19 | 1 << 17;
        let count = LpiCount::new(typer).ok_or_else(|| found("no LPIs".into()))?;
        let emulator = Emulator::new(&machine, machine, machine, count);
        let mut emulator = emulator.ok_or_else(|| found("no memory for LPIs".into()))?;
        for cpu in 0..profile.cpus {
            let target = Target::from_word(profile.rdbase(cpu));
            if !emulator.add_redistributor(&machine, RedistributorId(cpu as u8), target) {
                return Err(found(format!("no redistributor {cpu}")));
            }
        }
        let ranges = RANGES.map(|range| DeviceRange {
            first: DeviceId(range.start),
            last: DeviceId(range.end - 1),
        });
        for its in 0..profile.units {
            let port = Port::Its(machine, its);
            let added = emulator.add_its(&machine, its, port, &ranges, profile.cpus as u8);
            added.map_err(|error| found(format!("ITS {its}: {error}")))?;
            emulator.start(&machine, its);
        }
        let mut world = Self {
            machine,
            emulator,
            count,
            units: profile.units,
            cpus: profile.cpus,
            stock: setup.stock,
            indirect: setup.indirect,
            books: Books::default(),
            second: vec![false; profile.units],
            up: BTreeSet::new(),
            broken: BTreeSet::new(),
            begun: BTreeSet::new(),
            begun_rd: BTreeSet::new(),
            rd_on: BTreeSet::new(),
            reports: Vec::new(),
        };
        world.bring_up(0)?;
        world.check()?;
        Ok(world)
    }

    pub(super) fn step(&mut self, op: &ItsOp) -> Result<(), Finding> {
        self.reports.clear();
        let starving = self.machine.starve.get().is_some();
        match op {
            ItsOp::Stock(stock) => self.do_stock(*stock)?,
            ItsOp::Chaos(_) if self.stock => {}
            ItsOp::Chaos(chaos) => self.do_chaos(*chaos)?,
        }
        if starving {
            self.machine.starve.set(None);
        }
        self.machine.starved.set(false);
        self.check()
    }

    /// At the end every interrupt that was sent comes, and all goes back.
    pub(super) fn end(&mut self) -> Result<(), Finding> {
        self.machine.starve.set(None);
        self.machine.pokes.borrow_mut().clear();
        if self.stock {
            self.take_all()?;
        }
        self.machine.revoked.borrow_mut().clear();
        for its in 0..self.units {
            self.write(its, 0, Size::Word, 0)?;
            if !self.broken.contains(&its) && !self.machine.gic.mapped(its).is_empty() {
                return Err(found(format!("ITS {its} is disabled and still has events")));
            }
        }
        for cpu in 0..self.cpus {
            self.write_rd(cpu, 0, Size::Word, 0)?;
        }
        if self.machine.windows.get() != 0 {
            return Err(found("a table or queue is held for ever".into()));
        }
        self.check()
    }

    /// A write of the host's to a register of an ITS, until it is done.
    pub(super) fn write(
        &mut self,
        its: usize,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Result<(), Finding> {
        for _ in 0..TURNS {
            if self.write_once(its, offset, size, value)? == Progress::Done {
                self.begun.remove(&its);
                return Ok(());
            }
        }
        Err(found(format!(
            "the write of {value:#x} to {offset:#x} is never done"
        )))
    }

    /// One turn of it.
    pub(super) fn write_once(
        &mut self,
        its: usize,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Result<Progress, Finding> {
        self.machine.work.set(0);
        let progress = self.emulator.write(&self.machine, its, offset, size, value);
        self.after_call()?;
        Ok(progress)
    }

    /// A write of the host's to a register of a redistributor, until it is done.
    pub(super) fn write_rd(
        &mut self,
        cpu: usize,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Result<(), Finding> {
        let id = RedistributorId(cpu as u8);
        for _ in 0..TURNS {
            self.machine.work.set(0);
            let emulator = &mut self.emulator;
            let done = emulator.write_redistributor(&self.machine, id, offset, size, value);
            self.after_call()?;
            match done {
                RdWrite::Emulated(Progress::Again) => continue,
                RdWrite::Control(value) => {
                    self.machine.gic.rd_write(cpu, 0, 4, value.into());
                }
                RdWrite::Emulated(Progress::Done) => {}
                // Goes to hardware as it is.
                RdWrite::Other => {
                    let bytes = size.bytes();
                    if bytes >= 4 && offset.is_multiple_of(bytes) && !lpi_register(offset) {
                        self.machine.gic.rd_write(cpu, offset, bytes, value);
                    } else if lpi_register(offset) {
                        let text = format!("{value:#x} passes to {offset:#x} of RD {cpu}");
                        return Err(found(text));
                    }
                }
            }
            if offset == 0 && size == Size::Word {
                self.begun_rd.remove(&cpu);
                if value & 1 == 1 {
                    self.rd_on.insert(cpu);
                } else {
                    self.rd_on.remove(&cpu);
                }
            }
            return Ok(());
        }
        Err(found(format!(
            "the write of {value:#x} to {offset:#x} of RD {cpu} is never done"
        )))
    }

    fn after_call(&mut self) -> Result<(), Finding> {
        let work = self.machine.work.get();
        // A wait for hardware that is broken has a bound of its own.
        if work > WORK && self.broken.is_empty() {
            return Err(found(format!(
                "{work} accesses for one write of a register"
            )));
        }
        while let Some(report) = self.emulator.take_report() {
            self.reports.push(report);
        }
        self.machine.check_accesses();
        let finding = *self.machine.finding.borrow();
        finding.map_or(Ok(()), Err)
    }

    /// A CPU comes up for the first time.
    pub(super) fn bring_up(&mut self, cpu: usize) -> Result<(), Finding> {
        if !self.up.insert(cpu) {
            return Ok(());
        }
        self.machine.work.set(0);
        let port = Port::Rd(self.machine, cpu);
        let enabled = self
            .emulator
            .enable_redistributor(RedistributorId(cpu as u8), &port);
        enabled.map_err(|error| found(format!("RD {cpu}: {error}")))?;
        self.after_call()
    }

    /// The INTID of an LPI by its number.
    pub(super) fn intid(&self, number: u8) -> u32 {
        lpi(number, self.count.host)
    }
}

/// Registers that only a GIC's owner may write.
fn lpi_register(offset: u32) -> bool {
    matches!(offset & !7, 0x40 | 0x48 | 0x70 | 0x78 | 0xa0 | 0xb0)
}

/// Firmware or an earlier kernel had the GIC, and left it running.
fn earlier(machine: &Machine, lpis: bool) {
    let gic = &machine.gic;
    let valid = 1 << 63;
    for its in 0..gic.profile().units {
        let base = EARLIER.start + 0x10_0000 * (its as u64 + 1);
        gic.its_write(its, 0x80, 8, valid | base);
        gic.its_write(its, 0x88, 8, 0);
        gic.its_write(its, 0x100, 8, valid | (base + 0x2_0000));
        if gic.profile().tables.len() > 1 {
            gic.its_write(its, 0x108, 8, valid | (base + 0x4_0000));
        }
        gic.its_write(its, 0, 4, 1);
    }
    for cpu in 0..gic.profile().cpus {
        if lpis {
            let bits = 13;
            let pending = EARLIER.start + 0x1_0000 * (cpu as u64 + 2);
            gic.rd_write(cpu, 0x70, 8, EARLIER.start | bits);
            gic.rd_write(cpu, 0x78, 8, pending | 1 << 62);
            gic.rd_write(cpu, 0, 4, 1);
        }
    }
    gic.settle();
}
