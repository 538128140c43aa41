//! One host under test, and what its kernel has to say.

use crate::agent::{Agent, BOOT_TIMEOUT, Reply};
use crate::demo::OFF_TIMEOUT;
use crate::disk::{self, Disk};
use crate::logfmt::Event;
use crate::machine::{HostIommu, Machine};
use crate::net::Exchange;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};
use std::time::Duration;

/// Longest time one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);

/// How an IOMMU's driver speaks.
struct Words {
    /// What is in every line of its.
    name: &'static str,
    /// What it says when all is well.
    well: &'static [&'static str],
    /// How it reports what devices may not do.
    fault: &'static [&'static str],
}

impl Words {
    fn of(iommu: HostIommu) -> Self {
        match iommu {
            HostIommu::Smmu => Self {
                name: "arm-smmu-v3",
                well: &[
                    " oas ",
                    ": allocated ",
                    ": option ",
                    "falling back to wired irqs",
                ],
                // Newer ones than 6.12 put them into words, too, in two lines.
                fault: &[
                    ": event 0x",
                    ": \t0x",
                    ": event: F_",
                    "Input address caused fault",
                ],
            },
            HostIommu::Virtio => Self {
                name: "virtio_iommu",
                well: &[": input address: ", ": page mask: "],
                fault: &[" fault from EP "],
            },
        }
    }
}

/// What others say when something is not.
const TROUBLE: &str = "Call trace|WARNING:|BUG:|[Tt]imeout|I/O error|Unit Hang|rcu.*stall|Adding to iommu group.*fail";

/// What the hypervisor counts and must not find with a driver that is right.
fn never(iommu: HostIommu) -> &'static [(&'static str, &'static str)] {
    match iommu {
        HostIommu::Smmu => &[
            ("emulated_counts", "refused_writes"),
            ("emulated_counts", "illegal_commands"),
            ("emulated_counts", "fetch_aborts"),
            ("emulated_counts", "failed_syncs"),
            ("emulated_counts", "bad_queues"),
            ("smmu_counts", "command_errors"),
            ("smmu_counts", "timeouts"),
        ],
        HostIommu::Virtio => &[
            ("viommu_counts", "refused"),
            ("viommu_counts", "malformed"),
            ("viommu_counts", "needs_reset"),
            ("smmu_counts", "command_errors"),
            ("smmu_counts", "timeouts"),
        ],
    }
}

/// What it counts and must find.
fn used(iommu: HostIommu) -> (&'static str, &'static str) {
    match iommu {
        HostIommu::Smmu => ("emulated_counts", "commands"),
        HostIommu::Virtio => ("viommu_counts", "requests"),
    }
}

/// The first count of the hypervisor's, if there is one, that is wrong.
pub(super) fn miscounted(iommu: HostIommu, events: &[Event]) -> Option<String> {
    // Without the hypervisor nobody counts.
    events.iter().find(|event| event.kind() == "host_start")?;
    // Of all SMMUs and virtio-iommus.
    let all = |kind: &str, key: &str| {
        let of = events.iter().filter(|event| event.kind() == kind);
        let counts = of.map(|event| event.number(key));
        counts.reduce(|sum, count| Some(sum? + count?)).flatten()
    };
    let wrong = never(iommu).iter().find_map(|(kind, key)| {
        let count = all(kind, key);
        (count != Some(0)).then(|| format!("{kind}: {key} is {count:?}"))
    });
    let (kind, key) = used(iommu);
    let asked = all(kind, key);
    let idle = asked.is_none_or(|number| number == 0);
    wrong.or_else(|| idle.then(|| format!("{kind}: {key} is {asked:?}, the host did not use it")))
}

/// A host that is up, with disk, network and the edu device.
pub struct Guest {
    /// Its machine.
    pub vm: Vm,
    /// Its agent.
    pub agent: Agent,
    disk: Disk,
    rounds: u64,
    /// None has nothing to say for itself.
    iommu: HostIommu,
}

