//! What devices and drivers do.

use crate::input::{self, Bounded, Check, Impossible, InputError};
use crate::units::Picos;
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;

/// A workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A name for tables.
    pub name: String,
    /// The devices.
    pub initiators: Initiators,
    /// What they work on.
    pub buffers: Buffers,
    /// How they do it.
    pub dma: Dma,
    /// The host's driver.
    pub host: Host,
    /// How long.
    pub run: Run,
}

/// Devices that do DMA on their own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initiators {
    /// How many: 1 to 4,096.
    pub count: Spanned<Bounded<1, 4096>>,
    /// Whether each has addresses of its own.
    pub domains: Share,
}

/// Whether something is one for all or one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// One for each.
    Each,
    /// One for all.
    Shared,
}

/// What is mapped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffers {
    /// Bytes of one: 4 KiB to 1 GiB, whole pages.
    pub bytes: Spanned<Bounded<4096, 0x4000_0000>>,
    /// How many each initiator has at a time: 1 to 65,536.
    pub live: Spanned<Bounded<1, 65_536>>,
    /// When they are mapped anew.
    pub lifetime: Lifetime,
    /// Where they lie in memory.
    pub memory: Placement,
    /// How the host picks their addresses.
    pub iova: Iovas,
}

/// How long a buffer stays mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Lifetime {
    /// For ever.
    Static,
    /// For so many transfers; 0: it is unmapped at once.
    Transfers(Bounded<0, 1_000_000_000>),
}

/// Where the pages of a buffer lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// One after the other.
    Contiguous,
    /// Anywhere.
    Scattered,
}

/// Where new mappings go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Iovas {
    /// From the top down, and where the last of that size was that went: what
    /// Linux does.
    Recycled,
    /// Each time to another place, until all of them were used.
    Fresh,
}

/// What one initiator does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dma {
    /// Bytes of one DMA: 64 bytes to a page.
    pub bytes: Spanned<Bounded<64, 4096>>,
    /// In which order.
    pub pattern: Pattern,
    /// Translations under way at a time: 1 to 1,024.
    pub outstanding: Bounded<1, 1024>,
    /// What its link carries, in megabytes a second: 1 to 1,000,000.
    pub link_mbytes_per_s: Bounded<1, 1_000_000>,
}

/// Order of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Pattern {
    /// Buffers in a row, each from its start to its end.
    Sequential,
    /// Any buffer, any place in it.
    Random,
    /// Buffers in a row, in steps of so many bytes: 64 bytes to 1 GiB.
    Strided(Bounded<64, 0x4000_0000>),
    /// Nine in ten in the first tenth, the rest anywhere.
    Hot,
}

/// The host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// CPUs that map and unmap: 1 to 256.
    pub cpus: Bounded<1, 256>,
    /// When an unmapping is complete.
    pub invalidation: Invalidation,
    /// Nanoseconds between the unmapping of a buffer and its next mapping, on
    /// average; each is from half to one and a half times that.
    #[serde(default)]
    pub pause_ns: Option<Bounded<0, 1_000_000_000>>,
    /// Virtio-iommus that the devices are spread over in paravirt mode, each with a lock
    /// in the host's driver and one in EL2: 1 to 8. Where nothing is said there is one,
    /// whose driver waits for no other.
    #[serde(default)]
    pub viommus: Option<Bounded<1, 8>>,
    /// Most mappings a second, of all devices together: 1 to 10^9. As many as the
    /// CPUs manage where nothing is said.
    #[serde(default)]
    pub maps_per_second: Option<Bounded<1, 1_000_000_000>>,
}

/// When an unmapping is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Invalidation {
    /// When it returns.
    Strict,
    /// With 255 others, later.
    Lazy,
}

impl Invalidation {
    /// Its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Lazy => "lazy",
        }
    }
}

/// How much is simulated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// DMAs, or where there are none, unmappings: 1 to 10^9.
    pub count: Bounded<1, 1_000_000_000>,
    /// As many before anything is counted.
    pub warm_up: Bounded<0, 1_000_000_000>,
    /// Seed of whatever is random.
    pub seed: Bounded<0, 0x7fff_ffff_ffff_ffff>,
}

/// Most memory that buffers may take: 64 GiB.
pub const MOST_MEMORY: u64 = 64 << 30;

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`input::load`].
    pub fn load(path: &Path) -> Result<Self, InputError> {
        input::load(path)
    }

    /// Bytes of all buffers.
    #[must_use]
    pub fn working_set(&self) -> u64 {
        let each = self.buffers.bytes.get_ref().get();
        let count = self.initiators.count.get_ref().get() * self.buffers.live.get_ref().get();
        each.saturating_mul(count)
    }

    /// Accesses of a transfer.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        let step = match self.dma.pattern {
            Pattern::Strided(step) => step.get(),
            _ => self.dma.bytes.get_ref().get(),
        };
        self.buffers.bytes.get_ref().get().div_ceil(step).max(1)
    }

    /// Time in which the link of an initiator carries one DMA.
    #[must_use]
    pub fn interval(&self) -> Picos {
        let bytes = self.dma.bytes.get_ref().get();
        // Bytes in 10^12 ps.
        Picos(bytes * 1_000_000 / self.dma.link_mbytes_per_s.get())
    }

    /// Between one mapping and the next, at least.
    #[must_use]
    pub fn map_interval(&self) -> Picos {
        let rate = self.host.maps_per_second.map_or(0, Bounded::get);
        Picos(1_000_000_000_000_u64.checked_div(rate).unwrap_or(0))
    }

    /// Between an unmapping and the next mapping.
    #[must_use]
    pub fn pause(&self) -> Picos {
        let nanos = self.host.pause_ns.map_or(0, Bounded::get);
        Picos::from_nanos(nanos)
    }
}

impl Check for Scenario {
    fn check(&self) -> Result<(), Impossible> {
        let bytes = self.buffers.bytes.get_ref().get();
        if !bytes.is_multiple_of(4096) {
            return Err(Impossible::at(
                &self.buffers.bytes,
                format!("{bytes} bytes are no whole pages: a multiple of 4096 up to 1073741824"),
            ));
        }
        if self.working_set() > MOST_MEMORY {
            return Err(Impossible::at(
                &self.buffers.live,
                format!(
                    "all buffers take {} bytes, at most {MOST_MEMORY} are possible",
                    self.working_set()
                ),
            ));
        }
        let dma = self.dma.bytes.get_ref().get();
        if !dma.is_power_of_two() {
            return Err(Impossible::at(
                &self.dma.bytes,
                format!("{dma} is no power of two: 64, 128, ... or 4096"),
            ));
        }
        if let Pattern::Strided(step) = self.dma.pattern
            && (step.get() > bytes || !step.get().is_multiple_of(dma))
        {
            return Err(Impossible::at(
                &self.dma.bytes,
                format!(
                    "steps of {} bytes must be a multiple of {dma} and fit a buffer of {bytes}",
                    step.get()
                ),
            ));
        }
        Ok(())
    }
}
