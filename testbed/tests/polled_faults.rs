//! A machine whose interrupt controller gives EL2 no interrupt of its own.

mod common;

use portcullis_testbed::demo::{OFF_TIMEOUT, SMMU};

/// With a GICv2 a fault is contained all the same, and reported when EL2 is
/// next entered: here by an access that is refused.
#[test]
fn with_a_gicv2_faults_are_reported_at_the_next_entry() {
    let prepared = common::prepared();
    let mut machine = prepared.machine();
    machine.gic = 2;
    machine.cpu = "cortex-a57".to_owned();
    machine.edu = true;
    let (mut vm, mut agent) = prepared.start(&machine, "gicv2");
    let said = |kind: &str, key: &str, value: &str| {
        vm.events_since(0)
            .iter()
            .any(|event| event.kind() == kind && event.get(key) == Some(value))
    };
    assert!(
        said("host_memory", "fault_reports", "polled"),
        "{}",
        vm.tails()
    );
    agent.ask(&vm, "edu init").expect("the edu device");
    let mark = vm.log.mark();
    agent
        .ask(&vm, &format!("edu start write {SMMU:#x} 8"))
        .expect("a transfer");
    agent.ask(&vm, "edu finish").expect("the end of it");
    // Refused, which is what takes this CPU to EL2.
    let _ = agent.ask(&vm, &format!("poke read {SMMU:#x}"));
    vm.wait_event(mark, "the fault", OFF_TIMEOUT, |event| {
        event.kind() == "dma_fault" && event.get("access") == Some("write")
    })
    .unwrap_or_else(|error| panic!("{error}"));
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}
