//! A host that drives its own SMMU: the quick ones of the proofs of
//! `cargo xtask nested`, and that they can fail.

mod common;

use portcullis_testbed::check::Report;
use portcullis_testbed::demo;
use portcullis_testbed::machine::{Boot, HOST_ARGUMENTS, Machine};
use portcullis_testbed::proof::{self, Guest, Host, Part, Plan};

fn host(machine: Machine) -> Host {
    Host {
        lab: common::prepared().lab.clone(),
        machine,
    }
}

fn native() -> Machine {
    let prepared = common::prepared();
    Machine::new(Boot::Native {
        kernel: prepared.lab.kernel.image.clone(),
        initrd: prepared.proof_initrd(),
        arguments: HOST_ARGUMENTS.to_owned(),
    })
}

fn prove(part: Part, machine: Machine) -> Report {
    let plan = Plan {
        parts: vec![part],
        seconds: 0,
        rebinds: 0,
    };
    proof::run(&plan, &[host(machine)]).expect("a report")
}

#[test]
fn every_check_of_the_demonstration_holds() {
    let mut machine = common::prepared().nested_machine();
    machine.cpus = 3;
    machine.memory = "2G".to_owned();
    let lab = &common::prepared().lab;
    let report = demo::run(lab, machine, "nested-demonstration").expect("a demonstration");
    assert!(report.held(), "\n{}", report.table());
    assert!(report.checks().len() >= 20, "\n{}", report.table());
}

#[test]
fn a_program_drives_a_device() {
    let report = prove(Part::Vfio, common::prepared().nested_machine());
    assert!(report.held(), "\n{}", report.table());
}

#[test]
fn what_the_host_says_about_its_smmu_is_heard() {
    let lab = &common::prepared().lab;
    let mut guest = Guest::boot(lab, &native(), "", "nested-heard").expect("a host");
    guest.transfers(1 << 20).expect("transfers");
    assert_eq!(guest.complaint(false).expect("the log"), None);
    // The device has no mappings: the driver reports what it tries.
    guest
        .shell("spare && edu pci-stub && edu ''")
        .expect("a group");
    guest.ask("edu init").expect("the device");
    guest.ask("edu write 0x48000000 1 8").expect("a transfer");
    let complaint = guest.complaint(false).expect("the log");
    assert!(complaint.is_some_and(|line| line.contains("event 0x")));
    assert_eq!(guest.complaint(true).expect("the log"), None);
    guest
        .shell("echo 'nvme timeout' > /dev/kmsg")
        .expect("a line");
    let complaint = guest.complaint(true).expect("the log");
    assert!(complaint.is_some_and(|line| line.contains("timeout")));
    let last = guest.off(true).expect("the end");
    assert!(last.is_some_and(|line| line.contains("timeout")));
}

#[test]
fn a_host_without_an_smmu_proves_nothing() {
    let lab = &common::prepared().lab;
    let machine = common::prepared().machine();
    let mut guest = Guest::boot(lab, &machine, "", "nested-without").expect("a host");
    let complaint = guest.complaint(false).expect("the log");
    assert!(complaint.is_some_and(|line| line.contains("no driver arm-smmu-v3")));
    assert!(guest.domains().is_err());
    guest.off(false).expect("the end");
}
