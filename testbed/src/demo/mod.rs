//! The demonstration: Debian behind the fence, and everything that must not
//! get through it.

pub mod attack;
mod emulated;
mod interrupts;
mod paravirt;

use crate::agent::Agent;
use crate::check::{Check, Report};
use crate::disk::{self, Disk};
use crate::machine::{HostIommu, Machine};
use crate::net::Exchange;
use crate::progress::Progress;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};
use attack::{Access, Actor, Range, Target};
use std::time::{Duration, Instant};

/// Bytes of one verified disk transfer.
const DISK_BYTES: u64 = 8 << 20;
/// Where the disk is written.
const DISK_WRITE_AT: u64 = 16 << 20;
/// Bytes sent over the network each way.
const NETWORK_BYTES: u64 = 4 << 20;
/// Seeds of what is written to the disk, sent and received.
const WRITE_SEED: u64 = 0xaa01;
const UP_SEED: u64 = 0xaa02;
const DOWN_SEED: u64 = 0xaa03;
const MEMORY_SEED: u64 = 0xaa04;

/// Longest time a machine may take to switch off.
pub const OFF_TIMEOUT: Duration = Duration::from_secs(60);

/// The SMMU's registers: two pages of 64 KiB.
pub const SMMU: u64 = 0x0905_0000;
/// A register that the hypervisor keeps from the host in every mode.
pub const WITHHELD: u64 = 0x0902_0010;
/// Registers of devices whose DMA no SMMU translates: whoever writes them has
/// all memory.
const BYPASS: [(&str, u64); 2] = [
    ("fw_cfg DMA address", WITHHELD),
    ("virtio-mmio queue", 0x0a00_0050),
];

/// The interrupt controller's distributor, the redistributor of CPU 0, and the
/// control page of the ITS (its next page is the doorbell, which devices use).
const GIC: [(&str, u64); 4] = [
    ("GIC distributor", 0x0800_0400),
    ("GIC distributor", 0x0800_fe00),
    ("GIC redistributor", 0x080b_0400),
    ("GIC ITS control", 0x0808_0080),
];
/// Memory that any process of the host may map: the start of the flash.
const FLASH: u64 = 0;

