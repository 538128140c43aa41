//! A host that is switched off, starts again, or sleeps, and its devices with it.

use super::clients::Clients;
use super::guest::{Guest, miscounted};
use super::interrupts::{
    BRIEF, USUAL, USUAL_AFTER_HIBERNATION, USUAL_AFTER_KEXEC, complaint, fetch, hibernation, kexec,
    load, modules, refused,
};
use super::{Host, QUICK, log_name, prove};
use crate::Result;
use crate::check::Report;
use crate::machine::HostIommu;
use crate::setup::kernel::Version;
use std::time::Duration;

/// CPUs of the host.
const CPUS: u32 = 2;
/// Most seconds of its own time that a kernel may take to end. A driver whose device
/// has lost its memory waits for a minute; to print some hundred warnings takes seconds.
const OFF_SECONDS: f64 = 20.0;
/// Longest time until a host is awake again.
const SLEEP_TIMEOUT: Duration = Duration::from_secs(120);
/// What a kernel says when it ends.
const LAST_WORDS: [&str; 4] = [
    "reboot: Power down",
    "kvm: exiting hardware virtualization",
    "e1000e",
    "ACPI: PM:",
];

/// What happens to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It is switched off.
    Off,
    /// The machine is reset.
    Reboot,
    /// A second kernel takes the first one's place.
    Kexec,
    /// The kernel panics, and another one in memory of its own looks at what is left.
    Crash,
    /// All devices are suspended, and the CPUs idle until the clock wakes them (s2idle).
    Sleep,
    /// The kernel is written to the disk and read back.
    Hibernation,
}

impl Part {
    /// Whether Linux, 6.12 and 7.3, can have that happen with such an IOMMU.
    ///
    /// Its driver of the SMMU does not set the device up again after hibernation, and that
    /// of the virtio-iommu, which is reset when all devices are suspended, never does: on
    /// QEMU's own, too, the host waits for it for ever.
    fn is_for(self, iommu: Option<HostIommu>) -> bool {
        match self {
            Self::Hibernation => iommu.is_none(),
            Self::Sleep => iommu != Some(HostIommu::Virtio),
            Self::Off | Self::Reboot | Self::Kexec | Self::Crash => true,
        }
    }

    /// For people.
    fn title(self) -> &'static str {
        match self {
            Self::Off => "The host powers off",
            Self::Reboot => "The host reboots",
            Self::Kexec => "A second kernel works",
            Self::Crash => "A kernel for crashes works",
            Self::Sleep => "The host sleeps and wakes",
            Self::Hibernation => "A host hibernates",
        }
    }
}

/// Has each of `parts` happen to each of `hosts`.
#[must_use]
pub fn run(parts: &[Part], hosts: &[Host]) -> Report {
    let mut report = Report::default();
    for host in hosts {
        for part in parts {
            if !part.is_for(host.machine.host_iommu()) {
                continue;
            }
            let mode = log_name(&host.machine, "host");
            let tried = format!("{}: {mode}", host.lab.kernel.title());
            prove(&mut report, part.title(), &tried, || live(host, *part));
        }
    }
    report
}

/// Boots a host, has `part` happen to it, sees whether all of its devices work, and
/// switches it off.
///
/// # Errors
///
/// Any [`Error`](crate::Error) of the machine.
pub fn live(host: &Host, part: Part) -> Result<std::result::Result<String, String>> {
    let mut machine = host.machine.clone();
    machine.cpus = CPUS;
    let (kernel, initrd) = modules(host)?;
    let name = log_name(&machine, &format!("{part:?}").to_lowercase());
    let clients = Clients::new(&host.lab, kernel, initrd, &name)?;
    clients.join(&mut machine);
    let mode = machine.host_iommu();
    let mut arguments = String::new();
    if part == Part::Crash {
        // Beside what the host needs at the usual addresses.
        machine.memory = "2G".to_owned();
        arguments.push_str("crashkernel=384M");
    }
    let mut guest = Guest::start(&host.lab, &machine, &arguments, &name)?;
    guest.shell("settled")?;
    guest.transfers(QUICK)?;
    let done = happen(&mut guest, &clients, part, host)?;
    let done = match done {
        Ok(done) => done,
        Err(bad) => return Ok(Err(bad)),
    };
    let mut usual = USUAL.to_vec();
    match part {
        Part::Kexec => usual.extend(USUAL_AFTER_KEXEC),
        Part::Crash => usual.extend(USUAL_AFTER_KEXEC.iter().chain(&USUAL_AFTER_CRASH)),
        Part::Hibernation => usual.extend(USUAL_AFTER_HIBERNATION),
        Part::Off | Part::Reboot | Part::Sleep => {}
    }
    if let Some(complaint) = complaint(&mut guest, &usual)? {
        return Ok(Err(complaint));
    }
    let (seconds, said, events) = guest.end_timed()?;
    let unmaps = mode == Some(HostIommu::Virtio) && host.lab.kernel.build.version == Version::V7;
    if let Some(odd) = odd_word(&said, unmaps) {
        return Ok(Err(format!("at its end the kernel says: {odd}")));
    }
    if seconds > OFF_SECONDS {
        return Ok(Err(format!("the kernel took {seconds:.2} s to end")));
    }
    let wrong = mode.and_then(|mode| miscounted(mode, &events));
    if let Some(wrong) = wrong.or_else(|| refused(&events)) {
        return Ok(Err(wrong));
    }
    Ok(Ok(format!("{done}, off in {seconds:.2} s")))
}

