//! QEMU's `edu` device: it copies between a buffer of its own and any bus
//! address it is told, which makes it the attacker of the demonstration.

use crate::bar::{Bar, Direction};
use crate::memory::{DmaPage, PAGE};
use crate::sys::{self, Errno, Fd};
use crate::text::{Context, Failure, Line};
use core::fmt::Write;
use portcullis_payloads::pattern;

const VENDOR: &[u8] = b"0x1234\n";
const DEVICE: &[u8] = b"0x11e8\n";
/// EBUSY.
const BUSY: Errno = Errno(16);

/// The device, enabled and mapped, with two pages for it to reach.
pub struct Edu {
    bar: Bar,
    /// What the agent hands to the device and gets back.
    scratch: DmaPage,
    /// The ordinary host memory of the demonstration.
    target: DmaPage,
    /// Name of the PCI function, such as `0000:00:03.0`.
    name: [u8; 12],
}

impl Edu {
    /// Finds the device number `index`, enables it and lets it master the bus.
    pub fn new(index: u64) -> Result<Self, Failure> {
        let name = find(index)?;
        let text = core::str::from_utf8(&name).map_err(|_| Failure::Said("strange PCI name"))?;
        let mut path = Line::new();
        write!(path, "/sys/bus/pci/devices/{text}/enable")?;
        let enable = sys::open(path.as_c_str()?, sys::O_WRONLY).context("open enable")?;
        let written = sys::write(enable, b"1\n");
        sys::close(enable);
        // Busy: a driver has it. Enabled it is below.
        if written != Err(BUSY) {
            written.context("enable the device")?;
        }

        let mut path = Line::new();
        write!(path, "/sys/bus/pci/devices/{text}/config")?;
        let config = sys::open(path.as_c_str()?, sys::O_RDWR).context("open config")?;
        set_bus_master(config)?;
        sys::close(config);

        let mut path = Line::new();
        write!(path, "/sys/bus/pci/devices/{text}/resource0")?;
        let resource = sys::open(path.as_c_str()?, sys::O_RDWR).context("open resource0")?;
        let bar = Bar::map(resource, 0);
        sys::close(resource);
        Ok(Self {
            bar: bar?,
            scratch: DmaPage::new()?,
            target: DmaPage::new()?,
            name,
        })
    }

    /// Name of the PCI function.
    pub fn name(&self) -> &str {
        core::str::from_utf8(&self.name).unwrap_or("?")
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
    pub fn check_target(&self, seed: u64, length: usize) -> Result<(), Failure> {
        let mut data = [0; PAGE];
        self.target.load(&mut data);
        match pattern::first_difference(&data[..length.min(PAGE)], seed, 0) {
            None => Ok(()),
            Some(at) => Err(Failure::Differs(at as u64)),
        }
    }

    /// Has the device take `data.len()` bytes from bus `address` and returns
    /// what it got. Its buffer holds a pattern before, so that a transfer
    /// that moved nothing is not mistaken for one that read zeros.
    pub fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), Failure> {
        self.preload(!address)?;
        self.bar.transfer(Direction::Read, address, data.len())?;
        self.bar
            .transfer(Direction::Write, self.scratch.physical(), PAGE)?;
        self.scratch.load(data);
        Ok(())
    }

    /// Has the device put `length` bytes of the pattern `seed` at bus `address`.
    pub fn write(&mut self, address: u64, seed: u64, length: usize) -> Result<(), Failure> {
        self.preload(seed)?;
        self.bar.transfer(Direction::Write, address, length)
    }

    /// Fills the device's buffer with the pattern `seed`, by way of a page of
    /// the agent.
    pub fn preload(&mut self, seed: u64) -> Result<(), Failure> {
        let mut data = [0; PAGE];
        pattern::fill(&mut data, seed, 0);
        self.scratch.store(&data);
        self.bar
            .transfer(Direction::Read, self.scratch.physical(), PAGE)
    }

    /// Starts one transfer; the device acts 100 ms later.
    pub fn start(&mut self, way: Direction, address: u64, length: usize) -> Result<(), Failure> {
        self.bar.start(way, address, length)
    }

    /// Waits until no transfer runs.
    pub fn finish(&self) -> Result<(), Failure> {
        self.bar.finish()
    }
}

/// Sets bus master and memory in the command register of the function.
fn set_bus_master(config: Fd) -> Result<(), Failure> {
    let mut command = [0; 2];
    sys::read_at(config, &mut command, 4).context("read config")?;
    let value = u16::from_le_bytes(command) | 0b110;
    sys::write_at(config, &value.to_le_bytes(), 4)
        .context("write config")
        .map(drop)
}

/// Finds the PCI function of the `index`th edu device.
fn find(mut index: u64) -> Result<[u8; 12], Failure> {
    let directory =
        sys::open(c"/sys/bus/pci/devices", sys::O_RDONLY).context("open /sys/bus/pci/devices")?;
    let mut entries = [0; 4096];
    let mut found = None;
    loop {
        let length = sys::directory_entries(directory, &mut entries).context("list of devices")?;
        if length == 0 {
            break;
        }
        let mut at = 0;
        // Each entry: inode (8), offset (8), length (2), type (1), name.
        while at + 19 < length {
            let size = usize::from(u16::from_le_bytes([entries[at + 16], entries[at + 17]]));
            let name: Option<[u8; 12]> = entries
                .get(at + 19..at + 31)
                .and_then(|name| name.try_into().ok());
            at += size.max(19);
            let Some(name) = name.filter(|name| name[0] != b'.') else {
                continue;
            };
            let Ok(text) = core::str::from_utf8(&name) else {
                continue;
            };
            if attribute(text, "vendor", VENDOR)? && attribute(text, "device", DEVICE)? {
                // Listing order is the kernel's; names are what is stable.
                if index == 0 {
                    found = Some(name);
                }
                index = index.wrapping_sub(1);
            }
        }
    }
    sys::close(directory);
    found.ok_or(Failure::Said(
        "no such edu device: start QEMU with -device edu",
    ))
}

/// Whether an attribute file of the function `name` reads `expected`.
fn attribute(name: &str, file: &str, expected: &[u8]) -> Result<bool, Failure> {
    let mut path = Line::new();
    write!(path, "/sys/bus/pci/devices/{name}/{file}")?;
    let Ok(fd) = sys::open(path.as_c_str()?, sys::O_RDONLY) else {
        return Ok(false);
    };
    let mut content = [0; 16];
    let length = sys::read(fd, &mut content).unwrap_or(0);
    sys::close(fd);
    Ok(content[..length] == *expected)
}
