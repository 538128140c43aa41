//! The host drives an IOMMU: proofs with the drivers and devices that a
//! distribution has.
//!
//! They say nothing about the hypervisor's part of the work, so they run on a
//! machine without one, too, which shows what they are worth.

mod clients;
mod guest;
pub mod interrupts;
mod placement;
pub mod power;
mod vectors;

pub use guest::Guest;

use crate::Result;
use crate::check::{Check, Report};
use crate::demo;
use crate::machine::{Boot, HostIommu, Machine};
use crate::progress::Progress;
use crate::setup::Lab;
use std::time::{Duration, Instant};

/// Bytes of the transfers that show that a host works.
const QUICK: u64 = 2 << 20;
/// Bytes of one transfer under load.
const LOADED: u64 = 4 << 20;
/// Transfers with virtio devices.
const VIRTIO_ROUNDS: u64 = 4;
/// Unbindings between two looks at the devices.
const BATCH: u64 = 20;

/// A kernel to be the host, and the machine it is on.
pub struct Host {
    /// What to build and boot with.
    pub lab: Lab,
    /// The machine, whose initrd is one for [`crate::initramfs::Purpose::Proof`], with
    /// `dma_bench.ko` for the parts that need it.
    pub machine: Machine,
}

/// One of the proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every setting of the host, with a few transfers.
    Matrix,
    /// Disk and network together, for long, on busy CPUs.
    Load,
    /// Drivers that come and go.
    Rebind,
    /// A driver in user space.
    Vfio,
    /// Disk and network as virtio devices.
    Virtio,
    /// The demonstration; an SMMU of the host's lets everything through.
    Attacks,
}

/// How much is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to prove.
    pub parts: Vec<Part>,
    /// Seconds of transfers under load.
    pub seconds: u64,
    /// How often drivers are unbound and bound again.
    pub rebinds: u64,
}

/// Runs the proofs; the first of `hosts` is the one for those that need only
/// one.
///
/// # Errors
///
/// Nothing that a proof may meet: that is in the report.
pub fn run(plan: &Plan, hosts: &[Host]) -> Result<Report> {
    let mut report = Report::default();
    let Some(first) = hosts.first() else {
        return Ok(report);
    };
    for part in &plan.parts {
        match part {
            Part::Matrix => {
                for host in hosts {
                    matrix(host, &mut report);
                }
            }
            Part::Load => load(first, plan.seconds, &mut report),
            Part::Rebind => rebind(first, plan.rebinds, &mut report),
            Part::Vfio => {
                for host in hosts {
                    vfio(host, &mut report);
                }
            }
            Part::Virtio => virtio(first, &mut report),
            Part::Attacks => attacks(first, &mut report)?,
        }
    }
    Ok(report)
}

/// Adds a check whose result is what `work` returns; an error of the machine
/// is a check that failed, too.
fn prove(
    report: &mut Report,
    name: &str,
    tried: &str,
    work: impl FnOnce() -> Result<std::result::Result<String, String>>,
) {
    let progress = Progress::spinner(&format!("{name}: {tried}"));
    let start = Instant::now();
    let check = match work() {
        Ok(result) => Check::of(name, tried, result),
        Err(error) => {
            eprintln!("{error}");
            Check::failed(name, tried, error.to_string())
        }
    };
    report.add(check.with("seconds", start.elapsed().as_secs_f64()));
    progress.done();
}

/// `good`, unless there was a complaint.
fn unless(
    complaint: Option<String>,
    good: impl Into<String>,
) -> std::result::Result<String, String> {
    complaint.map_or_else(|| Ok(good.into()), Err)
}

/// The name of a proof's log files.
fn log_name(machine: &Machine, part: &str) -> String {
    let mode = match machine.host_iommu() {
        Some(HostIommu::Virtio) => "paravirt",
        Some(HostIommu::Smmu) => "nested",
        None => "identity",
    };
    format!("{mode}-{part}")
}

