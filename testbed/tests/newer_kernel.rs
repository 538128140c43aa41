//! Debian's 7.x kernel as the host: its drivers, on the emulated ITS, without an IOMMU
//! and with an emulated one.

mod common;

use portcullis_testbed::proof::interrupts::{Step, live};
use portcullis_testbed::setup::kernel::{Flavour, Version};

/// Every device moves data, each interrupt comes through the ITS, and neither the kernel
/// nor the hypervisor complains.
fn works(mode: &str) {
    let arguments = common::arguments(mode);
    let host = common::host_of(Version::V7, Flavour::Pages4K, &arguments, &[]);
    let result = live(&host, "newer", 2, &[Step::Load(0)]);
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