impl Guest {
    /// Boots `machine`, to which the devices are added, with more arguments
    /// for its kernel.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps it from coming up.
    pub fn boot(lab: &Lab, machine: &Machine, arguments: &str, name: &str) -> Result<Self> {
        let mut machine = machine.clone();
        machine.edu = true;
        machine.smmu = !machine.virtio_iommu;
        Self::start(lab, &machine, arguments, name)
    }

    /// As [`Guest::boot`], with disk and network only, and the IOMMU that the
    /// machine has.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps it from coming up.
    pub fn start(lab: &Lab, machine: &Machine, arguments: &str, name: &str) -> Result<Self> {
        let disk = Disk::new(&lab.workspace, name)?;
        let mut machine = machine.clone();
        machine.disk = Some(disk.path().to_owned());
        machine.network = true;
        // Hundreds of drivers that come and go have much to say, and none of it
        // must push out what the IOMMU's driver says.
        machine.append_for_host(&format!(" log_buf_len=16M {arguments}"));
        let vm = Vm::start(lab, &machine, &Watch::quietly(name))?;
        let agent = Agent::wait(&vm)?;
        Ok(Self {
            vm,
            agent,
            disk,
            rounds: 0,
            iommu: machine.host_iommu().unwrap_or(HostIommu::Smmu),
        })
    }

    /// Has the kernel start the one that the agent has loaded, and waits until
    /// that is up.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps it from coming up.
    pub fn next_kernel(&mut self) -> Result<()> {
        let mark = self.vm.host.mark();
        self.agent.tell(&self.vm, "kexec")?;
        self.agent = Agent::wait_within(&self.vm, mark, BOOT_TIMEOUT)?;
        Ok(())
    }

    /// Has the machine reset, and waits until it is up again.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps it from coming up.
    pub fn reboot(&mut self) -> Result<()> {
        let mark = self.vm.host.mark();
        self.agent.tell(&self.vm, "reboot")?;
        self.agent = Agent::wait_within(&self.vm, mark, BOOT_TIMEOUT)?;
        Ok(())
    }

    /// Has the kernel panic, and waits until the one that was
    /// [loaded](Guest::shell) for that case is up.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps it from coming up.
    pub fn panic(&mut self) -> Result<()> {
        let mark = self.vm.host.mark();
        self.agent
            .tell(&self.vm, "sh echo c > /proc/sysrq-trigger")?;
        let gone = self.vm.host.wait(mark, BOOT_TIMEOUT, |line| {
            line.text.contains("Bye!").then_some(())
        });
        if gone.is_none() {
            return Err(self.vm.timeout("the kernel's last word", BOOT_TIMEOUT));
        }
        let mark = self.vm.host.mark();
        self.agent = Agent::wait_within(&self.vm, mark, BOOT_TIMEOUT)?;
        Ok(())
    }

    /// Has the agent do something.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask_within`].
    pub fn ask(&mut self, command: &str) -> Result<Reply> {
        self.agent.ask_within(&self.vm, command, STEP_TIMEOUT)
    }

    /// Runs a shell command and returns the lines it printed.
    ///
    /// # Errors
    ///
    /// [`Error::Agent`] when its status is not 0.
    pub fn shell(&mut self, command: &str) -> Result<Vec<String>> {
        const PREFIX: &str = "@out ";
        let mark = self.vm.host.mark();
        let wrapped = format!(
            "sh ({command}) > /tmp/out 2>&1; s=$?; busybox sed 's/^/{PREFIX}/' /tmp/out; exit $s"
        );
        let reply = self.ask(&wrapped)?;
        let lines = self.vm.host.lines_since(mark);
        let printed: Vec<String> = lines
            .iter()
            .filter_map(|line| line.text.strip_prefix(PREFIX))
            .map(str::to_owned)
            .collect();
        if reply.get("status") == Some("0") {
            return Ok(printed);
        }
        Err(Error::Agent {
            command: command.to_owned(),
            message: format!("{reply:?}: {}", printed.join("; ")),
        })
    }

