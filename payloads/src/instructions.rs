//! Counting the instructions of a CPU.

#![allow(unsafe_code, reason = "neither std nor rustix has the system call")]

use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::{Errno, read};
use std::io;

/// What [`Instructions`] counts.
#[derive(Clone, Copy, Debug)]
pub enum Levels {
    /// Every exception level.
    All,
    /// EL2 alone, where it lets the kernel's counters count: the kernel is not to
    /// run there itself.
    El2,
}

/// A counter of the instructions that CPU 0 executes.
#[derive(Debug)]
pub struct Instructions(OwnedFd);

/// `struct perf_event_attr` in its first version.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sampling: [u64; 3],
    flags: u64,
    rest: [u64; 2],
}

impl Instructions {
    /// Opens the counter, which starts to count.
    ///
    /// # Errors
    ///
    /// The kernel's, where the machine cannot count.
    pub fn open(levels: Levels) -> io::Result<Self> {
        const HARDWARE: u32 = 0;
        const INSTRUCTIONS: u64 = 1;
        const EXCLUDE_USER_AND_KERNEL: u64 = 1 << 4 | 1 << 5;
        const CLOSE_ON_EXEC: usize = 8;
        let attributes = Attributes {
            kind: HARDWARE,
            size: size_of::<Attributes>() as u32,
            config: INSTRUCTIONS,
            sampling: [0; 3],
            flags: match levels {
                Levels::All => 0,
                Levels::El2 => EXCLUDE_USER_AND_KERNEL,
            },
            rest: [0; 2],
        };
        let (any_process, cpu, no_group) = (-1_isize, 0_usize, -1_isize);
        // SAFETY: the kernel reads as many bytes of the structure as it says it has.
        let file = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                any_process,
                cpu,
                no_group,
                CLOSE_ON_EXEC,
            )
        };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for this caller.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(file as i32) }))
    }

    /// How many there were since the counter was opened.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read(&self) -> io::Result<u64> {
        let mut value = [0; 8];
        if read(&self.0, &mut value)? != value.len() {
            return Err(Errno::IO.into());
        }
        Ok(u64::from_le_bytes(value))
    }
}
