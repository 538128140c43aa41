//! Another CPU of this kernel's, which prints as long as it can, or rewrites what this
//! one executes.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use portcullis_hostile::{say, smc, start_cpu, write};

const CPU_OFF: u64 = 0x8400_0002;
const SIZE: usize = 4096;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; SIZE]>);

// SAFETY: only the CPU whose stack it is uses it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; SIZE]));
static LINES: AtomicU32 = AtomicU32::new(0);
static END: AtomicBool = AtomicBool::new(false);
/// What the second CPU writes, and where.
static WORDS: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];
static AT: AtomicU64 = AtomicU64::new(0);

/// Turns the second CPU on, and waits until it has printed a few lines. `false` when
/// there is none.
pub fn start() -> bool {
    if !run(main) {
        return false;
    }
    while LINES.load(Ordering::Relaxed) < 10 {
        core::hint::spin_loop();
    }
    true
}

/// Has the second CPU run `work`. `false` when there is none.
fn run(work: fn() -> !) -> bool {
    END.store(false, Ordering::Relaxed);
    let stack = STACK.0.get() as u64 + SIZE as u64;
    start_cpu(1, stack, work) == 0
}

/// Has the second CPU write `words` to `at`, one after the other, and over again. `false`
/// when there is none.
pub fn rewrite(at: u64, words: [u32; 4]) -> bool {
    AT.store(at, Ordering::Relaxed);
    for (word, slot) in words.into_iter().zip(&WORDS) {
        slot.store(word, Ordering::Relaxed);
    }
    run(rewriter)
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
    off()
}

/// Rewrites an instruction that the first CPU executes.
fn rewriter() -> ! {
    let at = AT.load(Ordering::Relaxed);
    while !END.load(Ordering::Relaxed) {
        for word in &WORDS {
            write(at, word.load(Ordering::Relaxed));
            // SAFETY: makes what was written seen as an instruction.
            unsafe { asm!("dc cvau, {a}", "dsb ish", "ic ivau, {a}", "dsb ish", a = in(reg) at) }
        }
    }
    off()
}

fn off() -> ! {
    smc(CPU_OFF, 0, 0);
    loop {
        core::hint::spin_loop();
    }
}
