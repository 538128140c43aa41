//! What the hostile kernels share: how they start, how they touch what they
//! should not, how they call firmware, and how they say what came of it.
//!
//! A kernel defines `payload_main`, which gets the address of its device tree.
//! It runs at EL1 with the MMU off and all interrupts masked, on QEMU's virt
//! machine: a test's payload.
#![no_std]

mod entry;

pub use entry::secondary_start;

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

/// The first UART of QEMU's virt machine.
const UART: u64 = 0x0900_0000;

/// What PSCI and SMCCC answer to a call that they do not know.
pub const NOT_SUPPORTED: u64 = u64::MAX;
/// PSCI's calls.
const SYSTEM_OFF: u64 = 0x8400_0008;
const CPU_ON: u64 = 0xc400_0003;

/// ESR and FAR of the last exception; ESR 0 means none since it was cleared.
#[repr(C)]
pub struct Last {
    esr: AtomicU64,
    far: AtomicU64,
}

/// The last exception of this kernel.
pub static LAST: Last = Last {
    esr: AtomicU64::new(0),
    far: AtomicU64::new(0),
};

impl Last {
    /// ESR_EL1 as the exception left it.
    #[must_use]
    pub fn esr(&self) -> u64 {
        self.esr.load(Ordering::Relaxed)
    }

    /// FAR_EL1 as the exception left it.
    #[must_use]
    pub fn far(&self) -> u64 {
        self.far.load(Ordering::Relaxed)
    }
}

/// The console.
pub struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            write(UART, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints a line to the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        // A UART takes every character.
        let _ = core::fmt::Write::write_fmt(&mut $crate::Uart, format_args!($($argument)*));
        let _ = core::fmt::Write::write_str(&mut $crate::Uart, "\r\n");
    }};
}

/// Loads a word, or 0 where that aborts.
#[must_use]
pub fn read(at: u64) -> u32 {
    let value;
    // SAFETY: a register of the machine, or an address whose abort is stepped
    // over by the vectors.
    unsafe { asm!("mov {v:w}, wzr", "ldr {v:w}, [{a}]", a = in(reg) at, v = out(reg) value) }
    value
}

/// Stores a word.
pub fn write(at: u64, value: u32) {
    // SAFETY: as for `read`.
    unsafe { asm!("str {v:w}, [{a}]", a = in(reg) at, v = in(reg) value) }
}

/// Loads a byte, or 0 where that aborts.
#[must_use]
pub fn read8(at: u64) -> u8 {
    let value: u32;
    // SAFETY: as for `read`.
    unsafe { asm!("mov {v:w}, wzr", "ldrb {v:w}, [{a}]", a = in(reg) at, v = out(reg) value) }
    value as u8
}

/// Stores a byte.
pub fn write8(at: u64, value: u8) {
    // SAFETY: as for `read`.
    unsafe { asm!("strb {v:w}, [{a}]", a = in(reg) at, v = in(reg) u32::from(value)) }
}

/// Stores half a word.
pub fn write16(at: u64, value: u16) {
    // SAFETY: as for `read`.
    unsafe { asm!("strh {v:w}, [{a}]", a = in(reg) at, v = in(reg) u32::from(value)) }
}

/// Loads a double word, or 0 where that aborts.
#[must_use]
pub fn read64(at: u64) -> u64 {
    let value;
    // SAFETY: as for `read`.
    unsafe { asm!("mov {v}, xzr", "ldr {v}, [{a}]", a = in(reg) at, v = out(reg) value) }
    value
}

/// Stores a double word.
pub fn write64(at: u64, value: u64) {
    // SAFETY: as for `read`.
    unsafe { asm!("str {v}, [{a}]", a = in(reg) at, v = in(reg) value) }
}

/// Calls firmware by SMC.
pub fn smc(function: u64, a: u64, b: u64) -> u64 {
    smc3(function, a, b, 0)
}