    /// Moves `bytes` each way over disk and network, and compares all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Agent`] or [`Error::Machine`] for data that differs.
    pub fn transfers(&mut self, bytes: u64) -> Result<()> {
        self.ask(&format!("nvme verify {:#x} 0 {bytes}", disk::SEED))?;
        self.rounds += 1;
        let (seed, at) = (0xb000 + self.rounds, 16 << 20);
        self.ask(&format!("nvme fill {seed:#x} {at} {bytes}"))?;
        if let Some(position) = self.disk.first_difference(seed, at, bytes)? {
            return Err(Error::Machine {
                what: format!("what the host wrote to the disk differs at byte {position}"),
                tail: String::new(),
            });
        }
        self.ask(&format!("nvme verify {seed:#x} {at} {bytes}"))?;
        self.network(bytes)
    }

    /// Sends and receives `bytes`, and compares them.
    ///
    /// # Errors
    ///
    /// As [`Guest::transfers`].
    pub fn network(&mut self, bytes: u64) -> Result<()> {
        self.rounds += 1;
        let (up, down) = (0xc000 + self.rounds, 0xd000 + self.rounds);
        let exchange = Exchange::listen(bytes, up, down)?;
        let port = exchange.port();
        let asked = self.ask(&format!("net exchange {port} {bytes} {up:#x} {down:#x}"));
        // Of two complaints the one that is about data says more.
        exchange.finish()?;
        asked.map(drop)
    }

    /// The first thing that kernel or hypervisor complained about, but for
    /// the faults that the IOMMU's driver reports, if these are `expected`: then
    /// the hypervisor may have stopped a device, too, where it does the
    /// translation.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of the machine.
    pub fn complaint(&mut self, expected: bool) -> Result<Option<String>> {
        let words = Words::of(self.iommu);
        let said = self.shell(&format!("dmesg | grep {} || true", words.name))?;
        if said.is_empty() {
            let what = format!("no driver {} said that it is there", words.name);
            return Ok(Some(what));
        }
        let any = |line: &str, of: &[&str]| of.iter().any(|part| line.contains(part));
        let fine = |line: &str| any(line, words.well) || (expected && any(line, words.fault));
        let bad = said.into_iter().find(|line| !fine(line));
        if bad.is_some() {
            return Ok(bad);
        }
        let trouble = self.shell(&format!("dmesg | grep -E '{TROUBLE}' || true"))?;
        if let Some(line) = trouble.into_iter().next() {
            return Ok(Some(line));
        }
        let events = self.vm.events_since(0);
        let ours = expected && self.iommu == HostIommu::Virtio;
        let stopped = events.iter().find(|event| event.kind() == "dma_fault");
        let stopped = stopped.filter(|_| !ours);
        Ok(stopped.map(|event| format!("the hypervisor stopped a device: {event:?}")))
    }

    /// What kind of domain each IOMMU group has.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of the machine.
    pub fn domains(&mut self) -> Result<Vec<String>> {
        self.shell("cat /sys/kernel/iommu_groups/*/type")
    }

    /// Switches it off; returns the first complaint of its life, as
    /// [`Guest::complaint`], and of the hypervisor's counts at its end.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when it does not end.
    pub fn off(mut self, expected: bool) -> Result<Option<String>> {
        let complaint = self.complaint(expected)?;
        let iommu = self.iommu;
        let events = self.end()?;
        Ok(complaint.or_else(|| miscounted(iommu, &events)))
    }

