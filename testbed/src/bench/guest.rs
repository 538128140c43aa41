//! The same Debian, the same work, with and without the hypervisor.

use super::{BENCH_TIMEOUT, Goal, Row, all_sent, ask, connect, entries, sent, settle};
use crate::agent::{Agent, Reply};
use crate::build;
use crate::demo::OFF_TIMEOUT;
use crate::demo::attack::Range;
use crate::disk;
use crate::machine::{Boot, Machine};
use crate::net;
use crate::progress::Progress;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};
use std::path::Path;

/// Rounds of disk reads: 10,000 reads in all. The agent reports the cheapest
/// round. How long the build machine takes for a read decides whether the guest
/// goes idle meanwhile, and that only ever adds instructions; what the
/// hypervisor adds, it adds in every round.
const READ_ROUNDS: u64 = 10_000;
/// Reads of one round, as the agent has it.
const ROUND_READS: u64 = 1;
/// The same for echoes over the network.
const ECHO_ROUNDS: u64 = 200;
const ROUND_ECHOES: u64 = 10;
/// Datagrams of one round, which go out without waiting for anything.
const ROUND_DATAGRAMS: u64 = 500;
/// Boots that are averaged.
const BOOTS: usize = 6;
/// Bytes of data in each packet.
const PACKET: u64 = 1_000;
/// Rounds of datagrams; the cheapest counts here too.
const ROUNDS: usize = 10;

/// Limits of the goals.
const BOOT_RATIO: f64 = 1.02;
const WORK_RATIO: f64 = 1.01;
const IMAGE_LIMIT: f64 = 640.0 * 1024.0;
const MEMORY_FIXED: f64 = 4.0 * 1024.0 * 1024.0;
const MEMORY_SHARE: f64 = 0.004;

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
    // One with a file behind it answers when the build machine gets to it. On a busy one
    // so much of the machine's own time goes by that the host resets the disk.
    machine.zero_disk = Some(disk::SIZE);
    machine.network = true;
    machine.edu = true;
    machine.counted = true;
    machine.cpus = 1;
    let boot = boot(lab, machine, name)?;
    let fenced = matches!(machine.boot, Boot::Portcullis { .. });
    let mut vm = Vm::start(lab, machine, &Watch::quietly(name))?;
    let mut agent = Agent::wait_within(&vm, 0, BENCH_TIMEOUT)?;
    settle(&vm, &mut agent)?;
    // Before the echoes: how often the card interrupts depends on what came before,
    // for as long as the host is up.
    connect(&vm, &mut agent)?;
    let (_sink, port) = net::sink()?;
    let flood = format!("net flood {port} {ROUND_DATAGRAMS} {PACKET}");
    ask(&vm, &mut agent, &flood)?;
    let before = sent(&vm, &mut agent)?;
    let datagram = cheapest(&vm, &mut agent, ROUND_DATAGRAMS, &flood)?;
    all_sent(&vm, &mut agent, before, ROUND_DATAGRAMS * ROUNDS as u64)?;

    // The first reads pay for what the kernel sets up once.
    ask(
        &vm,
        &mut agent,
        &format!("nvme random 1000 {} 1", disk::SIZE),
    )?;
    let before = if fenced { entries(&vm, &mut agent)? } else { 0 };
    let reads = format!("nvme random {READ_ROUNDS} {} 2", disk::SIZE);
    let read = ask(&vm, &mut agent, &reads)?.number("instructions")? as f64 / ROUND_READS as f64;
    let hypervisor = if fenced {
        // The second access, which tells the number, enters EL2 itself.
        let during = entries(&vm, &mut agent)?
            .saturating_sub(before)
            .saturating_sub(1);
        let ranges = Range::announced(&vm.events_since(0));
        let taken: u64 = ranges.iter().map(|range| range.size).sum();
        Some((during as f64, taken as f64))
    } else {
        None
    };
    ask(&vm, &mut agent, &format!("net echo 10 {PACKET}"))?;
    let echoes = ask(&vm, &mut agent, &format!("net echo {ECHO_ROUNDS} {PACKET}"))?;
    let echo = echoes.number("instructions")? as f64 / ROUND_ECHOES as f64;
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

/// Instructions from reset to the host's first program, on average.
///
/// One boot repeats exactly, but which background work of the kernel comes
/// before the first program and which after depends on where timer ticks fall,
/// and so on anything at all: it moves the figure by one or two percent. The
/// average over kernels that differ in a meaningless argument does not.
fn boot(lab: &Lab, machine: &Machine, name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for sample in 0..BOOTS {
        let mut machine = machine.clone();
        machine.append_for_host(&format!(
            " portcullis.sample={}",
            "x".repeat(sample * 7 + 1)
        ));
        let vm = Vm::start(lab, &machine, &Watch::quietly(&format!("{name}-boot")))?;
        let line = vm.host.wait(0, BENCH_TIMEOUT, |line| {
            let rest = line.text.strip_prefix("@init ")?;
            Some(Reply::parse(rest))
        });
        let reply = line.ok_or_else(|| vm.timeout("the host's first program", BENCH_TIMEOUT))?;
        // With shift=0 the clock advances by a nanosecond with each instruction.
        sum += reply.number("cntvct")? as f64 * 1e9 / reply.number("cntfrq")? as f64;
    }
    Ok(sum / BOOTS as f64)
}

/// Instructions of one of the `count` units of work, in the cheapest round.
fn cheapest(vm: &Vm, agent: &mut Agent, count: u64, command: &str) -> Result<f64> {
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        least = least.min(ask(vm, agent, command)?.number("instructions")?);
    }
    Ok(least as f64 / count as f64)
}
