//! Drivers of a distribution, and what they do with the interrupt translation
//! service that they find.

use super::clients::Clients;
use super::guest::{Guest, miscounted};
use super::placement::Placement;
use super::vectors::{Device, Vectors};
use super::{Host, QUICK, log_name, prove};
use crate::agent::Reply;
use crate::check::Report;
use crate::logfmt::Event;
use crate::machine::Boot;
use crate::setup::kernel::Version;
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// Seconds of load that show that a host works.
pub(super) const BRIEF: u64 = 2;
/// Bytes that go each way in one exchange by network.
const EXCHANGE: u64 = 512 << 10;
/// How often every CPU goes and comes back.
const LAPS: u32 = 2;
/// Unbindings between two looks at the devices.
const BATCH: u64 = 20;

/// One of the proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All devices together, for long, on one CPU and on four.
    Load,
    /// CPUs that go and come back, and interrupts that move.
    Hotplug,
    /// Drivers that come and go.
    Rebind,
    /// A second kernel in the first one's place.
    Kexec,
    /// A kernel that is written to the disk and read back.
    Hibernation,
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

/// What happens to a host that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many seconds of load on all devices.
    Load(u64),
    /// Every CPU goes and comes back so many times while the devices are busy; then
    /// interrupts are moved from one CPU to the other.
    Hotplug(u32),
    /// All drivers are unbound and bound again so many times.
    Rebind(u64),
    /// A second kernel.
    Kexec,
    /// To the disk and back.
    Hibernation,
}

/// Runs the proofs on each of `hosts`.
#[must_use]
pub fn run(plan: &Plan, hosts: &[Host]) -> Report {
    let mut report = Report::default();
    let sizes = || hosts.iter().flat_map(|host| [(host, 1), (host, 4)]);
    for part in &plan.parts {
        match part {
            Part::Load => {
                for (host, cpus) in sizes() {
                    let tried = format!("{cpus} CPUs, {} s", plan.seconds);
                    let steps = [Step::Load(plan.seconds)];
                    let name = "Devices work under load";
                    add(&mut report, name, &tried, host, cpus, &steps);
                }
            }
            Part::Hotplug => {
                for host in hosts {
                    let tried = format!("each of 4 CPUs, {LAPS} times, devices busy");
                    let name = "CPUs go and come back";
                    add(&mut report, name, &tried, host, 4, &[Step::Hotplug(LAPS)]);
                }
            }
            Part::Rebind => {
                // Minutes each: so one size of machine for each kernel.
                for (host, cpus) in hosts.iter().zip([1, 4].into_iter().cycle()) {
                    let count = plan.rebinds;
                    let tried = format!("{cpus} CPUs, {count} times each");
                    let name = "Drivers are unbound and bound";
                    add(
                        &mut report,
                        name,
                        &tried,
                        host,
                        cpus,
                        &[Step::Rebind(count)],
                    );
                }
            }
            Part::Kexec => {
                for (host, cpus) in sizes() {
                    let tried = format!("kexec, {cpus} CPUs");
                    let name = "A second kernel works";
                    add(&mut report, name, &tried, host, cpus, &[Step::Kexec]);
                }
            }
            Part::Hibernation => {
                // Linux' driver of the SMMU, 6.12's and 7.3's, does not know of hibernation:
                // it goes on with its queues where they were, on QEMU's SMMU, too.
                for (host, cpus) in sizes().filter(|(host, _)| host.machine.host_iommu().is_none())
                {
                    let tried = format!("to the disk and back, {cpus} CPUs");
                    let name = "A host hibernates";
                    add(&mut report, name, &tried, host, cpus, &[Step::Hibernation]);
                }
            }
        }
    }
    report
}

fn add(report: &mut Report, name: &str, tried: &str, host: &Host, cpus: u32, steps: &[Step]) {
    let tried = format!("{}: {tried}", host.lab.kernel.title());
    prove(report, name, &tried, || {
        live(host, "interrupts", cpus, steps)
    });
}