    /// Switches it off; returns how many seconds of its own time its kernel took for
    /// that, what it said meanwhile, and all that the hypervisor said.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when it does not end, [`Error::Machine`] when the kernel said
    /// nothing.
    pub fn end_timed(mut self) -> Result<(f64, Vec<String>, Vec<Event>)> {
        let mark = self.vm.host.mark();
        self.shell("echo 7 > /proc/sys/kernel/printk; echo its time has come > /dev/kmsg")?;
        self.agent.tell(&self.vm, "off")?;
        self.vm.wait_exit(OFF_TIMEOUT)?;
        let lines = self.vm.host.lines_since(mark);
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        let said: Vec<_> = whole(&texts).filter_map(said).collect();
        let begin = said
            .iter()
            .position(|(_, text)| *text == "its time has come");
        let said = begin.and_then(|at| said.get(at..)).unwrap_or_default();
        let (Some((first, _)), Some((last, _))) = (said.first(), said.last()) else {
            return Err(Error::Machine {
                what: "the kernel did not say that it ends".to_owned(),
                tail: self.vm.tails(),
            });
        };
        let words = said.iter().skip(1).map(|(_, text)| (*text).to_owned());
        Ok((last - first, words.collect(), self.vm.events_since(0)))
    }

    /// Switches it off; returns all that the hypervisor said.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when it does not end.
    pub fn end(mut self) -> Result<Vec<Event>> {
        self.agent.tell(&self.vm, "off")?;
        self.vm.wait_exit(OFF_TIMEOUT)?;
        Ok(self.vm.events_since(0))
    }
}

/// The lines without those that the kernel broke off: where one CPU takes the console
/// over from another in the middle of a line, it says so and prints all of the line
/// again (Linux, `kernel/printk/printk.c`, `console_prepend_replay`).
fn whole<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    const AGAIN: &str = "** replaying previous printk message **";
    let next = |at: usize| lines.get(at + 1).copied();
    let numbered = lines.iter().copied().enumerate();
    numbered.filter_map(move |(at, line)| (next(at) != Some(AGAIN)).then_some(line))
}

/// A line of a kernel's: when, and what.
fn said(line: &str) -> Option<(f64, &str)> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    Some((time.trim().parse().ok()?, text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_broken_off_comes_again() {
        let lines = [
            "[   10.080177] ---[ end trace 0000000000000000 ]---",
            "[   10.080568] ------------[ ",
            "** replaying previous printk message **",
            "[   10.080568] ------------[ cut here ]------------",
        ];
        let said: Vec<_> = whole(&lines)
            .filter_map(said)
            .map(|(_, text)| text)
            .collect();
        let all = [
            "---[ end trace 0000000000000000 ]---",
            "------------[ cut here ]------------",
        ];
        assert_eq!(said, all);
    }

    #[test]
    fn what_the_hypervisor_counted_is_looked_at() {
        let smmu = "portcullis: event=emulated_counts refused_writes=0 commands=7 \
                    illegal_commands=0 fetch_aborts=0 failed_syncs=0 bad_queues=0";
        let virtio = "portcullis: event=viommu_counts refused=0 requests=7 malformed=0 \
                      needs_reset=0";
        all_counts(HostIommu::Smmu, smmu);
        all_counts(HostIommu::Virtio, virtio);
    }

    fn all_counts(iommu: HostIommu, own: &str) {
        let good = [
            "portcullis: event=host_start",
            "portcullis: event=smmu_counts command_errors=0 timeouts=0",
            own,
        ];
        let count = |lines: &[String]| {
            let events: Vec<Event> = lines.iter().filter_map(|line| Event::parse(line)).collect();
            miscounted(iommu, &events)
        };
        let lines = good.map(str::to_owned);
        assert_eq!(count(&lines), None);
        for (kind, key) in never(iommu) {
            let wrong = lines.clone().map(|line| match line.contains(kind) {
                true => line.replace(&format!("{key}=0"), &format!("{key}=1")),
                false => line,
            });
            assert!(count(&wrong).is_some_and(|what| what.contains(key)));
        }
        let idle = lines.clone().map(|line| line.replace("=7", "=0"));
        assert!(count(&idle).is_some());
        assert!(count(&lines[..2]).is_some());
        assert_eq!(count(&lines[1..2]), None);
    }

    #[test]
    fn lines_of_a_kernel_have_a_time() {
        assert_eq!(
            said("[    7.250000] reboot: Power down"),
            Some((7.25, "reboot: Power down"))
        );
        for line in ["", "@0 ok", "[ x] y", "portcullis: event=x t=1"] {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
