//! The virtio-iommu that a host has in paravirt mode, with queues and requests where
//! its memory is none: what is expected is that the device needs a reset (virtio
//! 1.2, 2.1.2), and that the hypervisor goes on.

use crate::{Checks, HOLLOW, NONE, SMMU, exception, read, undescribed, write, write64};
use core::cell::UnsafeCell;

const MAGIC: u32 = 0x7472_6976;
const DRIVER_FEATURES: u64 = SMMU + 0x20;
const DRIVER_FEATURES_SEL: u64 = SMMU + 0x24;
const QUEUE_SEL: u64 = SMMU + 0x30;
const QUEUE_NUM: u64 = SMMU + 0x38;
const QUEUE_READY: u64 = SMMU + 0x44;
const QUEUE_NOTIFY: u64 = SMMU + 0x50;
const STATUS: u64 = SMMU + 0x70;
const QUEUE_PARTS: [u64; 3] = [SMMU + 0x80, SMMU + 0x90, SMMU + 0xa0];

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
const RUNNING: u32 = 0xf;
const NEEDS_RESET: u32 = 0x40;
const ENTRIES: u32 = 64;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; 4096 * 3]>);

// SAFETY: one CPU runs, and nothing makes a reference to the bytes.
unsafe impl Sync for Memory {}

static RINGS: Memory = Memory(UnsafeCell::new([0; 4096 * 3]));

/// Whether the host has a virtio-iommu.
pub fn is_there() -> bool {
    exception(|| _ = read(SMMU)) == NONE && read(SMMU) == MAGIC
}

/// Starts the device with the three parts of a queue at these addresses.
fn start(parts: [u64; 3]) {
    start_by(parts, |register, at| {
        write(register, at as u32);
        write(register + 4, (at >> 32) as u32);
    });
}

/// As [`start`]; `place` writes the two registers with an address.
fn start_by(parts: [u64; 3], place: fn(u64, u64)) {
    write(STATUS, 0);
    write(STATUS, 3);
    // VIRTIO_F_VERSION_1, and what the device has of its own.
    for (word, bits) in [(0, 0b11_0111), (1, 1)] {
        write(DRIVER_FEATURES_SEL, word);
        write(DRIVER_FEATURES, bits);
    }
    write(STATUS, RUNNING & !4);
    write(QUEUE_SEL, 0);
    write(QUEUE_NUM, ENTRIES);
    for (register, at) in QUEUE_PARTS.into_iter().zip(parts) {
        place(register, at);
    }
    write(QUEUE_READY, 1);
    write(STATUS, RUNNING);
}

pub fn attack(checks: &mut Checks) {
    let own = RINGS.0.get() as u64;
    let [descriptors, available, used] = [own, own + 4096, own + 8192];
    undescribed::at_viommu(checks);
    // A queue that is set up by pairs of registers, and a notification that moves on.
    one_chain(own, descriptors, available);
    write(used, 0);
    start_by([descriptors, available, used], undescribed::store_halves);
    let after = undescribed::store_post(QUEUE_NOTIFY, 0);
    checks.equal("viommu_notify_post", after, QUEUE_NOTIFY + 4);
    checks.equal("viommu_pairs_lead_to_the_queue", read(used) >> 16, 1);
    checks.equal("viommu_pairs", read(STATUS) & NEEDS_RESET, 0);
    // Each part of a queue where nothing answers.
    for hollow in 0..3 {
        let mut parts = [descriptors, available, used];
        if let Some(part) = parts.get_mut(hollow) {
            *part = HOLLOW;
        }
        one_chain(own, descriptors, available);
        start(parts);
        write(QUEUE_NOTIFY, 0);
        let status = read(STATUS) & NEEDS_RESET;
        checks.equal("viommu_hollow_queue", status, NEEDS_RESET);
    }
    // A request there, and the answer to one: a MAP to a domain that there is not.
    write(own + 0x400, 3);
    start([HOLLOW, available, used]);
    let is_ram = read(STATUS) & NEEDS_RESET == 0;
    for (name, body, tail) in [
        ("viommu_hollow_request", HOLLOW, HOLLOW + 36),
        ("viommu_hollow_answer", own + 0x400, HOLLOW),
    ] {
        write64(descriptors, body);
        write64(descriptors + 16, tail);
        start([descriptors, available, used]);
        write(QUEUE_NOTIFY, 0);
        // Where it is no memory of the host's at all, the chain comes back empty.
        let wanted = if is_ram { NEEDS_RESET } else { 0 };
        checks.equal(name, read(STATUS) & NEEDS_RESET, wanted);
    }
    write(STATUS, 0);
    checks.equal("viommu_reset", read(STATUS), 0);
}

/// One chain: a request and its answer.
fn one_chain(own: u64, descriptors: u64, available: u64) {
    write64(descriptors, own + 0x400);
    write64(descriptors + 8, 36 | 1 << 32 | 1 << 48);
    write64(descriptors + 16, own + 0x424);
    write64(descriptors + 24, 4 | 2 << 32);
    write(available, 1 << 16);
}
