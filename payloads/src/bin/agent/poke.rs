//! CPU accesses to physical memory, each in a program of its own: a fault kills that
//! one.

#![allow(unsafe_code, reason = "std says nothing of how a signal is handled")]

use crate::arguments::Arguments;
use anyhow::{Context, Result, bail, ensure};
use portcullis_payloads::mapping::{Window, barrier};
use portcullis_payloads::pages;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio, exit};

/// The agent's argument that makes it the program that does the access.
pub const VERB: &str = "poke";

/// Width of an access.
#[derive(Clone, Copy)]
enum Width {
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

/// `read ADDRESS [WIDTH]` or `write ADDRESS VALUE [WIDTH]`.
#[derive(Clone, Copy)]
struct Access {
    address: u64,
    /// What is written.
    value: Option<u64>,
    width: Width,
}

impl Access {
    fn parse(text: &str) -> Result<Self> {
        let mut arguments = Arguments::new(text);
        let writes = match arguments.word()? {
            "read" => false,
            "write" => true,
            _ => bail!("poke read|write"),
        };
        let address = arguments.number()?;
        let value = writes.then(|| arguments.number()).transpose()?;
        let size = arguments.number_or(4)?;
        let width = match size {
            4 => Width::Word,
            8 => Width::Double,
            _ => bail!("an access has 4 or 8 bytes"),
        };
        ensure!(address.is_multiple_of(size), "the address is not aligned");
        Ok(Self {
            address,
            value,
            width,
        })
    }

    /// Does it at `offset` of `window`; returns the value that was read or written.
    fn make(self, window: &Window, offset: usize) -> u64 {
        match (self.width, self.value) {
            (Width::Word, None) => u64::from(window.load::<u32>(offset)),
            (Width::Double, None) => window.load(offset),
            (Width::Word, Some(value)) => {
                window.store(offset, value as u32);
                barrier();
                value
            }
            (Width::Double, Some(value)) => {
                window.store(offset, value);
                barrier();
                value
            }
        }
    }
}

/// Has an access made, and returns the fields that say what became of it.
pub fn run(text: &str) -> Result<String> {
    Access::parse(text)?;
    let memory = File::options()
        .read(true)
        .write(true)
        // Uncached.
        .custom_flags(libc::O_SYNC)
        .open("/dev/mem")
        .context("open /dev/mem")?;
    let output = Command::new("/proc/self/exe")
        .arg(VERB)
        .args(text.split_ascii_whitespace())
        .stdin(memory)
        .stderr(Stdio::inherit())
        .output()
        .context("start another agent")?;
    Ok(match (output.status.code(), output.status.signal()) {
        (Some(0), _) => {
            let seen = String::from_utf8(output.stdout).context("what was read")?;
            format!(" outcome=done value={}", seen.trim())
        }
        (Some(errno), _) => format!(" outcome=refused errno={errno}"),
        (_, Some(libc::SIGBUS)) => " outcome=blocked signal=SIGBUS".to_owned(),
        (_, signal) => format!(" outcome=killed signal={}", signal.unwrap_or(0)),
    })
}

/// Makes the access in the physical memory that the standard input is, and prints the
/// value. Where the kernel does not map it, the program's status is the error's number.
pub fn carry_out(text: &str) -> Result<()> {
    let access = Access::parse(text)?;
    // Std looks at such a signal first, to see whether a stack has overflowed, and then
    // has the access made again: it would be seen twice.
    // SAFETY: no handler of this program's is lost but that one.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    let size = pages::size();
    let page = access.address & !(size as u64 - 1);
    let window = match Window::of_file(std::io::stdin(), page, size) {
        Ok(window) => window,
        Err(error) => exit(error.raw_os_error()),
    };
    let seen = access.make(&window, (access.address - page) as usize);
    println!("0x{seen:x}");
    Ok(())
}
