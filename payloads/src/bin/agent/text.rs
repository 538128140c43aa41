//! Lines, numbers and paths without an allocator.

use crate::sys::Errno;
use core::ffi::CStr;
use core::fmt;

/// Longest line the agent writes.
const CAPACITY: usize = 4096;

/// A line being put together; what does not fit is an error of the writer.
pub struct Line {
    buffer: [u8; CAPACITY],
    length: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self {
            buffer: [0; CAPACITY],
            length: 0,
        }
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// What was written as a C string; writers of paths add no zero byte.
    pub fn as_c_str(&mut self) -> Result<&CStr, Failure> {
        if self.length == CAPACITY {
            return Err(Failure::Said("path too long"));
        }
        self.buffer[self.length] = 0;
        CStr::from_bytes_with_nul(&self.buffer[..=self.length])
            .map_err(|_| Failure::Said("zero byte in a path"))
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.length + s.len();
        let room = self.buffer.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Bytes as lower-case hexadecimal.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a command was not carried out.
pub enum Failure {
    /// A system call refused.
    System(&'static str, Errno),
    /// Anything else.
    Said(&'static str),
    /// A transfer's data differed from the pattern at this byte.
    Differs(u64),
    /// The answer does not fit a line.
    TooLong,
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self::TooLong
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(what, errno) => write!(f, "{what}: errno {}", errno.0),
            Self::Said(what) => f.write_str(what),
            Self::Differs(at) => write!(f, "data differs at byte {at}"),
            Self::TooLong => f.write_str("the answer does not fit a line"),
        }
    }
}

/// Names the system call that failed.
pub trait Context<T> {
    /// Turns an error number into a [`Failure`] that says what was tried.
    fn context(self, what: &'static str) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn context(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::System(what, errno))
    }
}

/// The arguments of a command, taken one after the other.
pub struct Arguments<'a>(core::str::SplitAsciiWhitespace<'a>);

impl<'a> Arguments<'a> {
    /// Splits a command at white space.
    pub fn new(line: &'a str) -> Self {
        Self(line.split_ascii_whitespace())
    }

    /// The next word.
    pub fn word(&mut self) -> Result<&'a str, Failure> {
        self.0.next().ok_or(Failure::Said("an argument is missing"))
    }

    /// The next word as a number, decimal or 0x….
    pub fn number(&mut self) -> Result<u64, Failure> {
        number(self.word()?)
    }

    /// The next word as a number, or `default` when there is none.
    pub fn number_or(&mut self, default: u64) -> Result<u64, Failure> {
        self.0.next().map_or(Ok(default), number)
    }
}

/// Reads a number, decimal or 0x….
pub fn number(word: &str) -> Result<u64, Failure> {
    let parsed = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    parsed.map_err(|_| Failure::Said("not a number"))
}
