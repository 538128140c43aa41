//! Linux system calls, as few as the agent needs.
//!
//! Numbers and structures are those of the arm64 ABI. Everything above this
//! module speaks in slices, descriptors and [`Errno`].

use core::arch::asm;
use core::ffi::CStr;

/// Descriptor of the console the init script opened for the agent.
pub const CONSOLE: Fd = Fd(1);
/// Descriptor the agent reads its commands from.
pub const INPUT: Fd = Fd(0);

/// Open for reading only.
pub const O_RDONLY: usize = 0;
/// Open for writing only.
pub const O_WRONLY: usize = 1;
/// Open for both.
pub const O_RDWR: usize = 2;
/// Transfers go between the device and the caller's buffer.
pub const O_DIRECT: usize = 0o200000;
/// A write returns when the device has it; a `/dev/mem` mapping is uncached.
pub const O_SYNC: usize = 0o4010000;
const O_CLOEXEC: usize = 0o2000000;

/// Signal a process gets for an access the memory system refused.
pub const SIGBUS: i32 = 7;
const SIGCHLD: usize = 17;

/// A mapping shared with children and with the file or device behind it.
pub const MAP_SHARED: usize = 1;
/// A mapping of the process alone.
pub const MAP_PRIVATE: usize = 2;
/// A mapping with nothing behind it.
pub const MAP_ANONYMOUS: usize = 0x20;
/// Have every page present at once.
pub const MAP_POPULATE: usize = 0x8000;
/// Never swapped.
pub const MAP_LOCKED: usize = 0x2000;

/// A system call's error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// An open file.
#[derive(Clone, Copy)]
pub struct Fd(pub i32);

/// Makes a system call and returns what the kernel returned.
///
/// # Safety
///
/// The arguments must be what the call `number` expects: pointers valid for
/// what the kernel does with them, lengths within them.
pub unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the caller vouches for number and arguments; `svc` changes no
    // register but x0, and memory is not declared untouched.
    unsafe {
        asm!("svc #0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3],
            in("x4") args[4], in("x5") args[5],
            options(nostack));
    }
    if (-4095..0).contains(&result) {
        Err(Errno(-result as i32))
    } else {
        Ok(result as usize)
    }
}

/// Opens `path` with `flags`; the descriptor does not survive an `exec`.
pub fn open(path: &CStr, flags: usize) -> Result<Fd, Errno> {
    const AT_FDCWD: usize = -100isize as usize;
    // SAFETY: a `CStr` is a valid string.
    let fd = unsafe {
        call(
            56,
            [AT_FDCWD, path.as_ptr() as usize, flags | O_CLOEXEC, 0, 0, 0],
        )
    }?;
    Ok(Fd(fd as i32))
}

/// Closes a descriptor; there is no remedy for a failure.
pub fn close(fd: Fd) {
    // SAFETY: no memory is involved.
    let _ = unsafe { call(57, [fd.0 as usize, 0, 0, 0, 0, 0]) };
}

/// Reads once and returns the number of bytes.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes within the exclusive slice.
    unsafe {
        call(
            63,
            [
                fd.0 as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
                0,
            ],
        )
    }
}

/// Writes once and returns the number of bytes.
pub fn write(fd: Fd, buffer: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads within the slice.
    unsafe {
        call(
            64,
            [
                fd.0 as usize,
                buffer.as_ptr() as usize,
                buffer.len(),
                0,
                0,
                0,
            ],
        )
    }
}

/// Reads at byte `offset` of a file.
pub fn read_at(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let args = [
        fd.0 as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
        offset as usize,
        0,
        0,
    ];
    // SAFETY: the kernel writes within the exclusive slice.
    unsafe { call(67, args) }
}

/// Writes at byte `offset` of a file.
pub fn write_at(fd: Fd, buffer: &[u8], offset: u64) -> Result<usize, Errno> {
    let args = [
        fd.0 as usize,
        buffer.as_ptr() as usize,
        buffer.len(),
        offset as usize,
        0,
        0,
    ];
    // SAFETY: the kernel reads within the slice.
    unsafe { call(68, args) }
}

