//! What a piece of work costs.

use portcullis_payloads::counter;
use portcullis_payloads::instructions::{Instructions, Levels};
use std::fmt;

/// A measurement under way.
pub struct Meter {
    counter: Option<Instructions>,
    instructions: u64,
    start: u64,
}

/// What was measured.
#[derive(Clone, Copy)]
pub struct Cost {
    ticks: u64,
    instructions: Option<u64>,
}

impl Meter {
    /// Starts. Where the machine cannot count instructions (QEMU does so only
    /// with `-icount`), only ticks are measured.
    pub fn start() -> Self {
        let counter = Instructions::open(Levels::All).ok();
        let instructions = counter.as_ref().and_then(|counter| counter.read().ok());
        Self {
            counter,
            instructions: instructions.unwrap_or(0),
            start: counter::now(),
        }
    }

    /// Ends.
    pub fn stop(self) -> Cost {
        let ticks = counter::now().wrapping_sub(self.start);
        let now = self.counter.and_then(|counter| counter.read().ok());
        Cost {
            ticks,
            instructions: now.map(|now| now.wrapping_sub(self.instructions)),
        }
    }
}

impl Cost {
    /// Instructions, or 0 where they were not counted.
    pub fn instructions(&self) -> u64 {
        self.instructions.unwrap_or(0)
    }

    /// The smaller one, by instructions if these were counted.
    pub fn min(self, other: Self) -> Self {
        let key = |cost: &Self| cost.instructions.unwrap_or(cost.ticks);
        if key(&other) < key(&self) {
            other
        } else {
            self
        }
    }
}

/// Rounds that are kept to be compared.
const KEPT: usize = 2048;

/// What the rounds of a piece of work cost: the cheapest of all, and how the last
/// [`KEPT`] of them are spread.
pub struct Rounds {
    cheapest: Option<Cost>,
    kept: [u64; KEPT],
    made: usize,
}

impl Rounds {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            cheapest: None,
            kept: [0; KEPT],
            made: 0,
        }
    }

    /// One more.
    pub fn add(&mut self, cost: Cost) {
        self.kept[self.made % KEPT] = cost.instructions();
        self.made += 1;
        self.cheapest = Some(self.cheapest.map_or(cost, |least| least.min(cost)));
    }

    /// The cheapest, and what a tenth, half and 99 in a hundred of the kept ones
    /// stayed below, in instructions; `None` when there was no round.
    pub fn summary(mut self) -> Option<String> {
        let cheapest = self.cheapest?;
        let kept = &mut self.kept[..self.made.min(KEPT)];
        kept.sort_unstable();
        let below = |hundredths: usize| kept[(kept.len() * hundredths / 100).min(kept.len() - 1)];
        Some(format!(
            "{cheapest} tenth={} p50={} p99={}",
            below(10),
            below(50),
            below(99)
        ))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " ticks={} cntfrq={}", self.ticks, counter::frequency())?;
        match self.instructions {
            Some(number) => write!(f, " instructions={number}"),
            None => Ok(()),
        }
    }
}
