//! Says when the host's first program started.
//!
//! The init script runs it before anything else; the lab compares the counter
//! it prints with and without the hypervisor.

#![forbid(unsafe_code)]

use portcullis_payloads::counter;
use std::io::{self, Write};

fn main() -> io::Result<()> {
    let now = counter::now();
    // In one piece: the kernel prints too.
    let line = format!("\n@init cntvct={now} cntfrq={}\n", counter::frequency());
    io::stdout().write_all(line.as_bytes())
}
