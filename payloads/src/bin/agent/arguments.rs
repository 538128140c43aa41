//! The arguments of a command.

use anyhow::{Context, Result};
use std::str::SplitAsciiWhitespace;

/// The arguments, taken one after the other.
pub struct Arguments<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Arguments<'a> {
    /// Splits a command at white space.
    pub fn new(line: &'a str) -> Self {
        Self(line.split_ascii_whitespace())
    }

    /// The next word.
    pub fn word(&mut self) -> Result<&'a str> {
        self.0.next().context("an argument is missing")
    }

    /// The next word as a number, decimal or 0x….
    pub fn number(&mut self) -> Result<u64> {
        number(self.word()?)
    }

    /// The next word as a number, or `default` when there is none.
    pub fn number_or(&mut self, default: u64) -> Result<u64> {
        self.0.next().map_or(Ok(default), number)
    }
}

fn number(word: &str) -> Result<u64> {
    let parsed = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    parsed.with_context(|| format!("{word} is no number"))
}
