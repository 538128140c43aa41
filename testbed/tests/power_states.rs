//! A host that starts again, crashes or sleeps: some of what `cargo xtask power` shows.
//!
//! Public sources: Linux resets virtio devices at shutdown, the IOMMU among them (the patch
//! "virtio: break and reset virtio devices on device_shutdown()",
//! <7fa37894-7d73-4087-a849-2957f31ad7f4@redhat.com>: "as IOMMUs are reset on shutdown, this
//! will block device access to memory"); its `drivers/iommu/virtio-iommu.c` has neither
//! `.freeze` nor `.restore`.

mod common;

use portcullis_testbed::proof::power::{Part, live};
use portcullis_testbed::setup::kernel::{Flavour, Version};
use portcullis_testbed::setup::kexec_tools::KexecTools;
use portcullis_testbed::workspace::Workspace;
use std::path::{Path, PathBuf};

fn works(part: Part, mode: &str, version: Version) {
    let workspace = Workspace::here();
    let tools = KexecTools::set_up(&workspace).expect("the set-up works");
    let more: Vec<&Path> = tools.files.iter().map(PathBuf::as_path).collect();
    let arguments = common::arguments(mode);
    let host = common::host_of(version, Flavour::Pages4K, &arguments, &more);
    let result = live(&host, part).unwrap_or_else(|error| panic!("{error}"));
    assert!(result.is_ok(), "{mode}: {result:?}");
}

/// The second kernel finds an SMMU that is at work for devices that were not stopped.
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
