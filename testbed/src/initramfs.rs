//! The host's first root file system: busybox, modules, the agent.

use crate::build::Payloads;
use crate::cpio::Archive;
use crate::setup::Lab;
use crate::workspace;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What the host does once it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Wait for the lab's commands on the console.
    Agent,
    /// Give a person a shell on the console.
    Shell,
    /// As [`Purpose::Agent`], with the modules that only some checks load:
    /// `/bin/spare` loads those of the kernel package, `/bin/virtio` those of
    /// virtio devices.
    Proof,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Shell => "shell",
            Self::Proof => "proof",
        }
    }
}

/// Scripts for the proofs.
const SCRIPTS: [(&str, &str); 12] = [
    ("again", include_str!("guest/again.sh")),
    ("busy", include_str!("guest/busy.sh")),
    ("crash", include_str!("guest/crash.sh")),
    ("doze", include_str!("guest/doze.sh")),
    ("edu", include_str!("guest/edu.sh")),
    ("endpoints", include_str!("guest/endpoints.sh")),
    ("hibernate", include_str!("guest/hibernate.sh")),
    ("online", include_str!("guest/online.sh")),
    ("ports", include_str!("guest/ports.sh")),
    ("rebind", include_str!("guest/rebind.sh")),
    ("settled", include_str!("guest/settled.sh")),
    ("soak", include_str!("guest/soak.sh")),
];

/// Where the device tree has a virtio-iommu: the hypervisor's, and QEMU's on the
/// PCI bus.
const VIOMMU: &str = "/proc/device-tree/viommu@* /proc/device-tree/pcie@*/virtio_iommu@*";

/// What busybox is linked as; everything else is `busybox NAME`.
const APPLETS: [&str; 37] = [
    "sh", "cat", "cp", "dd", "devmem", "dmesg", "echo", "env", "find", "free", "grep", "head",
    "hexdump", "ifconfig", "insmod", "ip", "kill", "ls", "lsmod", "mkdir", "mount", "nc", "ping",
    "poweroff", "ps", "reboot", "rm", "setsid", "sleep", "sync", "tail", "top", "true", "vi",
    "taskset", "cttyhack", "udhcpc",
];

/// Builds the file system for `purpose` and returns its path.
///
/// # Errors
///
/// [`Error::Io`] when a part of it cannot be read or the result not written.
pub fn build(lab: &Lab, payloads: &Payloads, purpose: Purpose) -> Result<PathBuf> {
    build_with(lab, payloads, purpose, &[])
}

/// As [`build`], with further kernel modules at `/lib`, which nothing loads.
///
/// # Errors
///
/// As [`build`].
pub fn build_with(
    lab: &Lab,
    payloads: &Payloads,
    purpose: Purpose,
    more: &[&Path],
) -> Result<PathBuf> {
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "proc", "sys", "lib", "tmp", "root"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    archive.program("bin/busybox", &read(&lab.kernel.busybox)?);
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    let iommu = add(&mut archive, &lab.kernel.iommu)?;
    let modules = add(&mut archive, &lab.kernel.modules)?;
    if purpose == Purpose::Proof {
        let spare = add(&mut archive, &lab.kernel.spare)?;
        archive.program("bin/spare", load(&spare).as_bytes());
        let virtio = [iommu.clone(), add(&mut archive, &lab.kernel.virtio)?].concat();
        archive.program("bin/virtio", load(&virtio).as_bytes());
        archive.program("bin/vfio", &read(&payloads.vfio)?);
        for (name, text) in SCRIPTS {
            archive.program(&format!("bin/{name}"), text.as_bytes());
        }
    }
    add(&mut archive, more)?;
    archive.program("bin/agent", &read(&payloads.agent)?);
    archive.program("bin/stamp", &read(&payloads.stamp)?);
    archive.program("init", script(&iommu, &modules, purpose).as_bytes());
    let suffix = lab.kernel.build.suffix();
    let name = format!("initramfs-{}{suffix}.cpio", purpose.word());
    let path = lab.workspace.output().join(name);
    workspace::write_atomically(&path, &archive.finish())?;
    Ok(path)
}

/// Adds modules, and returns the names of their files.
fn add(archive: &mut Archive, modules: &[impl AsRef<Path>]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in modules.iter().map(AsRef::as_ref) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("lib/{name}"), &read(path)?);
        names.push(name.into_owned());
    }
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io("cannot read", path))
}

/// A script that loads the modules that are not there.
fn load(modules: &[String]) -> String {
    let mut script = "#!/bin/sh\nset -e\n".to_owned();
    for file in modules {
        let name = file.trim_end_matches(".ko");
        script.push_str(&format!(
            "[ -d /sys/module/{name} ] || insmod /lib/{file}\n"
        ));
    }
    script
}

/// The first program of the host.
///
/// It first tells the time, so that the lab can compare what booting costs.
fn script(iommu: &[String], modules: &[String], purpose: Purpose) -> String {
    let mut script = String::from(
        "#!/bin/sh\n\
         /bin/stamp\n\
         export PATH=/bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n",
    );
    // A driver that is there before the IOMMU's would do without. A host that has
    // no virtio-iommu is spared the modules: it is measured.
    script.push_str(&format!(
        "if [ -n \"$(ls -d {VIOMMU} 2> /dev/null)\" ]; then\n"
    ));
    for module in iommu {
        script.push_str(&format!("\tinsmod /lib/{module}\n"));
    }
    script.push_str("fi\n");
    for module in modules {
        script.push_str(&format!("insmod /lib/{module}\n"));
    }
    script.push_str(
        "if [ -e /sys/class/net/eth0 ]; then\n\
         \tip link set lo up\n\
         \tip link set eth0 up\n\
         \tip addr add 10.0.2.15/24 dev eth0\n\
         \tip route add default via 10.0.2.2\n\
         fi\n",
    );
    script.push_str(match purpose {
        // The kernel's messages below "emergency" would only be noise between
        // the answers; those from before are in the console's log already.
        Purpose::Agent | Purpose::Proof => {
            "echo 1 > /proc/sys/kernel/printk\n\
             /bin/agent\n\
             echo 'the agent has ended'\n\
             poweroff -f\n"
        }
        Purpose::Shell => {
            "echo 4 > /proc/sys/kernel/printk\n\
             echo\n\
             echo 'This is the host. Leave with: poweroff -f (or Ctrl-A x)'\n\
             setsid cttyhack sh\n\
             poweroff -f\n"
        }
    });
    script
}
