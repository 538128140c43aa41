//! The hypervisor's log: logfmt lines on a PL011, the last of which stay in memory,
//! too, for a machine that has none which the hypervisor can use.
//!
//! Every line starts with `portcullis: ` and ends with the time, in seconds of
//! the system counter: `t=12.345678`.

use crate::lock::Mutex;
use crate::mmio::{Device, Tolerant};
use crate::mmu;
use crate::sysreg::now_us;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::LogLevel;
use portcullis_kept_log::KeptLog;

/// PL011 data register (DDI 0183, 3.3.1).
const DR: u64 = 0x000;
/// PL011 flag register (DDI 0183, 3.3.3).
const FR: u64 = 0x018;
/// FR.TXFF: the transmit FIFO is full.
const TXFF: u32 = 1 << 5;

/// How long one line may take. At 115200 baud 200 characters take 18 ms; a UART
/// that the host has switched off must not hold EL2 up for longer than this.
const LINE_US: u64 = 50_000;

/// How long another CPU's line is waited for before one is written without the lock:
/// a garbled line is better than a CPU that hangs on a log.
const LOCK_US: u64 = 2 * LINE_US;

/// The last lines from before the host runs, some two hundred, and from afterwards:
/// what a host provokes does not push out what was said at boot.
static KEPT_AT_BOOT: KeptLog<0x8000> = KeptLog::new();
static KEPT: KeptLog<0x8000> = KeptLog::new();
static HOST_RUNS: AtomicBool = AtomicBool::new(false);

/// Held while a line is written.
static LINE: Mutex<()> = Mutex::new(());
/// The console's registers; 0 while there is none.
static CONSOLE: AtomicU64 = AtomicU64::new(0);
/// Bytes of a PL011's registers.
const UART_SIZE: u64 = 0x1000;
static LEVEL: AtomicU8 = AtomicU8::new(2);

fn rank(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 0,
        LogLevel::Warn => 1,
        LogLevel::Info => 2,
        LogLevel::Debug => 3,
    }
}

/// Sends the log to `uart` from now on.
pub fn set_console(uart: Device) {
    CONSOLE.store(uart.range().start().raw(), Ordering::Relaxed);
}

/// Prints on no UART from now on: it may be off when it is next needed. The lines
/// stay in memory.
pub fn drop_console() {
    CONSOLE.store(0, Ordering::Relaxed);
}

/// The host runs from now on.
pub fn end_boot() {
    HOST_RUNS.store(true, Ordering::Relaxed);
}

/// Writes what is kept to memory, where a dump finds it after the caches are gone. To
/// be called before the machine goes off.
pub fn save() {
    // With the MMU off nothing is in a cache, and this does no harm.
    for log in [&KEPT_AT_BOOT, &KEPT] {
        mmu::clean_to_memory(core::ptr::from_ref(log) as u64, size_of_val(log) as u64);
    }
}

/// Whether there is somewhere to print.
#[cfg(feature = "qemu-virt-fallback")]
pub fn has_console() -> bool {
    console().is_some()
}

/// Lines above `level` are not printed from now on.
pub fn set_level(level: LogLevel) {
    LEVEL.store(rank(level), Ordering::Relaxed);
}

struct Uart {
    /// The host may have switched it off.
    device: Tolerant,
    /// When the line has had its time; 0 when the UART does not answer.
    deadline: u64,
}

/// Where a line goes.
struct Line {
    uart: Option<Uart>,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if HOST_RUNS.load(Ordering::Relaxed) {
            KEPT.append(text);
        } else {
            KEPT_AT_BOOT.append(text);
        }
        if let Some(uart) = &mut self.uart {
            for byte in text.bytes() {
                if byte == b'\n' {
                    uart.put(b'\r');
                }
                uart.put(byte);
            }
        }
        Ok(())
    }
}

