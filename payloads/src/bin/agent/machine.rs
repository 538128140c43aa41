//! What concerns the machine as a whole: CPUs, files of the kernel, power.

use crate::sys::{self, End, Fork, Power};
use crate::text::{Context, Failure, Line};
use core::fmt::Write;
use portcullis_payloads::pattern;

/// Starts the kernel's random numbers, as firmware and hardware do it on a machine
/// that is not to repeat itself.
pub fn seed() -> Result<(), Failure> {
    const SEED: u64 = 0x5eed;
    let mut bytes = [0; 32];
    pattern::fill(&mut bytes, SEED, 0);
    sys::start_random_numbers(bytes).context("start the random numbers")
}

/// Keeps this CPU busy in user space for `milliseconds`.
pub fn spin(milliseconds: u64) {
    let start = sys::counter();
    let ticks = sys::counter_frequency() / 1000 * milliseconds;
    while sys::counter().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Switches CPU `number` on or off.
pub fn cpu(number: u64, on: bool) -> Result<(), Failure> {
    let mut path = Line::new();
    write!(path, "/sys/devices/system/cpu/cpu{number}/online")?;
    let file = sys::open(path.as_c_str()?, sys::O_WRONLY).context("open the CPU's switch")?;
    let written = sys::write(file, if on { b"1" } else { b"0" });
    sys::close(file);
    written.context("switch the CPU").map(drop)
}

/// Reads the start of a file.
pub fn file<'a>(path: &str, buffer: &'a mut [u8]) -> Result<&'a [u8], Failure> {
    let mut name = Line::new();
    name.write_str(path)?;
    let file = sys::open(name.as_c_str()?, sys::O_RDONLY).context("open")?;
    let length = sys::read(file, buffer);
    sys::close(file);
    Ok(&buffer[..length.context("read")?])
}

/// Runs a shell command; what it prints goes to the console.
pub fn shell(command: &str) -> Result<End, Failure> {
    let mut line = Line::new();
    line.write_str(command)?;
    let line = line.as_c_str()?;
    match sys::fork().context("fork")? {
        Fork::Child => {
            let failed = sys::execute(c"/bin/sh", &[c"sh", c"-c", line]);
            sys::exit(failed.0)
        }
        Fork::Parent(child) => sys::wait(child).context("wait"),
    }
}

/// Ends the machine; returns only on failure.
pub fn power(how: Power) -> Failure {
    sys::sync_all();
    Failure::System("reboot", sys::reboot(how))
}
