//! A driver in user space for QEMU's `edu` device, on VFIO type 1.
//!
//! `vfio NAME GROUP` has the device do DMA at addresses that this program
//! picks, and checks that data goes where the mappings say and nowhere else.
//! It prints one line, `NAME=ok` for each thing that held or `NAME=FAILED`, and
//! ends with status 0 when all did.
//!
//! `vfio bench BYTES ROUNDS NAME GROUP` times mapping and unmapping instead.

#![deny(unsafe_code)]

mod bench;
mod buffer;
mod checks;
mod container;

use anyhow::{Context, Result, bail};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // What was found before a failure is told all the same.
    let mut line = String::new();
    let held = run(&arguments, &mut line);
    if let Err(error) = &held {
        // One word: what a field of an answer may hold.
        let word = format!("{error:#}").replace(' ', "_");
        line.push_str(&format!(" error={word}"));
    }
    println!("{line}");
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(2),
    }
}

/// Whether all held; `line` gets what was found.
fn run(arguments: &[&str], line: &mut String) -> Result<bool> {
    match *arguments {
        [name, group] => checks::all(name, group, line),
        ["bench", bytes, rounds, name, group] => {
            let number = |text: &str| text.parse().context("bench BYTES ROUNDS");
            let (bytes, rounds) = (number(bytes)?, number(rounds)?);
            line.push_str(&bench::run(name, group, bytes, rounds)?);
            Ok(true)
        }
        _ => bail!("vfio [bench BYTES ROUNDS] NAME GROUP"),
    }
}
