//! Does a case on one side, and looks at what that shows.

use super::case::{Case, Step};
use super::layout::{
    CONFIG, CPUS, DEVICES, HOST, INTID_BITS, LPIS, QUEUE, QUEUE_BYTES, SECOND, itt, itt_bytes,
    pending,
};
use super::state::{Format, Redistributor, State};
use gicv3_its::{Size, reg};
use std::collections::BTreeSet;

/// A machine with an ITS and redistributors that a host uses.
pub trait Side {
    /// Why it does not go on.
    type Error;

    /// How it keeps its tables.
    const FORMAT: Format;

    /// A write to a register of the ITS.
    fn write(&mut self, offset: u32, size: Size, value: u64) -> Result<(), Self::Error>;
    /// 64 bits of registers of the ITS, at each of these offsets.
    fn read(&mut self, offsets: &[u32]) -> Result<Vec<u64>, Self::Error>;
    /// A write to a register of a redistributor.
    fn write_rd(
        &mut self,
        cpu: usize,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Result<(), Self::Error>;
    /// `GICR_CTLR`, `GICR_TYPER`, `GICR_PROPBASER` and `GICR_PENDBASER`.
    fn read_rd(&mut self, cpu: usize) -> Result<[u64; 4], Self::Error>;
    /// A message of device 0.
    fn message(&mut self, event: u32) -> Result<(), Self::Error>;
    /// Stores a word.
    fn poke(&mut self, at: u64, value: u64) -> Result<(), Self::Error>;
    /// Fills memory with zeroes.
    fn clear(&mut self, at: u64, bytes: u64) -> Result<(), Self::Error>;
    /// Loads words.
    fn peek(&mut self, stretches: &[(u64, u64)]) -> Result<Vec<Vec<u64>>, Self::Error>;
    /// The LPIs of these that are pending at a redistributor.
    fn pending(
        &mut self,
        cpu: usize,
        of: &[std::ops::Range<u32>],
    ) -> Result<BTreeSet<u32>, Self::Error>;
    /// What it has in force apart from tables.
    fn amend(&mut self, _state: &mut State) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Every LPI.
const ALL: std::ops::Range<u32> = 8192..1 << INTID_BITS;

/// What is read of the ITS.
const REGISTERS: [u32; 6] = [
    reg::CTLR,
    reg::CBASER,
    reg::CWRITER,
    reg::CREADR,
    reg::BASER,
    reg::BASER + 8,
];

/// A case on a side.
pub struct Driver<'a, S> {
    side: &'a mut S,
    two_levels: bool,
}

impl<'a, S: Side> Driver<'a, S> {
    /// Makes the ITS and the redistributors ready, with empty tables.
    ///
    /// # Errors
    /// As the side's.
    pub fn new(side: &'a mut S, case: &Case) -> Result<Self, S::Error> {
        side.write(reg::CTLR, Size::Word, 0)?;
        for cpu in 0..CPUS {
            side.write_rd(cpu, reg::RD_CTLR, Size::Word, 0)?;
        }
        side.clear(HOST.start, HOST.end - HOST.start)?;
        if case.two_levels {
            side.poke(DEVICES, 1 << 63 | SECOND)?;
        }
        for (offset, value) in case.registers() {
            side.write(offset, Size::Double, value)?;
        }
        // Write-back, Inner Shareable.
        let memory = reg::INNER_SHAREABLE | reg::RD_WRITE_BACK;
        for cpu in 0..CPUS {
            let propbaser = CONFIG | memory | u64::from(INTID_BITS - 1);
            side.write_rd(cpu, reg::RD_PROPBASER, Size::Double, propbaser)?;
            let pendbaser = pending(cpu) | memory;
            side.write_rd(cpu, reg::RD_PENDBASER, Size::Double, pendbaser)?;
            side.write_rd(cpu, reg::RD_CTLR, Size::Word, 1)?;
        }
        side.write(reg::CTLR, Size::Word, 1)?;
        Ok(Self {
            side,
            two_levels: case.two_levels,
        })
    }

    /// Does a step.
    ///
    /// # Errors
    /// As the side's.
    pub fn step(&mut self, step: &Step) -> Result<(), S::Error> {
        let side = &mut *self.side;
        match step {
            Step::Commands(commands) => {
                let mut offset = side.read(&[reg::CWRITER])?[0] % QUEUE_BYTES;
                for command in commands {
                    for (at, word) in (QUEUE + offset..).step_by(8).zip(command) {
                        side.poke(at, *word)?;
                    }
                    offset = (offset + 32) % QUEUE_BYTES;
                }
                side.write(reg::CWRITER, Size::Double, offset)
            }
            Step::Enable(enabled) => side.write(reg::CTLR, Size::Word, u64::from(*enabled)),
            Step::Write(offset, size, value) => side.write(*offset, *size, *value),
            Step::EnableLpis(cpu, enabled) => {
                side.write_rd(*cpu, reg::RD_CTLR, Size::Word, u64::from(*enabled))
            }
            Step::Renew(cpu) => {
                side.write_rd(*cpu, reg::RD_CTLR, Size::Word, 0)?;
                side.clear(pending(*cpu), 1 << (INTID_BITS - 3))?;
                let memory = reg::INNER_SHAREABLE | reg::RD_WRITE_BACK;
                let value = pending(*cpu) | memory | reg::PENDBASER_PTZ;
                side.write_rd(*cpu, reg::RD_PENDBASER, Size::Double, value)?;
                side.write_rd(*cpu, reg::RD_CTLR, Size::Word, 1)
            }
            Step::Message(event) => side.message(*event),
            Step::Zero(slot) => side.clear(itt(*slot), itt_bytes(*slot)),
        }
    }

    /// What the side shows.
    ///
    /// # Errors
    /// As the side's.
    pub fn look(&mut self) -> Result<State, S::Error> {
        self.look_at(&LPIS)
    }

    /// As [`look`](Self::look), at every LPI.
    ///
    /// # Errors
    /// As the side's.
    pub fn look_at_all(&mut self) -> Result<State, S::Error> {
        self.look_at(std::slice::from_ref(&ALL))
    }

    fn look_at(&mut self, lpis: &[std::ops::Range<u32>]) -> Result<State, S::Error> {
        let side = &mut *self.side;
        let registers = side.read(&REGISTERS)?;
        let value = |index: usize| registers.get(index).copied().unwrap_or_default();
        let mut state = State {
            // Truncation: GITS_IIDR is the upper half.
            control: value(0) as u32,
            cbaser: value(1),
            cwriter: value(2),
            creadr: value(3),
            baser: [value(4), value(5)],
            ..State::default()
        };
        for cpu in 0..CPUS {
            let [control, _, propbaser, pendbaser] = side.read_rd(cpu)?;
            state.redistributors.push(Redistributor {
                enabled: control & 1 != 0,
                propbaser,
                pendbaser,
            });
            let pending = side.pending(cpu, lpis)?;
            state
                .pending
                .extend(pending.into_iter().map(|lpi| (cpu, lpi)));
        }
        let words = side.peek(&S::FORMAT.stretches(self.two_levels))?;
        if let Ok(words) = <[Vec<u64>; 5]>::try_from(words) {
            S::FORMAT.decode(&mut state, &words);
        }
        state.events = state.in_tables();
        side.amend(&mut state)?;
        Ok(state)
    }
}
