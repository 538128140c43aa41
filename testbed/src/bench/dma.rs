//! What a host pays for its DMA under each way it can get an IOMMU: natively
//! with the SMMU in its own hands, and under the hypervisor.

use super::lines::{Line, Mode};
use super::profile::{Code, Profile};
use super::stage::{DISK, Measured, Stage};
use super::symbols::Symbols;
use super::window::{IMAGE_ADDRESS, Window};
use super::work::{BLOCK, CROWD, Setting, Work, nested_goals, paravirt_goals};
use super::{BENCH_TIMEOUT, settle};
use crate::agent::Agent;
use crate::build;
use crate::demo::OFF_TIMEOUT;
use crate::demo::attack::Range;
use crate::logfmt::Event;
use crate::machine::{Boot, Machine};
use crate::progress::Progress;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};

/// How much more EL2 may take for each mapping when several CPUs make some.
const CROWD_LIMIT: f64 = 1.1;
/// With this frequency a tick of the counter is an instruction.
pub(super) const FREQUENCY: u32 = 1_000_000_000;

const SETTINGS: [Setting; 4] = [
    Setting::Strict,
    Setting::Lazy,
    Setting::Crowded(2),
    Setting::Crowded(CROWD),
];

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Figures {
    /// What each kind of work took.
    pub lines: Vec<Line>,
    /// Where EL2 spends its instructions.
    pub profiles: Vec<(Mode, Setting, Profile)>,
    /// Bytes that the hypervisor takes from the host, by what they are for, and how
    /// many of them it uses.
    pub memory: Vec<(Mode, Vec<(String, u64)>)>,
}

/// Measures all of it on the machines, the first of which is what the last is
/// compared with. They are to boot with the module `dma_bench.ko` at `/lib`.
///
/// # Errors
///
/// Any [`Error`] that keeps a machine from doing its work.
pub fn run(lab: &Lab, machines: &[(Mode, Machine)]) -> Result<Figures> {
    let symbols = Symbols::load(&build::hypervisor_elf(lab))?;
    let mut figures = Figures::default();
    let jobs: Vec<_> = SETTINGS
        .into_iter()
        .flat_map(|setting| machines.iter().map(move |machine| (setting, machine)))
        .filter(|(setting, (mode, _))| setting.concerns(*mode))
        .collect();
    for (number, (setting, (mode, machine))) in jobs.iter().enumerate() {
        let what = format!(
            "measuring DMA, {} of {}: {}, {}",
            number + 1,
            jobs.len(),
            mode.word(),
            setting.words()
        );
        let progress = Progress::spinner(&what);
        let (measured, memory) =
            measure(lab, machine.clone(), *mode, *setting, &symbols, |stage| {
                if let Setting::Crowded(_) = setting {
                    return stage.crowd();
                }
                let translated = !matches!(mode, Mode::Identity | Mode::Untranslated);
                stage.all(*setting == Setting::Lazy, translated)
            })?;
        figures.add(*mode, *setting, measured);
        if *setting == Setting::Strict && !memory.is_empty() {
            figures.memory.push((*mode, memory));
        }
        progress.done();
    }
    limit_crowd(&mut figures.lines);
    Ok(figures)
}

/// Measures no more than a mapping of 4 KiB and its end, strict, on one CPU.
///
/// # Errors
///
/// As [`run`].
pub fn block(lab: &Lab, machine: &Machine, mode: Mode) -> Result<Measured> {
    let symbols = Symbols::load(&build::hypervisor_elf(lab))?;
    let what = format!("measuring DMA by default: {}", mode.word());
    let progress = Progress::spinner(&what);
    let strict = Setting::Strict;
    let (measured, _) = measure(lab, machine.clone(), mode, strict, &symbols, |stage| {
        stage.block()
    })?;
    progress.done();
    Ok(measured)
}

impl Figures {
    fn add(&mut self, mode: Mode, setting: Setting, measured: Measured) {
        for (work, sample) in measured.samples {
            let known = self
                .lines
                .iter_mut()
                .find(|line| (line.work, line.setting) == (work, setting));
            match known {
                Some(line) => line.samples.push((mode, sample)),
                None => self.lines.push(Line {
                    work,
                    setting,
                    samples: vec![(mode, sample)],
                    nested: nested_goals(work, setting),
                    paravirt: paravirt_goals(work, setting),
                }),
            }
        }
        let profiles = measured.profiles.into_iter();
        self.profiles
            .extend(profiles.map(|profile| (mode, setting, profile)));
    }
}

