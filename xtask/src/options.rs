//! The flags all commands that boot the machine have in common.

use clap::{Args, ValueEnum};
use portcullis_testbed::machine::{self, Boot, Machine};
use portcullis_testbed::setup::kernel::{Build, Flavour, Version};
use portcullis_testbed::setup::{Lab, Wishes};
use std::path::{Path, PathBuf};

/// How the host sees its I/O memory management.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostIommu {
    /// The host sees a machine without one.
    Identity,
    /// The host sees an SMMUv3 of its own, emulated; stage 1 is the host's.
    Nested,
    /// The host sees a virtio-iommu, and says what is to be mapped.
    Paravirt,
}

impl HostIommu {
    /// The value of the hypervisor's `host-iommu` key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Nested => "nested",
            Self::Paravirt => "paravirt",
        }
    }
}

/// Which of Debian's kernels is the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelFlavour {
    /// With pages of 4 KiB.
    #[value(name = "4k")]
    Small,
    /// With pages of 16 KiB.
    #[value(name = "16k")]
    Large,
}

impl KernelFlavour {
    /// The one with pages of another size.
    pub fn other(self) -> Self {
        match self {
            Self::Small => Self::Large,
            Self::Large => Self::Small,
        }
    }
}

/// Which version of Debian's kernels is the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelVersion {
    /// Of Debian 12's backports.
    #[value(name = "6.12")]
    Six,
    /// The newest of Debian 13's backports, 7.3 or later.
    #[value(name = "7", alias = "7.3")]
    Seven,
}

impl From<KernelVersion> for Version {
    fn from(version: KernelVersion) -> Self {
        match version {
            KernelVersion::Six => Self::V6,
            KernelVersion::Seven => Self::V7,
        }
    }
}

impl From<KernelFlavour> for Flavour {
    fn from(flavour: KernelFlavour) -> Self {
        match flavour {
            KernelFlavour::Small => Self::Pages4K,
            KernelFlavour::Large => Self::Pages16K,
        }
    }
}

/// The machine to boot.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How the host sees its I/O memory management.
    #[arg(long, value_name = "MODE", default_value = "identity")]
    pub host_iommu: HostIommu,
    /// Number of CPUs, 1 to 8.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = cpus)]
    pub cpus: u32,
    /// RAM: a number with M or G, from 512M to 8G.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    pub memory: String,
    /// QEMU's name of the CPU, such as cortex-a57, cortex-a76, neoverse-n1 or max.
    #[arg(long, value_name = "MODEL", default_value = "cortex-a76", value_parser = word)]
    pub cpu: String,
    /// The host kernel: an uncompressed arm64 Image [default: Debian's].
    #[arg(long, value_name = "PATH", value_parser = file)]
    pub kernel: Option<PathBuf>,
    /// Debian's kernel of this version; 7 is the newest one of Debian 13's backports,
    /// for which no modules of ours are built.
    #[arg(
        long,
        alias = "kernel-release",
        value_name = "VERSION",
        default_value = "6.12",
        conflicts_with = "kernel"
    )]
    pub kernel_version: KernelVersion,
    /// Debian's kernel with pages of this size.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "4k",
        conflicts_with = "kernel"
    )]
    pub kernel_flavour: KernelFlavour,
    /// The host's initrd [default: busybox, drivers and the agent of the checks].
    #[arg(long, value_name = "PATH", value_parser = file)]
    pub initrd: Option<PathBuf>,
    /// More arguments for the host kernel's command line.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// More arguments for the hypervisor's command line, such as bhb=off.
    #[arg(long, value_name = "ARGS")]
    pub hypervisor_append: Option<String>,
    /// One more device, in QEMU's words; may be repeated.
    #[arg(long = "device", value_name = "QEMU-DEVICE", value_parser = device)]
    pub devices: Vec<String>,
    /// The qemu-system-aarch64 to use, 9.2 or later.
    #[arg(long, value_name = "PATH", value_parser = file)]
    pub qemu: Option<PathBuf>,
}

impl Options {
    /// Sets up with what the caller names, and checks what only QEMU can judge.
    pub fn set_up(&self) -> portcullis_testbed::Result<Lab> {
        let wishes = Wishes {
            qemu: self.qemu.clone(),
            kernel: self.kernel.clone(),
            build: Build {
                version: self.kernel_version.into(),
                flavour: self.kernel_flavour.into(),
            },
        };
        let lab = Lab::set_up(&wishes)?;
        lab.qemu.check_cpu(&self.cpu)?;
        for device in &self.devices {
            lab.qemu.check_device(device)?;
        }
        Ok(lab)
    }

    /// RAM in bytes.
    pub fn memory_bytes(&self) -> u64 {
        mebibytes(&self.memory).unwrap_or(0) << 20
    }

    /// The host kernel's command line.
    pub fn host_arguments(&self) -> String {
        match &self.append {
            Some(more) => format!("{} {more}", machine::HOST_ARGUMENTS),
            None => machine::HOST_ARGUMENTS.to_owned(),
        }
    }