impl Uart {
    /// Sends one character, unless the line has had its time.
    fn put(&mut self, byte: u8) {
        if self.deadline == 0 {
            return;
        }
        while let Some(flags) = self.device.read32(FR) {
            if flags & TXFF == 0 {
                if self.device.write32(DR, u32::from(byte)) {
                    return;
                }
                break;
            }
            if now_us() > self.deadline {
                return;
            }
        }
        self.deadline = 0;
    }
}

/// Prints one line at `level`. Use the macros.
pub fn line(level: LogLevel, text: fmt::Arguments<'_>) {
    if rank(level) > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    // A CPU may have failed in the middle of a line, so the lock is not waited
    // for without end.
    let patience = now_us().saturating_add(LOCK_US);
    let _guard = loop {
        match LINE.try_lock() {
            None if now_us() <= patience => core::hint::spin_loop(),
            guard => break guard,
        }
    };
    let now = now_us();
    let uart = console().map(|device| Uart {
        device: device.tolerant(),
        deadline: now.saturating_add(LINE_US),
    });
    // Neither a PL011 nor the ring refuses a character.
    let _ = writeln!(
        Line { uart },
        "portcullis: {text} t={}.{:06}",
        now / 1_000_000,
        now % 1_000_000
    );
}

fn console() -> Option<Device> {
    match CONSOLE.load(Ordering::Relaxed) {
        0 => None,
        start => Range::from_size(PhysAddr::new(start), UART_SIZE)
            .ok()
            .map(Device::from_mapped),
    }
}

macro_rules! error {
    ($($arg:tt)*) => { $crate::log::line(portcullis_boot::LogLevel::Error, format_args!($($arg)*)) };
}
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::line(portcullis_boot::LogLevel::Warn, format_args!($($arg)*)) };
}
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::line(portcullis_boot::LogLevel::Info, format_args!($($arg)*)) };
}
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::line(portcullis_boot::LogLevel::Debug, format_args!($($arg)*)) };
}
pub(crate) use {debug, error, info, warning};

/// What all lines that a host or device can provoke share.
static ALL: Bucket = Bucket::new();

/// A bound on one kind of lines that a host or device can provoke at will. All of
/// them together have another, so that a host with many ways to provoke lines has
/// no more of them.
pub struct RateLimit {
    own: Bucket,
    dropped: AtomicU64,
}

impl RateLimit {
    /// A full bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            own: Bucket::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Whether one more line may be printed; `Some(n)` says that `n` lines were
    /// dropped since the last that was.
    pub fn take(&self) -> Option<u64> {
        let now = now_us();
        if self.own.take(now, 1) && ALL.take(now, 2) {
            return Some(self.dropped.swap(0, Ordering::Relaxed));
        }
        self.lose(1);
        None
    }

    /// Counts lines that were not printed.
    pub fn lose(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

/// A token bucket.
struct Bucket {
    /// Microseconds of credit used up, as a time: the bucket is full when it
    /// lies `BURST` tokens in the past.
    spent_until: AtomicU64,
}

impl Bucket {
    /// Lines a second in the long run.
    const PER_SECOND: u64 = 20;
    /// Lines at once after a quiet time.
    const BURST: u64 = 32;
    const TOKEN_US: u64 = 1_000_000 / Self::PER_SECOND;

    const fn new() -> Self {
        Self {
            spent_until: AtomicU64::new(0),
        }
    }

    /// Takes a token from a bucket that is `times` as large, and fills as much faster.
    /// Two CPUs may race for the last one and both get it, which costs a line, not
    /// an error.
    fn take(&self, now: u64, times: u64) -> bool {
        let token = Self::TOKEN_US / times;
        // Shifted, so that the bucket is full at time 0 too.
        let floor = now;
        let now = now.saturating_add(Self::BURST * Self::TOKEN_US);
        let spent = self.spent_until.load(Ordering::Relaxed).max(floor);
        if spent.saturating_add(token) > now {
            return false;
        }
        self.spent_until.store(spent + token, Ordering::Relaxed);
        true
    }
}
