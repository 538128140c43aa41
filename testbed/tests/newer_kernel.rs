//! Debian's 7.x kernel as the host: its drivers, on the emulated ITS, without an IOMMU
//! and with an emulated one.

use portcullis_testbed::build;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::machine::{self, HOST_ARGUMENTS, HYPERVISOR_ARGUMENTS, Machine};
use portcullis_testbed::proof::Host;
use portcullis_testbed::proof::interrupts::{Step, live};
use portcullis_testbed::setup::kernel::{Build, Flavour, Version};
use portcullis_testbed::setup::{Lab, Wishes};

/// The machine with that kernel, under the hypervisor in `mode`.
fn host(mode: &str) -> Host {
    let wishes = Wishes {
        build: Build {
            version: Version::V7,
            flavour: Flavour::Pages4K,
        },
        ..Wishes::default()
    };
    let lab = Lab::set_up(&wishes).expect("the set-up works");
    let payloads = build::payloads(&lab).expect("the payloads build");
    let initrd = initramfs::build(&lab, &payloads, Purpose::Proof).expect("the initrd builds");
    let image = build::hypervisor(&lab).expect("the hypervisor builds");
    let arguments = HYPERVISOR_ARGUMENTS.replace("identity", mode);
    let kernel = &lab.kernel.image;
    let machine = Machine::new(machine::portcullis(
        &image,
        &arguments,
        kernel,
        &initrd,
        HOST_ARGUMENTS,
    ));
    Host { lab, machine }
}

/// Every device moves data, each interrupt comes through the ITS, and neither the kernel
/// nor the hypervisor complains.
fn works(mode: &str) {
    let result = live(&host(mode), "newer", 2, &[Step::Load(0)]);
    let result = result.unwrap_or_else(|error| panic!("{error}"));
    assert!(result.is_ok(), "{mode}: {result:?}");
}

#[test]
fn a_newer_kernel_works_without_an_iommu() {
    works("identity");
}

#[test]
fn a_newer_kernel_works_with_an_emulated_smmu() {
    works("nested");
}

/// Since 6.16 Linux resets its IOMMU at shutdown while the drivers behind it still wait
/// for their devices. Had those no memory any more, the kernel would say that their
/// requests are late, a minute later.
#[test]
fn a_newer_kernel_works_with_a_virtio_iommu_and_powers_off() {
    works("paravirt");
}