/// Runs the demonstration on `machine`, to which disk, network and edu device
/// are added.
///
/// # Errors
///
/// Any [`Error`] that keeps it from being run at all; what does not hold is in
/// the report.
pub fn run(lab: &Lab, mut machine: Machine, name: &str) -> Result<Report> {
    let disk = Disk::new(&lab.workspace, name)?;
    machine.disk = Some(disk.path().to_owned());
    machine.network = true;
    machine.edu = true;
    let iommu = machine.host_iommu();
    if iommu.is_some() {
        // The kernel's own drivers would keep the registers from us.
        machine.append_for_host(" iomem=relaxed");
    }
    let mut report = Report::default();
    let like = machine.clone();
    let progress = Progress::spinner("booting Debian under the hypervisor");
    let start = Instant::now();
    let mut vm = Vm::start(lab, &machine, &Watch::quietly(name))?;
    const BOOTS: &str = "Debian boots";
    let tried = format!(
        "stock kernel, {} CPUs, {}, {}",
        machine.cpus, machine.memory, machine.cpu
    );
    let mut agent = match Agent::wait(&vm) {
        Ok(agent) => agent,
        Err(error) => {
            report.add(Check::failed(BOOTS, tried, error.to_string()));
            eprintln!("{error}");
            return Ok(report);
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let check = Check::held(BOOTS, tried, format!("up after {seconds:.1} s"));
    report.add(check.with("seconds", seconds));
    progress.done();

    let mut stage = Stage {
        vm: &mut vm,
        agent: &mut agent,
        report: &mut report,
        iommu,
    };
    let outcome = stage.all(&disk);
    if let Err(error) = outcome {
        stage.report.add(Check::failed(
            "The machine goes on",
            "all of the above",
            error.to_string(),
        ));
        eprintln!("{error}");
        return Ok(report);
    }
    report.add(power_off(&mut vm, &mut agent));
    for check in interrupts::attack(lab, &like, name)? {
        report.add(check);
    }
    Ok(report)
}

/// Switches the host off and waits for the machine to end by itself.
fn power_off(vm: &mut Vm, agent: &mut Agent) -> Check {
    const NAME: &str = "The host powers off";
    const TRIED: &str = "poweroff in the host";
    let ended = agent
        .tell(vm, "off")
        .and_then(|_| vm.wait_exit(OFF_TIMEOUT));
    if let Err(error) = ended {
        return Check::failed(NAME, TRIED, error.to_string());
    }
    let events = vm.events_since(0);
    match events
        .iter()
        .rev()
        .find(|event| event.kind() == "exit_counts")
    {
        None => Check::failed(
            NAME,
            TRIED,
            "the machine ended, but no exit_counts in the log",
        ),
        Some(counts) => {
            let mut check = Check::held(NAME, TRIED, "done; EL2 entries are in the log");
            for (key, value) in counts.fields().filter(|(key, _)| *key != "event") {
                check = check.with(key, value);
            }
            check
        }
    }
}

/// What the checks need while the machine runs.
struct Stage<'a> {
    vm: &'a mut Vm,
    agent: &'a mut Agent,
    report: &'a mut Report,
    /// The IOMMU that the host has.
    iommu: Option<HostIommu>,
}

impl Stage<'_> {
    fn all(&mut self, disk: &Disk) -> Result<()> {
        let ranges = self.announced();
        self.disk(disk)?;
        self.network()?;
        match self.iommu {
            Some(HostIommu::Smmu) => self.let_through()?,
            Some(HostIommu::Virtio) => self.shell("insmod /lib/dma_bench.ko")?,
            None => {}
        }
        let (device, page) = self.ordinary_memory()?;

        let memory: Vec<Target> = ranges.iter().flat_map(Range::targets).collect();
        let registers = vec![
            Target::new("SMMU registers", SMMU + 0x80),
            Target::new("SMMU registers", SMMU + 0x1_00a0),
        ];
        let gic: Vec<Target> = GIC
            .iter()
            .map(|(what, at)| Target::new(*what, *at))
            .collect();
        let progress = Progress::spinner("the device attacks");
        self.attacks(device, "hypervisor memory", &memory)?;
        self.attacks(device, "SMMU registers", &registers)?;
        self.attacks(device, "interrupt controller", &gic)?;
        if self.iommu == Some(HostIommu::Virtio) {
            self.forbidden_mappings(device, "hypervisor memory", &memory)?;
            self.forbidden_mappings(device, "SMMU registers", &registers)?;
            self.forbidden_mappings(device, "interrupt controller", &gic)?;
            self.just_unmapped(device, page)?;
        }
        progress.done();

        self.cpu_reaches_its_own()?;
        let progress = Progress::spinner("the CPU attacks");
        self.attacks(Actor::Cpu, "hypervisor memory", &memory)?;
        match self.iommu {
            Some(HostIommu::Smmu) => self.emulated_registers()?,
            Some(HostIommu::Virtio) => {
                self.virtio_registers()?;
                self.attacks(Actor::Cpu, "SMMU registers", &self.registers_beyond())?;
            }
            None => self.attacks(Actor::Cpu, "SMMU registers", &registers)?,
        }
        let bypass: Vec<Target> = BYPASS
            .iter()
            .map(|(what, at)| Target::new(*what, *at))
            .collect();
        self.attacks(Actor::Cpu, "DMA past the SMMU", &bypass)?;
        progress.done();
        match self.iommu {
            Some(HostIommu::Smmu) => {
                self.switched_off(device, &memory)?;
                self.still_alive()
            }
            Some(HostIommu::Virtio) => {
                self.refused_with_status(&memory, page)?;
                self.still_alive()?;
                self.reset(device, page, &memory)
            }
            None => self.still_alive(),
        }
    }

    /// What the hypervisor says it took into its hands.
    fn announced(&mut self) -> Vec<Range> {
        let events = self.vm.events_since(0);
        let ranges = Range::announced(&events);
        let has = |kind: &str| events.iter().any(|event| event.kind() == kind);
        let total: u64 = ranges.iter().map(|range| range.size).sum();
        let result = if ranges.is_empty() {
            Err("no event=memory_reserved in its log".to_owned())
        } else if !has("smmu_ready") {
            Err("no event=smmu_ready in its log".to_owned())
        } else if !has("host_start") {
            Err("no event=host_start in its log".to_owned())
        } else {
            Ok(format!(
                "{} ranges, {} KiB; SMMU ready",
                ranges.len(),
                total >> 10
            ))
        };
        let tried = "reading the hypervisor's log";
        let check = Check::of("Memory and SMMU are taken", tried, result);
        self.report
            .add(check.with("ranges", ranges.len()).with("bytes", total));
        ranges
    }

    fn disk(&mut self, disk: &Disk) -> Result<()> {
        let read = format!("nvme verify {:#x} 0 {DISK_BYTES}", disk::SEED);
        let write = format!("nvme fill {WRITE_SEED:#x} {DISK_WRITE_AT} {DISK_BYTES}");
        let mut result = self.held(&read)?;
        if result.is_ok() {
            result = self.held(&write)?;
        }
        if result.is_ok() {
            result = match disk.first_difference(WRITE_SEED, DISK_WRITE_AT, DISK_BYTES)? {
                None => Ok(()),
                Some(at) => Err(format!("what the host wrote differs at byte {at}")),
            };
        }
        let result = result.map(|()| "all data compared equal at both ends".to_owned());
        let check = Check::of("NVMe disk works", "8 MiB read, 8 MiB written", result);
        self.report.add(check.with("bytes", DISK_BYTES * 2));
        Ok(())
    }

    fn network(&mut self) -> Result<()> {
        let exchange = Exchange::listen(NETWORK_BYTES, UP_SEED, DOWN_SEED)?;
        let port = exchange.port();
        let command = format!("net exchange {port} {NETWORK_BYTES} {UP_SEED:#x} {DOWN_SEED:#x}");
        let mut result = self.held(&command)?;
        if result.is_ok() {
            result = exchange.finish().map_err(|error| error.to_string());
        }
        let result = result.map(|()| "all data compared equal at both ends".to_owned());
        let check = Check::of("e1000e network works", "4 MiB sent, 4 MiB received", result);
        self.report.add(check.with("bytes", NETWORK_BYTES * 2));
        Ok(())
    }

    /// The control of the attacks: the same device does reach what it may, a
    /// page whose address is returned.
    fn ordinary_memory(&mut self) -> Result<(Actor, u64)> {
        let reply = self.agent.ask(self.vm, "edu init")?;
        let target = reply.number("target")?;
        if self.iommu == Some(HostIommu::Virtio) {
            self.map_for_edu(&[target, reply.number("scratch")?])?;
        }
        let stream = stream_of(reply.get("device").unwrap_or(""))?;
        let mut expected = [0; 64];
        portcullis_payloads::pattern::fill(&mut expected, MEMORY_SEED, 0);
        self.agent
            .ask(self.vm, &format!("edu fill {MEMORY_SEED:#x}"))?;
        let read = self
            .agent
            .ask(self.vm, &format!("edu read {target:#x} 64"))?
            .data();
        let mut result = if read == expected {
            Ok(())
        } else {
            Err("the device read something else than the host had written".to_owned())
        };
        if result.is_ok() {
            let seed = MEMORY_SEED + 1;
            self.agent
                .ask(self.vm, &format!("edu write {target:#x} {seed:#x} 4096"))?;
            result = self.held(&format!("edu check {seed:#x}"))?;
        }
        let result = result.map(|()| "both went through, data compared".to_owned());
        let tried = "edu reads and writes a page of the host";
        self.report
            .add(Check::of("Device reaches host memory", tried, result));
        Ok((Actor::Device { stream }, target))
    }

    fn cpu_reaches_its_own(&mut self) -> Result<()> {
        let reply = self.agent.ask(self.vm, &format!("poke read {FLASH:#x}"))?;
        let result = match reply.get("outcome") {
            Some("done") => Ok("went through".to_owned()),
            other => Err(format!("outcome {other:?}")),
        };
        let tried = "/dev/mem read of the flash";
        self.report
            .add(Check::of("CPU reaches its own devices", tried, result));
        Ok(())
    }

    fn attacks(&mut self, actor: Actor, what: &str, targets: &[Target]) -> Result<()> {
        for access in [Access::Read, Access::Write] {
            let mut wrong = Vec::new();
            for target in targets {
                wrong.extend(attack::attack(self.vm, self.agent, actor, access, target)?);
            }
            let who = if actor == Actor::Cpu { "CPU" } else { "Device" };
            let verb = if access == Access::Read {
                "reads"
            } else {
                "writes"
            };
            let name = format!("{who} {verb} {what}");
            let by = if actor == Actor::Cpu {
                "/dev/mem"
            } else {
                "edu DMA"
            };
            let tried = format!("{} {} by {by}", targets.len(), verb);
            let result = match wrong.first() {
                None if targets.is_empty() => Err("there was nothing to attack".to_owned()),
                None => Ok(self.refused(actor, access)),
                Some(first) => Err(format!(
                    "{} of {} got wrong: {first}",
                    wrong.len(),
                    targets.len()
                )),
            };
            let check = Check::of(&name, tried, result);
            let check = check
                .with("attacks", targets.len())
                .with("wrong", wrong.clone());
            self.report.add(check);
        }
        Ok(())
    }

    fn refused(&self, actor: Actor, access: Access) -> String {
        let effect = match (actor, access) {
            (_, Access::Write) => "memory unchanged",
            (Actor::Cpu, Access::Read) => "SIGBUS",
            (Actor::Device { .. } | Actor::Blocked { .. }, Access::Read) => "nothing learnt",
        };
        format!("all blocked and reported, {effect}")
    }

    fn still_alive(&mut self) -> Result<()> {
        let command = format!("nvme verify {:#x} 0 {}", disk::SEED, 1 << 20);
        let result = self.held(&command)?.map(|()| "it does".to_owned());
        let tried = "one more disk transfer after all attacks";
        self.report
            .add(Check::of("The host lives on", tried, result));
        Ok(())
    }

    /// Runs a shell command that is to succeed.
    fn shell(&mut self, command: &str) -> Result<()> {
        let reply = self.agent.ask(self.vm, &format!("sh {command}"))?;
        if reply.get("status") == Some("0") {
            return Ok(());
        }
        Err(Error::Agent {
            command: command.to_owned(),
            message: format!("{reply:?}"),
        })
    }

    /// Has the agent do something; its refusal is a result, not an error.
    fn held(&mut self, command: &str) -> Result<std::result::Result<(), String>> {
        match self.agent.ask(self.vm, command) {
            Ok(_) => Ok(Ok(())),
            Err(Error::Agent { message, .. }) => Ok(Err(message)),
            Err(error) => Err(error),
        }
    }
}

/// The StreamID of a PCI function of the first segment, which QEMU makes its
/// bus, device and function number.
///
/// # Errors
///
/// [`Error::Unsuitable`] when `name` is no such function.
pub fn stream_of(name: &str) -> Result<u64> {
    let parse = || {
        let (_, rest) = name.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some(hex(bus)? << 8 | hex(device)? << 3 | hex(function)?)
    };
    parse().ok_or_else(|| Error::unsuitable(format!("{name:?} is no PCI function"), "0000:00:03.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bus_device_function() {
        assert_eq!(stream_of("0000:00:03.0").expect("a stream"), 0x18);
        assert_eq!(stream_of("0000:01:00.1").expect("a stream"), 0x101);
        assert!(stream_of("edu").is_err());
    }
}
