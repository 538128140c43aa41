//! The same Debian, the same work, with and without the hypervisor.

use super::{Goal, Row};
use crate::agent::{Agent, Reply};
use crate::build;
use crate::demo::attack::Range;
use crate::demo::{OFF_TIMEOUT, SMMU};
use crate::disk::{self, Disk};
use crate::machine::{Boot, Machine};
use crate::net;
use crate::progress::Progress;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};
use std::path::Path;
use std::time::Duration;

/// Disk reads whose EL2 entries are counted.
const READS: u64 = 10_000;
/// Reads of one round of the comparison.
const ROUND_READS: u64 = 2_000;
/// Echoes and datagrams of one round.
const ROUND_ECHOES: u64 = 300;
const ROUND_DATAGRAMS: u64 = 500;
/// Bytes of data in each packet.
const PACKET: u64 = 1_000;
/// Rounds; the cheapest counts, since what disturbs a round (a timer tick, a
/// late host) only ever adds.
const ROUNDS: usize = 7;

/// Limits of the goals.
const BOOT_RATIO: f64 = 1.02;
const WORK_RATIO: f64 = 1.01;
const IMAGE_LIMIT: f64 = 512.0 * 1024.0;
const MEMORY_FIXED: f64 = 4.0 * 1024.0 * 1024.0;
const MEMORY_SHARE: f64 = 0.004;

const BENCH_TIMEOUT: Duration = Duration::from_secs(600);

/// What one machine needed, in instructions.
#[derive(Clone, Debug)]
struct Figures {
    boot: f64,
    read: f64,
    echo: f64,
    datagram: f64,
    /// EL2 entries during the counted reads, and bytes taken, if there is EL2.
    hypervisor: Option<(f64, f64)>,
}

/// Runs both machines and compares them; `ram` is the size of the machines' RAM.
///
/// # Errors
///
/// Any [`Error`] that keeps a machine from doing its work.
pub fn run(
    lab: &Lab,
    image: &Path,
    mut with: Machine,
    mut without: Machine,
    ram: u64,
) -> Result<Vec<Row>> {
    let progress = Progress::spinner("measuring without the hypervisor");
    let base = measure(lab, &mut without, "bench-native")?;
    progress.done();
    let progress = Progress::spinner("measuring with the hypervisor");
    let ours = measure(lab, &mut with, "bench-portcullis")?;
    progress.done();
    let (entries, taken) = ours.hypervisor.ok_or_else(|| {
        Error::unsuitable(
            "the machine to be measured has no hypervisor",
            "report this",
        )
    })?;
    let compare = |name: &str, base: f64, measured: f64, limit: f64| Row {
        name: name.to_owned(),
        unit: "instructions",
        baseline: Some(base),
        measured,
        goal: Goal::Ratio(limit),
    };
    let limit = |name: &str, unit, measured: f64, limit: f64| Row {
        name: name.to_owned(),
        unit,
        baseline: None,
        measured,
        goal: Goal::AtMost(limit),
    };
    Ok(vec![
        compare("Boot to init", base.boot, ours.boot, BOOT_RATIO),
        compare("NVMe read of 4 KiB", base.read, ours.read, WORK_RATIO),
        compare("e1000e echo, 1000 bytes", base.echo, ours.echo, WORK_RATIO),
        compare(
            "e1000e datagram sent, 1000 bytes",
            base.datagram,
            ours.datagram,
            WORK_RATIO,
        ),
        limit("EL2 entries in 10,000 NVMe reads", "entries", entries, 0.0),
        limit("Image", "bytes", build::size(image)? as f64, IMAGE_LIMIT),
        limit(
            "Memory taken from the host",
            "bytes",
            taken,
            MEMORY_FIXED + MEMORY_SHARE * ram as f64,
        ),
    ])
}

fn measure(lab: &Lab, machine: &mut Machine, name: &str) -> Result<Figures> {
    let disk = Disk::new(&lab.workspace, name)?;
    machine.disk = Some(disk.path().to_owned());
    machine.network = true;
    machine.edu = true;
    machine.counted = true;
    machine.cpus = 1;
    let fenced = matches!(machine.boot, Boot::Portcullis { .. });
    let mut vm = Vm::start(lab, machine, &Watch::quietly(name))?;
    let mut agent = Agent::wait_within(&vm, 0, BENCH_TIMEOUT)?;
    // One tick of the virtual counter stands for this many instructions: with
    // shift=0 the clock advances by a nanosecond with each.
    let per_tick = 1e9 / agent.frequency as f64;
    let boot = agent.init_at as f64 * per_tick;

    let random = |reads: u64, seed: usize| format!("nvme random {reads} {} {seed}", disk::SIZE);
    // The first reads pay for what the kernel sets up once.
    ask(&vm, &mut agent, &random(ROUND_READS, 0))?;
    let read = cheapest(&vm, &mut agent, ROUND_READS, |round| {
        random(ROUND_READS, round)
    })?;
    let hypervisor = if fenced {
        let before = entries(&vm, &mut agent)?;
        ask(&vm, &mut agent, &random(READS, ROUNDS + 1))?;
        let after = entries(&vm, &mut agent)?;
        // The second access, which told the number, entered EL2 itself.
        let during = after.saturating_sub(before).saturating_sub(1);
        let ranges = Range::announced(&vm.events_since(0));
        let taken: u64 = ranges.iter().map(|range| range.size).sum();
        Some((during as f64, taken as f64))
    } else {
        None
    };
    let echo_command = format!("net echo {ROUND_ECHOES} {PACKET}");
    ask(&vm, &mut agent, &echo_command)?;
    let echo = cheapest(&vm, &mut agent, ROUND_ECHOES, |_| echo_command.clone())?;
    let (_sink, port) = net::sink()?;
    let flood = format!("net flood {port} {ROUND_DATAGRAMS} {PACKET}");
    ask(&vm, &mut agent, &flood)?;
    let datagram = cheapest(&vm, &mut agent, ROUND_DATAGRAMS, |_| flood.clone())?;
    agent.tell(&vm, "off")?;
    vm.wait_exit(OFF_TIMEOUT)?;
    Ok(Figures {
        boot,
        read,
        echo,
        datagram,
        hypervisor,
    })
}

fn ask(vm: &Vm, agent: &mut Agent, command: &str) -> Result<Reply> {
    agent.ask_within(vm, command, BENCH_TIMEOUT)
}

/// Instructions of one of the `count` units of work, in the cheapest round.
fn cheapest(
    vm: &Vm,
    agent: &mut Agent,
    count: u64,
    command: impl Fn(usize) -> String,
) -> Result<f64> {
    let mut least = u64::MAX;
    for round in 1..=ROUNDS {
        least = least.min(ask(vm, agent, &command(round))?.number("instructions")?);
    }
    Ok(least as f64 / count as f64)
}

/// The number of EL2 entries so far, which the report of a refused access of
/// the CPU tells.
fn entries(vm: &Vm, agent: &mut Agent) -> Result<u64> {
    let mark = vm.log.mark();
    let reply = ask(vm, agent, &format!("poke read {SMMU:#x}"))?;
    if reply.get("outcome") != Some("blocked") {
        return Err(Error::Machine {
            what: "the hypervisor lets the CPU reach the SMMU's registers".to_owned(),
            tail: vm.tails(),
        });
    }
    let what = "a cpu_fault line with the number of entries";
    let event = vm.wait_event(mark, what, Duration::from_secs(30), |event| {
        event.kind() == "cpu_fault" && event.number("entries").is_some()
    })?;
    Ok(event.number("entries").unwrap_or(0))
}
