//! The machine that the real code runs on: memory, the SMMU's registers, and a
//! client that plays the host's drivers.
//!
//! What an SMMU does, the model does. It caches nothing here; caches are the
//! [timing](crate::timing) layer's, and drop what the commands say that the model
//! consumed.

mod client;
mod error;
mod identity;
mod memory;
mod native;
mod nested;
mod paravirt;
mod stage2;
mod stock;
mod window;
mod zone;

pub use client::{Client, Mode, Work, with_client};
pub use error::MachineError;
pub use memory::Machine;
pub use zone::{Zone, ZoneRef};

use crate::platform::Platform;
use crate::scenario::{Scenario, Share};
use smmuv3_spec::StreamId;

/// What a machine needs to be made.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Its hardware.
    pub platform: &'a Platform,
    initiators: usize,
    domains: Share,
    memory: u64,
}

impl<'a> Shape<'a> {
    /// For the load of a scenario.
    #[must_use]
    pub fn of(platform: &'a Platform, scenario: &Scenario) -> Self {
        Self {
            platform,
            initiators: scenario.initiators.count.get_ref().size(),
            domains: scenario.initiators.domains,
            memory: scenario.working_set(),
        }
    }

    /// For so many devices, each with addresses of its own, that work on `memory`
    /// bytes. There is one at least, and 4,096 at most.
    pub(crate) fn with(platform: &'a Platform, devices: usize, memory: u64) -> Self {
        Self {
            platform,
            initiators: devices.clamp(1, 4096),
            domains: Share::Each,
            memory,
        }
    }

    /// How many devices there are.
    #[must_use]
    pub fn initiators(&self) -> usize {
        self.initiators
    }

    /// How many spaces of addresses there are.
    #[must_use]
    pub fn domains(&self) -> usize {
        match self.domains {
            Share::Each => self.initiators,
            Share::Shared => 1,
        }
    }

    /// The space of a device.
    #[must_use]
    pub fn domain_of(&self, initiator: usize) -> usize {
        match self.domains {
            Share::Each => initiator,
            Share::Shared => 0,
        }
    }

    /// Bytes of memory that devices work on.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory
    }
}

/// The stream of a device.
#[must_use]
pub fn stream(initiator: usize) -> StreamId {
    // At most 4096.
    StreamId(initiator as u32)
}
