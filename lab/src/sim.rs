//! A scenario on a platform, in one mode.

mod addresses;
mod engine;
mod host;
mod initiator;
mod jobs;
mod random;
mod report;

pub(crate) use report::lines;
pub use report::{Counted, Report, table};

use crate::machine::{Machine, MachineError, Mode, Shape, with_client};
use crate::measured::Measured;
use crate::platform::Platform;
use crate::scenario::Scenario;
use engine::Engine;
use host::Host;
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
        let host = Host::new(&machine, &shape, measured, how, client);
        Engine::new(host, &shape, scenario, machine.buffers()).run()
    });
    let mut report = report.map_err(failed)??;
    report.wall = began.elapsed();
    Ok(report)
}