/// Reads directory entries in the kernel's own format.
pub fn directory_entries(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes within the exclusive slice.
    unsafe {
        call(
            61,
            [
                fd.0 as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
                0,
            ],
        )
    }
}

/// Waits until what was written to a file is on its device.
pub fn sync_file(fd: Fd) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    unsafe { call(82, [fd.0 as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Writes everything back to the disks.
pub fn sync_all() {
    // SAFETY: no memory is involved.
    let _ = unsafe { call(81, [0; 6]) };
}

/// Maps `length` bytes of a file (or of nothing, with [`MAP_ANONYMOUS`] and
/// `None`) for reading and writing; nothing else knows the new mapping.
pub fn map(fd: Option<Fd>, offset: u64, length: usize, flags: usize) -> Result<*mut u8, Errno> {
    const PROT_READ_WRITE: usize = 3;
    let fd = fd.map_or(usize::MAX, |fd| fd.0 as usize);
    // SAFETY: without MAP_FIXED the kernel picks an unused range.
    let at = unsafe {
        call(
            222,
            [0, length, PROT_READ_WRITE, flags, fd, offset as usize],
        )
    }?;
    Ok(at as *mut u8)
}

/// Removes a mapping.
///
/// # Safety
///
/// Nothing may use the range any more.
pub unsafe fn unmap(at: *mut u8, length: usize) {
    // SAFETY: the caller gives up the range.
    let _ = unsafe { call(215, [at as usize, length, 0, 0, 0, 0]) };
}

/// Who one is after [`fork`].
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the number of the new.
    Parent(i32),
}

/// Duplicates the process.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: without CLONE_VM the child has its own copy of all memory, and
    // the agent has a single thread.
    match unsafe { call(220, [SIGCHLD, 0, 0, 0, 0, 0]) }? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// How a child ended.
pub enum End {
    /// By itself, with a status.
    Exited(i32),
    /// By a signal.
    Killed(i32),
}

/// Waits for the child `pid`.
pub fn wait(pid: i32) -> Result<End, Errno> {
    let mut status: i32 = 0;
    // SAFETY: the kernel writes one i32.
    unsafe { call(260, [pid as usize, &raw mut status as usize, 0, 0, 0, 0]) }?;
    let signal = status & 0x7f;
    Ok(if signal == 0 {
        End::Exited((status >> 8) & 0xff)
    } else {
        End::Killed(signal)
    })
}

/// Replaces the process by a program; returns only on failure.
pub fn execute(path: &CStr, arguments: &[&CStr]) -> Errno {
    let mut list = [core::ptr::null(); 8];
    for (slot, argument) in list[..7].iter_mut().zip(arguments) {
        *slot = argument.as_ptr();
    }
    let environment = [c"PATH=/bin".as_ptr(), core::ptr::null()];
    let args = [
        path.as_ptr() as usize,
        list.as_ptr() as usize,
        environment.as_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: both lists end with a null pointer and hold valid strings.
    match unsafe { call(221, args) } {
        Err(errno) => errno,
        Ok(_) => Errno(0),
    }
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: no memory is involved.
        let _ = unsafe { call(94, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Sleeps for `milliseconds`.
pub fn sleep(milliseconds: u64) {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    // SAFETY: the kernel reads the two words.
    let _ = unsafe { call(101, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// What `reboot` is to do.
pub enum Power {
    /// Switch the machine off.
    Off,
    /// Start it again.
    Restart,
    /// Start the kernel that was loaded with [`load_kernel`].
    NextKernel,
}

/// Ends the machine without asking anybody.
pub fn reboot(how: Power) -> Errno {
    let command = match how {
        Power::Off => 0x4321_fedc,
        Power::Restart => 0x0123_4567,
        Power::NextKernel => 0x4558_4543,
    };
    // SAFETY: no memory is involved with these commands.
    match unsafe { call(142, [0xfee1_dead, 672_274_793, command, 0, 0, 0]) } {
        Err(errno) => errno,
        Ok(_) => Errno(0),
    }
}

/// Reads once and returns what is in the file, which ends within the buffer.
pub fn read_all(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut length = 0;
    loop {
        match read(fd, &mut buffer[length..])? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

/// What [`load_kernel`] has the kernel leave in memory, and where.
#[repr(C)]
pub struct Segment {
    from: *const u8,
    length: usize,
    /// A physical address and a size, in whole pages.
    to: [u64; 2],
}

impl Segment {
    /// `bytes` at the physical address `to`; both are a multiple of 64 KiB away from
    /// what else there is.
    pub fn new(bytes: &[u8], to: u64) -> Self {
        const PAGES: u64 = 0x1_0000;
        Self {
            from: bytes.as_ptr(),
            length: bytes.len(),
            to: [to, (bytes.len() as u64).next_multiple_of(PAGES)],
        }
    }
}

/// Loads what [`Power::NextKernel`] enters at the physical address `entry`.
///
/// # Safety
///
/// What the segments were made of must still be there.
pub unsafe fn load_kernel(entry: u64, segments: &[Segment]) -> Result<(), Errno> {
    const KEXEC_ARCH_AARCH64: usize = 183 << 16;
    let at = segments.as_ptr() as usize;
    let args = [entry as usize, segments.len(), at, KEXEC_ARCH_AARCH64, 0, 0];
    // SAFETY: the kernel reads the segments and what they are made of.
    unsafe { call(104, args) }.map(drop)
}

/// Has the console pass bytes on as they are: no echo, no line editing.
pub fn raw_console() -> Result<(), Errno> {
    const TCGETS: usize = 0x5401;
    const TCSETS: usize = 0x5402;
    // struct termios: four flag words, then the line discipline, then c_cc.
    let mut termios = [0u32; 16];
    // SAFETY: the kernel writes 36 bytes.
    unsafe {
        call(
            29,
            [
                INPUT.0 as usize,
                TCGETS,
                termios.as_mut_ptr() as usize,
                0,
                0,
                0,
            ],
        )
    }?;
    const ICRNL_IXON: u32 = 0o400 | 0o2000;
    const OPOST: u32 = 1;
    const ISIG_ICANON_ECHO: u32 = 1 | 2 | 8;
    termios[0] &= !ICRNL_IXON;
    termios[1] &= !OPOST;
    termios[3] &= !ISIG_ICANON_ECHO;
    // VTIME = 0 and VMIN = 1: bytes 22 and 23, c_cc[5] and c_cc[6].
    termios[5] = termios[5] & 0x0000_ffff | 0x0100_0000;
    // SAFETY: the kernel reads 36 bytes.
    unsafe {
        call(
            29,
            [INPUT.0 as usize, TCSETS, termios.as_ptr() as usize, 0, 0, 0],
        )
    }
    .map(drop)
}

/// Kind of a socket.
#[derive(Clone, Copy)]
pub enum Socket {
    /// TCP.
    Stream = 1,
    /// UDP.
    Datagram = 2,
}

/// Opens a raw IPv4 socket for ICMP with `address`, as [`connect`] does.
pub fn connect_icmp(address: [u8; 4], timeout_s: u64) -> Result<Fd, Errno> {
    const IPPROTO_ICMP: usize = 1;
    const SOCK_RAW: usize = 3;
    connect_socket(SOCK_RAW, IPPROTO_ICMP, address, 0, timeout_s)
}

/// Opens an IPv4 socket connected to `address:port`; every wait on it ends
/// after `timeout_s` seconds.
pub fn connect(kind: Socket, address: [u8; 4], port: u16, timeout_s: u64) -> Result<Fd, Errno> {
    connect_socket(kind as usize, 0, address, port, timeout_s)
}

fn connect_socket(
    kind: usize,
    protocol: usize,
    address: [u8; 4],
    port: u16,
    timeout_s: u64,
) -> Result<Fd, Errno> {
    const AF_INET: usize = 2;
    const SOL_SOCKET: usize = 1;
    // SAFETY: no memory is involved.
    let fd = unsafe { call(198, [AF_INET, kind, protocol, 0, 0, 0]) }?;
    let time = [timeout_s, 0];
    for option in [20, 21] {
        let args = [fd, SOL_SOCKET, option, time.as_ptr() as usize, 16, 0];
        // SAFETY: SO_RCVTIMEO and SO_SNDTIMEO read a timeval of 16 bytes.
        unsafe { call(208, args) }?;
    }
    let [ph, pl] = port.to_be_bytes();
    let [a, b, c, d] = address;
    let name = [AF_INET as u8, 0, ph, pl, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads a sockaddr_in of 16 bytes.
    let connected = unsafe { call(203, [fd, name.as_ptr() as usize, name.len(), 0, 0, 0]) };
    let fd = Fd(fd as i32);
    if let Err(errno) = connected {
        close(fd);
        return Err(errno);
    }
    Ok(fd)
}

/// Gives the kernel 32 bytes to start its random numbers with, and has it take
/// all of them for unpredictable.
pub fn start_random_numbers(bytes: [u8; 32]) -> Result<(), Errno> {
    const RNDADDENTROPY: usize = 0x4008_5203;
    // struct rand_pool_info: bits to be credited, bytes that follow.
    let mut info = [0; 40];
    info[..4].copy_from_slice(&256_u32.to_ne_bytes());
    info[4..8].copy_from_slice(&32_u32.to_ne_bytes());
    info[8..].copy_from_slice(&bytes);
    let file = open(c"/dev/random", O_WRONLY)?;
    let at = info.as_ptr() as usize;
    // SAFETY: the kernel reads the structure with the bytes behind it.
    let done = unsafe { call(29, [file.0 as usize, RNDADDENTROPY, at, 0, 0, 0]) };
    close(file);
    done.map(drop)
}

/// What [`instruction_counter`] counts.
#[derive(Clone, Copy)]
pub enum Levels {
    /// Every exception level.
    All,
    /// EL2 alone, where it lets the kernel's counters count: the kernel is not to
    /// run there itself.
    El2,
}

/// Opens a counter of the instructions CPU 0 executes.
pub fn instruction_counter(levels: Levels) -> Result<Fd, Errno> {
    const PERF_FLAG_FD_CLOEXEC: usize = 8;
    const SIZE: u64 = 64;
    const INSTRUCTIONS: u64 = 1;
    const EXCLUDE_USER_AND_KERNEL: u64 = 1 << 4 | 1 << 5;
    let excluded = match levels {
        Levels::All => 0,
        Levels::El2 => EXCLUDE_USER_AND_KERNEL,
    };
    // struct perf_event_attr, first version: type 0 (hardware) with the size
    // in the upper half, then config, three words of sampling, and the flags.
    let attributes = [SIZE << 32, INSTRUCTIONS, 0, 0, 0, excluded, 0, 0];
    let args = [
        attributes.as_ptr() as usize,
        usize::MAX,
        0,
        usize::MAX,
        PERF_FLAG_FD_CLOEXEC,
        0,
    ];
    // SAFETY: the kernel reads the 64 bytes of the structure.
    unsafe { call(241, args) }.map(|fd| Fd(fd as i32))
}

/// The virtual counter, in ticks of [`counter_frequency`].
pub fn counter() -> u64 {
    let value: u64;
    // SAFETY: Linux lets user space read the counter; the barrier keeps the
    // read in program order.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack));
    }
    value
}

/// Ticks of [`counter`] in one second.
pub fn counter_frequency() -> u64 {
    let value: u64;
    // SAFETY: Linux lets user space read the register.
    unsafe {
        asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack));
    }
    value
}

/// Makes what the CPU wrote visible to devices before what follows.
pub fn barrier() {
    // SAFETY: a barrier changes no state.
    unsafe {
        asm!("dsb sy", options(nostack));
    }
}
