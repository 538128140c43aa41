//! What must hold for a device in the hands of a program.

use crate::buffer::Buffer;
use crate::container::{Container, Rights};
use anyhow::{Result, bail};
use portcullis_payloads::edu::{BUFFER_SIZE, Bar, Direction};
use portcullis_payloads::pages::{self, Pages};
use std::fmt::Write;

/// Where the device finds what the program hands it and gets back.
const IN: u64 = 0x10_0000;
const OUT: u64 = 0x20_0000;
/// Addresses that other mappings are made at: low, and above 4 GiB.
const PLACES: [u64; 2] = [0x30_0000, 0x12_3456_0000];
/// And near the end of 48 bits, or that much below the end of what the IOMMU
/// takes.
const HIGH: u64 = 0x7fff_fff0_0000;
const BELOW_END: u64 = 0x10_0000;
/// The large buffer: in one piece for the device, scattered in memory.
const LARGE_AT: u64 = 0x8_0000_0000;
const LARGE: usize = 64 << 20;
/// Places of it that are looked at, the first and the last page among them.
const LOOKS: usize = 16;

/// Bytes of a transfer that is to be refused: few, since each word of it makes
/// an event.
const SHORT: usize = 64;

/// One check: whether it held.
type Step = fn(&mut Bench) -> Result<bool>;

/// The device with its address space.
struct Bench {
    container: Container,
    bar: Bar,
    page: usize,
    input: Buffer,
    output: Buffer,
    seed: u64,
}

/// Runs all checks; whether all held. `line` gets one word for each.
pub fn all(name: &str, group: &str, line: &mut String) -> Result<bool> {
    let page = pages::size();
    let container = Container::open(name, group)?;
    let input = Buffer::new(page)?;
    let output = Buffer::new(page)?;
    container.map(IN, &input, page, Rights::Read)?;
    container.map(OUT, &output, page, Rights::ReadWrite)?;
    let bar = container.bar()?;
    let mut bench = Bench {
        container,
        bar,
        page,
        input,
        output,
        seed: 0x0f10,
    };
    let checks: [(&str, Step); 6] = [
        ("chosen", Bench::chosen),
        ("readonly", Bench::read_only),
        ("unmapped", Bench::unmapped),
        ("remapped", Bench::remapped),
        ("never", Bench::never_mapped),
        ("scattered", Bench::scattered),
    ];
    let mut held = true;
    for (name, check) in checks {
        let good = check(&mut bench)?;
        write!(line, " {name}={}", if good { "ok" } else { "FAILED" })?;
        held &= good;
    }
    Ok(held)
}

impl Bench {
    fn seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    /// Puts a new pattern into the device's buffer, and returns its seed.
    fn load(&mut self) -> Result<u64> {
        let seed = self.seed();
        self.input.fill(0, BUFFER_SIZE, seed);
        self.bar.transfer(Direction::Read, IN, BUFFER_SIZE)?;
        Ok(seed)
    }

    /// Whether the device's buffer starts with `length` bytes of the pattern
    /// `seed`.
    fn loaded(&mut self, length: usize, seed: u64) -> Result<bool> {
        self.output.fill(0, BUFFER_SIZE, !seed);
        self.bar.transfer(Direction::Write, OUT, BUFFER_SIZE)?;
        Ok(self.output.holds(0, length, seed))
    }

    /// Whether the device reads `memory` at `offset` at bus `address`, and
    /// writes it.
    fn both_ways(&mut self, memory: &Buffer, offset: usize, address: u64) -> Result<bool> {
        let seed = self.seed();
        memory.fill(offset, BUFFER_SIZE, seed);
        self.load()?;
        self.bar.transfer(Direction::Read, address, BUFFER_SIZE)?;
        let read = self.loaded(BUFFER_SIZE, seed)?;
        let seed = self.load()?;
        self.bar.transfer(Direction::Write, address, BUFFER_SIZE)?;
        Ok(read && memory.holds(offset, BUFFER_SIZE, seed))
    }

    /// Whether the device can neither read `memory` at bus `address` nor
    /// write it.
    fn neither_way(&mut self, memory: &Buffer, offset: usize, address: u64) -> Result<bool> {
        let seed = self.seed();
        memory.fill(offset, BUFFER_SIZE, seed);
        self.load()?;
        self.bar.transfer(Direction::Write, address, SHORT)?;
        let kept = memory.holds(offset, BUFFER_SIZE, seed);
        self.bar.transfer(Direction::Read, address, SHORT)?;
        Ok(kept && !self.loaded(SHORT, seed)?)
    }