fn matrix(host: &Host, report: &mut Report) {
    // To let devices through, the driver would have all addresses mapped, the
    // hypervisor's among them.
    let passthroughs: &[u32] = match host.machine.host_iommu() {
        Some(HostIommu::Virtio) => &[0],
        _ => &[0, 1],
    };
    for strict in [1, 0] {
        for passthrough in passthroughs.iter().copied() {
            for cpus in [1, 4] {
                let tried = format!(
                    "{}, strict={strict}, passthrough={passthrough}, {cpus} CPUs",
                    host.lab.kernel.title()
                );
                prove(report, "Host with its own IOMMU", &tried, || {
                    setting(host, strict, passthrough, cpus)
                });
            }
        }
    }
}

/// One setting of the host: the devices work, and in the way that was asked for.
fn setting(
    host: &Host,
    strict: u32,
    passthrough: u32,
    cpus: u32,
) -> Result<std::result::Result<String, String>> {
    let arguments = format!("iommu.strict={strict} iommu.passthrough={passthrough}");
    let mut machine = host.machine.clone();
    machine.cpus = cpus;
    let mut guest = Guest::boot(
        &host.lab,
        &machine,
        &arguments,
        &log_name(&machine, "matrix"),
    )?;
    guest.transfers(QUICK)?;
    let wanted = match (strict, passthrough) {
        (_, 1) => "identity",
        (0, _) => "DMA-FQ",
        _ => "DMA",
    };
    let domains = guest.domains()?;
    let complaint = guest.off(false)?;
    if domains.len() < 2 || domains.iter().any(|domain| domain != wanted) {
        return Ok(Err(format!("the groups are {domains:?}, not {wanted}")));
    }
    let good = format!("{} groups {wanted}, all data compared equal", domains.len());
    Ok(unless(complaint, good))
}

fn load(host: &Host, seconds: u64, report: &mut Report) {
    for (strict, cpus) in [(1, 1), (1, 4), (0, 1), (0, 4)] {
        let tried = format!("NVMe, e1000e, mappings, {seconds} s, strict={strict}, {cpus} CPUs");
        prove(report, "Devices work under load", &tried, || {
            let mut machine = host.machine.clone();
            machine.cpus = cpus;
            let arguments = format!("iommu.strict={strict}");
            let mut guest =
                Guest::boot(&host.lab, &machine, &arguments, &log_name(&machine, "load"))?;
            guest.shell("insmod /lib/dma_bench.ko")?;
            guest.ask("sh soak > /dev/null 2>&1 &")?;
            let end = Instant::now() + Duration::from_secs(seconds);
            let mut exchanged = 0_u64;
            while Instant::now() < end {
                guest.network(LOADED)?;
                exchanged += 1;
            }
            guest.shell("touch /tmp/stop; while [ ! -e /tmp/soaked ]; do sleep 1; done")?;
            let summary = guest.shell("cat /tmp/soaked")?.join(" ");
            let complaint = guest.off(false)?;
            let counts = crate::agent::Reply::parse(&summary);
            let disk = counts.number("disk")?;
            let maps = counts.number("maps")?;
            if counts.number("errors")? != 0 || disk == 0 || maps == 0 || exchanged == 0 {
                return Ok(Err(format!("{summary} network={exchanged}")));
            }
            let mebibytes = LOADED >> 20;
            Ok(unless(
                complaint,
                format!(
                    "{} MiB by disk, {} MiB by network, {} mappings",
                    disk * mebibytes,
                    exchanged * 2 * mebibytes,
                    maps
                ),
            ))
        });
    }
}

