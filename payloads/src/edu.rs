//! The registers of QEMU's `edu` device, and the one thing it can do: copy
//! between its own buffer and a bus address.

use crate::mapping::{Window, barrier};
use anyhow::{Context, Result, bail};
use rustix::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

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
const PATIENCE: Duration = Duration::from_secs(20);

/// Which way data goes.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
}

/// The mapped registers.
#[derive(Debug)]
pub struct Bar(Window);

impl Bar {
    /// Maps them from `file` at `offset`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn map(file: impl AsFd, offset: u64) -> Result<Self> {
        Window::of_file(file, offset, BAR_SIZE)
            .context("mmap of the device")
            .map(Self)
    }

    /// Runs one transfer to its end.
    ///
    /// # Errors
    ///
    /// As [`Bar::start`] and [`Bar::finish`].
    pub fn transfer(&mut self, way: Direction, address: u64, length: usize) -> Result<()> {
        self.start(way, address, length)?;
        self.finish()
    }

    /// Starts one transfer; the device acts 100 ms later.
    ///
    /// # Errors
    ///
    /// When it is too long, or the one before never ends.
    pub fn start(&mut self, way: Direction, address: u64, length: usize) -> Result<()> {
        if length > BUFFER_SIZE {
            bail!("the device's buffer has {BUFFER_SIZE} bytes");
        }
        self.finish()?;
        let (source, destination, command) = match way {
            Direction::Read => (address, BUFFER, RUN),
            Direction::Write => (BUFFER, address, RUN | TO_MEMORY),
        };
        barrier();
        self.0.store(SOURCE, source);
        self.0.store(DESTINATION, destination);
        self.0.store(COUNT, length as u64);
        self.0.store(COMMAND, command);
        Ok(())
    }

    /// Waits until no transfer runs.
    ///
    /// # Errors
    ///
    /// When one does not end.
    pub fn finish(&self) -> Result<()> {
        let start = Instant::now();
        while self.0.load::<u64>(COMMAND) & RUN != 0 {
            if start.elapsed() > PATIENCE {
                bail!("the edu device never finished");
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
