//! Our emulated ITS and redistributors, on top of the model of a GIC.

use super::driver::Side;
use super::layout::{CPUS, RANGES};
use super::memory::{Held, Machine, Port, Way};
use super::state::{Format, State};
use gicv3_its::{
    DeviceId, DeviceRange, Emulator, LpiCount, Progress, RdWrite, RedistributorId, Registers, Size,
    Target, quiesce, quiesce_lpis, reg,
};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

/// Times that a write may ask to be done again.
const TURNS: u32 = 10_000;

/// Our side.
pub struct Ours {
    machine: Rc<Machine>,
    emulator: Emulator<Port, Way, Way, Held>,
}

impl Ours {
    /// A new machine.
    ///
    /// # Errors
    /// What the emulation did not want to do, or the GIC found wrong.
    pub fn new(greedy: bool) -> Result<Self, String> {
        let machine = Machine::new(greedy);
        let way = Way(Rc::clone(&machine));
        let its = Port::Its(Rc::clone(&machine));
        let rd = |cpu| Port::Rd(Rc::clone(&machine), cpu);
        quiesce(&its, &way).map_err(|error| error.to_string())?;
        for cpu in 0..CPUS {
            quiesce_lpis(&rd(cpu), &way).map_err(|error| error.to_string())?;
        }
        let profile = machine.gic.profile();
        let typer = (profile.id_bits - 1) << 19 | reg::GICD_TYPER_LPIS;
        let count = LpiCount::new(typer).ok_or("no LPIs")?;
        let emulator = Emulator::new(&way, way.clone(), way.clone(), count);
        let mut emulator = emulator.ok_or("no memory")?;
        for cpu in 0..CPUS {
            let target = Target::from_word(profile.rdbase(cpu));
            if !emulator.add_redistributor(&way, RedistributorId(cpu as u8), target) {
                return Err(format!("no redistributor {cpu}"));
            }
        }
        let ranges = RANGES.map(|range| DeviceRange {
            first: DeviceId(range.start),
            last: DeviceId(range.end - 1),
        });
        let added = emulator.add_its(&way, 0, its, &ranges, CPUS as u8);
        added.map_err(|error| error.to_string())?;
        emulator.start(&way, 0);
        for cpu in 0..CPUS {
            let enabled = emulator.enable_redistributor(RedistributorId(cpu as u8), &rd(cpu));
            enabled.map_err(|error| error.to_string())?;
        }
        let this = Self { machine, emulator };
        this.check()?;
        Ok(this)
    }

    /// Whether what the GIC was told was right.
    fn check(&self) -> Result<(), String> {
        let violations = self.machine.gic.take_violations();
        if !violations.is_empty() {
            return Err(format!("the GIC was told: {violations:?}"));
        }
        let outside = self.machine.ram.take_outside();
        if !outside.is_empty() {
            return Err(format!("no memory at {outside:x?}"));
        }
        Ok(())
    }

    fn way(&self) -> Way {
        Way(Rc::clone(&self.machine))
    }
}

impl Side for Ours {
    type Error = String;

    const FORMAT: Format = Format::Ours;

    fn write(&mut self, offset: u32, size: Size, value: u64) -> Result<(), String> {
        let way = self.way();
        for _ in 0..TURNS {
            if self.emulator.write(&way, 0, offset, size, value) == Progress::Done {
                return self.check();
            }
        }
        Err(format!(
            "the write of {value:#x} to {offset:#x} is never done"
        ))
    }

    fn read(&mut self, offsets: &[u32]) -> Result<Vec<u64>, String> {
        let shown = self.machine.shown.borrow();
        let read = |offset: &u32| shown.get(offset).copied().unwrap_or_default();
        Ok(offsets.iter().map(read).collect())
    }

    fn write_rd(&mut self, cpu: usize, offset: u32, size: Size, value: u64) -> Result<(), String> {
        let (way, id) = (self.way(), RedistributorId(cpu as u8));
        for _ in 0..TURNS {
            let done = self
                .emulator
                .write_redistributor(&way, id, offset, size, value);
            match done {
                RdWrite::Emulated(Progress::Again) => continue,
                RdWrite::Emulated(Progress::Done) => {}
                RdWrite::Control(value) => {
                    Port::Rd(Rc::clone(&self.machine), cpu).write32(reg::RD_CTLR, value);
                }
                RdWrite::Other => return Err(format!("{value:#x} passes to {offset:#x}")),
            }
            return self.check();
        }
        Err(format!("the write to {offset:#x} of an RD is never done"))
    }

    fn read_rd(&mut self, cpu: usize) -> Result<[u64; 4], String> {
        let id = RedistributorId(cpu as u8);
        let port = Port::Rd(Rc::clone(&self.machine), cpu);
        let double = |offset: u32| {
            let read =
                self.emulator
                    .read_redistributor(id, offset, Size::Double, port.read64(offset));
            read.unwrap_or_default()
        };
        let physical = port.read32(reg::RD_CTLR).into();
        let control = self
            .emulator
            .read_redistributor(id, reg::RD_CTLR, Size::Word, physical);
        Ok([
            control.unwrap_or_default(),
            double(reg::RD_TYPER),
            double(reg::RD_PROPBASER),
            double(reg::RD_PENDBASER),
        ])
    }

    fn message(&mut self, event: u32) -> Result<(), String> {
        let _ = self.machine.gic.message(0, 0, event);
        self.check()
    }

    fn poke(&mut self, at: u64, value: u64) -> Result<(), String> {
        self.machine.ram.store(PhysAddr::new(at), value);
        Ok(())
    }

    fn clear(&mut self, at: u64, bytes: u64) -> Result<(), String> {
        self.machine.zero(at, bytes);
        Ok(())
    }

    fn peek(&mut self, stretches: &[(u64, u64)]) -> Result<Vec<Vec<u64>>, String> {
        let load = |at| self.machine.ram.load(PhysAddr::new(at));
        let stretch = |(at, bytes): &(u64, u64)| (*at..at + bytes).step_by(8).map(load).collect();
        Ok(stretches.iter().map(stretch).collect())
    }

    /// What the physical redistributor has, which is all that a CPU gets.
    fn pending(&mut self, cpu: usize, of: &[Range<u32>]) -> Result<BTreeSet<u32>, String> {
        self.machine.gic.settle();
        self.check()?;
        let pending = self.machine.gic.pending(cpu);
        let lpis = pending.into_iter().map(|(lpi, _)| lpi);
        // None other can be seen, on QEMU's side.
        Ok(lpis
            .filter(|lpi| of.iter().any(|range| range.contains(lpi)))
            .collect())
    }

    fn amend(&mut self, state: &mut State) -> Result<(), String> {
        if !state.enabled() {
            return Ok(());
        }
        let row = |lpi| Some((lpi, self.emulator.row(lpi)?));
        let rows = self.emulator.mapped().filter_map(row);
        state.events = rows
            .map(|(lpi, row)| {
                let event = (row.event.device.0, row.event.event.0);
                (event, (lpi.0, row.collection.0))
            })
            .collect();
        Ok(())
    }
}
