//! What concerns the machine as a whole: CPUs, files of the kernel, power.

#![allow(unsafe_code, reason = "two requests that neither std nor rustix has")]

use anyhow::{Context, Result};
use portcullis_payloads::{counter, pattern};
use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, tcgetattr, tcsetattr,
};
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::{Command, ExitStatus};

/// Has the console pass bytes on as they are: no echo, no line editing.
pub fn raw_console() -> rustix::io::Result<()> {
    let console = io::stdin();
    let mut modes = tcgetattr(&console)?;
    modes.input_modes -= InputModes::ICRNL | InputModes::IXON;
    modes.output_modes -= OutputModes::OPOST;
    modes.local_modes -= LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    tcsetattr(&console, OptionalActions::Now, &modes)
}

/// Starts the kernel's random numbers, as firmware and hardware do it on a machine
/// that is not to repeat itself.
pub fn seed() -> Result<()> {
    const SEED: u64 = 0x5eed;
    const ADD_ENTROPY: Opcode = rustix::ioctl::opcode::write::<[u32; 2]>(b'R', 3);
    /// `struct rand_pool_info` with what follows it.
    #[repr(C)]
    struct Numbers {
        bits: u32,
        length: u32,
        bytes: [u8; 32],
    }
    let mut bytes = [0; 32];
    pattern::fill(&mut bytes, SEED, 0);
    // All of them are to be taken for unpredictable.
    let numbers = Numbers {
        bits: u8::BITS * bytes.len() as u32,
        length: bytes.len() as u32,
        bytes,
    };
    let file = File::options().write(true).open("/dev/random");
    let file = file.context("open /dev/random")?;
    // SAFETY: the request reads the structure with as many bytes as it says follow.
    unsafe { ioctl(file, Setter::<ADD_ENTROPY, Numbers>::new(numbers)) }
        .context("start the random numbers")
}

/// Keeps this CPU busy in user space for `milliseconds`.
pub fn spin(milliseconds: u64) {
    let start = counter::now();
    let ticks = counter::frequency() / 1000 * milliseconds;
    while counter::now().wrapping_sub(start) < ticks {
        std::hint::spin_loop();
    }
}

/// Switches CPU `number` on or off.
pub fn cpu(number: u64, on: bool) -> Result<()> {
    let file = format!("/sys/devices/system/cpu/cpu{number}/online");
    fs::write(file, if on { "1" } else { "0" }).context("switch the CPU")
}

/// Reads the first bytes of a file, `most` of them.
pub fn file(path: &str, most: usize) -> Result<Vec<u8>> {
    let mut content = vec![0; most];
    let mut file = File::open(path).context("open")?;
    let length = file.read(&mut content).context("read")?;
    content.truncate(length);
    Ok(content)
}

/// Runs a shell command; what it prints goes to the console.
pub fn shell(command: &str) -> Result<ExitStatus> {
    Command::new("/bin/sh")
        .args(["-c", command])
        .env_clear()
        .env("PATH", "/bin")
        .status()
        .context("start a shell")
}

/// What the kernel is to leave in memory, and where: `struct kexec_segment`.
#[repr(C)]
struct Segment {
    from: *const u8,
    length: usize,
    /// A physical address and a size, in whole pages.
    to: [u64; 2],
}

impl Segment {
    /// `bytes` at the physical address `to`; both are a multiple of 64 KiB away from
    /// what else there is.
    fn new(bytes: &[u8], to: u64) -> Self {
        const PAGES: u64 = 0x1_0000;
        Self {
            from: bytes.as_ptr(),
            length: bytes.len(),
            to: [to, (bytes.len() as u64).next_multiple_of(PAGES)],
        }
    }
}

/// Loads the kernel at `kernel` with the root file system at `initrd`, to be started
/// in place of this one with the device tree that this one was started with.
///
/// Each comes with the physical address where it is to lie; the tree already names
/// that of the root file system.
pub fn load_kernel(kernel: (&str, u64), initrd: (&str, u64), tree: u64) -> Result<()> {
    // Debian's kernels have no kexec_file_load.
    const ARM64: usize = 183 << 16;
    const TREE: u64 = 2 << 20;
    // The kernel wants the address of the tree in x0 (Linux' booting.rst): three loads
    // and a branch, then the two addresses.
    const ENTRY: [u32; 4] = [
        0x5800_0080, // ldr x0, 16 bytes on
        0x5800_00a4, // ldr x4, 20 bytes on
        0xd61f_0080, // br x4
        0xd503_201f, // nop
    ];
    let content = |path: &str| fs::read(path).with_context(|| format!("read {path}"));
    let image = content(kernel.0)?;
    let root = content(initrd.0)?;
    let blob = content("/sys/firmware/fdt")?;
    let mut code: Vec<u8> = ENTRY.iter().flat_map(|word| word.to_le_bytes()).collect();
    code.extend(tree.to_le_bytes());
    code.extend(kernel.1.to_le_bytes());
    let entry = tree + TREE;
    let segments = [
        Segment::new(&image, kernel.1),
        Segment::new(&root, initrd.1),
        Segment::new(&blob, tree),
        Segment::new(&code, entry),
    ];
    let (number, count) = (libc::SYS_kexec_load, segments.len());
    // SAFETY: the kernel reads the segments and what they are made of, and all of that
    // outlives the call.
    let done = unsafe { libc::syscall(number, entry, count, segments.as_ptr(), ARM64) };
    if done != 0 {
        return Err(io::Error::last_os_error()).context("kexec_load");
    }
    Ok(())
}

/// Ends the machine without asking any program; returns only on failure.
pub fn power(how: RebootCommand) -> Result<()> {
    rustix::fs::sync();
    reboot(how).context("reboot")
}
