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

/// Loads the kernel at `kernel` with the root file system at `initrd`, to be started
/// in place of this one with the device tree that this one was started with.
///
/// Each comes with the physical address where it is to lie; the tree already names
/// that of the root file system.
pub fn load_kernel(kernel: (&str, u64), initrd: (&str, u64), tree: u64) -> Result<(), Failure> {
    // Debian's kernels have no kexec_file_load.
    const TREE: usize = 2 << 20;
    // The kernel wants the address of the tree in x0 (Linux' booting.rst): three loads
    // and a branch, then the two addresses.
    const ENTRY: [u32; 4] = [
        0x5800_0080, // ldr x0, 16 bytes on
        0x5800_00a4, // ldr x4, 20 bytes on
        0xd61f_0080, // br x4
        0xd503_201f, // nop
    ];
    let flags = sys::MAP_PRIVATE | sys::MAP_ANONYMOUS;
    let content = |path: &str, most: usize| {
        let mut name = Line::new();
        name.write_str(path)?;
        let file = sys::open(name.as_c_str()?, sys::O_RDONLY).context("open")?;
        let at = sys::map(None, 0, most, flags).context("mmap of a buffer")?;
        // SAFETY: the kernel just mapped so many zeroed bytes for this caller alone;
        // they are never unmapped.
        let buffer = unsafe { core::slice::from_raw_parts_mut(at, most) };
        let length = sys::read_all(file, buffer).context("read");
        sys::close(file);
        Ok::<&[u8], Failure>(&buffer[..length?])
    };
    let image = content(kernel.0, 96 << 20)?;
    let root = content(initrd.0, 96 << 20)?;
    let blob = content("/sys/firmware/fdt", TREE)?;
    let entry = tree + TREE as u64;
    let mut code = [0; 32];
    for (bytes, word) in code.chunks_exact_mut(4).zip(ENTRY) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    code[16..24].copy_from_slice(&tree.to_le_bytes());
    code[24..].copy_from_slice(&kernel.1.to_le_bytes());
    let segments = [
        sys::Segment::new(image, kernel.1),
        sys::Segment::new(root, initrd.1),
        sys::Segment::new(blob, tree),
        sys::Segment::new(&code, entry),
    ];
    // SAFETY: all four outlive the call.
    unsafe { sys::load_kernel(entry, &segments) }.context("kexec_load")
}

/// Ends the machine; returns only on failure.
pub fn power(how: Power) -> Failure {
    sys::sync_all();
    Failure::System("reboot", sys::reboot(how))
}
