//! What is measured, how the host is set meanwhile, and what is to be reached.

use super::lines::{Entries, Goals, Mode};
use serde::{Deserialize, Serialize};

/// Bytes of the smallest mapping, and of the smaller read.
pub const BLOCK: u64 = 4 << 10;
/// Bytes of the larger read.
pub const LARGE_READ: u64 = 128 << 10;
/// CPUs that map at once.
pub const CROWD: u32 = 4;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A mapping of so many contiguous bytes.
    Map(u64),
    /// Its end.
    Unmap(u64),
    /// Both, on several CPUs at once: only what they take together can be told.
    Both(u64),
    /// A mapping of so many scattered bytes by a program, through VFIO.
    VfioMap(u64),
    /// Its end.
    VfioUnmap(u64),
    /// One after the other: what they cause can be counted from outside only
    /// together.
    VfioBoth(u64),
    /// A read of so many bytes from the disk.
    Read(u64),
    /// A packet to the network and its answer.
    Echo,
    /// A packet to the network.
    Datagram,
}

/// How the host is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Every unmapping is complete when it returns.
    Strict,
    /// Unmappings are completed many at once.
    Lazy,
    /// As strict, on so many CPUs at once.
    Crowded(u32),
}

/// What the figure of a row is, of all the times it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The average.
    Average,
    /// The cheapest: when the CPU goes idle meanwhile is the build machine's
    /// affair, and only ever adds.
    Least,
    /// What a tenth stayed below: in the very cheapest two interrupts happened to
    /// be one.
    Tenth,
}

impl Work {
    /// The name of it, as programs know it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Map(_) => "map",
            Self::Unmap(_) => "unmap",
            Self::Both(_) => "map_unmap",
            Self::VfioMap(_) => "vfio_map",
            Self::VfioUnmap(_) => "vfio_unmap",
            Self::VfioBoth(_) => "vfio_map_unmap",
            Self::Read(_) => "nvme_read",
            Self::Echo => "e1000e_echo",
            Self::Datagram => "e1000e_datagram",
        }
    }

    /// The work with this [`Work::key`].
    #[must_use]
    pub fn of(key: &str, bytes: u64) -> Option<Self> {
        let all = [
            Self::Map(bytes),
            Self::Unmap(bytes),
            Self::Both(bytes),
            Self::VfioMap(bytes),
            Self::VfioUnmap(bytes),
            Self::VfioBoth(bytes),
            Self::Read(bytes),
            Self::Echo,
            Self::Datagram,
        ];
        all.into_iter().find(|work| work.key() == key)
    }

    /// The words for it.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Map(bytes) => format!("map {}", size(bytes)),
            Self::Unmap(bytes) => format!("unmap {}", size(bytes)),
            Self::Both(bytes) => format!("map + unmap {}", size(bytes)),
            Self::VfioMap(bytes) => format!("VFIO map {} scattered", size(bytes)),
            Self::VfioUnmap(bytes) => format!("VFIO unmap {} scattered", size(bytes)),
            Self::VfioBoth(bytes) => format!("VFIO map + unmap {} scattered", size(bytes)),
            Self::Read(bytes) => format!("NVMe read of {}", size(bytes)),
            Self::Echo => "e1000e echo, 1000 B".to_owned(),
            Self::Datagram => "e1000e datagram, 1000 B".to_owned(),
        }
    }

    /// Bytes of one operation.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Map(bytes)
            | Self::Unmap(bytes)
            | Self::Both(bytes)
            | Self::VfioMap(bytes)
            | Self::VfioUnmap(bytes)
            | Self::VfioBoth(bytes)
            | Self::Read(bytes) => bytes,
            Self::Echo | Self::Datagram => super::stage::PACKET,
        }
    }

    /// What its figures are.
    #[must_use]
    pub fn statistic(self) -> Statistic {
        match self {
            Self::Read(_) | Self::Datagram => Statistic::Least,
            Self::Echo => Statistic::Tenth,
            _ => Statistic::Average,
        }
    }
}

impl Setting {
    /// The words for it.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Strict => "strict".to_owned(),
            Self::Lazy => "lazy".to_owned(),
            Self::Crowded(cpus) => format!("strict, {cpus} CPUs"),
        }
    }

    /// As programs know it; the CPUs are told apart.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Strict | Self::Crowded(_) => "strict",
        }
    }

    /// How many CPUs work.
    #[must_use]
    pub fn cpus(self) -> u32 {
        match self {
            Self::Strict | Self::Lazy => 1,
            Self::Crowded(cpus) => cpus,
        }
    }

    /// Whether it is another one with this kind of IOMMU: without any there is
    /// nothing to put off, and nothing to contend for.
    #[must_use]
    pub fn concerns(self, mode: Mode) -> bool {
        self == Self::Strict || !matches!(mode, Mode::Identity | Mode::Untranslated)
    }

    /// What the host's kernel is told.
    #[must_use]
    pub fn argument(self) -> &'static str {
        match self {
            Self::Lazy => " iommu.strict=0",
            Self::Strict | Self::Crowded(_) => " iommu.strict=1",
        }
    }
}

