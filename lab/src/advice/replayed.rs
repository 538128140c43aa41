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
        let (mut maps, mut unmaps) = (0_u64, 0_u64);
        for record in self.trace.records() {
            match record.what {
                What::Map { .. } => maps += 1,
                What::Unmap { .. } => unmaps += 1,
                What::Attach | What::Detach => {}
            }
        }
        Transfer {
            accesses: self.options.accesses(self.trace) as f64 / maps.max(1) as f64,
            per_mapping: (unmaps > 0).then_some(1.0),
        }
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