fn smc3(function: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: follows the calling convention; the machine is this kernel's.
    unsafe {
        asm!("smc #0", inout("x0") function => result, inout("x1") a => _, inout("x2") b => _,
             inout("x3") c => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
             out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
             out("x14") _, out("x15") _, out("x16") _, out("x17") _)
    }
    result
}

fn hvc3(function: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: as for `smc3`.
    unsafe {
        asm!("hvc #0", inout("x0") function => result, inout("x1") a => _, inout("x2") b => _,
             inout("x3") c => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
             out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
             out("x14") _, out("x15") _, out("x16") _, out("x17") _)
    }
    result
}

/// Calls firmware by SMC, or by HVC where that is undefined: on a machine whose
/// kernel runs without a hypervisor, QEMU itself answers those.
fn firmware(function: u64, a: u64, b: u64, c: u64) -> u64 {
    let mut result = 0;
    exception(|| result = smc3(function, a, b, c));
    if LAST.esr() != 0 {
        result = hvc3(function, a, b, c);
    }
    result
}

/// Calls the hypervisor; [`NOT_SUPPORTED`] also where there is none.
pub fn hvc(function: u64) -> u64 {
    let mut result = 0;
    exception(|| result = hvc3(function, 0, 0, 0));
    if LAST.esr() == 0 {
        result
    } else {
        NOT_SUPPORTED
    }
}

/// Has the CPU with `affinity` run `run` on the stack that ends at `stack`;
/// what PSCI says of it.
pub fn start_cpu(affinity: u64, stack: u64, run: fn() -> !) -> i64 {
    OTHER.store(run as usize as u64, Ordering::Relaxed);
    let entry = secondary_start as *const () as u64;
    firmware(CPU_ON, affinity, entry, stack) as i64
}

/// What a CPU that was turned on runs.
static OTHER: AtomicU64 = AtomicU64::new(0);

/// Called by `entry.rs` on a CPU that was turned on.
extern "C" fn secondary() -> ! {
    let run = OTHER.load(Ordering::Relaxed) as usize;
    // SAFETY: `start_cpu` has put such a function there before this CPU ran.
    let run = unsafe { core::mem::transmute::<usize, fn() -> !>(run) };
    run()
}

/// Class and fault status of the exception that `attempt` caused; 0 for none.
pub fn exception(attempt: impl FnOnce()) -> (u64, u64) {
    LAST.esr.store(0, Ordering::Relaxed);
    attempt();
    let esr = LAST.esr();
    (esr >> 26, esr & 0x3f)
}

/// A data abort at the same level, synchronous external.
pub const DATA: (u64, u64) = (0x25, 0x10);
/// A fetch abort at the same level, synchronous external.
pub const FETCH: (u64, u64) = (0x21, 0x10);
/// A data access at the same level that is not aligned.
pub const ALIGNMENT: (u64, u64) = (0x25, 0x21);
/// No exception.
pub const NONE: (u64, u64) = (0, 0);

/// Results, one line each.
pub struct Checks {
    name: &'static str,
    /// How many were not as they should be.
    pub wrong: u32,
}

impl Checks {
    /// Results of the kernel `name`, with which every line starts.
    #[must_use]
    pub const fn of(name: &'static str) -> Self {
        Self { name, wrong: 0 }
    }

    /// What was found, and what should be.
    pub fn equal<T: PartialEq + fmt::Debug>(&mut self, check: &str, got: T, want: T) {
        let right = got == want;
        self.wrong += u32::from(!right);
        let (name, result) = (self.name, if right { "ok" } else { "wrong" });
        say!("{name}: check={check} result={result} got=\"{got:x?}\" want=\"{want:x?}\"");
    }

    /// Says how many were wrong, and switches the machine off.
    pub fn end(self) -> ! {
        say!("{}: done wrong={}", self.name, self.wrong);
        power_off()
    }
}

fn power_off() -> ! {
    firmware(SYSTEM_OFF, 0, 0, 0);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("payload: {info}");
    power_off()
}
