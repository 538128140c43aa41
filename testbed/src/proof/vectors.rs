//! What `/proc/interrupts` says about the devices' interrupts.

use std::collections::BTreeMap;

/// What the kernel calls interrupts that come through an ITS starts with this.
const CHIP: &str = "ITS-";

/// One interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Vector {
    chip: String,
    name: String,
    /// How often it came, by CPU.
    counts: BTreeMap<u32, u64>,
}

impl Vector {
    fn parse(line: &str, cpus: &[u32]) -> Option<(u32, Self)> {
        let (number, rest) = line.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let mut words = rest.split_ascii_whitespace();
        let mut counts = BTreeMap::new();
        for cpu in cpus {
            counts.insert(*cpu, words.next()?.parse().ok()?);
        }
        let chip = words.next()?.to_owned();
        let name = words.next_back()?.to_owned();
        Some((number, Self { chip, name, counts }))
    }
}

/// The interrupts of a machine at one time.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    vectors: BTreeMap<u32, Vector>,
}

/// A device whose interrupts are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The NVMe disk: a queue for each CPU, and one for the administrator.
    Disk,
    /// The virtio disk: a queue for each CPU.
    VirtioDisk,
    /// The serial ports of virtio: two for each of 31 ports, and one for all.
    Ports,
    /// The network.
    Network,
}

impl Device {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Disk, Self::VirtioDisk, Self::Ports, Self::Network];

    fn has(self, name: &str) -> bool {
        let virtio = |ends: &[&str]| {
            let of_one = name.strip_prefix("virtio");
            of_one
                .and_then(|rest| rest.split_once('-'))
                .is_some_and(|(_, what)| ends.iter().any(|end| what.starts_with(end)))
        };
        match self {
            Self::Disk => name.starts_with("nvme0q"),
            Self::VirtioDisk => virtio(&["req."]),
            Self::Ports => virtio(&["input", "output", "control"]),
            Self::Network => name.starts_with("eth0"),
        }
    }

    /// How many interrupts it has with so many CPUs, and how many of them come when
    /// all CPUs use it.
    fn vectors(self, cpus: usize) -> (usize, usize) {
        match self {
            // The one of the administrator comes only when there is something to do.
            Self::Disk => (cpus + 1, cpus),
            Self::VirtioDisk => (cpus, cpus),
            // Two ports are used, and each has a queue for either way.
            Self::Ports => (2 * 31 + 1, 4),
            // Receiving, sending, and what else there is to say.
            Self::Network => (3, 2),
        }
    }
}

impl Vectors {
    /// Takes the file apart.
    #[must_use]
    pub fn parse(lines: &[String]) -> Self {
        let mut lines = lines.iter();
        let heading = lines.next().map_or("", String::as_str);
        let cpus: Vec<u32> = heading
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
            .collect();
        let vectors = lines.filter_map(|line| Vector::parse(line, &cpus));
        Self {
            vectors: vectors.collect(),
        }
    }

    fn of(&self, device: Device) -> impl Iterator<Item = (u32, &Vector)> {
        let vectors = self
            .vectors
            .iter()
            .map(|(number, vector)| (*number, vector));
        vectors.filter(move |(_, vector)| device.has(&vector.name))
    }

    /// The numbers of a device's interrupts.
    #[must_use]
    pub fn numbers(&self, device: Device) -> Vec<u32> {
        self.of(device).map(|(number, _)| number).collect()
    }

    /// How often a device's interrupts came since `before`, by CPU.
    #[must_use]
    pub fn by_cpu(&self, before: &Self, device: Device) -> BTreeMap<u32, u64> {
        let mut sums = BTreeMap::new();
        for (number, vector) in self.of(device) {
            for (cpu, count) in &vector.counts {
                let then = before.count(number, *cpu);
                *sums.entry(*cpu).or_insert(0) += count.saturating_sub(then);
            }
        }
        sums
    }