/// Boots a host, has all of `steps` happen to it, and switches it off; what came
/// of it, or the first thing that is wrong. Of two at a time each has a name of its own.
///
/// # Errors
///
/// Any [`Error`] of the machine.
pub fn live(
    host: &Host,
    name: &str,
    cpus: u32,
    steps: &[Step],
) -> Result<std::result::Result<String, String>> {
    let mut machine = host.machine.clone();
    machine.cpus = cpus;
    let (kernel, initrd) = modules(host)?;
    let name = log_name(&machine, name);
    let clients = Clients::new(&host.lab, kernel, initrd, &name)?;
    clients.join(&mut machine);
    let mode = machine.host_iommu();
    let mut guest = Guest::start(&host.lab, &machine, "", &name)?;
    guest.shell("settled")?;
    let mut said = Vec::new();
    for step in steps {
        let result = match step {
            Step::Load(seconds) => load(&mut guest, *seconds, cpus)?,
            Step::Hotplug(laps) => hotplug(&mut guest, *laps, cpus)?,
            Step::Rebind(count) => rebind(&mut guest, *count, cpus)?,
            Step::Kexec => kexec(&mut guest, &clients, cpus)?,
            Step::Hibernation => {
                let version = host.lab.kernel.build.version;
                hibernation(&mut guest, version, cpus)?
            }
        };
        match result {
            Ok(good) => said.push(good),
            Err(bad) => return Ok(Err(format!("{step:?}: {bad}"))),
        }
    }
    let mut usual = USUAL.to_vec();
    if steps.contains(&Step::Kexec) {
        usual.extend(USUAL_AFTER_KEXEC);
    }
    if steps.contains(&Step::Hibernation) {
        usual.extend(USUAL_AFTER_HIBERNATION);
    }
    if let Some(complaint) = complaint(&mut guest, &usual)? {
        return Ok(Err(complaint));
    }
    let events = guest.end()?;
    let wrong = mode.and_then(|mode| miscounted(mode, &events));
    if let Some(wrong) = wrong.or_else(|| refused(&events)) {
        return Ok(Err(wrong));
    }
    if let Some(at) = clients.first_difference()? {
        return Ok(Err(format!("the virtio disk differs at byte {at}")));
    }
    Ok(Ok(said.join("; ")))
}

/// The files of the kernel and of its root file system.
pub(super) fn modules(host: &Host) -> Result<(&std::path::Path, &std::path::Path)> {
    match &host.machine.boot {
        Boot::Native { kernel, initrd, .. } => Ok((kernel, initrd)),
        Boot::Portcullis { modules, .. } => match modules.as_slice() {
            [kernel, initrd] => Ok((&kernel.path, &initrd.path)),
            _ => Err(Error::unsuitable(
                "a machine without a kernel and its root file system",
                "give it both",
            )),
        },
    }
}

/// What the kernel says with a level of "warning" or worse on this machine, with the
/// hypervisor and without.
pub(super) const USUAL: [&str; 5] = [
    "KASLR disabled due to lack of seed",
    "cacheinfo: Unable to detect cache hierarchy",
    "Memory resource size exceeds max for 32 bits",
    // An emulator's CPU waits for its turn like any program.
    "hrtimer: interrupt took",
    "no longer affine to cpu",
];

/// The same of a kernel that another one has started: LPIs cannot be switched off for
/// sure, so the driver leaves them on.
pub(super) const USUAL_AFTER_KEXEC: [&str; 2] = [
    "GICv3: Expected reserved range",
    "Booted with LPIs enabled, memory probably corrupted",
];

/// The same of a kernel that comes back from its disk: 6.12 ends a line about the
/// programs that go on with a word that is a line of its own when another kernel thread
/// comes between, and the NVMe driver keeps what is asked of a disk that is not back yet.
pub(super) const USUAL_AFTER_HIBERNATION: [&str; 2] = ["] done.", "no usable path - requeuing I/O"];

/// The first lines of the kernel's log that are warnings or worse, and are no `usual`
/// ones, if there are any.
pub(super) fn complaint(guest: &mut Guest, usual: &[&str]) -> Result<Option<String>> {
    let said = guest.shell("dmesg -r | grep '^<[0-4]>' || true")?;
    let usual = |line: &String| usual.iter().any(|part| line.contains(part));
    let bad = said.into_iter().filter(|line| !usual(line));
    let bad: Vec<String> = bad.take(3).collect();
    Ok((!bad.is_empty()).then(|| bad.join("; ")))
}

