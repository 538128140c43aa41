//! Quantities that must not be mixed up.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

/// A point in simulated time, or a length of it, in picoseconds: 213 days fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Picos(pub u64);

impl Picos {
    /// None.
    pub const ZERO: Self = Self(0);

    /// So many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos.saturating_mul(1_000))
    }

    /// In nanoseconds.
    #[must_use]
    pub fn as_nanos(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// In microseconds.
    #[must_use]
    pub fn as_micros(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// In seconds.
    #[must_use]
    pub fn as_secs(self) -> f64 {
        self.0 as f64 / 1e12
    }

    /// So many times as long.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// What is left of it after `other`; nothing if that is longer.
    #[must_use]
    pub const fn since(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Picos {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Picos {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Picos {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.since(other)
    }
}

impl Sum for Picos {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Picos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ns", self.as_nanos())
    }
}

/// Instructions of a CPU, as counted; averages have fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Instructions(pub f64);

impl Instructions {
    /// What they take at `thousand` picoseconds for a thousand of them.
    #[must_use]
    pub fn at(self, thousand: Picos) -> Picos {
        // Both are far below 2^53, and neither is negative.
        Picos((self.0.max(0.0) * thousand.0 as f64 / 1e3) as u64)
    }
}

impl Add for Instructions {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Instructions {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_wraps() {
        assert_eq!(Picos(3) - Picos(5), Picos::ZERO);
        assert_eq!(Picos(u64::MAX) + Picos(1), Picos(u64::MAX));
        assert_eq!(Picos::from_nanos(2), Picos(2_000));
    }

    #[test]
    fn instructions_take_time() {
        // 2.5 GHz and two of them a cycle: 200 ps each.
        assert_eq!(Instructions(922.0).at(Picos(200_000)), Picos(184_400));
        assert_eq!(Instructions(-1.0).at(Picos(200_000)), Picos::ZERO);
    }
}
