//! QEMU with an SMMU and `edu` devices behind it, and no guest.
//!
//! `edu` does what it was told to do 100 ms later by the machine's clock. The
//! only CPU stays powered off, so a clock that counts instructions has nothing
//! to count and, told not to sleep, jumps to that moment at once: a transfer
//! takes about 0.1 ms. (`clock_step` of qtest needs `-accel qtest`, which
//! Debian's QEMU lacks; a stopped machine's clock stands still.)

use crate::layout::{self, BARS, ECAM};
use crate::qtest::{self, Qtest};
use portcullis_testbed::Error as LabError;
use portcullis_testbed::setup::qemu::Qemu;
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time QEMU may take to connect.
const PATIENCE: Duration = Duration::from_secs(60);
/// Polls until a transfer counts as lost.
const POLLS: u32 = 100_000;

const EDU_SOURCE: u64 = 0x80;
const EDU_DESTINATION: u64 = 0x88;
const EDU_COUNT: u64 = 0x90;
const EDU_COMMAND: u64 = 0x98;
const EDU_BUFFER: u64 = 0x4_0000;

/// A device that does DMA.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its StreamID: bus, device, function.
    pub stream: u32,
    bar: u64,
}

/// The devices, in the order in which cases number them. The last two are
/// behind root ports on buses 1 and 9.
pub const DEVICES: [Device; 5] = [
    Device {
        stream: 0x008,
        bar: BARS,
    },
    Device {
        stream: 0x010,
        bar: BARS + 0x10_0000,
    },
    Device {
        stream: 0x013,
        bar: BARS + 0x20_0000,
    },
    Device {
        stream: 0x100,
        bar: BARS + 0x30_0000,
    },
    Device {
        stream: 0x900,
        bar: BARS + 0x40_0000,
    },
];

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU cannot be had or started.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// QEMU does not do as it is told.
    #[error("{source}\n{words}")]
    Qtest {
        /// What went wrong.
        source: qtest::Error,
        /// What QEMU said.
        words: String,
    },
    /// It happened during a case.
    #[error("{what}: {source}")]
    Case {
        /// The case.
        what: String,
        /// What happened.
        source: Box<Error>,
    },
    /// A device did not finish.
    #[error("a transfer of stream {0:#x} does not end")]
    Stuck(u32),
}

impl Error {
    /// Says during what it happened.
    #[must_use]
    pub fn during(self, what: String) -> Self {
        Self::Case {
            what,
            source: Box::new(self),
        }
    }
}

impl From<qtest::Error> for Error {
    fn from(source: qtest::Error) -> Self {
        Self::Qtest {
            source,
            words: String::new(),
        }
    }
}

/// A running QEMU, which ends with it.
pub struct Process {
    child: Child,
    /// The way to its memory and registers.
    pub qtest: Qtest,
    words: PathBuf,
    _directory: TempDir,
}

impl Process {
    /// Starts a `virt` machine with these options and devices.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(qemu: &Qemu, options: &str, devices: &[String]) -> Result<Self, Error> {
        let directory = TempDir::with_prefix("portcullis-").map_err(LabError::io(
            "cannot make a directory in",
            std::env::temp_dir(),
        ))?;
        let socket = directory.path().join("qtest");
        let words = directory.path().join("words");
        let listener =
            UnixListener::bind(&socket).map_err(LabError::io("cannot listen at", &socket))?;
        listener
            .set_nonblocking(true)
            .map_err(LabError::io("cannot listen at", &socket))?;
        let log = File::create(&words).map_err(LabError::io("cannot write", &words))?;
        let mut command = qemu.command();
        command
            .arg("-M")
            .arg(format!("virt,gic-version=3,highmem-ecam=off{options}"))
            .args(["-cpu", "cortex-a57,start-powered-off=on", "-m", "1G"])
            .args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
            .args(["-nodefaults", "-display", "none", "-qtest-log", "none"])
            .arg("-qtest")
            .arg(format!("unix:{}", socket.display()));
        for device in devices {
            command.arg("-device").arg(device);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| LabError::Start {
                program: "QEMU".to_owned(),
                source,
                fix: "delete target/portcullis-cache and try again",
            })?;
        let mut child = Ending(Some(child));
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            if let Ok((stream, _)) = listener.accept() {
                break stream;
            }
            let ended = child
                .0
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > end {
                let what = "QEMU did not start".to_owned();
                let tail = std::fs::read_to_string(&words).unwrap_or_default();
                return Err(LabError::Machine { what, tail }.into());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        stream
            .set_nonblocking(false)
            .map_err(LabError::io("cannot use", &socket))?;
        let qtest = Qtest::new(stream)?;
        let Some(child) = child.0.take() else {
            return Err(Error::Stuck(0));
        };
        Ok(Self {
            child,
            qtest,
            words,
            _directory: directory,
        })
    }

