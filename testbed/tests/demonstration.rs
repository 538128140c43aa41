//! What `cargo xtask run` shows holds, also on a machine with other numbers.

mod common;

use portcullis_testbed::demo;

#[test]
fn every_check_of_the_demonstration_holds() {
    let prepared = common::prepared();
    let mut machine = prepared.machine();
    machine.cpus = 3;
    machine.memory = "2G".to_owned();
    let report = demo::run(&prepared.lab, machine, "demonstration").expect("a demonstration");
    assert!(report.held(), "\n{}", report.table());
    assert!(report.checks().len() >= 24, "\n{}", report.table());
}
