//! Any bytes as the hypervisor's command line and as a kernel's header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_boot::{BootArgs, KernelHeader};

fuzz_target!(|line: &[u8]| {
    if let Err(error) = BootArgs::parse(line) {
        let text = format!("{}{}", error.reason(), error.fix());
        assert!(
            text.bytes()
                .all(|b| (b' '..=b'~').contains(&b) && b != b'"')
        );
    }
    let _ = KernelHeader::parse(line);
});
