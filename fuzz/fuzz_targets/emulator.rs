//! Any bytes as what a host, its devices and the physical SMMU do to the
//! emulated SMMU: it never panics, never takes long, and no device of the host
//! reaches what is not the host's.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/smmuv3-emulator/tests/bytes/mod.rs"]
mod bytes;
#[path = "../../crates/smmuv3-emulator/tests/machine/mod.rs"]
mod machine;

fuzz_target!(|steps: &[u8]| {
    bytes::run(steps);
});
