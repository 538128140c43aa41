//! Says when the host's first program started.
//!
//! The init script runs it before anything else; the lab compares the counter
//! it prints with and without the hypervisor.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "../agent/sys.rs"]
#[allow(dead_code, reason = "the agent uses more of it")]
mod sys;
#[cfg(target_os = "none")]
#[path = "../agent/text.rs"]
#[allow(dead_code, reason = "the agent uses more of it")]
mod text;

// Where the kernel enters; nothing of the argument block is needed.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "bl stamp_main",
    "brk #1",
);

/// First Rust code of the program.
#[cfg(target_os = "none")]
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn stamp_main() -> ! {
    use core::fmt::Write;
    let now = sys::counter();
    let mut line = text::Line::new();
    let status = match write!(
        line,
        "\n@init cntvct={now} cntfrq={}\n",
        sys::counter_frequency()
    ) {
        Ok(()) => i32::from(sys::write(sys::CONSOLE, line.bytes()).is_err()),
        Err(_) => 1,
    };
    sys::exit(status)
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(101)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("stamp runs inside the host under test; `cargo xtask build` builds it");
    std::process::exit(1);
}
