//! What is counted.

use super::caches::Charged;
use super::unit::{Outcome, Translated};
use crate::units::Picos;

/// Steps within a power of two: values are told apart to 3 %.
const STEPS: u32 = 32;

/// How often something took how long.
#[derive(Clone, Debug)]
pub struct Distribution {
    counts: Vec<u64>,
    sum: Picos,
    count: u64,
    most: Picos,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            counts: vec![0; 64 * STEPS as usize],
            sum: Picos::ZERO,
            count: 0,
            most: Picos::ZERO,
        }
    }
}

impl Distribution {
    /// Once more.
    pub fn add(&mut self, value: Picos) {
        let bits = value.0.max(1).ilog2();
        let fraction = if bits >= 5 {
            value.0 >> (bits - 5) & 31
        } else {
            value.0 << (5 - bits) & 31
        };
        let slot = bits as usize * STEPS as usize + fraction as usize;
        if let Some(count) = self.counts.get_mut(slot) {
            *count += 1;
        }
        self.sum += value;
        self.count += 1;
        self.most = self.most.max(value);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Picos {
        self.sum
    }

    /// The average; 0 if there were none.
    #[must_use]
    pub fn average(&self) -> Picos {
        Picos(self.sum.0.checked_div(self.count).unwrap_or(0))
    }

    /// The value that `share` of them (0 to 1) do not exceed, at most 3 % too
    /// large.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Picos {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count != 0 {
                let (bits, fraction) = (slot as u32 / STEPS, slot as u64 % u64::from(STEPS));
                let low = (1u128 << bits) * u128::from(32 + fraction + 1) / 32;
                return Picos(u64::try_from(low).unwrap_or(u64::MAX)).min(self.most);
            }
        }
        self.most
    }
}

/// What became of all accesses.
#[derive(Clone, Debug, Default)]
pub struct Translations {
    /// What each waited for its translation.
    pub cost: Distribution,
    /// Found in the small TLB.
    pub micro: u64,
    /// Found in the large one.
    pub main: u64,
    /// Walks.
    pub walks: u64,
    /// Their reads.
    pub charged: Totals,
}

/// Sums of [`Charged`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Descriptors read.
    pub descriptors: u64,
    /// Structures of the configuration read.
    pub structures: u64,
    /// Reads spared.
    pub held: u64,
}

impl Totals {
    fn add(&mut self, charged: &Charged) {
        self.descriptors += u64::from(charged.descriptors);
        self.structures += u64::from(charged.structures);
        self.held += u64::from(charged.held);
    }

    /// All that was read.
    #[must_use]
    pub const fn reads(&self) -> u64 {
        self.descriptors + self.structures
    }
}

impl Translations {
    /// One more, that came at `now`.
    pub fn add(&mut self, now: Picos, translated: &Translated) {
        self.cost.add(translated.at - now);
        match &translated.outcome {
            Outcome::Micro => self.micro += 1,
            Outcome::Main => self.main += 1,
            Outcome::Walk(charged) => {
                self.walks += 1;
                self.charged.add(charged);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut all = Distribution::default();
        for value in 1..=10_000 {
            all.add(Picos(value));
        }
        assert_eq!((all.count(), all.average()), (10_000, Picos(5_000)));
        for (share, right) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let found = all.quantile(share).0 as f64;
            assert!((right..=right * 1.04).contains(&found), "{share}: {found}");
        }
        assert_eq!(Distribution::default().quantile(0.99), Picos::ZERO);
    }
}
