//! Any bytes as what a driver does to its virtio-iommu device: it never panics,
//! never takes long, and stores to nothing but buffers that it was given.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/virtio-iommu-device/tests/bytes/mod.rs"]
mod bytes;
#[path = "../../crates/virtio-iommu-device/tests/world/mod.rs"]
mod world;

fuzz_target!(|steps: &[u8]| {
    bytes::run(steps);
});
