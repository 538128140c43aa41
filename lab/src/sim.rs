//! A scenario on a platform, in one mode.

mod addresses;
mod engine;
mod host;
mod initiator;
mod jobs;
mod random;
mod report;

pub(crate) use addresses::Space;
pub(crate) use host::Host;
pub use report::{Counted, Report, table};
pub(crate) use report::{lines, table_with};

use crate::input::Bounded;
use crate::machine::{Machine, MachineError, Mode, Shape, with_client};
use crate::measured::Measured;
use crate::platform::Platform;
use crate::scenario::Scenario;
use engine::Engine;
use std::time::Instant;
use thiserror::Error;

/// Why a simulation came to no end.
#[derive(Debug, Error)]
pub enum SimError {
    /// The code under it failed.
    #[error("{mode}: {error}")]
    Machine {
        /// In which mode.
        mode: Mode,
        /// Why.
        error: MachineError,
    },
    /// A device's access did not pass, though it was mapped.
    #[error("{mode}: an access of device {initiator} to {address:#x} was refused")]
    Refused {
        /// In which mode.
        mode: Mode,
        /// Whose.
        initiator: usize,
        /// Where.
        address: u64,
    },
    /// Nothing is left to happen.
    #[error("{mode}: nothing happens any more")]
    Idle {
        /// In which mode.
        mode: Mode,
    },
    /// All addresses that devices have are in use.
    #[error("{mode}: no address is left for a buffer")]
    Addresses {
        /// In which mode.
        mode: Mode,
    },
    /// A trace has an address that devices of the platform do not have.
    #[error(
        "line {line} of the trace maps up to {end:#x}, and the platform has addresses of {bits} \
         bits: take one whose ipa_bits is {} or more", 64 - (.end - 1).leading_zeros()
    )]
    Beyond {
        /// Where it says so.
        line: u32,
        /// The end of the mapping.
        end: u64,
        /// What the platform has.
        bits: u64,
    },
    /// A trace would take too long.
    #[error(
        "the trace comes to {accesses} accesses, and {most} are possible: larger ones, or fewer \
         passes"
    )]
    Long {
        /// So many.
        accesses: u64,
        /// So many are possible.
        most: u64,
    },
    /// What a trace maps does not fit.
    #[error("the trace's buffers take {bytes} bytes side by side, and {most} are possible")]
    Large {
        /// So many.
        bytes: u64,
        /// So many are possible.
        most: u64,
    },
}

/// How many mappings and unmappings a second a host does in paravirt mode, all CPUs
/// together: one CPU with one virtio-iommu, all CPUs with one, and all CPUs with as many as
/// the scenario has.
///
/// # Errors
/// [`SimError`].
pub fn several(
    platform: &Platform,
    scenario: &Scenario,
    measured: &Measured,
) -> Result<[f64; 3], SimError> {
    let one = Some(Bounded::clamped(1));
    let mut rates = [0.0; 3];
    let viommus = scenario.host.viommus.or(one);
    let cases = [
        (Bounded::clamped(1), one),
        (scenario.host.cpus, one),
        (scenario.host.cpus, viommus),
    ];
    for (rate, (cpus, viommus)) in rates.iter_mut().zip(cases) {
        let mut scenario = scenario.clone();
        (scenario.host.cpus, scenario.host.viommus) = (cpus, viommus);
        let report = run(platform, &scenario, measured, Mode::Paravirt)?;
        let done = report.counted.maps.count() + report.counted.unmaps.count();
        *rate = done as f64 / report.elapsed.as_secs().max(f64::MIN_POSITIVE);
    }
    Ok(rates)
}

/// Runs a scenario.
///
/// # Errors
/// [`SimError`].
pub fn run(
    platform: &Platform,
    scenario: &Scenario,
    measured: &Measured,
    mode: Mode,
) -> Result<Report, SimError> {
    let shape = Shape::of(platform, scenario);
    let failed = |error| SimError::Machine { mode, error };
    let machine = Machine::new(&shape).map_err(failed)?;
    let began = Instant::now();
    let report = with_client(&machine, &shape, mode, |client| {
        let how = (mode, scenario.host.invalidation);
        let mut host = Host::new(&machine, &shape, measured, how, client);
        if let Some(viommus) = scenario.host.viommus.filter(|_| mode == Mode::Paravirt) {
            host.lock_each(viommus.size());
        }
        Engine::new(host, &shape, scenario, machine.buffers()).run()
    });
    let mut report = report.map_err(failed)??;
    report.wall = began.elapsed();
    Ok(report)
}
