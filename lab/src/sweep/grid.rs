//! What is varied.

use crate::input::Bounded;
use crate::platform::{Nanos, Platform};
use crate::scenario::{
    Buffers, Dma, Host, Initiators, Invalidation, Iovas, Lifetime, Pattern, Placement, Run,
    Scenario, Share,
};
use toml::Spanned;

/// Bytes of a buffer, and of a transfer.
const BUFFER: u64 = 65_536;
/// Bytes of an access.
const ACCESS: u64 = 4096;

/// Megabytes a second of a device, and of all together.
const LINK: u64 = 8000;
const LINKS: u64 = 64_000;

/// What is on the second axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bytes of all buffers of one device.
    WorkingSet,
    /// Devices, each with 16 buffers.
    Initiators,
    /// Nanoseconds of a trap, for a working set of 16 MiB.
    Trap,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WorkingSet, Self::Initiators, Self::Trap];

    /// Its name in files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::WorkingSet => "working-set",
            Self::Initiators => "initiators",
            Self::Trap => "trap",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// What the axis says.
    #[must_use]
    pub const fn axis(self) -> &'static str {
        match self {
            Self::WorkingSet => "working set (KiB)",
            Self::Initiators => "devices, 1 MiB each",
            Self::Trap => "trap (ns), working set 16 MiB",
        }
    }
}

/// A map.
#[derive(Clone, Debug)]
pub struct Grid {
    /// What is on the second axis.
    pub kind: Kind,
    /// Transfers between a mapping and its unmapping.
    pub transfers: Vec<u64>,
    /// Values on the second axis: KiB, devices or nanoseconds.
    pub values: Vec<u64>,
    /// What the cells have in common.
    pub load: Load,
}

/// What all cells of a map have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Load {
    /// When an unmapping is complete.
    pub invalidation: Invalidation,
    /// Where the pages of a buffer lie.
    pub memory: Placement,
    /// Accesses that are simulated for each cell and mode.
    pub accesses: u64,
}

impl Load {
    /// In words.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match (self.invalidation, self.memory) {
            (Invalidation::Strict, Placement::Contiguous) => "strict,contiguous",
            (Invalidation::Strict, Placement::Scattered) => "strict,scattered",
            (Invalidation::Lazy, Placement::Contiguous) => "lazy,contiguous",
            (Invalidation::Lazy, Placement::Scattered) => "lazy,scattered",
        }
    }
}

impl Grid {
    /// The map of this kind.
    #[must_use]
    pub fn new(kind: Kind, load: Load) -> Self {
        let values = match kind {
            Kind::WorkingSet => vec![256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576],
            Kind::Initiators => vec![1, 4, 16, 64, 256, 1024, 4096],
            Kind::Trap => vec![0, 50, 150, 500, 1500, 5000],
        };
        Self {
            kind,
            transfers: vec![1, 3, 10, 30, 100, 300, 1000, 10_000],
            values,
            load,
        }
    }

    /// Its cells, row by row.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        self.values.iter().flat_map(|value| {
            self.transfers.iter().map(|transfers| Cell {
                kind: self.kind,
                value: *value,
                transfers: *transfers,
                load: self.load,
            })
        })
    }
}

/// One point of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// What is on the second axis.
    pub kind: Kind,
    /// The value there.
    pub value: u64,
    transfers: u64,
    load: Load,
}

impl Cell {
    /// Transfers between a mapping and its unmapping.
    #[must_use]
    pub const fn transfers(&self) -> u64 {
        self.transfers
    }

    /// What tells it from every other.
    #[must_use]
    pub fn key(&self) -> String {
        let Self {
            value,
            transfers,
            load,
            ..
        } = self;
        let (words, accesses) = (load.words(), load.accesses);
        format!(
            "{},{words},{value},{transfers},{accesses}",
            self.kind.word()
        )
    }

    /// The platform with what the cell changes of it.
    pub(super) fn platform(&self, platform: &Platform) -> Platform {
        let mut platform = platform.clone();
        if self.kind == Kind::Trap {
            platform.cpu.trap_ns.value = Spanned::new(0..0, Nanos::clamped(self.value));
        }
        platform
    }

    /// The load: random accesses, for a while.
    pub(super) fn scenario(&self) -> Scenario {
        let (initiators, live) = match self.kind {
            Kind::WorkingSet => (1, (self.value << 10) / BUFFER),
            Kind::Initiators => (self.value, 16),
            Kind::Trap => (1, (16 << 20) / BUFFER),
        };
        let transfers = Lifetime::Transfers(Bounded::clamped(self.transfers));
        // Each device has to come to its turn a few times.
        let accesses = self.load.accesses.max(32 * initiators);
        self.scenario_of(initiators, live, transfers, accesses)
    }

    /// Only mappings and unmappings.
    pub(super) fn mappings(&self) -> Scenario {
        self.scenario_of(1, 4, Lifetime::Transfers(Bounded::clamped(0)), 512)
    }

    fn scenario_of(&self, initiators: u64, live: u64, lifetime: Lifetime, count: u64) -> Scenario {
        fn number<const MIN: u64, const MAX: u64>(value: u64) -> Spanned<Bounded<MIN, MAX>> {
            Spanned::new(0..0, Bounded::clamped(value))
        }
        Scenario {
            name: "sweep".to_owned(),
            initiators: Initiators {
                count: number(initiators),
                domains: Share::Each,
            },
            buffers: Buffers {
                bytes: number(BUFFER),
                live: number(live),
                lifetime,
                memory: self.load.memory,
                iova: Iovas::Recycled,
            },
            dma: Dma {
                bytes: number(ACCESS),
                pattern: Pattern::Random,
                outstanding: Bounded::clamped(16),
                link_mbytes_per_s: Bounded::clamped(LINK.min(LINKS / initiators)),
            },
            host: Host {
                cpus: Bounded::clamped(4),
                invalidation: self.load.invalidation,
                viommus: None,
                pause_ns: None,
                maps_per_second: None,
            },
            run: Run {
                count: Bounded::clamped(count),
                warm_up: Bounded::clamped(count / 2),
                seed: Bounded::clamped(1),
            },
        }
    }
}
