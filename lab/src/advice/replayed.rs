//! Advice on what a host was recorded to map.

use super::workload::{Trouble, Variant, Workload};
use crate::machine::Mode;
use crate::measured::Measured;
use crate::platform::Platform;
use crate::replay::{self, Options, OptionsError};
use crate::scenario::Invalidation;
use crate::score::Transfer;
use crate::sim::Report;
use crate::trace::{Trace, What};
use crate::units::Picos;

/// How many times as often each mapping may be read as was assumed.
const MORE: u64 = 10;

/// A trace that is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Replayed<'a> {
    trace: &'a Trace,
    options: Options,
}

impl<'a> Replayed<'a> {
    /// `trace`, with what it does not say.
    #[must_use]
    pub fn new(trace: &'a Trace, options: Options) -> Self {
        Self { trace, options }
    }

    fn with(&self, passes: u64, invalidation: Invalidation) -> Result<Self, OptionsError> {
        let options = Options::new(self.options.access(), passes, invalidation)?;
        Ok(Self { options, ..*self })
    }
}

impl Workload for Replayed<'_> {
    fn run(&self, platform: &Platform, measured: &Measured, mode: Mode) -> Result<Report, Trouble> {
        let Self { trace, options } = self;
        Ok(replay::run(platform, trace, options, measured, mode)?)
    }

    /// What is done with one mapping.
    fn transfer(&self) -> Transfer {
        let all = self.trace.records().iter();
        let maps = all.filter(|record| matches!(record.what, What::Map { .. }));
        Transfer {
            accesses: self.options.accesses(self.trace) as f64 / maps.count().max(1) as f64,
            per_mapping: Some(1.0),
        }
    }

    /// A mapping, and its share of the unmappings: some stay, and some go together.
    fn seen(&self, report: &Report) -> Option<Picos> {
        let counted = &report.counted;
        let maps = counted.maps.count();
        let all = counted.maps.average().times(maps)
            + counted.unmaps.average().times(counted.unmaps.count());
        (maps > 0).then(|| Picos(all.0 / maps))
    }

    /// One access at a time, which the CPU waits for: that is no rate of a device's.
    fn has_rate(&self) -> bool {
        false
    }

    fn variants(&self) -> Vec<Variant<'_>> {
        let mut all = Vec::new();
        let (passes, invalidation) = (self.options.passes(), self.options.invalidation());
        // There are at most 1,000.
        if let Ok(more) = self.with(passes.saturating_mul(MORE), invalidation) {
            all.push(Variant {
                what: "times a mapping is read",
                here: passes.to_string(),
                told: false,
                tries: vec![(more.options.passes().to_string(), Box::new(more))],
            });
        }
        let other = match invalidation {
            Invalidation::Strict => Invalidation::Lazy,
            Invalidation::Lazy => Invalidation::Strict,
        };
        if let Ok(turned) = self.with(passes, other) {
            all.push(Variant {
                what: "invalidation",
                here: invalidation.word().to_owned(),
                told: true,
                tries: vec![(other.word().to_owned(), Box::new(turned))],
            });
        }
        all
    }
}
