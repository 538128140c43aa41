//! What a host pays for its DMA under each way it can get an IOMMU: natively
//! with the SMMU in its own hands, and under the hypervisor.

use super::lines::{Entries, Goals, Line, Mode, Sample};
use super::{BENCH_TIMEOUT, ask, entries};
use crate::agent::{Agent, Reply};
use crate::demo::OFF_TIMEOUT;
use crate::machine::{Boot, Machine};
use crate::net;
use crate::progress::Progress;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};

/// Sizes of the mappings that are timed, and how many of each are made.
const MAPPINGS: [(u64, u64); 3] = [(4 << 10, 20_480), (64 << 10, 5_120), (1 << 20, 1_024)];
/// Reads; the cheapest counts, for the reason that [`super::guest`] gives.
const READS: u64 = 10_000;
/// Bytes of the disk that is read.
const DISK: u64 = 32 << 20;
/// Echoes. What a tenth of them stays below counts: in the very cheapest two
/// interrupts happened to be one, and in half of them the CPU went idle.
const ECHOES: u64 = 2_000;
/// Rounds of datagrams; the cheapest counts.
const DATAGRAM_ROUNDS: usize = 10;
const ROUND_DATAGRAMS: u64 = 512;
/// Bytes of data in each packet.
const PACKET: u64 = 1_000;
/// Bytes of one read, whose buffer is mapped in one piece.
const BLOCK: u64 = 4 << 10;
/// CPUs that unmap at once.
const CROWD: u32 = 4;
/// How much more EL2 may take for each when they do.
const CROWD_LIMIT: f64 = 1.1;
/// With this frequency a tick of the counter is an instruction.
pub(super) const FREQUENCY: u32 = 1_000_000_000;

/// The files of the module, whatever the device's name is.
const FILE: &str = "/sys/bus/pci/drivers/dma_bench/0*/bench";
const HOLD: &str = "/sys/bus/pci/drivers/dma_bench/0*/hold";
/// Mappings that are made without an unmapping, to count what they cause.
const HELD: u64 = 512;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Map(u64),
    Unmap(u64),
    /// Both, on several CPUs at once: only what they take together can be told.
    Both(u64),
    Read,
    Echo,
    Datagram,
}

/// How the host is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// Every unmapping is complete when it returns.
    Strict,
    /// Unmappings are completed many at once.
    Lazy,
    /// As strict, on several CPUs at once.
    Crowded,
}

impl Setting {
    fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Lazy => "lazy",
            Self::Crowded => "strict, 4 CPUs",
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Lazy => " iommu.strict=0",
            Self::Strict | Self::Crowded => " iommu.strict=1",
        }
    }
}

/// Measures all of it on the machines, the first of which is what the last is
/// compared with. They are to boot with the module `dma_bench.ko` at `/lib`.
///
/// # Errors
///
/// Any [`Error`] that keeps a machine from doing its work.
pub fn run(lab: &Lab, machines: &[(Mode, Machine)]) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for setting in [Setting::Strict, Setting::Lazy, Setting::Crowded] {
        for (mode, machine) in machines {
            // Without an IOMMU in the host there is nothing to put off, and
            // nothing to contend for.
            if *mode == Mode::Identity && setting != Setting::Strict {
                continue;
            }
            let what = format!("measuring DMA: {}, {}", mode.word(), setting.word());
            let progress = Progress::spinner(&what);
            for (work, sample) in measure(lab, machine.clone(), *mode, setting)? {
                let name = name(work, setting);
                match lines.iter_mut().find(|line| line.name == name) {
                    Some(line) => line.samples.push((*mode, sample)),
                    None => lines.push(Line {
                        name,
                        samples: vec![(*mode, sample)],
                        nested: nested_goals(work, setting),
                        paravirt: paravirt_goals(work, setting),
                    }),
                }
            }
            progress.done();
        }
    }
    limit_crowd(&mut lines);
    Ok(lines)
}

