//! The hosts that make the calls.

use super::{
    Call, FIRST, FREE, FREE_NEXT, LAST, MAP, MAP_NEXT, MASK, MOVE, READ, Sample, TELL, UNMASK,
};
use crate::agent::{Agent, Reply};
use crate::bench::dma::FREQUENCY;
use crate::bench::window::{ITS_COMMAND, Scope, Window};
use crate::bench::{BENCH_TIMEOUT, ask, entries, settle};
use crate::demo::OFF_TIMEOUT;
use crate::machine::{Boot, Machine};
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Vectors of the function that the module takes. A call is made once for each, so that
/// EL2 is asked for the number of its entries only before the first and after the last:
/// its log does not tell any number of refused accesses.
const VECTORS: u64 = 512;
/// Functions of a host that has more than one, so many that EL2 does not have the page
/// of each one's table mapped when it comes to its turn again.
const FUNCTIONS: usize = 16;
/// How often a single vector comes and goes.
const ROUNDS: u64 = 4;
/// Reads of registers.
const READS: u64 = 10_000;
/// Takes the function away from the kernel's own driver, which a virtio-serial function
/// has before any module.
const TAKE: &str = "cd /sys/bus/pci/devices; for d in *; do \
     [ $(cat $d/device) = 0x1043 ] && echo $d > $d/driver/unbind; done; insmod /lib/irq_bench.ko";
/// The file of the module, whatever the function's name is.
const FILE: &str = "/sys/bus/pci/drivers/irq_bench/0*/bench";

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// With one function.
    Plain,
    /// With many.
    Functions,
    /// With one function, and a second CPU that sleeps: what it did would be counted,
    /// and waking it is an entry.
    TwoCpus,
}

/// What the calls of `host` take on `machine`.
pub(super) fn measure(
    lab: &Lab,
    mut machine: Machine,
    name: &str,
    host: Host,
) -> Result<Vec<(&'static Call, Sample)>> {
    machine.counted = true;
    machine.cpus = if host == Host::TwoCpus { 2 } else { 1 };
    machine.cpu.push_str(&format!(",cntfrq={FREQUENCY}"));
    machine.append_for_host(" isolcpus=1");
    let functions = if host == Host::Functions {
        FUNCTIONS
    } else {
        1
    };
    let function = format!(
        "virtio-serial-pci,max_ports=31,vectors={VECTORS},iommu_platform=on,disable-legacy=on"
    );
    machine.devices.extend(vec![function; functions]);
    let name = format!("bench-interrupts-{name}");
    let log = format!("{name}-{}.trace", std::process::id());
    let window = Window::new(lab.workspace.output().join("logs").join(log), None);
    machine.extra.extend(window.arguments());
    let fenced = matches!(machine.boot, Boot::Portcullis { .. });
    let mut vm = Vm::start(lab, &machine, &Watch::quietly(&name))?;
    let mut agent = Agent::wait_within(&vm, 0, BENCH_TIMEOUT)?;
    settle(&vm, &mut agent)?;
    let mut stage = Stage {
        vm: &vm,
        agent,
        fenced,
        window: &window,
        samples: Vec::new(),
    };
    stage.shell(TAKE)?;
    match host {
        Host::Plain => stage.plain()?,
        Host::Functions => stage.functions()?,
        Host::TwoCpus => stage.two_cpus()?,
    }
    let Stage {
        mut agent, samples, ..
    } = stage;
    agent.tell(&vm, "off")?;
    vm.wait_exit(OFF_TIMEOUT)?;
    Ok(samples)
}