fn rebind(host: &Host, count: u64, report: &mut Report) {
    let tried = format!("nvme, e1000e and edu, {count} times each, transfers between");
    prove(report, "Drivers are unbound and bound", &tried, || {
        let mut machine = host.machine.clone();
        machine.cpus = 2;
        let mut guest = Guest::boot(&host.lab, &machine, "", &log_name(&machine, "rebind"))?;
        guest.shell("spare && insmod /lib/dma_bench.ko")?;
        let mut done = 0;
        while done < count {
            let batch = BATCH.min(count - done);
            guest.shell(&format!("rebind {batch}"))?;
            guest.transfers(QUICK)?;
            done += batch;
        }
        let complaint = guest.off(false)?;
        Ok(unless(
            complaint,
            format!("{done} times, all data compared equal"),
        ))
    });
}

fn vfio(host: &Host, report: &mut Report) {
    let tried = format!(
        "type 1, {}, edu at addresses of its own",
        host.lab.kernel.title()
    );
    prove(report, "A program drives a device", &tried, || {
        let mut guest = Guest::boot(
            &host.lab,
            &host.machine,
            "",
            &log_name(&host.machine, "vfio"),
        )?;
        guest.shell("spare")?;
        let said = guest.shell("edu vfio-pci vfio || true")?.join(" ");
        // What the device may not do is reported to the host, whose affair it is.
        let (pattern, kinds) = match host.machine.host_iommu() {
            // Whatever a device may not do, virtio-iommu calls it a page fault.
            Some(HostIommu::Virtio) => ("page fault from EP", &["page fault"][..]),
            _ => ("event 0x.* received", &["event 0x10", "event 0x13"][..]),
        };
        let events = guest.shell(&format!(
            "dmesg | grep -o '{pattern}' | busybox sort -u || true"
        ))?;
        guest.transfers(QUICK)?;
        let complaint = guest.off(true)?;
        let checks = crate::agent::Reply::parse(&said);
        for name in [
            "chosen",
            "readonly",
            "unmapped",
            "remapped",
            "never",
            "scattered",
        ] {
            if checks.get(name) != Some("ok") {
                return Ok(Err(said));
            }
        }
        for kind in kinds {
            if !events.iter().any(|event| event.starts_with(kind)) {
                return Ok(Err(format!(
                    "the kernel reported {events:?}, but no {kind}"
                )));
            }
        }
        Ok(unless(
            complaint,
            "data, faults, unmapping, 64 MiB scattered: all as it says",
        ))
    });
}

/// The devices of virtual machines, whose drivers map what they hand over.
fn virtio(host: &Host, report: &mut Report) {
    for strict in [1, 0] {
        let tried = format!("virtio-blk-pci and virtio-net-pci, strict={strict}");
        prove(report, "Virtio devices work", &tried, || {
            let mut machine = host.machine.clone();
            machine.virtio = true;
            let arguments = format!("iommu.strict={strict}");
            let name = log_name(&machine, "virtio");
            let mut guest = Guest::boot(&host.lab, &machine, &arguments, &name)?;
            guest.shell("virtio && online")?;
            for _ in 0..VIRTIO_ROUNDS {
                guest.transfers(LOADED)?;
            }
            let groups = guest.domains()?.len();
            let complaint = guest.off(false)?;
            if groups < 2 {
                return Ok(Err(format!("only {groups} groups: not behind the IOMMU")));
            }
            Ok(unless(
                complaint,
                format!(
                    "{} MiB each way, all data equal",
                    (LOADED >> 20) * VIRTIO_ROUNDS
                ),
            ))
        });
    }
}

/// The demonstration's attacks. A device that the host's own SMMU lets reach all
/// it can shows that it is not the host that stops it.
fn attacks(host: &Host, report: &mut Report) -> Result<()> {
    if !matches!(host.machine.boot, Boot::Portcullis { .. }) {
        return Ok(());
    }
    let mut machine = host.machine.clone();
    if machine.host_iommu() == Some(HostIommu::Smmu) {
        machine.append_for_host(" iommu.passthrough=1");
    }
    let name = log_name(&machine, "attacks");
    let demonstration = demo::run(&host.lab, machine, &name)?;
    for check in demonstration.checks() {
        report.add(check.clone());
    }
    Ok(())
}
