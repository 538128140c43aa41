//! A short comparison of our virtio-iommu device with QEMU's.

use portcullis_differential::campaign::{self, Plan};
use portcullis_differential::requests;

#[test]
fn devices_agree() {
    let qemu = campaign::qemu(&Plan::default()).expect("QEMU");
    let summary = requests::run(&qemu, 1, 0..requests::CASES).expect("QEMU runs");
    println!("{:?} {:?}", summary.statuses, summary.explained);
    println!("{}", summary.line());
    let difference = &summary.difference;
    assert!(
        difference.is_none(),
        "{}",
        difference.as_deref().unwrap_or_default()
    );
    assert_eq!(summary.cases, requests::CASES);
    // Most sequences are compared to their end, and every status comes up.
    assert!(summary.agree * 3 > summary.cases, "{}", summary.line());
    for status in [0, 4, 5, 6, 255] {
        let count = summary.statuses.get(&status);
        assert!(count.is_some_and(|count| *count > 100), "status {status}");
    }
}

/// A device that says nothing of the doorbell does not agree.
#[test]
fn a_missing_property_is_found() {
    let qemu = campaign::qemu(&Plan::default()).expect("QEMU");
    let ours = requests::Ours::new(None);
    let summary = requests::run_with(&qemu, ours, 1, 0..50).expect("QEMU runs");
    let text = summary.difference.expect("a difference");
    assert!(text.contains("Probe"), "{text}");
}