/// What the hypervisor says it has refused or stopped, if anything.
pub(super) fn refused(events: &[Event]) -> Option<String> {
    let of = |kind: &'static str| events.iter().filter(move |event| event.kind() == kind);
    // Without the hypervisor nobody counts.
    of("host_start").next()?;
    if let Some(event) = of("dma_fault").chain(of("its_failed")).next() {
        return Some(format!("the hypervisor says {event:?}"));
    }
    let mut services = 0;
    for event in of("its_counts") {
        let refused = event.number("refused");
        if refused != Some(0) || event.number("commands").unwrap_or(0) == 0 {
            return Some(format!("the hypervisor counted {event:?}"));
        }
        services += 1;
    }
    (services == 0).then(|| "the hypervisor counted nothing of an ITS".to_owned())
}

/// Has all devices used from now on.
fn start(guest: &mut Guest) -> Result<()> {
    // What an earlier one has left must not be taken for what this one did.
    guest.shell("rm -f /tmp/stop /tmp/busied /tmp/busy.*; [ ! -e /tmp/busied ]")?;
    guest.ask("sh busy > /dev/null 2>&1 &")?;
    Ok(())
}

/// Ends what [`start`] started; what it did, or what went wrong.
fn stop(guest: &mut Guest) -> Result<std::result::Result<String, String>> {
    let wait = "i=0; while [ ! -e /tmp/busied ] && [ $i -lt 100 ]; do sleep 1; i=$((i + 1)); done";
    guest.shell(&format!("touch /tmp/stop; {wait}; [ -e /tmp/busied ]"))?;
    let summary = guest.shell("cat /tmp/busied")?.join(" ");
    let counts = Reply::parse(&summary);
    for key in ["disk", "block", "port"] {
        if counts.number(key)? == 0 {
            return Ok(Err(summary));
        }
    }
    Ok(if counts.number("bad")? == 0 {
        Ok(summary)
    } else {
        Err(summary)
    })
}

fn vectors(guest: &mut Guest) -> Result<Vectors> {
    Ok(Vectors::parse(&guest.shell("cat /proc/interrupts")?))
}

pub(super) fn load(
    guest: &mut Guest,
    seconds: u64,
    cpus: u32,
) -> Result<std::result::Result<String, String>> {
    let before = vectors(guest)?;
    start(guest)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut exchanged = 0_u64;
    while exchanged == 0 || Instant::now() < end {
        guest.network(EXCHANGE)?;
        exchanged += 1;
    }
    if let Err(bad) = stop(guest)? {
        return Ok(Err(bad));
    }
    let after = vectors(guest)?;
    Ok(after.judge(&before, cpus as usize))
}

fn hotplug(guest: &mut Guest, laps: u32, cpus: u32) -> Result<std::result::Result<String, String>> {
    start(guest)?;
    for _ in 0..laps {
        for cpu in 0..cpus {
            guest.ask(&format!("cpu {cpu} off"))?;
            guest.network(EXCHANGE)?;
            guest.ask(&format!("cpu {cpu} on"))?;
        }
    }
    if let Err(bad) = stop(guest)? {
        return Ok(Err(bad));
    }
    // The users of a CPU that goes stay away from it: others have to look whether all
    // works again.
    let before = vectors(guest)?;
    start(guest)?;
    for cpu in 0..cpus {
        if let Err(bad) = moved(guest, cpu)? {
            return Ok(Err(bad));
        }
    }
    if let Err(bad) = stop(guest)? {
        return Ok(Err(bad));
    }
    let worked = vectors(guest)?.judge(&before, cpus as usize);
    Ok(worked.map(|counts| format!("all data equal, moved to each of {cpus} CPUs, {counts}")))
}

/// Moves the interrupts that can be moved to `cpu`, where they are to come then.
fn moved(guest: &mut Guest, cpu: u32) -> Result<std::result::Result<String, String>> {
    let now = vectors(guest)?;
    let devices = [Device::Network, Device::Ports];
    let numbers: Vec<String> = devices
        .iter()
        .flat_map(|device| now.numbers(*device))
        .map(|number| number.to_string())
        .collect();
    guest.shell(&format!(
        "for i in {}; do echo {cpu} > /proc/irq/$i/smp_affinity_list || exit 1; done",
        numbers.join(" ")
    ))?;
    let before = vectors(guest)?;
    guest.network(EXCHANGE)?;
    let after = vectors(guest)?;
    for device in devices {
        let counts = after.by_cpu(&before, device);
        let there = counts.get(&cpu).copied().unwrap_or(0);
        let all: u64 = counts.values().sum();
        if there == 0 || there != all {
            return Ok(Err(format!("{device:?} moved to CPU {cpu}: {counts:?}")));
        }
    }
    Ok(Ok(String::new()))
}

