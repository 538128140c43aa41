//! A host whose interrupts come through the emulated ITS: all that
//! `cargo xtask interrupts` does, a little of each in one life of a machine.

mod common;

use portcullis_testbed::machine::HYPERVISOR_ARGUMENTS;
use portcullis_testbed::proof::Host;
use portcullis_testbed::proof::interrupts::{Step, live};

fn host(arguments: &str) -> Host {
    let prepared = common::prepared();
    let arguments = format!("{HYPERVISOR_ARGUMENTS}{arguments}");
    Host {
        lab: prepared.lab.clone(),
        machine: prepared.proof_machine(&arguments),
    }
}

#[test]
fn interrupts_come_through_all_that_a_host_does_with_them() {
    let steps = [Step::Hotplug(1), Step::Rebind(3), Step::Kexec];
    let result = live(&host(""), "all", 2, &steps).unwrap_or_else(|error| panic!("{error}"));
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn interrupts_by_wire_are_noticed() {
    let host = host(" gic-its=off");
    let result =
        live(&host, "wired", 1, &[Step::Load(0)]).unwrap_or_else(|error| panic!("{error}"));
    let wrong = result.expect_err("no ITS is used");
    assert!(
        wrong.contains("interrupts, not") || wrong.contains("not the ITS's"),
        "{wrong}"
    );
}
