//! A short description of devices and of what they ask for, and the scenario that it
//! stands for.

use crate::input::{self, Bounded, Check, Impossible, InputError};
use crate::platform::{HostMemory, Platform};
use crate::scenario::{
    Buffers, Dma, Host, Initiators, Invalidation, Iovas, Lifetime, MOST_MEMORY, Pattern, Placement,
    Run, Scenario, Share,
};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::Path;
use toml::Spanned;

/// What a person says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// A name for tables.
    pub name: String,
    /// How many devices there are: 1 to 4,096.
    pub devices: Bounded<1, 4096>,
    /// KiB of a buffer, whole pages: 4 to 1,048,576.
    pub buffer_kib: Spanned<Bounded<4, 1_048_576>>,
    /// How many each device has at a time: 1 to 65,536.
    pub buffers: Spanned<Bounded<1, 65_536>>,
    /// How often they are mapped anew.
    pub transfers: Spanned<Transfers>,
    /// Where their pages lie.
    pub memory: Placement,
    /// What a device moves, in megabytes a second: 1 to 1,000,000.
    pub mbytes_per_s: Bounded<1, 1_000_000>,
    /// Bytes that a device translates an address for: 64 bytes to a page. A page,
    /// where nothing is said.
    #[serde(default)]
    pub access_bytes: Option<Spanned<Bounded<64, 4096>>>,
    /// In which order a device works on them; sequential, where nothing is said.
    #[serde(default)]
    pub pattern: Order,
    /// Translations of a device under way at a time: 1 to 1,024; 16, where nothing is
    /// said.
    #[serde(default)]
    pub outstanding: Option<Bounded<1, 1024>>,
    /// When an unmapping is complete.
    pub invalidation: Invalidation,
    /// How the host's memory is in the hypervisor's tables; as the platform says,
    /// where nothing is said.
    #[serde(default)]
    pub host_memory: Option<HostMemory>,
    /// CPUs that map and unmap: 1 to 256.
    pub cpus: Bounded<1, 256>,
    /// Most mappings a second, of all devices together: 1 to 10^9. As many as the CPUs
    /// manage, where nothing is said.
    #[serde(default)]
    pub maps_per_second: Option<Spanned<Bounded<1, 1_000_000_000>>>,
    /// Whether each device has addresses of its own, as where nothing is said.
    #[serde(default)]
    pub domains: Option<Share>,
    /// Stages that the SMMU has.
    pub stages: Stages,
    /// Devices are to use the addresses of processes: they need PASIDs.
    pub sva: Spanned<bool>,
}

/// Transfers between a mapping and its unmapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfers {
    /// Buffers stay mapped.
    Static,
    /// So many: 1 to 10^9.
    Every(Bounded<1, 1_000_000_000>),
}

/// Order of accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Buffers in a row, each from its start to its end.
    #[default]
    Sequential,
    /// Any buffer, any place in it.
    Random,
    /// Nine in ten in the first tenth, the rest anywhere.
    Hot,
}

/// Stages of translation that an SMMU has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stages {
    /// Stage 1 on stage 2.
    #[default]
    Both,
    /// Only one of them at a time: there is no nesting.
    One,
}

/// What the hardware has and the software needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Stages that the SMMU has.
    pub stages: Stages,
    /// Devices use the addresses of processes.
    pub sva: bool,
}

/// Translations of a device under way, where nothing is said.
const OUTSTANDING: u64 = 16;
/// Bytes of an access, where nothing is said.
const ACCESS: u64 = 4096;

