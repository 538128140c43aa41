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
use crate::scenario::Scenario;
use smmuv3_spec::StreamId;

/// What a machine needs to be made.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Its hardware.
    pub platform: &'a Platform,
    /// Its load.
    pub scenario: &'a Scenario,
}

impl Shape<'_> {
    /// How many devices there are.
    #[must_use]
    pub fn initiators(&self) -> usize {
        self.scenario.initiators.count.get_ref().size()
    }

    /// How many spaces of addresses there are.
    #[must_use]
    pub fn domains(&self) -> usize {
        match self.scenario.initiators.domains {
            crate::scenario::Share::Each => self.initiators(),
            crate::scenario::Share::Shared => 1,
        }
    }

    /// The space of a device.
    #[must_use]
    pub fn domain_of(&self, initiator: usize) -> usize {
        match self.scenario.initiators.domains {
            crate::scenario::Share::Each => initiator,
            crate::scenario::Share::Shared => 0,
        }
    }
}

/// The stream of a device.
#[must_use]
pub fn stream(initiator: usize) -> StreamId {
    // At most 4096.
    StreamId(initiator as u32)
}
