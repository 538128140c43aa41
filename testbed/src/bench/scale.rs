//! Whether a mapping costs the same among few and among many.

use super::dma::FREQUENCY;
use super::lines::Mode;
use super::results::Scaled;
use super::stage::timings;
use super::{BENCH_TIMEOUT, ask, number, settle};
use crate::agent::Agent;
use crate::check::table;
use crate::demo::OFF_TIMEOUT;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};

/// Endpoints, each in a domain of its own.
const ENDPOINTS: u32 = 64;
/// Mappings of the domain that is measured.
const FEW: u64 = 10;
const MANY: u64 = 100_000;
/// Timed mappings.
const COUNT: u64 = 20_480;
/// First slot of the root ports behind which the endpoints are, eight to a slot.
const SLOT: u32 = 0x10;
/// Has QEMU's root ports keep what is behind them apart, which the kernel else
/// decides before it knows of an IOMMU: source validation, redirection of
/// requests and completions, upstream forwarding (PCIe, 7.7.11.3).
const ISOLATED: &str = "pci=config_acs=11101@pci:1b36:000c";
/// How much more a mapping may cost among many, in EL2.
const LIMIT: f64 = 1.10;

/// Instructions of a mapping and an unmapping of 4 KiB, strict, among few and
/// among many.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    few: f64,
    many: f64,
}

/// One way to be many.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    name: &'static str,
    /// With a device that works for free.
    free: Option<Pair>,
    /// With the hypervisor's.
    paravirt: Option<Pair>,
}

impl Row {
    /// What EL2 takes of it.
    fn share(&self) -> Option<Pair> {
        let (free, ours) = self.free.zip(self.paravirt)?;
        Some(Pair {
            few: ours.few - free.few,
            many: ours.many - free.many,
        })
    }

    /// The row for programs.
    #[must_use]
    pub fn result(&self) -> Scaled {
        let pair = |pair: Option<Pair>| pair.map(|pair| [pair.few, pair.many]);
        Scaled {
            name: self.name.to_owned(),
            free: pair(self.free),
            paravirt: pair(self.paravirt),
            ratio: self.ratio(),
            reached: self.reached(),
        }
    }

    /// EL2's share among many over that among few.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let share = self.share()?;
        (share.few > 0.0).then(|| share.many / share.few)
    }

    /// Whether it is the same; there is no judgement where one is missing.
    #[must_use]
    pub fn reached(&self) -> bool {
        match self.share() {
            None => true,
            Some(_) => self.ratio().is_some_and(|ratio| ratio <= LIMIT),
        }
    }
}

/// Measures on those of the machines that have a virtio-iommu.
///
/// # Errors
///
/// Any [`Error`] that keeps a machine from doing its work.
pub fn run(lab: &Lab, machines: &[(Mode, Machine)]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = [
        "10 / 100,000 mappings",
        "1 / 64 endpoints and domains",
        "1 / 64 endpoints in one domain",
    ]
    .map(|name| Row {
        name,
        free: None,
        paravirt: None,
    })
    .to_vec();
    for (mode, machine) in machines {
        if !matches!(mode, Mode::Free | Mode::Paravirt) {
            continue;
        }
        let progress = Progress::spinner(&format!("measuring scale: {}", mode.word()));
        let pairs = measure(lab, machine.clone(), *mode)?;
        for (row, pair) in rows.iter_mut().zip(pairs) {
            match mode {
                Mode::Free => row.free = Some(pair),
                _ => row.paravirt = Some(pair),
            }
        }
        progress.done();
    }
    rows.retain(|row| row.free.is_some() || row.paravirt.is_some());
    Ok(rows)
}

/// A root port for each endpoint: only so is each isolated from the others.
fn endpoints() -> Vec<String> {
    let mut devices = Vec::new();
    for index in 0..ENDPOINTS {
        let (slot, function) = (SLOT + index / 8, index % 8);
        devices.push(format!(
            "pcie-root-port,id=port{index},chassis={},addr={slot:x}.{function},multifunction=on,\
             hotplug=off",
            index + 1
        ));
        devices.push(format!("edu,bus=port{index},dma_mask=0xffffffffffffffff"));
    }
    devices
}