impl Description {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`input::load`].
    pub fn load(path: &Path) -> Result<Self, InputError> {
        input::load(path)
    }

    /// What the hardware has and the software needs.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked {
            stages: self.stages,
            sva: *self.sva.get_ref(),
        }
    }

    /// The platform with what is said of the host's memory.
    #[must_use]
    pub fn platform(&self, platform: Platform) -> Platform {
        match self.host_memory {
            Some(memory) if memory != platform.memory.host_memory.get() => match memory {
                HostMemory::Pages => platform.in_pages(),
                HostMemory::Blocks => platform.with_host_memory(memory),
            },
            _ => platform,
        }
    }

    fn bytes(&self) -> u64 {
        self.buffer_kib.get_ref().get() << 10
    }

    fn access(&self) -> u64 {
        let said = self.access_bytes.as_ref();
        said.map_or(ACCESS, |bytes| bytes.get_ref().get())
    }

    /// What it stands for; how much of it is run is for others to say.
    #[must_use]
    pub fn scenario(&self) -> Scenario {
        fn number<const MIN: u64, const MAX: u64>(value: u64) -> Spanned<Bounded<MIN, MAX>> {
            Spanned::new(0..0, Bounded::clamped(value))
        }
        let lifetime = match *self.transfers.get_ref() {
            Transfers::Static => Lifetime::Static,
            Transfers::Every(count) => Lifetime::Transfers(Bounded::clamped(count.get())),
        };
        let pattern = match self.pattern {
            Order::Sequential => Pattern::Sequential,
            Order::Random => Pattern::Random,
            Order::Hot => Pattern::Hot,
        };
        Scenario {
            name: self.name.clone(),
            initiators: Initiators {
                count: number(self.devices.get()),
                domains: self.domains.unwrap_or(Share::Each),
            },
            buffers: Buffers {
                bytes: number(self.bytes()),
                live: number(self.buffers.get_ref().get()),
                lifetime,
                memory: self.memory,
                iova: Iovas::Recycled,
            },
            dma: Dma {
                bytes: number(self.access()),
                pattern,
                outstanding: self
                    .outstanding
                    .unwrap_or_else(|| Bounded::clamped(OUTSTANDING)),
                link_mbytes_per_s: self.mbytes_per_s,
            },
            host: Host {
                cpus: self.cpus,
                invalidation: self.invalidation,
                viommus: None,
                pause_ns: None,
                maps_per_second: self.maps_per_second.as_ref().map(|rate| *rate.get_ref()),
            },
            run: Run {
                count: Bounded::clamped(1),
                warm_up: Bounded::clamped(0),
                seed: Bounded::clamped(1),
            },
        }
    }
}

impl Check for Description {
    fn check(&self) -> Result<(), Impossible> {
        let kib = self.buffer_kib.get_ref().get();
        if !kib.is_multiple_of(4) {
            return Err(Impossible::at(
                &self.buffer_kib,
                format!("{kib} KiB are no whole pages: a multiple of 4 up to 1048576"),
            ));
        }
        let all = self.scenario().working_set();
        if all > MOST_MEMORY {
            return Err(Impossible::at(
                &self.buffers,
                format!("all buffers take {all} bytes, at most {MOST_MEMORY} are possible"),
            ));
        }
        if let Some(access) = &self.access_bytes
            && !access.get_ref().get().is_power_of_two()
        {
            return Err(Impossible::at(
                access,
                format!(
                    "{} is no power of two: 64, 128, ... or 4096",
                    access.get_ref().get()
                ),
            ));
        }
        if let Some(rate) = &self.maps_per_second
            && *self.transfers.get_ref() == Transfers::Static
        {
            return Err(Impossible::at(
                rate,
                "buffers that stay mapped (transfers = \"static\") are not mapped so often",
            ));
        }
        if *self.sva.get_ref() && self.stages == Stages::One {
            return Err(Impossible::at(
                &self.sva,
                "shared virtual addresses (sva = true) need stage 1 for the processes on stage 2 for the host, and the SMMU has one of them (stages = \"one\")",
            ));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Transfers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl Visitor<'_> for Visit {
            type Value = Transfers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1 to 1000000000, or \"static\"")
            }

            fn visit_i64<E: serde::de::Error>(self, found: i64) -> Result<Transfers, E> {
                match u64::try_from(found) {
                    Ok(count @ 1..=1_000_000_000) => Ok(Transfers::Every(Bounded::clamped(count))),
                    _ => Err(E::invalid_value(Unexpected::Signed(found), &self)),
                }
            }

            fn visit_u64<E: serde::de::Error>(self, found: u64) -> Result<Transfers, E> {
                match i64::try_from(found) {
                    Ok(found) => self.visit_i64(found),
                    Err(_) => Err(E::invalid_value(Unexpected::Unsigned(found), &self)),
                }
            }

            fn visit_str<E: serde::de::Error>(self, found: &str) -> Result<Transfers, E> {
                match found {
                    "static" => Ok(Transfers::Static),
                    _ => Err(E::invalid_value(Unexpected::Str(found), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visit)
    }
}