    /// The hypervisor's command line.
    pub fn hypervisor_arguments(&self) -> String {
        let more = self.hypervisor_append.as_deref().unwrap_or_default();
        let arguments = format!(
            "host-iommu={} log=info console=serial1 {more}",
            self.host_iommu.key()
        );
        arguments.trim_end().to_owned()
    }

    /// The machine with the hypervisor `image`.
    pub fn machine(&self, image: &Path, kernel: &Path, initrd: &Path) -> Machine {
        let boot = machine::portcullis(
            image,
            &self.hypervisor_arguments(),
            kernel,
            self.initrd.as_deref().unwrap_or(initrd),
            &self.host_arguments(),
        );
        self.sized(Machine::new(boot))
    }

    /// The machine without the hypervisor.
    pub fn native_machine(&self, kernel: &Path, initrd: &Path) -> Machine {
        let initrd = self.initrd.as_deref().unwrap_or(initrd).to_owned();
        self.sized(Machine::new(Boot::Native {
            kernel: kernel.to_owned(),
            initrd,
            arguments: self.host_arguments(),
        }))
    }

    /// The same, with QEMU's own device in the place of what the host is to find.
    pub fn native_machine_with_iommu(&self, kernel: &Path, initrd: &Path) -> Machine {
        let mut machine = self.native_machine(kernel, initrd);
        machine.smmu = self.host_iommu == HostIommu::Nested;
        machine.virtio_iommu = self.host_iommu == HostIommu::Paravirt;
        machine
    }

    fn sized(&self, mut machine: Machine) -> Machine {
        machine.cpus = self.cpus;
        machine.cpu.clone_from(&self.cpu);
        machine.memory.clone_from(&self.memory);
        machine.devices.clone_from(&self.devices);
        machine
    }
}

/// A number of CPUs the hypervisor supports.
fn cpus(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=8).contains(number));
    number.ok_or_else(|| "give a number from 1 to 8".to_owned())
}

/// A size QEMU understands, within what the hypervisor supports.
fn memory(text: &str) -> Result<String, String> {
    match mebibytes(text) {
        Some(512..=8192) => Ok(text.to_owned()),
        _ => Err("give 512M to 8G, such as 1G or 1536M".to_owned()),
    }
}

fn mebibytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "M" | "m" => 1,
        "G" | "g" => 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Something that is no empty word.
fn word(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("give a name, it cannot be empty".to_owned());
    }
    Ok(text.to_owned())
}

/// A device in QEMU's words, which must not go past the SMMU.
fn device(text: &str) -> Result<String, String> {
    let text = word(text)?;
    confined(&text)?;
    Ok(text)
}

/// Refuses virtio devices whose DMA QEMU does not send through the SMMU.
fn confined(text: &str) -> Result<(), String> {
    let mut parts = text.split(',').map(str::trim);
    let name = parts.next().unwrap_or_default();
    // virtio-net-pci, vhost-vsock-pci, virtio-blk-pci-non-transitional; virtio-gpu
    // and virtio-vga have no "pci" in some of their names.
    let virtio = name.starts_with("virtio-") || name.starts_with("vhost-");
    let function = name.contains("-pci") || name.contains("gpu") || name.contains("vga");
    if name.starts_with("virtio-mem-") || name.starts_with("virtio-pmem-") {
        return Err(format!(
            "{name} brings memory that the hypervisor does not know of: leave it away"
        ));
    }
    // QEMU takes the last of several.
    let platform = parts
        .filter_map(|part| part.strip_prefix("iommu_platform"))
        .next_back()
        .is_some_and(|value| matches!(value, "" | "=on" | "=true" | "=yes"));
    if virtio && function && !platform {
        return Err(format!(
            "{name} reads and writes memory past the SMMU: add iommu_platform=on"
        ));
    }
    Ok(())
}

/// A file that is there.
fn file(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_file() {
        std::path::absolute(path).map_err(|error| error.to_string())
    } else {
        Err("there is no such file; give the path of one".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_has_to_go_through_the_smmu() {
        for right in [
            "edu",
            "nvme,drive=disk",
            "pcie-root-port,id=port",
            "virtio-net-pci,iommu_platform=on,disable-legacy=on",
            "virtio-rng-pci,disable-legacy=on,iommu_platform=true",
            "virtio-rng-pci,iommu_platform=off,iommu_platform=on",
            // Devices of a bus that another device is.
            "virtconsole,chardev=c",
        ] {
            assert_eq!(device(right), Ok(right.to_owned()));
        }
        for wrong in [
            "virtio-net-pci",
            "virtio-net-pci,netdev=iommu_platform",
            "virtio-blk-pci-non-transitional,drive=disk",
            "vhost-vsock-pci,guest-cid=3",
            "virtio-gpu-gl-pci",
            "virtio-rng-pci,iommu_platform=off",
            "virtio-rng-pci,iommu_platform=on,iommu_platform=off",
        ] {
            let error = device(wrong).unwrap_err();
            assert!(error.ends_with("add iommu_platform=on"), "{error}");
        }
        let memory = device("virtio-mem-pci,iommu_platform=on").unwrap_err();
        assert!(memory.contains("leave it away"));
    }
}