    /// Data goes to and from the addresses that the program picks.
    fn chosen(&mut self) -> Result<bool> {
        let mut held = true;
        let end = self.container.last_address()?.saturating_add(1);
        let high = HIGH.min(end.saturating_sub(BELOW_END));
        for address in PLACES.into_iter().chain([high]) {
            let memory = Buffer::new(self.page)?;
            self.container
                .map(address, &memory, self.page, Rights::ReadWrite)?;
            held &= self.both_ways(&memory, 0, address)?;
            self.container.unmap(address, self.page)?;
        }
        Ok(held)
    }

    /// What may be read only is read, and not written.
    fn read_only(&mut self) -> Result<bool> {
        let memory = Buffer::new(self.page)?;
        let address = PLACES[0];
        self.container
            .map(address, &memory, self.page, Rights::Read)?;
        let seed = self.seed();
        memory.fill(0, BUFFER_SIZE, seed);
        self.load()?;
        self.bar.transfer(Direction::Write, address, SHORT)?;
        let kept = memory.holds(0, BUFFER_SIZE, seed);
        self.bar.transfer(Direction::Read, address, BUFFER_SIZE)?;
        let read = self.loaded(BUFFER_SIZE, seed)?;
        self.container.unmap(address, self.page)?;
        Ok(kept && read)
    }

    /// Nothing moves after an unmapping that the device used before.
    fn unmapped(&mut self) -> Result<bool> {
        let memory = Buffer::new(self.page)?;
        let address = PLACES[1];
        self.container
            .map(address, &memory, self.page, Rights::ReadWrite)?;
        let before = self.both_ways(&memory, 0, address)?;
        self.container.unmap(address, self.page)?;
        Ok(before && self.neither_way(&memory, 0, address)?)
    }

    /// An address that leads elsewhere now does not lead back.
    fn remapped(&mut self) -> Result<bool> {
        let first = Buffer::new(self.page)?;
        let second = Buffer::new(self.page)?;
        let address = PLACES[1];
        self.container
            .map(address, &first, self.page, Rights::ReadWrite)?;
        let before = self.both_ways(&first, 0, address)?;
        self.container.unmap(address, self.page)?;
        self.container
            .map(address, &second, self.page, Rights::ReadWrite)?;
        let seed = self.seed();
        first.fill(0, BUFFER_SIZE, seed);
        let after = self.both_ways(&second, 0, address)?;
        self.container.unmap(address, self.page)?;
        Ok(before && after && first.holds(0, BUFFER_SIZE, seed))
    }

    /// The address a page has in memory is none that the device may use.
    fn never_mapped(&mut self) -> Result<bool> {
        let memory = Buffer::new(self.page)?;
        let physical = Pages::open()?.physical(memory.address())?;
        self.neither_way(&memory, 0, physical)
    }

    /// A large buffer is one piece for the device, wherever its pages lie.
    fn scattered(&mut self) -> Result<bool> {
        let memory = Buffer::scattered(LARGE, self.page)?;
        // A few neighbours may have met by chance.
        if memory.adjacent(self.page)? > LARGE / self.page / 16 {
            bail!("the large buffer is not scattered");
        }
        self.container
            .map(LARGE_AT, &memory, LARGE, Rights::ReadWrite)?;
        let mut held = true;
        for look in 0..LOOKS {
            // The first transfer starts at the start, the last ends at the
            // end; those between cross from one page to the next.
            let page = look * (LARGE / self.page - 1) / (LOOKS - 1);
            let offset = match look {
                0 => 0,
                _ if look == LOOKS - 1 => LARGE - BUFFER_SIZE,
                _ => page * self.page - BUFFER_SIZE / 2,
            };
            held &= self.both_ways(&memory, offset, LARGE_AT + offset as u64)?;
        }
        self.container.unmap(LARGE_AT, LARGE)?;
        let last = LARGE - BUFFER_SIZE;
        held &= self.neither_way(&memory, 0, LARGE_AT)?;
        held &= self.neither_way(&memory, last, LARGE_AT + last as u64)?;
        Ok(held)
    }
}
