//! Where EL2 spends its instructions, from QEMU's log of each block it executed.

use super::symbols::{Purpose, Symbols};
use super::window::IMAGE_ADDRESS;
use super::work::Work;
use std::collections::{BTreeMap, HashMap};

/// What EL2 spent on one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Of what: more than one where each operation is followed by another.
    pub work: Vec<Work>,
    /// Instructions, as the CPU counted them.
    pub counted: f64,
    /// Instructions in the blocks, by what they were for.
    pub purposes: BTreeMap<Purpose, f64>,
}

impl Profile {
    /// Takes the `log` of `count` operations apart, for each of which the CPU
    /// `counted` so many instructions.
    #[must_use]
    pub fn new(work: &[Work], counted: f64, count: u64, log: &str, code: &mut Code<'_>) -> Self {
        let mut purposes = BTreeMap::new();
        // What has no purpose of its own serves what came before.
        let mut last = Purpose::Other;
        for address in code.blocks.executed(log) {
            last = code.purpose(address).unwrap_or(last);
            *purposes.entry(last).or_insert(0.0) += 1.0;
        }
        for all in purposes.values_mut() {
            *all /= count as f64;
        }
        Self {
            work: work.to_vec(),
            counted,
            purposes,
        }
    }

    /// Instructions in the blocks.
    #[must_use]
    pub fn traced(&self) -> f64 {
        self.purposes.values().sum()
    }
}

/// The code of one machine, as far as its logs have told.
#[derive(Debug)]
pub struct Code<'a> {
    symbols: &'a Symbols,
    purposes: HashMap<u64, Option<Purpose>>,
    blocks: Blocks,
}

impl<'a> Code<'a> {
    /// Nothing was told yet of the code with these `symbols`.
    #[must_use]
    pub fn new(symbols: &'a Symbols) -> Self {
        Self {
            symbols,
            purposes: HashMap::new(),
            blocks: Blocks::default(),
        }
    }

    fn purpose(&mut self, address: u64) -> Option<Purpose> {
        let offset = address.wrapping_sub(IMAGE_ADDRESS);
        let find = || self.symbols.purpose(offset);
        *self.purposes.entry(offset).or_insert_with(find)
    }
}

/// How many instructions the blocks have that were listed, by their place in QEMU.
#[derive(Debug, Default)]
struct Blocks(HashMap<String, u64>);

impl Blocks {
    /// The addresses of the instructions that were executed, in order.
    ///
    /// QEMU tells blocks. One is listed when it is made, `in_asm`, and told whenever it
    /// is entered, `exec`, in this log or a later one. Two things end one early: the budget of instructions that
    /// the clock runs by ends before it, so that nothing of it is executed; or one of
    /// its instructions turns out to be an access to a device, which is to be the last
    /// of its block, so that the block is left before it and a shorter one made.
    fn executed(&mut self, log: &str) -> Vec<u64> {
        /// Bytes of an instruction.
        const WIDTH: u64 = 4;
        let mut listed: Option<(u64, u64)> = None;
        let mut addresses: Vec<u64> = Vec::new();
        // Where the block began that was entered last, and how many were before it.
        let mut block: Option<(u64, usize)> = None;
        for line in log.lines() {
            if let Some(rest) = line.strip_prefix("0x") {
                let Some(at) = rest.split(':').next().and_then(hexadecimal) else {
                    continue;
                };
                let (start, length) = listed.unwrap_or((at, 0));
                listed = Some((start, length + 1));
            } else if line.starts_with("IN:") {
                listed = None;
            } else if let Some(rest) = line.strip_prefix("Trace ") {
                let Some((place, start)) = entered(rest) else {
                    continue;
                };
                if let Some((at, length)) = listed.take()
                    && at == start
                {
                    self.0.insert(place.to_owned(), length);
                }
                let length = self.0.get(place).copied().unwrap_or(0);
                block = Some((start, addresses.len()));
                addresses.extend((0..length).map(|index| start + index * WIDTH));
            } else if line.starts_with("Stopped execution of TB chain before") {
                if let Some((_, before)) = block.take() {
                    addresses.truncate(before);
                }
            } else if let Some((_, at)) = line.split_once("rewound execution of TB to ")
                && let (Some(at), Some((start, before))) = (hexadecimal(at.trim()), block.take())
            {
                let kept = at.saturating_sub(start) / WIDTH;
                addresses.truncate(before + kept as usize);
            }
        }
        addresses
    }
}

/// The place of a block's code in QEMU and its address, of
/// `0: 0x7f00 [00/0000000040201400/00/00] name`.
fn entered(rest: &str) -> Option<(&str, u64)> {
    let (place, rest) = rest.split_once(": ")?.1.split_once(" [")?;
    Some((place, hexadecimal(rest.split('/').nth(1)?)?))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_are_left_early_count_as_far_as_they_went() {
        let log = "\
----------------\n\
IN: \n\
0x40201400:  d10443ff  sub      sp, sp, #0x110\n\
0x40201404:  a90007e0  stp      x0, x1, [sp]\n\
0x40201408:  140000e1  b        #0x4020178c\n\
\n\
Trace 0: 0x7f01 [00000400/0000000040201400/00000001/ff] \n\
Trace 0: 0x7f01 [00000400/0000000040201400/00000001/ff] \n\
Stopped execution of TB chain before 0x7f01 [0000000040201400] \n\
Trace 0: 0x7f01 [00000400/0000000040201400/00000001/ff] \n\
cpu_io_recompile: rewound execution of TB to 0000000040201404\n\
IN: \n\
0x40201404:  a90007e0  stp      x0, x1, [sp]\n\
\n\
Trace 0: 0x7f02 [00000400/0000000040201404/00000001/ff] \n\
Trace 0: 0x7f03 [00000400/0000000040209999/00000001/ff] \n";
        let whole = [0x4020_1400, 0x4020_1404, 0x4020_1408];
        let expected = [&whole[..], &[0x4020_1400, 0x4020_1404]].concat();
        let mut blocks = Blocks::default();
        assert_eq!(blocks.executed(log), expected);
        let later = "Trace 0: 0x7f01 [00000400/0000000040201400/00000001/ff] \n";
        assert_eq!(blocks.executed(later), whole);
    }
}