/// However many CPUs map at once, each mapping takes of EL2 what it takes alone.
fn limit_crowd(lines: &mut [Line]) {
    let share = |work| {
        let name = name(work, Setting::Strict);
        lines.iter().find(|line| line.name == name)?.share()
    };
    let alone = share(Work::Map(BLOCK)).zip(share(Work::Unmap(BLOCK)));
    let crowd = name(Work::Both(BLOCK), Setting::Crowded);
    let crowd = lines.iter_mut().find(|line| line.name == crowd);
    if let (Some((map, unmap)), Some(line)) = (alone, crowd) {
        line.paravirt.share = Some((map + unmap) * CROWD_LIMIT);
    }
}

fn name(work: Work, setting: Setting) -> String {
    let size = |bytes: u64| match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    };
    let what = match work {
        Work::Map(bytes) => format!("map {}", size(bytes)),
        Work::Unmap(bytes) => format!("unmap {}", size(bytes)),
        Work::Both(bytes) => format!("map + unmap {}", size(bytes)),
        Work::Read => "NVMe read of 4 KiB".to_owned(),
        Work::Echo => "e1000e echo, 1000 B".to_owned(),
        Work::Datagram => "e1000e datagram, 1000 B".to_owned(),
    };
    format!("{what}, {}", setting.word())
}

/// What paravirt mode is to reach.
fn paravirt_goals(work: Work, setting: Setting) -> Goals {
    let entries = Some(Entries::Exactly(1.0));
    let limits = |ratio, share| Goals {
        ratio: Some(ratio),
        share,
        entries,
    };
    match (work, setting) {
        (Work::Map(4096), Setting::Strict) => limits(3.0, Some(570.0)),
        (Work::Unmap(4096), Setting::Strict) => limits(1.45, Some(790.0)),
        (Work::Map(0x10_0000), Setting::Strict) => limits(0.6, None),
        (Work::Unmap(0x10_0000), Setting::Strict) => limits(0.25, None),
        (Work::Both(_), Setting::Crowded) => Goals {
            entries: Some(Entries::AtMost(2.0)),
            ..Goals::default()
        },
        _ => Goals::default(),
    }
}

/// What nested mode is to reach.
fn nested_goals(work: Work, setting: Setting) -> Goals {
    let ratio = |limit| Goals {
        ratio: Some(limit),
        ..Goals::default()
    };
    match (work, setting) {
        (Work::Both(_), _) | (_, Setting::Crowded) => Goals {
            entries: Some(Entries::AtMost(1.0)),
            ..Goals::default()
        },
        // Lazy hosts now and then find, in an unmapping or mapping that takes
        // an interrupt, that the time has come to invalidate.
        (Work::Map(_), Setting::Lazy) => ratio(1.01),
        (Work::Map(_), Setting::Strict) => Goals {
            ratio: Some(1.01),
            entries: Some(Entries::AtMost(0.0)),
            ..Goals::default()
        },
        (Work::Unmap(bytes), Setting::Strict) => Goals {
            ratio: match bytes >> 20 {
                0 if bytes >> 10 == 4 => Some(1.25),
                0 => None,
                _ => Some(1.05),
            },
            entries: (bytes >> 10 == 4).then_some(Entries::Exactly(1.0)),
            ..Goals::default()
        },
        (Work::Unmap(_), Setting::Lazy) => ratio(1.02),
        (Work::Read | Work::Echo | Work::Datagram, Setting::Strict) => ratio(1.25),
        (Work::Read | Work::Echo | Work::Datagram, Setting::Lazy) => ratio(1.03),
    }
}