/// However many CPUs map at once, each mapping takes of EL2 what it takes alone.
fn limit_crowd(lines: &mut [Line]) {
    let share = |work| {
        lines
            .iter()
            .find(|line| (line.work, line.setting) == (work, Setting::Strict))?
            .share()
    };
    let alone = share(Work::Map(BLOCK)).zip(share(Work::Unmap(BLOCK)));
    let crowd = (Work::Both(BLOCK), Setting::Crowded(CROWD));
    let crowd = lines
        .iter_mut()
        .find(|line| (line.work, line.setting) == crowd);
    if let (Some((map, unmap)), Some(line)) = (alone, crowd) {
        line.paravirt.share = Some((map + unmap) * CROWD_LIMIT);
    }
}

fn measure(
    lab: &Lab,
    mut machine: Machine,
    mode: Mode,
    setting: Setting,
    symbols: &Symbols,
    work: impl FnOnce(&mut Stage) -> Result<Measured>,
) -> Result<(Measured, Vec<(String, u64)>)> {
    machine.smmu = !machine.virtio_iommu;
    machine.zero_disk = Some(DISK);
    machine.network = true;
    machine.edu = true;
    machine.counted = true;
    machine.cpus = setting.cpus();
    machine.cpu.push_str(&format!(",cntfrq={FREQUENCY}"));
    machine.append_for_host(setting.argument());
    if mode == Mode::Untranslated {
        machine.append_for_host(" iommu.passthrough=1");
    }
    let name = format!("bench-dma-{}", mode.word().replace(' ', "-"));
    let code = match &machine.boot {
        Boot::Portcullis { image, .. } => Some(IMAGE_ADDRESS..IMAGE_ADDRESS + build::size(image)?),
        Boot::Native { .. } => None,
    };
    let fenced = code.is_some();
    let log = format!("{name}-{}.trace", std::process::id());
    let window = Window::new(lab.workspace.output().join("logs").join(log), code);
    machine.extra.extend(window.arguments());
    let mut vm = Vm::start(lab, &machine, &Watch::quietly(&name))?;
    let mut agent = Agent::wait_within(&vm, 0, BENCH_TIMEOUT)?;
    settle(&vm, &mut agent)?;
    let ranges = Range::announced(&vm.events_since(0));
    if fenced && !ranges.iter().any(|range| range.base == IMAGE_ADDRESS) {
        return Err(Error::unsuitable(
            format!("the hypervisor's image is none of {ranges:x?}"),
            format!("QEMU is to put it at {IMAGE_ADDRESS:#x}"),
        ));
    }
    let mut stage = Stage {
        vm: &vm,
        agent,
        fenced,
        threads: machine.cpus,
        // A machine without an SMMU has nothing to be logged.
        window: machine.smmu.then_some(&window),
        code: Code::new(symbols),
    };
    let measured = work(&mut stage)?;
    stage.agent.tell(&vm, "off")?;
    vm.wait_exit(OFF_TIMEOUT)?;
    logged(mode, setting, &measured)?;
    Ok((measured, memory(&vm.events_since(0))))
}

/// Whether QEMU's log has what must be there: one that is written in another way, or
/// not at all, would make figures of 0.
fn logged(mode: Mode, setting: Setting, measured: &Measured) -> Result<()> {
    let driven = matches!(mode, Mode::Native | Mode::Nested | Mode::Paravirt);
    if !driven || setting != Setting::Strict {
        return Ok(());
    }
    let unmap = Work::Unmap(BLOCK);
    let mut samples = measured.samples.iter();
    let told = samples
        .find(|(work, _)| *work == unmap)
        .and_then(|(_, sample)| sample.traffic)
        .is_some_and(|traffic| traffic.sync >= 1.0);
    let mut profiles = measured.profiles.iter();
    let executed = profiles.all(|profile| profile.traced() >= 0.5 * profile.counted);
    if told && executed {
        return Ok(());
    }
    Err(Error::unsuitable(
        format!(
            "QEMU's log lacks {}, {}",
            if told {
                "code that EL2 executed"
            } else {
                "the CMD_SYNC of unmappings"
            },
            mode.word()
        ),
        "use a QEMU with the trace backend `log`, such as Debian's",
    ))
}

