//! The `qtest` protocol of QEMU: lines of text that read and write physical
//! memory, registers of devices included, while no guest code runs.
//!
//! Commands are queued and sent together: an answer costs about 20 µs when each
//! is waited for, and 3 µs when they travel in a batch.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Commands that are sent before answers are read: few enough that neither side
/// fills the socket's buffer while the other one does.
const BATCH: usize = 128;
/// Longest time an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why QEMU's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, which it does when QEMU ends.
    #[error("QEMU no longer answers: {0}")]
    Lost(#[from] std::io::Error),
    /// QEMU refused a command.
    #[error("QEMU answers {answer:?} to {command:?}")]
    Refused {
        /// What was sent.
        command: String,
        /// What came back.
        answer: String,
    },
}

/// What a reading command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a register.
    Value(u64),
    /// Of a stretch of memory.
    Bytes(Vec<u8>),
}

impl Answer {
    /// The value of a register; 0 of anything else.
    #[must_use]
    pub fn value(&self) -> u64 {
        match self {
            Self::Value(value) => *value,
            Self::Bytes(_) => 0,
        }
    }

    /// The 64-bit words of a stretch of memory.
    #[must_use]
    pub fn words(&self) -> Vec<u64> {
        match self {
            Self::Value(_) => Vec::new(),
            Self::Bytes(bytes) => bytes
                .chunks_exact(8)
                .map(|chunk| {
                    chunk
                        .iter()
                        .rev()
                        .fold(0, |word, byte| word << 8 | u64::from(*byte))
                })
                .collect(),
        }
    }
}

/// How an answer is to be understood.
#[derive(Clone, Copy)]
enum Expect {
    Nothing,
    Value,
    Bytes,
}

/// A connection.
pub struct Qtest {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    text: String,
    expected: Vec<(Expect, usize)>,
    answers: Vec<Answer>,
}

impl Qtest {
    /// Talks over a connected socket.
    ///
    /// # Errors
    /// [`Error::Lost`] when the socket cannot be used.
    pub fn new(stream: UnixStream) -> Result<Self, Error> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            text: String::new(),
            expected: Vec::new(),
            answers: Vec::new(),
        })
    }

    fn queue(&mut self, expect: Expect, command: std::fmt::Arguments<'_>) -> Result<(), Error> {
        let start = self.text.len();
        let _ = self.text.write_fmt(command);
        self.text.push('\n');
        self.expected.push((expect, start));
        if self.expected.len() >= BATCH {
            self.exchange()?;
        }
        Ok(())
    }

    /// Queues an 8-bit write.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn writeb(&mut self, at: u64, value: u8) -> Result<(), Error> {
        self.queue(Expect::Nothing, format_args!("writeb {at:#x} {value:#x}"))
    }

    /// Queues a 16-bit write.
    ///
    /// # Errors
    /// See [`Error`], here and below.
    pub fn writew(&mut self, at: u64, value: u16) -> Result<(), Error> {
        self.queue(Expect::Nothing, format_args!("writew {at:#x} {value:#x}"))
    }

    /// Queues a 32-bit write.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn writel(&mut self, at: u64, value: u32) -> Result<(), Error> {
        self.queue(Expect::Nothing, format_args!("writel {at:#x} {value:#x}"))
    }

    /// Queues a 64-bit write.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn writeq(&mut self, at: u64, value: u64) -> Result<(), Error> {
        self.queue(Expect::Nothing, format_args!("writeq {at:#x} {value:#x}"))
    }

    /// Queues a write of `bytes`, at most a page.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut digits = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            for nibble in [byte >> 4, byte & 0xf] {
                digits.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
            }
        }
        let length = bytes.len();
        self.queue(
            Expect::Nothing,
            format_args!("write {at:#x} {length:#x} 0x{digits}"),
        )
    }

    /// Queues filling `bytes` bytes with zeros.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn clear(&mut self, at: u64, bytes: u64) -> Result<(), Error> {
        self.queue(
            Expect::Nothing,
            format_args!("memset {at:#x} {bytes:#x} 0x00"),
        )
    }

    /// Queues a 32-bit read.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn readl(&mut self, at: u64) -> Result<(), Error> {
        self.queue(Expect::Value, format_args!("readl {at:#x}"))
    }

    /// Queues a 64-bit read.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn readq(&mut self, at: u64) -> Result<(), Error> {
        self.queue(Expect::Value, format_args!("readq {at:#x}"))
    }

    /// Queues a read of `bytes` bytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(&mut self, at: u64, bytes: u64) -> Result<(), Error> {
        self.queue(Expect::Bytes, format_args!("read {at:#x} {bytes:#x}"))
    }

    /// Sends what is queued and returns what all reads since the last call
    /// gave, in order.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(&mut self) -> Result<Vec<Answer>, Error> {
        self.exchange()?;
        Ok(std::mem::take(&mut self.answers))
    }

    fn exchange(&mut self) -> Result<(), Error> {
        self.writer.write_all(self.text.as_bytes())?;
        let text = std::mem::take(&mut self.text);
        for (expect, start) in std::mem::take(&mut self.expected) {
            let line = self.line()?;
            let Some(rest) = line.strip_prefix("OK") else {
                let command = text[start..].lines().next().unwrap_or_default().to_owned();
                return Err(Error::Refused {
                    command,
                    answer: line,
                });
            };
            let digits = rest.trim().trim_start_matches("0x");
            match expect {
                Expect::Nothing => {}
                Expect::Value => {
                    self.answers
                        .push(Answer::Value(u64::from_str_radix(digits, 16).unwrap_or(0)));
                }
                Expect::Bytes => self.answers.push(Answer::Bytes(hex(digits))),
            }
        }
        Ok(())
    }

    /// The next answer. Lines about interrupts may come at any time.
    fn line(&mut self) -> Result<String, Error> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(Error::Lost(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let line = line.trim_end();
            if !line.starts_with("IRQ") {
                return Ok(line.to_owned());
            }
        }
    }
}

fn hex(digits: &str) -> Vec<u8> {
    let nibble = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
    digits
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
        .collect()
}