fn measure(
    lab: &Lab,
    mut machine: Machine,
    mode: Mode,
    setting: Setting,
) -> Result<Vec<(Work, Sample)>> {
    machine.smmu = !machine.virtio_iommu;
    machine.zero_disk = Some(DISK);
    machine.network = true;
    machine.edu = true;
    machine.counted = true;
    machine.cpus = if setting == Setting::Crowded {
        CROWD
    } else {
        1
    };
    machine.cpu.push_str(&format!(",cntfrq={FREQUENCY}"));
    machine.append_for_host(setting.argument());
    let name = format!("bench-dma-{}", mode.word().replace(' ', "-"));
    let mut vm = Vm::start(lab, &machine, &Watch::quietly(&name))?;
    let agent = Agent::wait_within(&vm, 0, BENCH_TIMEOUT)?;
    let mut stage = Stage {
        vm: &vm,
        agent,
        fenced: matches!(machine.boot, Boot::Portcullis { .. }),
        threads: machine.cpus,
    };
    let samples = if setting == Setting::Crowded {
        stage.mappings(&MAPPINGS[..1])?
    } else {
        let mut samples = stage.mappings(&MAPPINGS)?;
        let put_off = samples
            .iter()
            .find(|(work, _)| *work == Work::Unmap(BLOCK))
            .and_then(|(_, sample)| Some(sample.average - sample.spread?.0))
            .filter(|_| setting == Setting::Lazy);
        let mut reads = stage.reads()?;
        // The cheapest read is none that had to invalidate for the 255 before.
        reads.average += put_off.unwrap_or(0.0).max(0.0);
        samples.push((Work::Read, reads));
        samples.push((Work::Echo, stage.echoes()?));
        samples.push((Work::Datagram, stage.datagrams()?));
        samples
    };
    stage.agent.tell(&vm, "off")?;
    vm.wait_exit(OFF_TIMEOUT)?;
    Ok(samples)
}

/// Instructions of a mapping and of an unmapping, on average, in what the module
/// says.
pub(super) fn timings(said: &[u8]) -> Result<(f64, f64)> {
    let reply = Reply::parse(&String::from_utf8_lossy(said));
    let made = reply.number("count")? as f64;
    let tick = 1e9 / reply.number("cntfrq")? as f64;
    let average = |call: &str| Ok(reply.number(&format!("{call}_sum"))? as f64 * tick / made);
    Ok((average("map")?, average("unmap")?))
}

/// One machine that is up.
struct Stage<'a> {
    vm: &'a Vm,
    agent: Agent,
    fenced: bool,
    threads: u32,
}

