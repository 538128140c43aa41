//! The lab's hand inside the host under test.
//!
//! It is the last thing the init script starts. It reads commands from the
//! console, one a line (`SEQ COMMAND ARGUMENTS`), and answers each with one
//! line `@SEQ ok KEY=VALUE …` or `@SEQ err MESSAGE`. The kernel may print lines
//! of its own in between; the `@SEQ` tells them apart.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bar;
#[cfg(target_os = "none")]
mod command;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod edu;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod meter;
#[cfg(target_os = "none")]
mod net;
#[cfg(target_os = "none")]
mod pages;
#[cfg(target_os = "none")]
mod sys;
#[cfg(target_os = "none")]
mod text;

// Where the kernel enters. The argument block lies at the stack pointer and
// nothing of it is needed; the stack is already aligned to 16 bytes.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "bl agent_main",
    "brk #1",
);

/// First Rust code of the program.
#[cfg(target_os = "none")]
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn agent_main() -> ! {
    command::serve()
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    let mut line = text::Line::new();
    // A line that does not fit is cut: there is nobody left to tell.
    let _ = write!(line, "\n@panic {info}\n");
    let _ = sys::write(sys::CONSOLE, line.bytes());
    sys::exit(101)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("agent runs inside the host under test; `cargo xtask build` builds it");
    std::process::exit(1);
}
