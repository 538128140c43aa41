//! VMIDs have one user at a time, and come back only when nothing is cached of theirs.
#![allow(missing_docs)]

use portcullis_isolation::{VmidRange, Vmids, VmidsInvalidated};
use proptest::prelude::*;
use smmuv3_spec::Vmid;

/// Evidence of the VMIDs up to one.
struct UpTo(u16);

impl VmidsInvalidated for UpTo {
    fn covers(&self, vmid: Vmid) -> bool {
        vmid.0 < self.0
    }
}

const ALL: UpTo = UpTo(u16::MAX);

#[test]
fn the_lowest_that_are_free_and_never_0() {
    let mut vmids = Vmids::new(8);
    let host = vmids.take(1).unwrap();
    let many = vmids.take(100).unwrap();
    let guest = vmids.take(1).unwrap();
    let firsts = [&host, &many, &guest].map(|range| range.first().0);
    assert_eq!(firsts, [1, 2, 102]);
    assert_eq!(many.count(), 100);
    assert_eq!(vmids.free(), 153);
    assert_eq!(vmids.take(0), None);
    assert_eq!(vmids.take(154), None);
    let rest = vmids.take(153).unwrap();
    assert_eq!((rest.first(), rest.count()), (Vmid(103), 153));
    assert_eq!(vmids.take(1), None);
    assert_eq!(Vmids::new(16).take(65_535).unwrap().count(), 65_535);
    assert_eq!(Vmids::new(16).take(65_536), None);
    assert_eq!(Vmids::new(200).take(65_536), None);
}

/// A VMID that may still tag what is cached is not used again.
#[test]
fn quarantine_ends_with_evidence_of_all() {
    let mut vmids = Vmids::new(3);
    let first = vmids.take(4).unwrap();
    let _second = vmids.take(3).unwrap();
    let retired = first.retire();
    assert_eq!(vmids.take(1), None);
    let retired = vmids.give_back(retired, &UpTo(4)).unwrap_err();
    assert_eq!(vmids.take(1), None);
    // Nor do others take it that never gave it.
    let mut others = Vmids::new(3);
    let retired = others.give_back(retired, &ALL).unwrap_err();
    vmids.give_back(retired, &UpTo(5)).unwrap();
    assert_eq!(vmids.take(5), None);
    assert_eq!(vmids.take(4).unwrap().first(), Vmid(1));
}

/// What is dropped stays taken.
#[test]
fn what_is_lost_is_not_given_out_again() {
    let mut vmids = Vmids::new(2);
    drop(vmids.take(1).unwrap().retire());
    drop(vmids.take(1).unwrap());
    assert_eq!(vmids.take(1).unwrap().first(), Vmid(3));
    assert_eq!(vmids.take(1), None);
}

proptest! {
    /// No two ranges that are out have a VMID in common.
    #[test]
    fn ranges_are_disjoint(ops in prop::collection::vec((0..3u8, 0..90u32), 1..120)) {
        let mut vmids = Vmids::new(8);
        let mut out: Vec<VmidRange> = Vec::new();
        for (what, n) in ops {
            if what < 2 {
                out.extend(vmids.take(n));
            } else if !out.is_empty() {
                let range = out.swap_remove(n as usize % out.len());
                prop_assert_eq!(vmids.give_back(range.retire(), &ALL), Ok(()));
            }
            let mut used = [0u8; 256];
            for range in &out {
                let first = usize::from(range.first().0);
                used[first..first + range.count()].iter_mut().for_each(|n| *n += 1);
            }
            prop_assert_eq!(used[0], 0);
            prop_assert!(used.iter().all(|n| *n < 2));
        }
    }
}
