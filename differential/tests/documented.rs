//! What needs no QEMU.

use portcullis_differential::case::{Step, new_records};
use portcullis_differential::layout::EVENTQ;
use portcullis_differential::{deviations, generate};
use std::collections::BTreeSet;

#[test]
fn every_deviation_is_in_the_readme() {
    let (readme, requests) = include_str!("../README.md")
        .split_once("QEMU's `virtio-iommu-pci`")
        .expect("two parts");
    let (requests, interrupts) = requests.split_once("## The ITS").expect("three parts");
    for deviation in deviations::known() {
        let row = format!(
            "| `{}` | {} | {} |",
            deviation.name, deviation.section, deviation.qemu
        );
        assert!(readme.contains(&row), "the table lacks\n{row}");
    }
    let rows = readme.lines().filter(|line| line.starts_with("| `"));
    assert_eq!(rows.count(), deviations::known().count());
    // Those of requests are named where they are recognised.
    let source = include_str!("../src/requests/explain.rs");
    let named: BTreeSet<_> = source
        .split("known(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let rows = |part: &'static str| -> BTreeSet<_> {
        part.lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect()
    };
    assert_eq!(rows(requests), named);
    // Those of ITSs are the only text in what predicts.
    let source = include_str!("../src/interrupts/predict.rs");
    let named: BTreeSet<_> = source.split('"').skip(1).step_by(2).collect();
    assert_eq!(rows(interrupts), named);
}

#[test]
fn a_case_follows_from_its_number() {
    let text = |seed, number| format!("{:?}", generate::case(seed, number));
    assert_eq!(text(1, 7), text(1, 7));
    assert_ne!(text(1, 7), text(1, 8));
    assert_ne!(text(1, 7), text(2, 7));
}

#[test]
fn cases_are_of_every_kind() {
    let mut kinds = [0; 4];
    let (mut writes, mut stores, mut two_level) = (0, 0, 0);
    for number in 0..400 {
        let case = generate::case(1, number);
        assert!(!case.ends_qemu(), "case {number}");
        two_level += usize::from(case.two_level());
        for at in case.entries.values() {
            let word = case.words.get(at).copied().unwrap_or(0);
            // V and Config.
            match word & 0b1111 {
                0b1001 => kinds[0] += 1,
                0b1011 => kinds[1] += 1,
                0b1101 => kinds[2] += 1,
                0b1111 => kinds[3] += 1,
                _ => {}
            }
        }
        for step in &case.steps {
            match step {
                Step::Access(access) => writes += usize::from(access.write.is_some()),
                Step::Store(_) => stores += 1,
                Step::Commands(_) | Step::Acknowledge => {}
            }
        }
    }
    assert!(kinds.iter().all(|kind| *kind > 40), "{kinds:?}");
    assert!(writes > 400 && stores > 200 && two_level == 200);
}

#[test]
fn records_are_found_where_the_queue_wraps() {
    // 16 records; the index wraps at 16, the wrap bit is bit 4.
    assert!(new_records(0xe, 0xe, 4).is_empty());
    assert_eq!(
        new_records(0xe, 0x11, 4),
        [EVENTQ + 0x1c0, EVENTQ + 0x1e0, EVENTQ]
    );
    // OVFLG is no part of the index.
    assert_eq!(new_records(0x1f, 0x8000_0000, 4), [EVENTQ + 0x1e0]);
}
