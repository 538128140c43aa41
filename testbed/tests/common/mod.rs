//! What the tests that boot QEMU share.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::missing_panics_doc,
    reason = "a test says what is wrong by panicking"
)]

use portcullis_testbed::agent::Agent;
use portcullis_testbed::build::{self, Payloads};
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::machine::{self, Boot, HOST_ARGUMENTS, HYPERVISOR_ARGUMENTS, Machine};
use portcullis_testbed::proof;
use portcullis_testbed::setup::kernel::{Build, Flavour, Version};
use portcullis_testbed::setup::{Lab, Wishes};
use portcullis_testbed::vm::{Vm, Watch};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Everything a test needs to boot, made once per test program.
pub struct Prepared {
    /// The tools.
    pub lab: Lab,
    payloads: Payloads,
    initrd: PathBuf,
}

/// Sets up and builds, unless another test has done so.
pub fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let lab = Lab::set_up(&Wishes::default()).expect("the set-up works");
        let payloads = build::payloads(&lab).expect("the payloads build");
        let initrd = initramfs::build(&lab, &payloads, Purpose::Agent).expect("the initrd builds");
        Prepared {
            lab,
            payloads,
            initrd,
        }
    })
}

/// A machine whose host is Debian's kernel of a version and a page size, with the
/// programs of the proofs and `more` files at `/lib`, under the hypervisor with
/// `arguments`.
pub fn host_of(version: Version, flavour: Flavour, arguments: &str, more: &[&Path]) -> proof::Host {
    let wishes = Wishes {
        build: Build { version, flavour },
        ..Wishes::default()
    };
    let lab = Lab::set_up(&wishes).expect("the set-up works");
    let payloads = build::payloads(&lab).expect("the payloads build");
    let initrd = initramfs::build_with(&lab, &payloads, Purpose::Proof, more);
    let initrd = initrd.expect("the initrd builds");
    let image = build::hypervisor(&lab).expect("the hypervisor builds");
    let kernel = &lab.kernel.image;
    let machine = machine::portcullis(&image, arguments, kernel, &initrd, HOST_ARGUMENTS);
    let machine = Machine::new(machine);
    proof::Host { lab, machine }
}

/// The hypervisor's usual arguments, in `mode`.
pub fn arguments(mode: &str) -> String {
    HYPERVISOR_ARGUMENTS.replace("identity", mode)
}

impl Prepared {
    /// The usual machine under the hypervisor, without disk and network.
    pub fn machine(&self) -> Machine {
        Machine::new(self.boot(HYPERVISOR_ARGUMENTS))
    }

    /// The hypervisor with the usual modules and a command line.
    pub fn boot(&self, arguments: &str) -> Boot {
        self.boot_kernel(arguments, &self.lab.kernel.image)
    }

    /// The hypervisor with another host kernel.
    pub fn boot_kernel(&self, arguments: &str, kernel: &Path) -> Boot {
        machine::portcullis(
            self.image(),
            arguments,
            kernel,
            &self.initrd,
            HOST_ARGUMENTS,
        )
    }

    fn image(&self) -> &'static Path {
        static IMAGE: OnceLock<PathBuf> = OnceLock::new();
        IMAGE.get_or_init(|| build::hypervisor(&self.lab).expect("the hypervisor builds"))
    }

    /// Another image of the hypervisor with the usual modules.
    pub fn boot_image(&self, image: &Path, arguments: &str) -> Boot {
        let kernel = &self.lab.kernel.image;
        machine::portcullis(image, arguments, kernel, &self.initrd, HOST_ARGUMENTS)
    }

    /// The usual ramdisk.
    pub fn initrd(&self) -> &Path {
        &self.initrd
    }

    /// The usual machine whose host has an SMMU of its own, with the programs of
    /// the proofs.
    pub fn nested_machine(&self) -> Machine {
        self.proof_machine(&HYPERVISOR_ARGUMENTS.replace("identity", "nested"))
    }

    /// The usual machine with the programs of the proofs and a command line.
    pub fn proof_machine(&self, arguments: &str) -> Machine {
        let initrd = self.proof_initrd();
        Machine::new(machine::portcullis(
            self.image(),
            arguments,
            &self.lab.kernel.image,
            &initrd,
            HOST_ARGUMENTS,
        ))
    }

    /// The usual machine whose host has a virtio-iommu, with the programs of the
    /// proofs and our module.
    pub fn paravirt_machine(&self) -> Machine {
        self.paravirt_machine_with("")
    }

    /// The same, with more arguments for the hypervisor, a space before them.
    pub fn paravirt_machine_with(&self, arguments: &str) -> Machine {
        let initrd = self.module_initrd();
        let paravirt = HYPERVISOR_ARGUMENTS.replace("identity", "paravirt");
        Machine::new(machine::portcullis(
            self.image(),
            &format!("{paravirt}{arguments}"),
            &self.lab.kernel.image,
            &initrd,
            HOST_ARGUMENTS,
        ))
    }

    /// The ramdisk with the programs of the proofs and our module.
    pub fn module_initrd(&self) -> PathBuf {
        static INITRD: OnceLock<PathBuf> = OnceLock::new();
        let make = || {
            let module = build::dma_bench(&self.lab).expect("the module builds");
            let (lab, payloads) = (&self.lab, &self.payloads);
            initramfs::build_with(lab, payloads, Purpose::Proof, &[&module])
                .expect("the initrd builds")
        };
        INITRD.get_or_init(make).clone()
    }

    /// The ramdisk with the programs of the proofs.
    pub fn proof_initrd(&self) -> PathBuf {
        static INITRD: OnceLock<PathBuf> = OnceLock::new();
        let (lab, payloads) = (&self.lab, &self.payloads);
        let make = || initramfs::build(lab, payloads, Purpose::Proof).expect("the initrd builds");
        INITRD.get_or_init(make).clone()
    }

    /// The usual machine without the hypervisor.
    pub fn native_machine(&self) -> Machine {
        Machine::new(Boot::Native {
            kernel: self.lab.kernel.image.clone(),
            initrd: self.initrd.clone(),
            arguments: HOST_ARGUMENTS.to_owned(),
        })
    }

    /// Boots a machine up to the agent.
    pub fn start(&self, machine: &Machine, name: &str) -> (Vm, Agent) {
        let vm = Vm::start(&self.lab, machine, &Watch::quietly(name))
            .unwrap_or_else(|error| panic!("{error}"));
        let agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{error}"));
        (vm, agent)
    }
}