impl Stage<'_> {
    fn ask(&mut self, command: &str) -> Result<Reply> {
        ask(self.vm, &mut self.agent, command)
    }

    /// As [`Stage::ask`] for a shell command that is to succeed.
    fn shell(&mut self, command: &str) -> Result<()> {
        let reply = self.ask(&format!("sh {command}"))?;
        if reply.get("status") == Some("0") {
            return Ok(());
        }
        Err(Error::Agent {
            command: command.to_owned(),
            message: format!("{reply:?}"),
        })
    }

    /// Does `work` and returns with its answer the EL2 entries meanwhile.
    fn counted(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<Reply>,
    ) -> Result<(Reply, Option<f64>)> {
        if !self.fenced {
            return Ok((work(self)?, None));
        }
        let before = entries(self.vm, &mut self.agent)?;
        let reply = work(self)?;
        // The second access, which tells the number, enters EL2 itself.
        let during = entries(self.vm, &mut self.agent)?
            .saturating_sub(before)
            .saturating_sub(1);
        Ok((reply, Some(during as f64)))
    }

    fn mappings(&mut self, sizes: &[(u64, u64)]) -> Result<Vec<(Work, Sample)>> {
        self.shell("insmod /lib/dma_bench.ko")?;
        let run = |threads: u32, bytes: u64, count: u64| {
            format!("for f in {FILE}; do echo {threads} {bytes} both {count} > $f; done")
        };
        let mut samples = Vec::new();
        for (bytes, count) in sizes {
            // The first ones pay for what the kernel sets up once.
            self.shell(&run(self.threads, *bytes, 512))?;
            let command = run(self.threads, *bytes, *count);
            let (_, entries) = self.counted(|stage| {
                stage.shell(&command)?;
                Ok(Reply::default())
            })?;
            self.shell(&format!("cat {FILE} > /tmp/bench"))?;
            let data = self.ask("cat /tmp/bench")?.data();
            let reply = Reply::parse(&String::from_utf8_lossy(&data));
            let made = reply.number("count")? as f64;
            let tick = 1e9 / reply.number("cntfrq")? as f64;
            if self.threads > 1 {
                // The counter is the machine's: what one CPU reads of it
                // includes what the others do meanwhile.
                let sample = Sample {
                    average: reply.number("elapsed")? as f64 * tick / made,
                    spread: None,
                    entries: entries.map(|total| total / made),
                };
                samples.push((Work::Both(*bytes), sample));
                continue;
            }
            let sample = |call: &str, entries| -> Result<Sample> {
                let figure = |what: &str| -> Result<f64> {
                    Ok(reply.number(&format!("{call}_{what}"))? as f64 * tick)
                };
                Ok(Sample {
                    average: figure("sum")? / made,
                    spread: Some((figure("p50")?, figure("p99")?)),
                    entries,
                })
            };
            let map_entries = self.map_entries(*bytes)?;
            samples.push((Work::Map(*bytes), sample("map", map_entries)?));
            // Each of these was mapped, too.
            let unmap_entries = entries
                .zip(map_entries)
                .map(|(total, mapping)| total / made - mapping);
            samples.push((Work::Unmap(*bytes), sample("unmap", unmap_entries)?));
        }
        Ok(samples)
    }

    /// EL2 entries for each mapping that is not unmapped.
    fn map_entries(&mut self, bytes: u64) -> Result<Option<f64>> {
        let hold = |count| format!("for f in {HOLD}; do echo {bytes} {count} > $f; done");
        // The first ones make the tables that the others then find.
        self.shell(&hold(HELD))?;
        self.shell(&hold(0))?;
        let (_, entries) = self.counted(|stage| {
            stage.shell(&hold(HELD))?;
            Ok(Reply::default())
        })?;
        self.shell(&hold(0))?;
        Ok(entries.map(|entries| entries / HELD as f64))
    }

    fn reads(&mut self) -> Result<Sample> {
        self.ask(&format!("nvme random 1000 {DISK} 1"))?;
        let command = format!("nvme random {READS} {DISK} 2");
        let (reply, entries) = self.counted(|stage| stage.ask(&command))?;
        Ok(Sample {
            average: reply.number("instructions")? as f64,
            spread: None,
            entries: entries.map(|entries| entries / READS as f64),
        })
    }

    fn echoes(&mut self) -> Result<Sample> {
        self.ask(&format!("net echo 10 {PACKET}"))?;
        let command = format!("net echo {ECHOES} {PACKET} 1");
        let (reply, entries) = self.counted(|stage| stage.ask(&command))?;
        Ok(Sample {
            average: reply.number("tenth")? as f64,
            spread: None,
            entries: entries.map(|entries| entries / ECHOES as f64),
        })
    }

    fn datagrams(&mut self) -> Result<Sample> {
        let (_sink, port) = net::sink()?;
        let flood = format!("net flood {port} {ROUND_DATAGRAMS} {PACKET}");
        self.ask(&flood)?;
        let mut least = u64::MAX;
        let (_, entries) = self.counted(|stage| {
            for _ in 0..DATAGRAM_ROUNDS {
                least = least.min(stage.ask(&flood)?.number("instructions")?);
            }
            Ok(Reply::default())
        })?;
        let all = (DATAGRAM_ROUNDS as u64 * ROUND_DATAGRAMS) as f64;
        Ok(Sample {
            average: least as f64 / ROUND_DATAGRAMS as f64,
            spread: None,
            entries: entries.map(|entries| entries / all),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_compared_with_one() {
        let line = |work, setting, free, paravirt| {
            let sample = |average| Sample {
                average,
                spread: None,
                entries: Some(2.0),
            };
            Line {
                name: name(work, setting),
                samples: vec![
                    (Mode::Free, sample(free)),
                    (Mode::Paravirt, sample(paravirt)),
                ],
                nested: nested_goals(work, setting),
                paravirt: Goals::default(),
            }
        };
        let crowd = |paravirt| {
            let mut lines = [
                line(Work::Map(BLOCK), Setting::Strict, 2_000.0, 2_400.0),
                line(Work::Unmap(BLOCK), Setting::Strict, 2_000.0, 2_600.0),
                line(Work::Both(BLOCK), Setting::Crowded, 5_000.0, paravirt),
            ];
            limit_crowd(&mut lines);
            lines[2].reached()
        };
        assert!(crowd(6_099.0));
        assert!(!crowd(6_101.0));
    }
}
