//! A host that starts again, crashes or sleeps: some of what `cargo xtask power` shows.

use portcullis_testbed::build;
use portcullis_testbed::initramfs::{self, Purpose};
use portcullis_testbed::machine::{self, HOST_ARGUMENTS, HYPERVISOR_ARGUMENTS, Machine};
use portcullis_testbed::proof::Host;
use portcullis_testbed::proof::power::{Part, live};
use portcullis_testbed::setup::kernel::{Build, Flavour, Version};
use portcullis_testbed::setup::kexec_tools::KexecTools;
use portcullis_testbed::setup::{Lab, Wishes};
use std::path::{Path, PathBuf};

fn works(part: Part, mode: &str, version: Version) {
    let wishes = Wishes {
        build: Build {
            version,
            flavour: Flavour::Pages4K,
        },
        ..Wishes::default()
    };
    let lab = Lab::set_up(&wishes).expect("the set-up works");
    let tools = KexecTools::set_up(&lab.workspace).expect("the set-up works");
    let payloads = build::payloads(&lab).expect("the payloads build");
    let more: Vec<&Path> = tools.files.iter().map(PathBuf::as_path).collect();
    let initrd = initramfs::build_with(&lab, &payloads, Purpose::Proof, &more);
    let initrd = initrd.expect("the initrd builds");
    let image = build::hypervisor(&lab).expect("the hypervisor builds");
    let machine = Machine::new(machine::portcullis(
        &image,
        &HYPERVISOR_ARGUMENTS.replace("identity", mode),
        &lab.kernel.image,
        &initrd,
        HOST_ARGUMENTS,
    ));
    let result = live(&Host { lab, machine }, part).unwrap_or_else(|error| panic!("{error}"));
    assert!(result.is_ok(), "{mode}: {result:?}");
}

/// The second kernel finds an SMMU that is at work for devices that nobody stopped.
#[test]
fn a_kernel_for_crashes_works_with_an_emulated_smmu() {
    works(Part::Crash, "nested", Version::V6);
}

#[test]
fn a_kernel_for_crashes_works_with_a_virtio_iommu() {
    works(Part::Crash, "paravirt", Version::V7);
}

#[test]
fn a_host_sleeps_and_wakes() {
    works(Part::Sleep, "nested", Version::V7);
}

#[test]
fn a_host_reboots() {
    works(Part::Reboot, "paravirt", Version::V6);
}