    fn count(&self, number: u32, cpu: u32) -> u64 {
        let vector = self.vectors.get(&number);
        vector.map_or(0, |vector| vector.counts.get(&cpu).copied().unwrap_or(0))
    }

    /// Whether every device has all its interrupts through an ITS and all that were
    /// to come since `before` did, on a machine with so many CPUs; how many there are
    /// and came, or what is wrong.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn judge(&self, before: &Self, cpus: usize) -> Result<String, String> {
        let (mut all, mut sum) = (0, 0);
        for device in Device::ALL {
            let (has, come) = device.vectors(cpus);
            let own: Vec<_> = self.of(device).collect();
            let wired = own
                .iter()
                .find(|(_, vector)| !vector.chip.starts_with(CHIP));
            if let Some((number, vector)) = wired {
                return Err(format!("{device:?}: {number} is not the ITS's: {vector:?}"));
            }
            if own.len() != has {
                return Err(format!("{device:?}: {} interrupts, not {has}", own.len()));
            }
            let came = |(number, vector): &(u32, &Vector)| {
                let new =
                    |(cpu, count): (&u32, &u64)| count - before.count(*number, *cpu).min(*count);
                vector.counts.iter().map(new).sum::<u64>()
            };
            let counts: Vec<u64> = own.iter().map(came).collect();
            let used = counts.iter().filter(|count| **count != 0).count();
            if used < come {
                return Err(format!(
                    "{device:?}: only {used} of its interrupts came, not {come}"
                ));
            }
            all += own.len();
            sum += counts.iter().sum::<u64>();
        }
        Ok(format!("{sum} interrupts of {all} vectors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a machine with two CPUs has to say when each vector came so often.
    fn said(count: u64, chip: &str) -> Vec<String> {
        let mut names: Vec<String> = ["eth0-rx-0", "eth0-tx-0", "eth0", "virtio1-control-i"]
            .map(str::to_owned)
            .to_vec();
        names.extend((0..3).map(|queue| format!("nvme0q{queue}")));
        names.extend((0..2).map(|queue| format!("virtio0-req.{queue}")));
        names.extend((0..31).flat_map(|_| ["virtio1-input", "virtio1-output"].map(str::to_owned)));
        let mut lines = vec![
            "           CPU0       CPU2       ".to_owned(),
            " 11:        9          9     GICv3  27 Level     arch_timer".to_owned(),
            "IPI0:       1          2       Rescheduling interrupts".to_owned(),
        ];
        lines.extend(names.iter().enumerate().map(|(at, name)| {
            format!(
                " {}:   {count}     0  {chip}-0000:00:01.0   {at} Edge      {name}",
                at + 20
            )
        }));
        lines
    }

    #[test]
    fn vectors_that_came_are_told_from_those_that_did_not() {
        let before = Vectors::parse(&said(5, "ITS-PCI-MSIX"));
        let after = Vectors::parse(&said(7, "ITS-PCI-MSIX"));
        let good = "142 interrupts of 71 vectors".to_owned();
        assert_eq!(after.judge(&before, 2), Ok(good));
        assert_eq!(after.numbers(Device::Disk), [24, 25, 26]);
        let moved = BTreeMap::from([(0, 6), (2, 0)]);
        assert_eq!(after.by_cpu(&before, Device::Disk), moved);
        // None came, one device is short of one or has one too many.
        assert!(before.judge(&before, 2).is_err());
        assert!(after.judge(&before, 1).is_err());
        let wired = Vectors::parse(&said(7, "GICv3"));
        assert!(
            wired
                .judge(&before, 2)
                .is_err_and(|what| what.contains("not the ITS's"))
        );
        for gone in ["eth0-tx-0", "nvme0q1", "virtio0-req.1", "virtio1-input"] {
            let mut lines = said(7, "ITS-PCI-MSIX");
            let at = lines
                .iter()
                .position(|line| line.ends_with(gone))
                .expect(gone);
            lines.remove(at);
            assert!(Vectors::parse(&lines).judge(&before, 2).is_err(), "{gone}");
        }
    }
}
