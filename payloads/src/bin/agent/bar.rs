//! The registers of QEMU's `edu` device, and the one thing it can do: copy
//! between its own buffer and a bus address.

use crate::sys::{self, Fd};
use crate::text::{Context, Failure};
use core::ptr;

/// Bytes of the device's own buffer: no transfer is longer.
pub const BUFFER_SIZE: usize = 4096;

const BAR_SIZE: usize = 0x10_0000;
/// Where the device's own buffer lies in its own address map.
const BUFFER: u64 = 0x40000;
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const RUN: u64 = 1;
const TO_MEMORY: u64 = 2;

/// Longest time a transfer takes: the device waits 100 ms by itself.
const PATIENCE_MS: u64 = 20_000;

/// Which way data goes.
#[derive(Clone, Copy)]
pub enum Direction {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
}

/// The mapped registers.
pub struct Bar(*mut u8);

impl Bar {
    /// Maps them from `file` at `offset`; they stay mapped.
    pub fn map(file: Fd, offset: u64) -> Result<Self, Failure> {
        sys::map(Some(file), offset, BAR_SIZE, sys::MAP_SHARED)
            .context("mmap of the device")
            .map(Self)
    }

    /// Runs one transfer to its end.
    pub fn transfer(&mut self, way: Direction, address: u64, length: usize) -> Result<(), Failure> {
        self.start(way, address, length)?;
        self.finish()
    }

    /// Starts one transfer; the device acts 100 ms later.
    pub fn start(&mut self, way: Direction, address: u64, length: usize) -> Result<(), Failure> {
        if length > BUFFER_SIZE {
            return Err(Failure::Said("the device's buffer has 4096 bytes"));
        }
        self.finish()?;
        let (source, destination, command) = match way {
            Direction::Read => (address, BUFFER, RUN),
            Direction::Write => (BUFFER, address, RUN | TO_MEMORY),
        };
        sys::barrier();
        self.set(SOURCE, source);
        self.set(DESTINATION, destination);
        self.set(COUNT, length as u64);
        self.set(COMMAND, command);
        Ok(())
    }

    /// Waits until no transfer runs.
    pub fn finish(&self) -> Result<(), Failure> {
        let start = sys::counter();
        let limit = sys::counter_frequency() / 1000 * PATIENCE_MS;
        while self.get(COMMAND) & RUN != 0 {
            if sys::counter().wrapping_sub(start) > limit {
                return Err(Failure::Said("the edu device never finished"));
            }
            sys::sleep(10);
        }
        Ok(())
    }

    fn set(&self, register: usize, value: u64) {
        // SAFETY: the registers lie within the mapped BAR, are 64 bits wide
        // and aligned, and belong to this process alone.
        unsafe { ptr::write_volatile(self.0.add(register).cast(), value) };
    }

    fn get(&self, register: usize) -> u64 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(self.0.add(register).cast()) }
    }
}
