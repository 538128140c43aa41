//! What a workload costs with one way to give a host its IOMMU, and which of two is
//! better. Sweeps and advice both ask here.
//!
//! What is compared is the cost of a transfer: its share of the mapping and the
//! unmapping on a CPU, and what its accesses wait for translations. Where devices move
//! less data with one way than with the other, that decides instead: waits say
//! nothing any more once they have become the limit.

use crate::machine::Mode;
use crate::scenario::{Lifetime, Scenario};
use crate::sim::Report;
use crate::units::Picos;

/// From how many times on a difference matters.
pub const MATTERS: f64 = 1.05;

/// What a device does between it begins to work on a buffer and is done with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Accesses of one, on average.
    pub accesses: f64,
    /// Transfers between a mapping and its unmapping, on average; `None`: buffers
    /// stay mapped.
    pub per_mapping: Option<f64>,
}

/// What a transfer comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Its cost in nanoseconds.
    pub nanos: f64,
    /// Bytes that all devices move in a second.
    pub rate: f64,
}

impl Transfer {
    /// That of a scenario. Where it has only mappings, one of them is the transfer.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let accesses = scenario.accesses() as f64;
        match scenario.buffers.lifetime {
            Lifetime::Static => Self {
                accesses,
                per_mapping: None,
            },
            Lifetime::Transfers(count) if count.get() == 0 => Self {
                accesses: 0.0,
                per_mapping: Some(1.0),
            },
            Lifetime::Transfers(count) => Self {
                accesses,
                per_mapping: Some(count.get() as f64),
            },
        }
    }

    /// What it comes to, where a mapping and its unmapping take a CPU `jobs`.
    #[must_use]
    pub fn score(&self, report: &Report, jobs: Picos) -> Score {
        let waits = report.counted.translations.cost.average().as_nanos();
        let share = self
            .per_mapping
            .map_or(0.0, |transfers| jobs.as_nanos() / transfers);
        Score {
            nanos: share + waits * self.accesses,
            rate: report.rate(),
        }
    }
}

/// What a mapping and its unmapping take a CPU; `None` where none was seen.
#[must_use]
pub fn jobs(report: &Report) -> Option<Picos> {
    let counted = &report.counted;
    if counted.unmaps.count() == 0 || counted.maps.count() == 0 {
        return None;
    }
    Some(counted.maps.average() + counted.unmaps.average())
}

/// Which of the two is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Better {
    /// The emulated SMMU.
    Nested,
    /// The virtio-iommu.
    Paravirt,
    /// Neither by enough.
    Neither,
}

impl Better {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Nested => "nested is better",
            Self::Paravirt => "paravirt is better",
            Self::Neither => "no difference that matters",
        }
    }

    /// The better one, if one is.
    #[must_use]
    pub const fn mode(self) -> Option<Mode> {
        match self {
            Self::Nested => Some(Mode::Nested),
            Self::Paravirt => Some(Mode::Paravirt),
            Self::Neither => None,
        }
    }
}

/// What decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Criterion {
    /// The cost of a transfer: both move as much data.
    Cost,
    /// The data moved.
    Rate,
}

/// Nested beside paravirt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// How many times as good as nested paravirt is: below 1, nested is better.
    pub ratio: f64,
    /// By what.
    pub by: Criterion,
}

impl Comparison {
    /// Of two scores.
    #[must_use]
    pub fn of(nested: &Score, paravirt: &Score) -> Self {
        let rates = ratio(paravirt.rate, nested.rate);
        if better(rates) != Better::Neither {
            return Self {
                ratio: rates,
                by: Criterion::Rate,
            };
        }
        Self {
            ratio: ratio(nested.nanos, paravirt.nanos),
            by: Criterion::Cost,
        }
    }

    /// Which is better.
    #[must_use]
    pub fn better(&self) -> Better {
        better(self.ratio)
    }

    /// How many times as good the better one is: never below 1.
    #[must_use]
    pub fn times(&self) -> f64 {
        self.ratio.max(self.ratio.recip())
    }

    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self.better().mode() {
            Some(mode) => format!("{mode} {:.2}x", self.times()),
            None => "even".to_owned(),
        }
    }
}

fn better(ratio: f64) -> Better {
    if ratio > MATTERS {
        Better::Paravirt
    } else if ratio < MATTERS.recip() {
        Better::Nested
    } else {
        Better::Neither
    }
}

/// Two that are nothing are alike.
fn ratio(over: f64, under: f64) -> f64 {
    if over == under {
        return 1.0;
    }
    over.max(f64::MIN_POSITIVE) / under.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn score(nanos: f64, rate: f64) -> Score {
        Score { nanos, rate }
    }

    #[test]
    fn within_five_percent_neither_is_better() {
        let of = |nested, paravirt| {
            let found = Comparison::of(&score(nested, 1e9), &score(paravirt, 1e9));
            (found.better(), found.by)
        };
        assert_eq!(of(104.0, 100.0), (Better::Neither, Criterion::Cost));
        assert_eq!(of(100.0, 104.0), (Better::Neither, Criterion::Cost));
        assert_eq!(of(106.0, 100.0), (Better::Paravirt, Criterion::Cost));
        assert_eq!(of(100.0, 106.0), (Better::Nested, Criterion::Cost));
        assert_eq!(of(0.0, 0.0), (Better::Neither, Criterion::Cost));
        assert_eq!(of(1.0, 0.0).0, Better::Paravirt);
    }

    #[test]
    fn who_moves_less_data_has_lost_whatever_a_transfer_costs() {
        let found = Comparison::of(&score(50.0, 1e9), &score(100.0, 2e9));
        assert_eq!(
            (found.better(), found.by),
            (Better::Paravirt, Criterion::Rate)
        );
        assert_eq!(found.words(), "paravirt 2.00x");
        // Not so by less than what matters.
        let found = Comparison::of(&score(50.0, 1.0e9), &score(100.0, 1.04e9));
        assert_eq!(
            (found.better(), found.by),
            (Better::Nested, Criterion::Cost)
        );
        assert_eq!(found.words(), "nested 2.00x");
        let found = Comparison::of(&score(50.0, 0.0), &score(50.0, 0.0));
        assert_eq!(found.words(), "even");
    }
}
