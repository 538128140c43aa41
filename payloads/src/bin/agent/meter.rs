//! What a piece of work costs.

use crate::sys::{self, Fd};
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
        let counter = sys::instruction_counter().ok();
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