/// A size for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// What a row is called.
#[must_use]
pub fn name(work: Work, setting: Setting) -> String {
    format!("{}, {}", work.words(), setting.words())
}

/// What paravirt mode is to reach.
#[must_use]
pub fn paravirt_goals(work: Work, setting: Setting) -> Goals {
    let entries = Some(Entries::Exactly(1.0));
    let limits = |ratio, share| Goals {
        ratio: Some(ratio),
        share,
        entries,
    };
    match (work, setting) {
        (Work::Map(BLOCK), Setting::Strict) => limits(3.0, Some(570.0)),
        (Work::Unmap(BLOCK), Setting::Strict) => limits(1.45, Some(790.0)),
        (Work::Map(0x10_0000), Setting::Strict) => limits(0.6, None),
        (Work::Unmap(0x10_0000), Setting::Strict) => limits(0.25, None),
        (Work::Both(_), Setting::Crowded(CROWD)) => Goals {
            entries: Some(Entries::AtMost(2.0)),
            ..Goals::default()
        },
        _ => Goals::default(),
    }
}

/// What nested mode is to reach.
#[must_use]
pub fn nested_goals(work: Work, setting: Setting) -> Goals {
    /// Larger mappings, and larger reads, are told without a goal.
    const JUDGED: u64 = 1 << 20;
    let ratio = |limit| Goals {
        ratio: Some(limit),
        ..Goals::default()
    };
    match (work, setting) {
        (Work::Both(_), Setting::Crowded(CROWD)) => Goals {
            entries: Some(Entries::AtMost(1.0)),
            ..Goals::default()
        },
        // Lazy hosts now and then find, in an unmapping or mapping that takes
        // an interrupt, that the time has come to invalidate.
        (Work::Map(..=JUDGED), Setting::Lazy) => ratio(1.01),
        (Work::Map(..=JUDGED), Setting::Strict) => Goals {
            ratio: Some(1.01),
            entries: Some(Entries::AtMost(0.0)),
            ..Goals::default()
        },
        (Work::Unmap(BLOCK), Setting::Strict) => Goals {
            ratio: Some(1.25),
            entries: Some(Entries::Exactly(1.0)),
            ..Goals::default()
        },
        (Work::Unmap(JUDGED), Setting::Strict) => ratio(1.05),
        (Work::Unmap(..=JUDGED), Setting::Lazy) => ratio(1.02),
        (Work::Read(BLOCK) | Work::Echo | Work::Datagram, Setting::Strict) => ratio(1.25),
        (Work::Read(BLOCK) | Work::Echo | Work::Datagram, Setting::Lazy) => ratio(1.03),
        _ => Goals::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_translated_there_is_one_setting() {
        for mode in [Mode::Identity, Mode::Untranslated] {
            assert!(Setting::Strict.concerns(mode));
            assert!(!Setting::Lazy.concerns(mode));
            assert!(!Setting::Crowded(2).concerns(mode));
        }
        assert!(Setting::Crowded(2).concerns(Mode::Native));
    }

    #[test]
    fn a_key_leads_back() {
        for work in [
            Work::Map(1),
            Work::Both(2),
            Work::VfioUnmap(3),
            Work::Read(4),
        ] {
            assert_eq!(Work::of(work.key(), work.bytes()), Some(work));
        }
        assert_eq!(Work::of("e1000e_echo", 0), Some(Work::Echo));
        assert_eq!(Work::of("echo", 0), None);
    }

    #[test]
    fn no_two_rows_have_one_name() {
        let mut names = Vec::new();
        for setting in [Setting::Strict, Setting::Lazy, Setting::Crowded(2)] {
            for work in [
                Work::Map(BLOCK),
                Work::Map(16 << 20),
                Work::Unmap(BLOCK),
                Work::Both(BLOCK),
                Work::VfioMap(1 << 20),
                Work::VfioUnmap(1 << 20),
                Work::Read(BLOCK),
                Work::Read(LARGE_READ),
                Work::Echo,
                Work::Datagram,
            ] {
                names.push(name(work, setting));
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
