//! Failures on demand, for tests of the failure path. Only in images built with
//! the feature `provoke`, which are for nothing else.

use crate::trap::Frame;
use crate::{image, smmu};
use core::arch::asm;
use smmuv3_driver::Registers;
use smmuv3_spec::reg::CR0;

/// Fails in the way that the host asks for by writing a number to the first
/// byte of the image, which it cannot otherwise reach.
pub fn maybe(frame: &Frame, esr: u64, ipa: u64) {
    const ISV: u64 = 1 << 24;
    const WRITE: u64 = 1 << 6;
    if ipa != image::base() || esr & ISV == 0 || esr & WRITE == 0 {
        return;
    }
    match frame.get((esr >> 16 & 0x1f) as usize) {
        0x0bad_0001 => panic!("provoked"),
        0x0bad_0002 => overflow(1),
        0x0bad_0003 => store(0x10),
        0x0bad_0004 => store(image::base()),
        // SAFETY: an instruction that is undefined at EL2, to see it reported.
        0x0bad_0005 => unsafe { asm!("udf #0") },
        0x0bad_0006 => forget(),
        _ => {}
    }
}

/// Leaves the first SMMU as it would be after a reset.
fn forget() {
    if let Some(port) = smmu::port(0) {
        port.write32(CR0, 0);
    }
}

/// Uses up the stack.
#[inline(never)]
fn overflow(depth: u64) {
    let room = [depth; 64];
    if core::hint::black_box(&room)[0] != 0 {
        overflow(depth + 1);
    }
    core::hint::black_box(&room);
}

/// Writes where EL2 may not.
fn store(address: u64) {
    // SAFETY: none; this is the failure that the test asks for, and the
    // translation tables do not let it through.
    unsafe { asm!("str xzr, [{}]", in(reg) address) }
}
