//! What a piece of work costs.

use crate::sys::{self, Fd, Levels};
use core::fmt;

/// A measurement under way.
pub struct Meter {
    counter: Option<Fd>,
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
        let counter = sys::instruction_counter(Levels::All).ok();
        let instructions = counter.and_then(count).unwrap_or(0);
        Self {
            counter,
            instructions,
            start: sys::counter(),
        }
    }

    /// Ends.
    pub fn stop(self) -> Cost {
        let ticks = sys::counter().wrapping_sub(self.start);
        let instructions = self
            .counter
            .and_then(count)
            .map(|now| now.wrapping_sub(self.instructions));
        if let Some(fd) = self.counter {
            sys::close(fd);
        }
        Cost {
            ticks,
            instructions,
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

    /// Writes the cheapest, and what a tenth, half and 99 in a hundred of the
    /// kept ones stayed below, in instructions; whether there was a round.
    pub fn write(&mut self, line: &mut impl fmt::Write) -> Result<bool, fmt::Error> {
        let Some(cheapest) = self.cheapest else {
            return Ok(false);
        };
        let kept = &mut self.kept[..self.made.min(KEPT)];
        kept.sort_unstable();
        let below = |hundredths: usize| kept[(kept.len() * hundredths / 100).min(kept.len() - 1)];
        write!(
            line,
            "{cheapest} tenth={} p50={} p99={}",
            below(10),
            below(50),
            below(99)
        )?;
        Ok(true)
    }
}

fn count(fd: Fd) -> Option<u64> {
    let mut value = [0; 8];
    (sys::read(fd, &mut value) == Ok(8)).then(|| u64::from_le_bytes(value))
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            " ticks={} cntfrq={}",
            self.ticks,
            sys::counter_frequency()
        )?;
        match self.instructions {
            Some(number) => write!(f, " instructions={number}"),
            None => Ok(()),
        }
    }
}