struct Stage<'a> {
    vm: &'a Vm,
    agent: Agent,
    fenced: bool,
    window: &'a Window,
    samples: Vec<(&'static Call, Sample)>,
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

    /// Has the module make calls that nothing is counted of.
    fn make(&mut self, operation: &str) -> Result<()> {
        self.shell(&format!("for f in {FILE}; do echo {operation} > $f; done"))
    }

    /// The same, and counts.
    fn count(&mut self, call: &'static Call, operation: &str) -> Result<()> {
        let operation = if self.fenced {
            format!("{operation} el2")
        } else {
            operation.to_owned()
        };
        let entered = self.entries()?;
        let window = self.window;
        let vm = self.vm;
        let ((), log) = window.during(vm, Scope::Its, || self.make(&operation))?;
        // The second access, which tells the number, enters EL2 itself.
        let during = self.entries()?.saturating_sub(entered).saturating_sub(1);
        self.shell(&format!("cat {FILE} > /tmp/bench"))?;
        let data = ask(vm, &mut self.agent, "cat /tmp/bench")?.data();
        let text = String::from_utf8_lossy(&data);
        let all = text.lines().map(|line| said(&Reply::parse(line)));
        let mut round = middle(&all.collect::<Result<Vec<Sample>>>()?);
        round.entries = during as f64 / round.count;
        round.commands = commands(&log);
        match self.samples.iter_mut().find(|(known, _)| *known == call) {
            Some((_, sample)) => sample.add(&round),
            None => self.samples.push((call, round)),
        }
        Ok(())
    }

    fn entries(&mut self) -> Result<u64> {
        if self.fenced {
            entries(self.vm, &mut self.agent)
        } else {
            Ok(0)
        }
    }

    fn plain(&mut self) -> Result<()> {
        self.make("read 100")?;
        self.count(&READ, &format!("read {READS}"))?;
        self.start(VECTORS)?;
        self.count(&MASK, "mask 0")?;
        self.count(&UNMASK, "unmask 0")?;
        self.make("free 0")?;
        self.count(&MAP, "request 0")?;
        self.count(&FREE, "free 0")?;
        self.make("release 0")?;
        for _ in 0..ROUNDS {
            self.count(&FIRST, "allocate 1")?;
            self.count(&LAST, "release 0")?;
        }
        Ok(())
    }

    fn functions(&mut self) -> Result<()> {
        self.start(1)?;
        self.make("free 0")?;
        self.count(&MAP_NEXT, "request 0")?;
        self.count(&FREE_NEXT, "free 0")
    }

    /// Has so many vectors of each function in use, and unmasked.
    fn start(&mut self, vectors: u64) -> Result<()> {
        self.make(&format!("allocate {vectors}"))?;
        // The vectors are mapped already.
        self.make("request 0")?;
        self.make("start 0")
    }

    fn two_cpus(&mut self) -> Result<()> {
        self.start(VECTORS)?;
        self.make("move 0")?;
        self.count(&MOVE, "move 1")?;
        self.make("tell 1")?;
        self.count(&TELL, "tell 1")
    }
}

/// What the module says of the calls of a function.
fn said(reply: &Reply) -> Result<Sample> {
    let tick = 1e9 / reply.number("cntfrq")? as f64;
    let el2 = |key| match reply.get(key) {
        None => Ok(0.0),
        Some(_) => reply.number(key).map(|number| number as f64),
    };
    Ok(Sample {
        count: reply.number("count")? as f64,
        all: reply.number("p50")? as f64 * tick,
        el2: el2("el2_p50")?,
        most: el2("el2_most")?,
        ..Sample::default()
    })
}

/// The calls of all functions together.
fn middle(functions: &[Sample]) -> Sample {
    let middle = |of: fn(&Sample) -> f64| {
        let mut all: Vec<f64> = functions.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    Sample {
        count: functions.iter().map(|one| one.count).sum(),
        all: middle(|one| one.all),
        el2: middle(|one| one.el2),
        most: functions.iter().map(|one| one.most).fold(0.0, f64::max),
        ..Sample::default()
    }
}

/// The commands that `log` has, by name.
pub(super) fn commands(log: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for line in log.lines() {
        // The name may have the process and the time in front.
        let Some((_, rest)) = line.split_once(ITS_COMMAND) else {
            continue;
        };
        let name = rest.split_ascii_whitespace().next().unwrap_or_default();
        *all.entry(name.to_owned()).or_default() += 1.0;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_function_counts_and_rounds_are_averaged() {
        let of = |text| said(&Reply::parse(text)).expect("a sample");
        let mut all = middle(&[
            of("count=1 cntfrq=500000000 p50=4 el2_p50=20 el2_most=20"),
            of("count=1 cntfrq=500000000 p50=9 el2_p50=99 el2_most=99"),
            of("count=1 cntfrq=500000000 p50=3 el2_p50=18 el2_most=18"),
        ]);
        assert_eq!((all.count, all.all), (3.0, 8.0));
        assert_eq!((all.el2, all.most), (20.0, 99.0));
        all.add(&of(
            "count=1 cntfrq=1000000000 p50=12 el2_p50=40 el2_most=50",
        ));
        assert_eq!((all.count, all.all), (4.0, 9.0));
        assert_eq!((all.el2, all.most), (25.0, 99.0));
    }
}