    /// Adds what QEMU said to an error.
    pub fn explain(&self, error: impl Into<Error>) -> Error {
        match error.into() {
            Error::Qtest { source, .. } => {
                let words = std::fs::read_to_string(&self.words).unwrap_or_default();
                Error::Qtest { source, words }
            }
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// A running machine; QEMU ends with it.
pub struct Machine {
    process: Process,
}

impl Deref for Machine {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Machine {
    /// Starts QEMU and makes the devices ready.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(qemu: &Qemu) -> Result<Self, Error> {
        let devices = [
            "pcie-root-port,id=first,chassis=1,addr=3.0",
            "pcie-root-port,id=second,chassis=2,addr=4.0",
            "edu,addr=1.0",
            "edu,addr=2.0,multifunction=on",
            "edu,addr=2.3",
            "edu,bus=first,addr=0.0",
            "edu,bus=second,addr=0.0",
        ];
        let devices = devices.map(|device| {
            let mask = if device.starts_with("edu") {
                ",dma_mask=0xffffffffffffffff"
            } else {
                ""
            };
            format!("{device}{mask}")
        });
        let process = Process::start(qemu, ",iommu=smmuv3", &devices)?;
        let mut machine = Self { process };
        let ready = machine.prepare().and_then(|()| machine.fill());
        ready.map_err(|error| machine.explain(error))?;
        Ok(machine)
    }

    fn prepare(&mut self) -> Result<(), qtest::Error> {
        let configuration = |stream: u64| ECAM + (stream << 12);
        // The root ports first: what is behind them has no address before.
        for (port, bus, window) in [(0x18, 1, DEVICES[3].bar), (0x20, 9, DEVICES[4].bar)] {
            let at = configuration(port);
            self.qtest.writel(at + 0x18, bus << 16 | bus << 8)?;
            // Memory base and limit in MiB, bits 15 to 4 of each half.
            let window = (window >> 16) as u32;
            self.qtest.writel(at + 0x20, window << 16 | window)?;
            self.qtest.writew(at + 4, 0b110)?;
        }
        for device in DEVICES {
            let at = configuration(device.stream.into());
            self.qtest.writel(at + 0x10, device.bar as u32)?;
            // Memory space, bus master.
            self.qtest.writew(at + 4, 0b110)?;
            self.qtest.readl(device.bar)?;
        }
        for (answer, device) in self.qtest.run()?.iter().zip(DEVICES) {
            // Identification: a version and "ed".
            if answer.value() != 0x0100_00ed {
                return Err(qtest::Error::Refused {
                    command: format!("identify stream {:#x}", device.stream),
                    answer: format!("{:#x}", answer.value()),
                });
            }
        }
        Ok(())
    }

    /// Gives all memory of cases what it holds at the start.
    pub(crate) fn fill(&mut self) -> Result<(), qtest::Error> {
        // QEMU leaves a device tree at the start.
        for range in [layout::RAM.start..layout::STREAMS.end, layout::TABLES] {
            self.qtest.clear(range.start, range.end - range.start)?;
        }
        for range in layout::DATA {
            for page in range.step_by(4096) {
                let bytes: Vec<u8> = (page..page + 4096)
                    .step_by(4)
                    .flat_map(|at| layout::initial(at).to_le_bytes())
                    .collect();
                self.qtest.write(page, &bytes)?;
            }
        }
        self.qtest.run().map(drop)
    }

    /// Makes a device read `count` bytes at `address` to its buffer.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn device_reads(&mut self, device: Device, address: u64, count: u64) -> Result<(), Error> {
        self.transfer(device, address, EDU_BUFFER, count, 0b01)
    }

    /// Makes a device write `count` bytes of its buffer to `address`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn device_writes(&mut self, device: Device, address: u64, count: u64) -> Result<(), Error> {
        self.transfer(device, EDU_BUFFER, address, count, 0b11)
    }

    fn transfer(
        &mut self,
        device: Device,
        source: u64,
        destination: u64,
        count: u64,
        command: u64,
    ) -> Result<(), Error> {
        self.qtest.writeq(device.bar + EDU_SOURCE, source)?;
        self.qtest
            .writeq(device.bar + EDU_DESTINATION, destination)?;
        self.qtest.writeq(device.bar + EDU_COUNT, count)?;
        self.qtest.writeq(device.bar + EDU_COMMAND, command)?;
        for _ in 0..POLLS {
            self.qtest.readq(device.bar + EDU_COMMAND)?;
            let answers = self.qtest.run()?;
            if answers.last().is_some_and(|answer| answer.value() & 1 == 0) {
                return Ok(());
            }
        }
        Err(Error::Stuck(device.stream))
    }
}

/// Ends QEMU when its start does not come to an end.
struct Ending(Option<Child>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            stop(child);
        }
    }
}

fn stop(child: &mut Child) {
    // Either may fail because it has ended already, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}