fn rebind(guest: &mut Guest, count: u64, cpus: u32) -> Result<std::result::Result<String, String>> {
    let mut done = 0;
    while done < count {
        let batch = BATCH.min(count - done);
        guest.shell(&format!("again {batch}"))?;
        guest.transfers(QUICK)?;
        if let Err(bad) = load(guest, 0, cpus)? {
            return Ok(Err(bad));
        }
        done += batch;
    }
    Ok(Ok(format!("{done} times, all data equal")))
}

/// Copies the next kernel and its root file system from the disk to `/tmp`.
pub(super) fn fetch(guest: &mut Guest, clients: &Clients) -> Result<()> {
    let mebibytes = clients.initrd_at >> 20;
    guest.shell(&format!(
        "head -c {} /dev/next > /tmp/kernel && \
         dd if=/dev/next bs=1M skip={mebibytes} 2> /dev/null | \
         head -c {} > /tmp/initrd",
        clients.kernel, clients.initrd
    ))?;
    Ok(())
}

pub(super) fn kexec(
    guest: &mut Guest,
    clients: &Clients,
    cpus: u32,
) -> Result<std::result::Result<String, String>> {
    fetch(guest, clients)?;
    let iomem = guest.shell("cat /proc/iomem")?;
    let start = guest.ask("cat /proc/device-tree/chosen/linux,initrd-start")?;
    let Some(placement) = Placement::find(&iomem, &start.data(), clients.initrd) else {
        return Ok(Err("there is no place for a second kernel".to_owned()));
    };
    let Placement {
        kernel,
        initrd,
        tree,
    } = placement;
    guest.ask(&format!(
        "kexec /tmp/kernel {kernel:#x} /tmp/initrd {initrd:#x} {tree:#x}"
    ))?;
    guest.shell("rm /tmp/kernel /tmp/initrd")?;
    if let Some(bad) = complaint(guest, &USUAL)? {
        return Ok(Err(bad));
    }
    guest.next_kernel()?;
    guest.shell("settled")?;
    guest.transfers(QUICK)?;
    let worked = load(guest, BRIEF, cpus)?;
    Ok(worked.map(|counts| format!("all data equal after kexec, {counts}")))
}

pub(super) fn hibernation(
    guest: &mut Guest,
    version: Version,
    cpus: u32,
) -> Result<std::result::Result<String, String>> {
    // With all tables in use before.
    if let Err(bad) = load(guest, 0, cpus)? {
        return Ok(Err(bad));
    }
    guest.shell("hibernate")?;
    if version == Version::V7 {
        // Linux 7.3's driver of virtio's serial ports does not come back: on QEMU's own
        // ITS, too, the device never answers it again, and all ports count as closed.
        guest.shell("ports && settled")?;
    }
    guest.transfers(QUICK)?;
    let worked = load(guest, BRIEF, cpus)?;
    Ok(worked.map(|counts| format!("all data equal after it, {counts}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hypervisor_refused_is_looked_at() {
        let judged = |lines: &[&str]| {
            let events: Vec<Event> = lines.iter().filter_map(|line| Event::parse(line)).collect();
            refused(&events)
        };
        let start = "portcullis: event=host_start";
        let good = "portcullis: event=its_counts its=0 commands=7 refused=0";
        let bad = "portcullis: event=its_counts its=1 commands=7 refused=1";
        let idle = "portcullis: event=its_counts its=1 commands=0 refused=0";
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[start, good]), None);
        for more in [
            bad,
            idle,
            "portcullis: event=dma_fault",
            "portcullis: event=its_failed",
        ] {
            assert!(judged(&[start, good, more]).is_some(), "{more}");
        }
        assert!(judged(&[start]).is_some());
    }
}
