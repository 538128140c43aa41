//! QEMU's ITS and redistributors on its `virt` machine.

use super::driver::Side;
use super::layout::{CPUS, pending};
use super::state::Format;
use crate::machine::{Error, Process};
use crate::qtest::Answer;
use gicv3_its::{Size, reg};
use portcullis_testbed::setup::qemu::Qemu;
use std::collections::BTreeSet;
use std::ops::Range;

/// The control frame of the ITS.
const ITS: u64 = 0x0808_0000;
/// `GITS_TRANSLATER`.
const TRANSLATER: u64 = 0x0809_0040;
/// The RD frame of the first redistributor, and from one to the next.
const REDISTRIBUTORS: u64 = 0x080a_0000;
const STRIDE: u64 = 0x2_0000;

/// QEMU's side.
pub struct Theirs {
    process: Process,
}

impl Theirs {
    /// Starts QEMU.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(qemu: &Qemu) -> Result<Self, Error> {
        let options = format!(",its=on,smp.cpus={CPUS}");
        let process = Process::start(qemu, &options, &[])?;
        Ok(Self { process })
    }

    fn put(&mut self, at: u64, size: Size, value: u64) -> Result<(), Error> {
        let qtest = &mut self.process.qtest;
        match size {
            // Truncation: the access has so many bits.
            Size::Byte => qtest.writeb(at, value as u8)?,
            Size::Half => qtest.writew(at, value as u16)?,
            Size::Word => qtest.writel(at, value as u32)?,
            Size::Double => qtest.writeq(at, value)?,
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Vec<Answer>, Error> {
        let answers = self.process.qtest.run();
        answers.map_err(|error| self.process.explain(error))
    }
}

impl Side for Theirs {
    type Error = Error;

    const FORMAT: Format = Format::Qemu;

    fn write(&mut self, offset: u32, size: Size, value: u64) -> Result<(), Error> {
        self.put(ITS + u64::from(offset), size, value)
    }

    fn read(&mut self, offsets: &[u32]) -> Result<Vec<u64>, Error> {
        for offset in offsets {
            // GITS_CTLR and the identification registers have 32 bits.
            for half in [0, 4] {
                self.process.qtest.readl(ITS + u64::from(offset + half))?;
            }
        }
        let answers = self.run()?;
        let pairs = answers.chunks_exact(2);
        Ok(pairs
            .map(|pair| pair[0].value() | pair[1].value() << 32)
            .collect())
    }

    fn write_rd(&mut self, cpu: usize, offset: u32, size: Size, value: u64) -> Result<(), Error> {
        let at = REDISTRIBUTORS + STRIDE * cpu as u64 + u64::from(offset);
        self.put(at, size, value)
    }

    fn read_rd(&mut self, cpu: usize) -> Result<[u64; 4], Error> {
        let at = REDISTRIBUTORS + STRIDE * cpu as u64;
        self.process.qtest.readl(at)?;
        for offset in [reg::RD_TYPER, reg::RD_PROPBASER, reg::RD_PENDBASER] {
            self.process.qtest.readq(at + u64::from(offset))?;
        }
        let answers = self.run()?;
        let value = |index: usize| answers.get(index).map_or(0, Answer::value);
        Ok(std::array::from_fn(value))
    }

    /// What qtest writes comes with a DeviceID of 0.
    fn message(&mut self, event: u32) -> Result<(), Error> {
        Ok(self.process.qtest.writel(TRANSLATER, event)?)
    }

    fn poke(&mut self, at: u64, value: u64) -> Result<(), Error> {
        Ok(self.process.qtest.writeq(at, value)?)
    }

    fn clear(&mut self, at: u64, bytes: u64) -> Result<(), Error> {
        Ok(self.process.qtest.clear(at, bytes)?)
    }

    fn peek(&mut self, stretches: &[(u64, u64)]) -> Result<Vec<Vec<u64>>, Error> {
        for (at, bytes) in stretches {
            self.process.qtest.read(*at, *bytes)?;
        }
        Ok(self.run()?.iter().map(Answer::words).collect())
    }

    /// What its pending table says. QEMU writes that at once.
    fn pending(&mut self, cpu: usize, of: &[Range<u32>]) -> Result<BTreeSet<u32>, Error> {
        let bytes = |range: &Range<u32>| range.start / 64 * 8..range.end.div_ceil(64) * 8;
        let stretch = |range| {
            let bytes = bytes(range);
            let at = pending(cpu) + u64::from(bytes.start);
            (at, u64::from(bytes.end - bytes.start))
        };
        let stretches: Vec<_> = of.iter().map(stretch).collect();
        let words = self.peek(&stretches)?;
        let mut found = BTreeSet::new();
        for (range, words) in of.iter().zip(words) {
            let first = bytes(range).start * 8;
            for (n, word) in (0..).zip(words) {
                let bits = (0..64).filter(|bit| word >> bit & 1 != 0);
                found.extend(bits.map(|bit| first + n * 64 + bit));
            }
        }
        Ok(found)
    }
}