fn measure(lab: &Lab, mut machine: Machine, mode: Mode) -> Result<[Pair; 3]> {
    machine.smmu = !machine.virtio_iommu;
    machine.devices.extend(endpoints());
    machine.counted = true;
    machine.cpus = 1;
    machine.cpu.push_str(&format!(",cntfrq={FREQUENCY}"));
    machine.append_for_host(&format!(" iommu.strict=1 {ISOLATED}"));
    let name = format!("bench-scale-{}", mode.word().replace(' ', "-"));
    let mut vm = Vm::start(lab, &machine, &Watch::quietly(&name))?;
    let mut agent = Agent::wait_within(&vm, 0, BENCH_TIMEOUT)?;
    settle(&vm, &mut agent)?;
    let mut stage = Stage { vm: &vm, agent };
    stage.shell("endpoints 1")?;
    stage.hold(FEW)?;
    let few = stage.time()?;
    stage.hold(MANY)?;
    let mappings = Pair {
        few,
        many: stage.time()?,
    };
    stage.shell(&format!("endpoints {ENDPOINTS}"))?;
    stage.hold(FEW)?;
    let endpoints = Pair {
        few,
        many: stage.time()?,
    };
    stage.join()?;
    let one_domain = Pair {
        few,
        many: stage.time()?,
    };
    stage.agent.tell(&vm, "off")?;
    vm.wait_exit(OFF_TIMEOUT)?;
    Ok([mappings, endpoints, one_domain])
}

struct Stage<'a> {
    vm: &'a Vm,
    agent: Agent,
}

impl Stage<'_> {
    fn shell(&mut self, command: &str) -> Result<()> {
        let reply = ask(self.vm, &mut self.agent, &format!("sh {command}"))?;
        if reply.get("status") == Some("0") {
            return Ok(());
        }
        Err(Error::Agent {
            command: command.to_owned(),
            message: format!("{reply:?}"),
        })
    }

    /// Has every endpoint keep `count` mappings.
    fn hold(&mut self, count: u64) -> Result<()> {
        self.shell(&format!(
            "for f in /sys/bus/pci/drivers/dma_bench/0*/hold; do echo 4096 {count} > $f; done"
        ))
    }

    /// Moves every endpoint to the domain of the first.
    fn join(&mut self) -> Result<()> {
        self.shell(
            "set -e; cd /sys/bus/pci/drivers/dma_bench; first=$(ls -d 0* | head -n 1); \
             for d in 0*; do [ $d = $first ] || echo join $first > $d/domain; done",
        )
    }

    /// A mapping and an unmapping of the first endpoint.
    fn time(&mut self) -> Result<f64> {
        let run = |count| {
            format!(
                "f=$(ls -d /sys/bus/pci/drivers/dma_bench/0* | head -n 1)/bench; \
                 echo 1 4096 both {count} > $f; cat $f > /tmp/bench"
            )
        };
        self.shell(&run(512))?;
        self.shell(&run(COUNT))?;
        let data = ask(self.vm, &mut self.agent, "cat /tmp/bench")?.data();
        let (maps, unmaps) = timings(&data)?;
        Ok(maps + unmaps)
    }
}

/// The rows as a table for people.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let pair = |pair: Option<Pair>| {
        pair.map_or_else(
            || "-".to_owned(),
            |pair| {
                let [few, many] = [pair.few, pair.many].map(|value| number(value.round()));
                format!("{few} / {many}")
            },
        )
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                format!("map + unmap 4 KiB among {}", row.name),
                pair(row.free),
                pair(row.paravirt),
                pair(row.share()),
                row.ratio()
                    .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.4}")),
                format!("ratio <= {LIMIT:.2}"),
                if row.reached() { "ok" } else { "MISSED" }.to_owned(),
            ]
        })
        .collect();
    table(
        &[
            "instructions",
            "device free",
            "paravirt",
            "EL2",
            "ratio",
            "goal",
            "",
        ],
        &cells,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_el2_takes_is_judged() {
        let pair = |few, many| Some(Pair { few, many });
        let row = |free, paravirt| Row {
            name: "x",
            free,
            paravirt,
        };
        assert!(row(pair(4_000.0, 4_500.0), pair(5_000.0, 5_590.0)).reached());
        assert!(!row(pair(4_000.0, 4_000.0), pair(5_000.0, 5_110.0)).reached());
        assert!(!row(pair(4_000.0, 4_000.0), pair(3_000.0, 3_000.0)).reached());
        assert!(row(None, pair(1.0, 9.0)).reached());
        assert!(text(&[row(None, pair(1.0, 9.0))]).contains("1 / 9"));
    }

    #[test]
    fn no_two_endpoints_share_a_place() {
        let mut devices = endpoints();
        let count = devices.len();
        devices.sort();
        devices.dedup();
        assert_eq!((count, devices.len()), (128, 128));
    }
}