/// What the log of the hypervisor says of memory, from its start to its end.
fn memory(events: &[Event]) -> Vec<(String, u64)> {
    /// Bytes of the pages that it counts.
    const PAGE: u64 = 4096;
    let last = |kind: &str, key: &str| {
        let events = events.iter().filter(|event| event.kind() == kind);
        events.filter_map(|event| event.number(key)).next_back()
    };
    let mut all: Vec<(String, u64)> = Range::announced(events)
        .into_iter()
        .map(|range| (range.what, range.size))
        .collect();
    for (what, bytes) in [
        (
            "of the pool, in use when the host starts",
            last("host_memory", "pool_used").map(|pages| pages * PAGE),
        ),
        (
            "of the pool, tables of mappings at most",
            last("domain_counts", "table_bytes_most"),
        ),
    ] {
        all.extend(bytes.map(|bytes| (what.to_owned(), bytes)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Goals, Sample};
    use super::super::symbols::Purpose;
    use super::super::traffic::Traffic;
    use super::*;

    #[test]
    fn a_log_without_what_must_be_there_is_refused() {
        let measured = |sync, traced| {
            let traffic = Traffic {
                sync,
                ..Traffic::default()
            };
            let sample = Sample {
                traffic: Some(traffic),
                ..Sample::default()
            };
            Measured {
                samples: vec![(Work::Unmap(BLOCK), sample)],
                profiles: vec![Profile {
                    work: vec![Work::Unmap(BLOCK)],
                    counted: 100.0,
                    purposes: [(Purpose::Trap, traced)].into(),
                }],
            }
        };
        let strict = Setting::Strict;
        assert!(logged(Mode::Nested, strict, &measured(1.0, 99.0)).is_ok());
        assert!(logged(Mode::Nested, strict, &measured(0.0, 99.0)).is_err());
        assert!(logged(Mode::Nested, strict, &measured(1.0, 0.0)).is_err());
        assert!(logged(Mode::Native, strict, &Measured::default()).is_err());
        assert!(logged(Mode::Identity, strict, &Measured::default()).is_ok());
        assert!(logged(Mode::Nested, Setting::Lazy, &Measured::default()).is_ok());
    }

    #[test]
    fn memory_is_told_by_the_log() {
        let events: Vec<Event> = [
            "portcullis: event=memory_reserved base=0x40200000 size=0x105000 what=image",
            "portcullis: event=host_memory ram_pages=9 pool_pages=1536 pool_used=3",
            "portcullis: event=domain_counts maps=1 table_bytes_most=0x20000 t=1.5",
        ]
        .iter()
        .filter_map(|line| Event::parse(line))
        .collect();
        let bytes: Vec<u64> = memory(&events).iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!(bytes, [0x10_5000, 3 * 4096, 0x2_0000]);
        assert!(memory(&[]).is_empty());
    }

    #[test]
    fn a_crowd_is_compared_with_one() {
        let line = |work, setting, free, paravirt| {
            let sample = |average| Sample {
                average,
                entries: Some(2.0),
                ..Sample::default()
            };
            Line {
                work,
                setting,
                samples: vec![
                    (Mode::Free, sample(free)),
                    (Mode::Paravirt, sample(paravirt)),
                ],
                nested: nested_goals(work, setting),
                paravirt: Goals::default(),
            }
        };
        let crowd = |paravirt| {
            let crowded = Setting::Crowded(CROWD);
            let mut lines = [
                line(Work::Map(BLOCK), Setting::Strict, 2_000.0, 2_400.0),
                line(Work::Unmap(BLOCK), Setting::Strict, 2_000.0, 2_600.0),
                line(Work::Both(BLOCK), crowded, 5_000.0, paravirt),
            ];
            limit_crowd(&mut lines);
            lines[2].reached()
        };
        assert!(crowd(6_099.0));
        assert!(!crowd(6_101.0));
    }
}
