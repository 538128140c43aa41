//! QEMU's `virtio-iommu-pci`, over PCI (virtio 1.2, 4.1).

use super::driver::{AVAILABLE, DESCRIPTORS, ENTRIES, MEMORY, Side, USED};
use crate::layout::{BARS, ECAM};
use crate::machine::{Error, Process};
use crate::qtest;
use portcullis_testbed::setup::qemu::Qemu;

/// Where the memory of the driver begins.
const BASE: u64 = 0x4100_0000;
/// The device: function 5.0 of the root bus.
const CONFIGURATION: u64 = ECAM + (0x28 << 12);
/// Polls until a request counts as lost.
const POLLS: u32 = 20_000;

/// `cfg_type` of the capabilities (4.1.4).
const COMMON: u32 = 1;
const NOTIFY: u32 = 2;
const DEVICE: u32 = 4;

/// QEMU's side.
pub struct Theirs {
    process: Process,
    common: u64,
    notify: u64,
    probe_size: usize,
}

fn refused(what: &str, answer: u64) -> Error {
    qtest::Error::Refused {
        command: what.to_owned(),
        answer: format!("{answer:#x}"),
    }
    .into()
}

impl Theirs {
    /// Starts QEMU and finds the device.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(qemu: &Qemu) -> Result<Self, Error> {
        let devices = [
            // 48 bits, as ours.
            "virtio-iommu-pci,addr=5.0,boot-bypass=off,aw-bits=48",
            "edu,addr=1.0",
            "edu,addr=2.0,multifunction=on",
            "edu,addr=2.3",
        ];
        let process = Process::start(qemu, "", &devices.map(str::to_owned))?;
        let mut this = Self {
            process,
            common: 0,
            notify: 0,
            probe_size: 0,
        };
        this.find().map_err(|error| this.process.explain(error))?;
        Ok(this)
    }

    fn read32(&mut self, at: u64) -> Result<u32, Error> {
        self.process.qtest.readl(at)?;
        let answers = self.process.qtest.run()?;
        // Truncation: 32 bits were read.
        Ok(answers.last().map_or(0, qtest::Answer::value) as u32)
    }

    /// Gives the device its BAR and looks where its registers are.
    fn find(&mut self) -> Result<(), Error> {
        let id = self.read32(CONFIGURATION)?;
        // A modern virtio device of type 23.
        if id != (0x1040 + 23) << 16 | 0x1af4 {
            return Err(refused("identify virtio-iommu-pci", id.into()));
        }
        // BAR 4, of 64 bits.
        self.process
            .qtest
            .writel(CONFIGURATION + 0x20, BARS as u32)?;
        self.process.qtest.writel(CONFIGURATION + 0x24, 0)?;
        // Memory space, bus master.
        self.process.qtest.writew(CONFIGURATION + 4, 0b110)?;
        let mut at = self.read32(CONFIGURATION + 0x34)? & 0xfc;
        let mut multiplier = 0;
        let mut device = 0;
        // There are 48 places for capabilities at most.
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let place = CONFIGURATION + u64::from(at);
            let head = self.read32(place)?;
            let bar = self.read32(place + 4)? & 0xff;
            if head & 0xff == 9 && bar == 4 {
                let offset = BARS + u64::from(self.read32(place + 8)?);
                match head >> 24 {
                    COMMON => self.common = offset,
                    NOTIFY => {
                        self.notify = offset;
                        multiplier = self.read32(place + 16)?;
                    }
                    DEVICE => device = offset,
                    _ => {}
                }
            }
            at = head >> 8 & 0xfc;
        }
        if self.common == 0 || self.notify == 0 || device == 0 {
            return Err(refused("find the registers of virtio-iommu-pci", 0));
        }
        self.process.qtest.writew(self.common + 0x16, 0)?;
        let offset = self.read32(self.common + 0x1c)? >> 16;
        self.notify += u64::from(offset) * u64::from(multiplier);
        self.probe_size = self.read32(device + 32)? as usize;
        let last =
            u64::from(self.read32(device + 16)?) | u64::from(self.read32(device + 20)?) << 32;
        if last != super::ask::LAST || self.probe_size < 256 {
            return Err(refused("find 48 bits of addresses", last));
        }
        Ok(())
    }

    /// Sets the status; what it then is.
    fn status(&mut self, value: u8) -> Result<u32, Error> {
        self.process.qtest.writeb(self.common + 0x14, value)?;
        Ok(self.read32(self.common + 0x14)? & 0xff)
    }
}

impl Side for Theirs {
    type Error = Error;

    fn base(&self) -> u64 {
        BASE
    }

    fn probe_size(&self) -> usize {
        self.probe_size
    }

    fn bring_up(&mut self, event_idx: bool) -> Result<(), Error> {
        let common = self.common;
        let status = self.status(0)?;
        if status != 0 {
            return Err(refused("reset the device", status.into()));
        }
        self.status(3)?;
        self.process.qtest.clear(BASE, MEMORY)?;
        // Without BYPASS_CONFIG.
        let low = 0b11_0111 | 1 << 28 | u32::from(event_idx) << 29;
        for (word, features) in [(0, low), (1, 1)] {
            self.process.qtest.writel(common + 8, word)?;
            self.process.qtest.writel(common + 12, features)?;
        }
        self.status(11)?;
        let qtest = &mut self.process.qtest;
        qtest.writew(common + 0x16, 0)?;
        qtest.writew(common + 0x18, ENTRIES)?;
        for (register, at) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
            let at = BASE + at;
            qtest.writel(common + register, at as u32)?;
            qtest.writel(common + register + 4, (at >> 32) as u32)?;
        }
        qtest.writew(common + 0x1c, 1)?;
        let status = self.status(15)?;
        if status != 15 {
            return Err(refused("bring the device up", status.into()));
        }
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if !bytes.is_empty() {
            self.process.qtest.write(BASE + offset, bytes)?;
        }
        Ok(())
    }

    fn get(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        self.process.qtest.read(BASE + offset, bytes)?;
        Ok(match self.process.qtest.run()?.pop() {
            Some(qtest::Answer::Bytes(bytes)) => bytes,
            _ => Vec::new(),
        })
    }

    fn notify(&mut self, used: u16) -> Result<(), Error> {
        self.process.qtest.writew(self.notify, 0)?;
        // QEMU takes a notification later, in its main loop.
        for _ in 0..POLLS {
            if self.get(USED + 2, 2)? == used.to_le_bytes() {
                return Ok(());
            }
        }
        let status = self.read32(self.common + 0x14)?;
        let error = refused("answer requests", u64::from(status & 0xff));
        Err(self.process.explain(error))
    }
}
