//! What machine QEMU is to emulate, as data and as a command line.

use crate::setup::firmware::{self, Firmware};
use crate::setup::qemu::Qemu;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the host's kernel is loaded: 2 MiB aligned, above the hypervisor's
/// image and clear of QEMU's device tree at 128 MiB.
pub const KERNEL_ADDRESS: u64 = 0x4a00_0000;
/// Where the host's first root file system is loaded; there is RAM from 512 MiB up.
pub const INITRD_ADDRESS: u64 = 0x5000_0000;

/// The hypervisor's command line when nothing else is asked for.
pub const HYPERVISOR_ARGUMENTS: &str = "host-iommu=identity log=info console=serial1";
/// The host kernel's command line when nothing else is asked for.
pub const HOST_ARGUMENTS: &str = "console=ttyAMA0 earlycon=pl011,0x9000000 panic=-1";

/// What makes QEMU count instructions instead of time, the same ones each time.
pub const COUNTED: [&str; 6] = [
    "-icount",
    "shift=0,sleep=off",
    "-seed",
    "1",
    "-rtc",
    "base=2024-01-01,clock=vm",
];

/// A module QEMU's guest loader puts in memory and names in the device tree.
#[derive(Clone, Debug)]
pub struct Module {
    /// Where it is put.
    pub address: u64,
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: ModuleKind,
}

/// What a module is.
#[derive(Clone, Debug)]
pub enum ModuleKind {
    /// A kernel with its command line.
    Kernel(String),
    /// A first root file system.
    Initrd,
}

/// What QEMU enters at reset.
#[derive(Clone, Debug)]
pub enum Boot {
    /// The hypervisor, at EL2, with modules.
    Portcullis {
        /// Its flat image.
        image: PathBuf,
        /// Its command line.
        arguments: String,
        /// What it is to start.
        modules: Vec<Module>,
    },
    /// The host's kernel by itself, as the baseline of comparisons.
    Native {
        /// The kernel.
        kernel: PathBuf,
        /// Its first root file system.
        initrd: PathBuf,
        /// Its command line.
        arguments: String,
    },
}

