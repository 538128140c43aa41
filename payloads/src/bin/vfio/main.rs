//! A driver in user space for QEMU's `edu` device, on VFIO type 1.
//!
//! `vfio NAME GROUP` has the device do DMA at addresses that this program
//! picks, and checks that data goes where the mappings say and nowhere else.
//! It prints one line, `NAME=ok` for each thing that held or `NAME=WHY`, and
//! ends with status 0 when all did.
//!
//! `vfio bench BYTES ROUNDS NAME GROUP` times mapping and unmapping instead.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "../agent/bar.rs"]
#[allow(dead_code, reason = "the agent uses more of it")]
mod bar;
#[cfg(target_os = "none")]
mod bench;
#[cfg(target_os = "none")]
mod buffer;
#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod container;
#[cfg(target_os = "none")]
#[path = "../agent/pages.rs"]
mod pages;
#[cfg(target_os = "none")]
#[path = "../agent/sys.rs"]
#[allow(dead_code, reason = "the agent uses more of it")]
mod sys;
#[cfg(target_os = "none")]
#[path = "../agent/text.rs"]
#[allow(dead_code, reason = "the agent uses more of it")]
mod text;

#[cfg(target_os = "none")]
use core::fmt;

// Where the kernel enters: the number of arguments lies at the stack pointer,
// their addresses follow. The stack is already aligned to 16 bytes.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl vfio_main",
    "brk #1",
);

/// First Rust code of the program.
///
/// # Safety
///
/// `stack` is what the kernel left at the stack pointer.
#[cfg(target_os = "none")]
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn vfio_main(stack: *const usize) -> ! {
    let mut line = text::Line::new();
    // SAFETY: the caller's promise.
    let result = match unsafe { arguments(stack) } {
        [Some(name), Some(group), None, ..] => checks::all(name, group, &mut line),
        [
            Some(verb),
            Some(bytes),
            Some(rounds),
            Some(name),
            Some(group),
        ] if verb == c"bench" => number(bytes)
            .zip(number(rounds))
            .ok_or(text::Failure::Said("bench BYTES ROUNDS"))
            .and_then(|(bytes, rounds)| bench::run(name, group, bytes, rounds, &mut line))
            .map(|()| true),
        _ => Err(text::Failure::Said("vfio [bench BYTES ROUNDS] NAME GROUP")),
    };
    let status = match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(failure) => {
            use fmt::Write;
            // What does not fit is cut: the status tells all the same.
            let _ = write!(line, " error={}", Word(&failure));
            2
        }
    };
    let _ = sys::write(sys::CONSOLE, line.bytes());
    let _ = sys::write(sys::CONSOLE, b"\n");
    sys::exit(status)
}

/// The arguments behind the program's name, as far as there are any.
///
/// # Safety
///
/// `stack` is what the kernel left at the stack pointer.
#[cfg(target_os = "none")]
unsafe fn arguments(stack: *const usize) -> [Option<&'static core::ffi::CStr>; 5] {
    // SAFETY: the kernel puts the number of arguments there.
    let count = unsafe { stack.read() };
    core::array::from_fn(|index| {
        // SAFETY: as many addresses of C strings follow, which stay.
        (index + 1 < count)
            .then(|| unsafe { core::ffi::CStr::from_ptr(stack.add(2 + index).read() as *const _) })
    })
}

#[cfg(target_os = "none")]
fn number(text: &core::ffi::CStr) -> Option<usize> {
    text.to_str().ok()?.parse().ok()
}

/// A text as one word: what a field of an answer may hold.
#[cfg(target_os = "none")]
struct Word<'a>(&'a text::Failure);

#[cfg(target_os = "none")]
impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Joined<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Joined<'_, '_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                s.chars()
                    .try_for_each(|c| self.0.write_char(if c == ' ' { '_' } else { c }))
            }
        }
        use fmt::Write;
        write!(Joined(f), "{}", self.0)
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(101)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("vfio runs inside the host under test; `cargo xtask build` builds it");
    std::process::exit(1);
}