/// The first line that a kernel does not always say when it ends.
///
/// With `unmaps`, it is one that resets its virtio-iommu before the drivers behind it have
/// taken their mappings back, which is then refused by the kernel itself: it warns, on
/// QEMU's own, too.
fn odd_word(said: &[String], unmaps: bool) -> Option<&String> {
    let mut warning = false;
    said.iter().enumerate().find_map(|(at, line)| {
        if unmaps && line.contains("[ cut here ]") {
            let what = said.get(at + 1)?;
            warning = what.contains("WARNING: ") && what.contains("at __iommu_dma_unmap+");
        }
        let usual = warning || LAST_WORDS.iter().any(|usual| line.contains(usual));
        warning &= !line.contains("---[ end trace");
        (!usual).then_some(line)
    })
}

/// The same of a kernel that was started because another one panicked, which has stopped
/// no device.
const USUAL_AFTER_CRASH: [&str; 1] = ["SMMU currently enabled! Resetting..."];

fn happen(
    guest: &mut Guest,
    clients: &Clients,
    part: Part,
    host: &Host,
) -> Result<std::result::Result<String, String>> {
    match part {
        Part::Off => return Ok(Ok("all data equal".to_owned())),
        Part::Kexec => return kexec(guest, clients, CPUS),
        Part::Hibernation => return hibernation(guest, host.lab.kernel.build.version, CPUS),
        Part::Reboot => {
            guest.reboot()?;
            guest.shell("settled")?;
        }
        Part::Sleep => {
            let reply = guest
                .agent
                .ask_within(&guest.vm, "sh doze", SLEEP_TIMEOUT)?;
            if reply.get("status") != Some("0") {
                return Ok(Err(format!("it did not sleep: {reply:?}")));
            }
            if host.lab.kernel.build.version == Version::V7 {
                // As after hibernation: 7.3's driver of virtio's serial ports does not
                // come back, on QEMU's own ITS, too.
                guest.shell("ports && settled")?;
            }
        }
        Part::Crash => {
            fetch(guest, clients)?;
            let line = guest.shell("cat /proc/cmdline")?.join(" ");
            let kept = line
                .split_ascii_whitespace()
                .filter(|word| !word.starts_with("crashkernel="));
            let line: Vec<&str> = kept.collect();
            guest.shell(&format!("crash {} maxcpus=1", line.join(" ")))?;
            guest.panic()?;
            guest.shell("[ \"$(head -c 4 /proc/vmcore | busybox tail -c 3)\" = ELF ]")?;
            guest.shell("settled")?;
            guest.transfers(QUICK)?;
            return Ok(Ok("all data equal, /proc/vmcore is there".to_owned()));
        }
    }
    guest.transfers(QUICK)?;
    let worked = load(guest, BRIEF, CPUS)?;
    Ok(worked.map(|counts| format!("all data equal after it, {counts}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_warning_is_passed_over() {
        let odd = |lines: &[&str], unmaps| {
            let said: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
            odd_word(&said, unmaps).cloned()
        };
        let cut = "------------[ cut here ]------------";
        let unmap = "WARNING: drivers/iommu/dma-iommu.c:839 at __iommu_dma_unmap+0x2a4/0x2e0";
        let end = "---[ end trace 0000000000000000 ]---";
        let off = "reboot: Power down";
        assert_eq!(odd(&[off], false), None);
        assert_eq!(odd(&[cut, unmap, "x0 : 0", end, off], true), None);
        assert_eq!(odd(&[cut, unmap, end, off], false).as_deref(), Some(cut));
        assert_eq!(
            odd(&[cut, "WARNING: at other+0x1", end], true).as_deref(),
            Some(cut)
        );
        assert_eq!(
            odd(&[cut, unmap, end, "other"], true).as_deref(),
            Some("other")
        );
    }
}
