//! Any bytes as registers, memory, commands and traffic of the SMMU model: it
//! never panics, and never takes long.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/smmuv3-model/tests/bytes/mod.rs"]
mod bytes;

fuzz_target!(|steps: &[u8]| {
    bytes::run(steps);
});
