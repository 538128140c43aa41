//! Another CPU of this kernel's, which prints as long as it can.

use crate::{UART, smc, write};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const CPU_ON: u64 = 0xc400_0003;
const CPU_OFF: u64 = 0x8400_0002;
const SIZE: usize = 4096;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; SIZE]>);

// SAFETY: only the CPU whose stack it is uses it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; SIZE]));
static LINES: AtomicU32 = AtomicU32::new(0);
static END: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn other_entry();
}

/// Turns the second CPU on, and waits until it has printed a few lines. `false` when
/// there is none.
pub fn start() -> bool {
    let stack = STACK.0.get() as u64 + SIZE as u64;
    if smc3(CPU_ON, 1, other_entry as *const () as u64, stack) != 0 {
        return false;
    }
    while LINES.load(Ordering::Relaxed) < 10 {
        core::hint::spin_loop();
    }
    true
}

/// Has it turn itself off.
pub fn end() {
    END.store(true, Ordering::Relaxed);
    // AFFINITY_INFO: 1 is off.
    while smc(0xc400_0004, 1, 0) != 1 {
        core::hint::spin_loop();
    }
}

/// What the other CPU does. A forged active priority, the highest there is, keeps
/// every interrupt away from it.
pub extern "C" fn main() {
    // SAFETY: this CPU's interrupt controller state, which nothing else needs.
    unsafe { asm!("msr S3_0_C12_C9_0, {}", "isb", in(reg) 1u64) }
    while !END.load(Ordering::Relaxed) {
        for byte in b"~~~~\r\n" {
            write(UART, u32::from(*byte));
        }
        LINES.fetch_add(1, Ordering::Relaxed);
    }
    smc(CPU_OFF, 0, 0);
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
