//! The lab's hand inside the host under test.
//!
//! It is the last thing the init script starts. It reads commands from the
//! console, one a line (`SEQ COMMAND ARGUMENTS`), and answers each with one
//! line `@SEQ ok KEY=VALUE …` or `@SEQ err MESSAGE`. The kernel may print lines
//! of its own in between; the `@SEQ` tells them apart.

#![deny(unsafe_code)]

mod arguments;
mod command;
mod disk;
mod edu;
mod machine;
mod memory;
mod meter;
mod net;
mod poke;

use std::io::{self, Write};
use std::panic;

fn main() -> anyhow::Result<()> {
    panic::set_hook(Box::new(|info| {
        let text = info.to_string().replace('\n', " ");
        // What the lab looks for: on the console even where the output is not.
        let _ = io::stderr().write_all(format!("\n@panic {text}\n").as_bytes());
    }));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first() {
        Some(verb) if verb == poke::VERB => poke::carry_out(&arguments[1..].join(" ")),
        _ => Ok(command::serve()?),
    }
}
