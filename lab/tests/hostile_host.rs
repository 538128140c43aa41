//! A host kernel that attacks from EL1, where Linux would not.

mod common;

use portcullis_lab::build;
use portcullis_lab::machine::{self, HYPERVISOR_ARGUMENTS, Machine};
use portcullis_lab::vm::{Vm, Watch};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn attacks(cpu: &str) {
    let prepared = common::prepared();
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let boot = prepared.boot_kernel(HYPERVISOR_ARGUMENTS, &kernel);
    let mut machine = Machine::new(boot);
    machine.cpus = 2;
    machine.cpu = cpu.to_owned();
    let name = format!("hostile-{cpu}");
    let mut vm = Vm::start(&prepared.lab, &machine, &Watch::quietly(&name))
        .unwrap_or_else(|error| panic!("{error}"));
    let status = vm
        .wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}\n{}", vm.tails());
    let lines: Vec<String> = vm
        .host
        .lines_since(0)
        .into_iter()
        .map(|line| line.text)
        .filter(|text| text.starts_with("hostile: "))
        .collect();
    let wrong: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("result=wrong"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", vm.tails());
    assert!(
        lines.iter().any(|line| line.contains("done wrong=0")),
        "the kernel did not finish\n{}",
        vm.tails()
    );
    // What it tried is in the log, and was counted.
    let events = vm.events_since(0);
    let count = |kind: &str| events.iter().filter(|event| event.kind() == kind).count();
    assert!(count("cpu_fault") >= 12, "{}", vm.tails());
    assert_eq!(count("smc_denied"), 3, "{}", vm.tails());
    let exits = events
        .iter()
        .find(|event| event.kind() == "exit_counts")
        .expect("the counts at power-off");
    assert_eq!(exits.number("hvc"), Some(1));
    assert_eq!(exits.number("fetch_abort"), Some(1));
    // Three SMCs and the HVC; of the GIC: each route write and the rest that no
    // single register write can leave out.
    assert_eq!(exits.number("refused_calls"), Some(4));
    assert!(exits.number("refused_gic_writes") >= Some(4));
}

#[test]
fn what_linux_never_does_is_refused_on_an_old_core() {
    attacks("cortex-a57");
}

#[test]
fn what_linux_never_does_is_refused_on_the_newest_core() {
    attacks("max");
}

#[test]
fn without_the_filters_the_attacks_are_seen_to_work() {
    // The kernel's checks can fail: natively, where nobody filters, they do.
    let prepared = common::prepared();
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let mut machine = Machine::new(machine::Boot::Native {
        kernel,
        initrd: prepared.initrd().to_owned(),
        arguments: String::new(),
    });
    machine.cpus = 2;
    let mut vm = Vm::start(&prepared.lab, &machine, &Watch::quietly("hostile-native"))
        .unwrap_or_else(|error| panic!("{error}"));
    let _ = vm.wait_exit(Duration::from_secs(20));
    let wrong = vm
        .host
        .lines_since(0)
        .into_iter()
        .filter(|line| line.text.contains("result=wrong"))
        .count();
    assert!(wrong > 0, "{}", vm.tails());
}
