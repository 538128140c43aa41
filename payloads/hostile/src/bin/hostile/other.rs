//! Another CPU of this kernel's, which prints as long as it can.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use portcullis_hostile::{say, smc, start_cpu};

const CPU_OFF: u64 = 0x8400_0002;
const SIZE: usize = 4096;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; SIZE]>);

// SAFETY: only the CPU whose stack it is uses it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; SIZE]));
static LINES: AtomicU32 = AtomicU32::new(0);
static END: AtomicBool = AtomicBool::new(false);

/// Turns the second CPU on, and waits until it has printed a few lines. `false` when
/// there is none.
pub fn start() -> bool {
    let stack = STACK.0.get() as u64 + SIZE as u64;
    if start_cpu(1, stack, main) != 0 {
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
fn main() -> ! {
    // SAFETY: this CPU's interrupt controller state, which nothing else needs.
    unsafe { asm!("msr S3_0_C12_C9_0, {}", "isb", in(reg) 1u64) }
    while !END.load(Ordering::Relaxed) {
        say!("~~~~");
        LINES.fetch_add(1, Ordering::Relaxed);
    }
    smc(CPU_OFF, 0, 0);
    loop {
        core::hint::spin_loop();
    }
}
