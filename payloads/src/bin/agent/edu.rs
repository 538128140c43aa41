//! QEMU's `edu` device: it copies between a buffer of its own and any bus
//! address it is told, which makes it the attacker of the demonstration.

use crate::memory::{DmaPage, PAGE};
use anyhow::{Context, Result, bail};
use portcullis_payloads::edu::{Bar, Direction};
use portcullis_payloads::pattern;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;

const DEVICES: &str = "/sys/bus/pci/devices";
const VENDOR: &str = "0x1234";
const DEVICE: &str = "0x11e8";

/// The device, enabled and mapped, with two pages for it to reach.
pub struct Edu {
    bar: Bar,
    /// What the agent hands to the device and gets back.
    scratch: DmaPage,
    /// The ordinary host memory of the demonstration.
    target: DmaPage,
    /// Name of the PCI function, such as `0000:00:03.0`.
    name: String,
}

impl Edu {
    /// Finds the device number `index`, enables it and lets it master the bus.
    pub fn new(index: u64) -> Result<Self> {
        let name = find(index)?;
        let open = |file: &str| {
            let opened = File::options()
                .read(true)
                .write(true)
                .open(format!("{DEVICES}/{name}/{file}"));
            opened.with_context(|| format!("open {file}"))
        };
        match open("enable")?.write_all(b"1\n") {
            // A driver has it. Enabled it is below.
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
            done => done.context("enable the device")?,
        }
        set_bus_master(&open("config")?)?;
        Ok(Self {
            bar: Bar::map(open("resource0")?, 0)?,
            scratch: DmaPage::new()?,
            target: DmaPage::new()?,
            name,
        })
    }

    /// Name of the PCI function.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Physical address of the ordinary memory it may reach.
    pub fn target(&self) -> u64 {
        self.target.physical()
    }

    /// Physical address of the page by way of which the agent talks to it.
    pub fn scratch(&self) -> u64 {
        self.scratch.physical()
    }

    /// Puts the pattern `seed` into the target page.
    pub fn fill_target(&mut self, seed: u64) {
        let mut data = [0; PAGE];
        pattern::fill(&mut data, seed, 0);
        self.target.store(&data);
    }

    /// Whether the first `length` bytes of the target page are pattern `seed`.
    pub fn check_target(&self, seed: u64, length: usize) -> Result<()> {
        let mut data = [0; PAGE];
        self.target.load(&mut data);
        Ok(pattern::check(&data[..length.min(PAGE)], seed, 0)?)
    }

    /// Has the device take `length` bytes from bus `address` and returns
    /// what it got. Its buffer holds a pattern before, so that a transfer
    /// that moved nothing is not mistaken for one that read zeros.
    pub fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        self.preload(!address)?;
        self.bar.transfer(Direction::Read, address, length)?;
        self.bar
            .transfer(Direction::Write, self.scratch.physical(), PAGE)?;
        let mut data = vec![0; length];
        self.scratch.load(&mut data);
        Ok(data)
    }

    /// Has the device put `length` bytes of the pattern `seed` at bus `address`.
    pub fn write(&mut self, address: u64, seed: u64, length: usize) -> Result<()> {
        self.preload(seed)?;
        self.bar.transfer(Direction::Write, address, length)
    }

    /// Fills the device's buffer with the pattern `seed`, by way of a page of
    /// the agent.
    pub fn preload(&mut self, seed: u64) -> Result<()> {
        let mut data = [0; PAGE];
        pattern::fill(&mut data, seed, 0);
        self.scratch.store(&data);
        self.bar
            .transfer(Direction::Read, self.scratch.physical(), PAGE)
    }

    /// Starts one transfer; the device acts 100 ms later.
    pub fn start(&mut self, way: Direction, address: u64, length: usize) -> Result<()> {
        self.bar.start(way, address, length)
    }

    /// Waits until no transfer runs.
    pub fn finish(&self) -> Result<()> {
        self.bar.finish()
    }
}

/// Sets bus master and memory in the command register of the function.
fn set_bus_master(config: &File) -> Result<()> {
    let mut command = [0; 2];
    config
        .read_exact_at(&mut command, 4)
        .context("read config")?;
    let value = u16::from_le_bytes(command) | 0b110;
    config
        .write_all_at(&value.to_le_bytes(), 4)
        .context("write config")
}

/// Finds the PCI function of the `index`th edu device, by name.
fn find(index: u64) -> Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES).context("list the devices")? {
        let entry = entry.context("list the devices")?;
        let is = |file: &str, expected: &str| {
            let content = fs::read_to_string(entry.path().join(file));
            content.is_ok_and(|content| content.trim_end() == expected)
        };
        if is("vendor", VENDOR) && is("device", DEVICE) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    let Some(name) = found.into_iter().nth(index as usize) else {
        bail!("no such edu device: start QEMU with -device edu");
    };
    Ok(name)
}
