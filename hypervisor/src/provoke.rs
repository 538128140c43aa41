//! Failures on demand, for tests of the failure path. Only in images built with
//! the feature `provoke`, which are for nothing else.

use crate::log::warning;
use crate::mmio::Device;
use crate::sysreg::{host_ipa, isb, read_sysreg, write_sysreg};
use crate::trap::Frame;
use crate::{image, mmu, smmu};
use core::arch::asm;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_pagetable::{Access, MemoryType};

/// Where QEMU's virt machine has nothing, and answers with errors.
const NOTHING: u64 = 0x0b00_0000;
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
        0x0bad_0006 => registers(),
        0x0bad_0007 => walk(),
        0x0bad_0008 => forget(),
        // Recoverable, as an SError that came while the host ran.
        0x0bad_0009 => crate::host::inject_serror(3 << 10 | 0x11),
        _ => {}
    }
}

/// Reads and writes registers that answer with errors, in every width.
fn registers() {
    let Ok(range) = Range::from_size(PhysAddr::new(NOTHING), PAGE_SIZE) else {
        return;
    };
    if mmu::map_missing(range, MemoryType::Device, Access::ReadWrite).is_err() {
        return;
    }
    let device = Device::from_mapped(range).tolerant();
    let reads = [
        device.read8(0x10).is_none(),
        device.read16(0x10).is_none(),
        device.read32(0x10).is_none(),
        device.read64(0x10).is_none(),
    ];
    let writes = [
        !device.write8(0x10, 1),
        !device.write16(0x10, 1),
        !device.write32(0x10, 1),
        !device.write64(0x10, 1),
    ];
    let errors = reads.iter().chain(&writes).filter(|error| **error).count();
    warning!("event=survived what=registers errors={errors}");
}

/// Has the host's tables lie there.
fn walk() {
    const VM: u64 = 1;
    let (hcr, ttbr0, par) = (
        read_sysreg!("hcr_el2"),
        read_sysreg!("ttbr0_el1"),
        read_sysreg!("par_el1"),
    );
    // SAFETY: the host does not run, and finds everything as it was.
    let found = unsafe {
        write_sysreg!("hcr_el2", hcr & !VM);
        write_sysreg!("ttbr0_el1", NOTHING);
        isb();
        asm!("tlbi alle1", "dsb nsh", "isb");
        let found = host_ipa(0x1000);
        write_sysreg!("ttbr0_el1", ttbr0);
        write_sysreg!("hcr_el2", hcr);
        isb();
        asm!("tlbi alle1", "dsb nsh", "isb");
        found
    };
    warning!(
        "event=survived what=walk errors={} par_kept={}",
        u32::from(found.is_none()),
        par == read_sysreg!("par_el1")
    );
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
