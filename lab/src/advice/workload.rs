//! What advice can be given on.

use crate::input::Bounded;
use crate::machine::Mode;
use crate::measured::Measured;
use crate::platform::Platform;
use crate::scenario::{Invalidation, Lifetime, Pattern, Scenario};
use crate::score::{self, Transfer};
use crate::sim::{self, Report};
use crate::units::Picos;
use std::error::Error;
use toml::Spanned;

/// Why a workload could not be run.
pub type Trouble = Box<dyn Error + Send + Sync>;

/// Something that runs on a platform in any mode, and comes to the same each time.
pub trait Workload: Sync {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn run(&self, platform: &Platform, measured: &Measured, mode: Mode) -> Result<Report, Trouble>;

    /// What it counts by.
    fn transfer(&self) -> Transfer;

    /// What a run says that mapping and unmapping takes a CPU for what it counts by;
    /// `None` where it has seen none.
    fn seen(&self, report: &Report) -> Option<Picos> {
        score::jobs(report)
    }

    /// Whether the rate of a run is one that devices would have.
    fn has_rate(&self) -> bool {
        true
    }

    /// What a mapping and its unmapping take a CPU, asked where a run has seen none.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn jobs(&self, platform: &Platform, measured: &Measured, mode: Mode) -> Result<Picos, Trouble> {
        let _ = (platform, measured, mode);
        Ok(Picos::ZERO)
    }

    /// Bytes a second for which there can be mappings in the long run, where a mapping
    /// and its unmapping take a CPU `jobs`. A run that is shorter than what was mapped
    /// before it began lasts for does not show that.
    fn most_mapped(&self, jobs: Picos) -> f64 {
        let _ = jobs;
        f64::INFINITY
    }

    /// Time in which the link of a device carries a transfer, if that is known.
    fn link(&self) -> Option<Picos> {
        None
    }

    /// What of it could be otherwise, where it is no scenario.
    fn variants(&self) -> Vec<Variant<'_>> {
        Vec::new()
    }

    /// The scenario that it is, if it is one: what that says can be varied. Of
    /// anything else the platform and its [`variants`](Self::variants) are.
    fn scenario(&self) -> Option<&Scenario> {
        None
    }
}

/// Something of a workload that could be otherwise.
pub struct Variant<'a> {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub here: String,
    /// Whether that was asked about, rather than assumed.
    pub told: bool,
    /// How it could be.
    pub tries: Vec<(String, Box<dyn Workload + 'a>)>,
}

impl Workload for Scenario {
    fn run(&self, platform: &Platform, measured: &Measured, mode: Mode) -> Result<Report, Trouble> {
        Ok(sim::run(platform, self, measured, mode)?)
    }

    fn transfer(&self) -> Transfer {
        Transfer::of(self)
    }

    /// One buffer, mapped and unmapped by itself: nobody waits for anybody.
    fn jobs(&self, platform: &Platform, measured: &Measured, mode: Mode) -> Result<Picos, Trouble> {
        let mut alone = self.clone();
        alone.initiators.count = Spanned::new(0..0, Bounded::clamped(1));
        alone.buffers.live = Spanned::new(0..0, Bounded::clamped(1));
        alone.buffers.lifetime = Lifetime::Transfers(Bounded::clamped(0));
        alone.host.maps_per_second = None;
        alone.run.count = Bounded::clamped(match self.host.invalidation {
            Invalidation::Strict => ALONE,
            Invalidation::Lazy => ALONE_LAZILY,
        });
        alone.run.warm_up = Bounded::clamped(0);
        let report = sim::run(platform, &alone, measured, mode)?;
        Ok(score::jobs(&report).unwrap_or(Picos::ZERO))
    }

    fn most_mapped(&self, jobs: Picos) -> f64 {
        let transfers = match self.buffers.lifetime {
            Lifetime::Transfers(count) if count.get() != 0 => count.get() as f64,
            Lifetime::Static | Lifetime::Transfers(_) => return f64::INFINITY,
        };
        let bytes = (self.accesses() * self.dma.bytes.get_ref().get()) as f64;
        let asked = self
            .host
            .maps_per_second
            .map_or(f64::INFINITY, |rate| rate.get() as f64);
        // Nothing is mapped in no time.
        let possible = self.host.cpus.get() as f64 / jobs.as_secs();
        asked.min(possible) * transfers * bytes
    }

    fn link(&self) -> Option<Picos> {
        match self.buffers.lifetime {
            Lifetime::Transfers(count) if count.get() == 0 => None,
            _ => Some(self.interval().times(self.accesses())),
        }
    }

    fn scenario(&self) -> Option<&Scenario> {
        Some(self)
    }
}

/// Unmappings of a buffer by itself: one is like the other.
const ALONE: u64 = 16;
/// The same for a lazy host, that collects 256 of them.
const ALONE_LAZILY: u64 = 512;

/// The scenario, run for about so many accesses. Each device has to come to its turn a
/// few times, and what the caches can hold of buffers that stay mapped has to be in
/// them before anything is counted.
#[must_use]
pub fn shortened(scenario: &Scenario, accesses: u64) -> Scenario {
    let mut scenario = scenario.clone();
    let devices = scenario.initiators.count.get_ref().get();
    let count = accesses.max(32 * devices);
    let whole = scenario.working_set() / scenario.dma.bytes.get_ref().get();
    let once = match (scenario.buffers.lifetime, scenario.dma.pattern) {
        (Lifetime::Transfers(few), _) if few.get() == 0 => 0,
        (_, Pattern::Sequential | Pattern::Strided(_)) => whole,
        // Some are met often before others are met once.
        (_, Pattern::Random | Pattern::Hot) => whole.saturating_mul(2),
    };
    // Where devices ask for more than there is, what they wait grows until they have
    // as much under way as they can.
    let filled = 2 * devices * scenario.dma.outstanding.get();
    let warm_up = once.max(filled).clamp(count / 2, count.saturating_mul(2));
    scenario.run.count = Bounded::clamped(count);
    scenario.run.warm_up = Bounded::clamped(warm_up);
    scenario
}