/// An IOMMU that the host finds, and drives with its own driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostIommu {
    /// An SMMUv3.
    Smmu,
    /// A virtio-iommu.
    Virtio,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// QEMU's machine with its version, such as `virt`.
    pub model: String,
    /// Whether there is an SMMUv3.
    pub smmu: bool,
    /// Whether there is QEMU's own virtio-iommu, which takes the place of an
    /// SMMU.
    pub virtio_iommu: bool,
    /// QEMU's name of the CPU.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM, as QEMU writes it.
    pub memory: String,
    /// What boots.
    pub boot: Boot,
    /// The NVMe disk's file.
    pub disk: Option<PathBuf>,
    /// An NVMe disk of this many zero bytes instead, which QEMU answers for at
    /// once, so that counts repeat.
    pub zero_disk: Option<u64>,
    /// Whether there is an e1000e with QEMU's user network behind.
    pub network: bool,
    /// Whether disk and network are virtio devices behind the IOMMU instead.
    pub virtio: bool,
    /// Whether there is an edu device.
    pub edu: bool,
    /// More devices, in QEMU's words.
    pub devices: Vec<String>,
    /// A file to hold the RAM, so that it can be changed from outside.
    pub ram_file: Option<PathBuf>,
    /// Whether the guest's clock counts instructions instead of time.
    pub counted: bool,
    /// Version of the interrupt controller, 2 or 3.
    pub gic: u32,
    /// Firmware at EL3, which starts the hypervisor instead of QEMU. Such a
    /// machine keeps its second UART for the secure world. The hypervisor's
    /// command line can only get there through a RAM file.
    pub firmware: Option<Firmware>,
    /// More arguments for QEMU.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// The machine of the demonstration, with `boot`.
    #[must_use]
    pub fn new(boot: Boot) -> Self {
        let smmu = matches!(boot, Boot::Portcullis { .. });
        Self {
            model: "virt".to_owned(),
            smmu,
            virtio_iommu: false,
            cpu: "cortex-a76".to_owned(),
            cpus: 2,
            memory: "1G".to_owned(),
            boot,
            disk: None,
            zero_disk: None,
            network: false,
            virtio: false,
            edu: false,
            devices: Vec::new(),
            ram_file: None,
            counted: false,
            gic: 3,
            firmware: None,
            extra: Vec::new(),
        }
    }

    /// Has firmware at EL3 start the hypervisor, in RAM that is kept in `ram`.
    pub fn start_with(&mut self, firmware: Firmware, ram: &Path) {
        self.firmware = Some(firmware);
        self.ram_file = Some(ram.to_owned());
    }

    /// The IOMMU that the host finds: the machine's or the hypervisor's.
    #[must_use]
    pub fn host_iommu(&self) -> Option<HostIommu> {
        match &self.boot {
            Boot::Native { .. } if self.virtio_iommu => Some(HostIommu::Virtio),
            Boot::Native { .. } => self.smmu.then_some(HostIommu::Smmu),
            Boot::Portcullis { arguments, .. } => arguments
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix("host-iommu="))
                .and_then(|mode| match mode {
                    "nested" => Some(HostIommu::Smmu),
                    "paravirt" => Some(HostIommu::Virtio),
                    _ => None,
                }),
        }
    }

    /// Adds to the command line of the host's kernel.
    pub fn append_for_host(&mut self, more: &str) {
        match &mut self.boot {
            Boot::Native { arguments, .. } => arguments.push_str(more),
            Boot::Portcullis { modules, .. } => {
                for module in modules {
                    if let ModuleKind::Kernel(arguments) = &mut module.kind {
                        arguments.push_str(more);
                    }
                }
            }
        }
    }

    /// The command that runs it, but for its serial lines and control socket.
    #[must_use]
    pub fn command(&self, qemu: &Qemu) -> Command {
        let mut command = qemu.command();
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-machine").arg(self.machine_argument());
        command.args([
            "-cpu",
            &self.cpu,
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &self.memory,
        ]);
        if self.counted {
            command.args(COUNTED);
        }
        if let Some(path) = &self.ram_file {
            let path = escape(&path.to_string_lossy());
            let size = &self.memory;
            command.arg("-object");
            command.arg(format!(
                "memory-backend-file,id=ram,size={size},mem-path={path},share=on"
            ));
        }
        self.boot_arguments(&mut command);
        self.device_arguments(&mut command);
        command.args(&self.extra);
        command
    }

    fn machine_argument(&self) -> String {
        let mut text = format!("{},gic-version={},dtb-randomness=off", self.model, self.gic);
        // A kernel by itself then starts at EL1, just as below the hypervisor.
        if matches!(self.boot, Boot::Portcullis { .. }) {
            text.push_str(",virtualization=on");
        }
        if self.firmware.is_some() {
            text.push_str(",secure=on");
        }
        if self.smmu {
            text.push_str(",iommu=smmuv3");
        }
        if self.ram_file.is_some() {
            text.push_str(",memory-backend=ram");
        }
        text
    }

    fn boot_arguments(&self, command: &mut Command) {
        match &self.boot {
            Boot::Portcullis {
                image,
                arguments,
                modules,
            } => {
                if let Some(firmware) = &self.firmware {
                    firmware_arguments(command, firmware, image);
                } else {
                    command.arg("-kernel").arg(image);
                    command.arg("-append").arg(arguments);
                }
                for module in modules {
                    let address = module.address;
                    let path = escape(&module.path.to_string_lossy());
                    let text = match &module.kind {
                        ModuleKind::Kernel(arguments) => format!(
                            "guest-loader,addr={address:#x},kernel={path},bootargs={}",
                            escape(arguments)
                        ),
                        ModuleKind::Initrd => {
                            format!("guest-loader,addr={address:#x},initrd={path}")
                        }
                    };
                    command.arg("-device").arg(text);
                }
            }
            Boot::Native {
                kernel,
                initrd,
                arguments,
            } => {
                command
                    .arg("-kernel")
                    .arg(kernel)
                    .arg("-initrd")
                    .arg(initrd);
                command.arg("-append").arg(arguments);
            }
        }
    }

    fn device_arguments(&self, command: &mut Command) {
        // Devices that come before it are not behind it.
        if self.virtio_iommu {
            command.args(["-device", "virtio-iommu-pci"]);
        }
        let (disk, network) = if self.virtio {
            (
                "virtio-blk-pci,drive=disk,iommu_platform=on,disable-legacy=on",
                "virtio-net-pci,netdev=net,romfile=,iommu_platform=on,disable-legacy=on",
            )
        } else {
            (
                "nvme,drive=disk,serial=portcullis",
                "e1000e,netdev=net,romfile=",
            )
        };
        if let Some(file) = &self.disk {
            let path = escape(&file.to_string_lossy());
            command.arg("-drive");
            command.arg(format!(
                "if=none,id=disk,format=raw,cache=writeback,file={path}"
            ));
            command.args(["-device", disk]);
        }
        if let Some(size) = self.zero_disk {
            command.arg("-blockdev");
            command.arg(format!(
                "driver=null-co,node-name=zero,size={size},read-zeroes=on"
            ));
            command.args(["-device", "nvme,drive=zero,serial=portcullis"]);
        }
        if self.network {
            command.args(["-netdev", "user,id=net"]);
            command.args(["-device", network]);
        }
        if self.edu {
            command.args(["-device", "edu,dma_mask=0xffffffffffffffff"]);
        }
        for device in &self.devices {
            command.arg("-device").arg(device);
        }
    }
}

/// Firmware, and the image where it looks for what to start. It loads its own
/// stages by semihosting, from the working directory.
fn firmware_arguments(command: &mut Command, firmware: &Firmware, image: &Path) {
    command.current_dir(firmware.directory());
    command.args(["-bios", "bl1.bin"]);
    command.args(["-semihosting-config", "enable=on,target=native"]);
    let (at, image) = (firmware::IMAGE_ADDRESS, escape(&image.to_string_lossy()));
    command.arg("-device");
    command.arg(format!("loader,addr={at:#x},force-raw=on,file={image}"));
}

/// The hypervisor's boot with the usual modules.
#[must_use]
pub fn portcullis(
    image: &Path,
    arguments: &str,
    kernel: &Path,
    initrd: &Path,
    host_arguments: &str,
) -> Boot {
    let modules = vec![
        Module {
            address: KERNEL_ADDRESS,
            path: kernel.to_owned(),
            kind: ModuleKind::Kernel(host_arguments.to_owned()),
        },
        Module {
            address: INITRD_ADDRESS,
            path: initrd.to_owned(),
            kind: ModuleKind::Initrd,
        },
    ];
    Boot::Portcullis {
        image: image.to_owned(),
        arguments: arguments.to_owned(),
        modules,
    }
}

/// Doubles commas, which separate options of QEMU.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}
