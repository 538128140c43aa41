//! A host that provokes lines does not flood the log, and nothing goes missing
//! without being counted.

mod common;

use portcullis_testbed::demo::{OFF_TIMEOUT, SMMU};

#[test]
fn what_is_dropped_is_counted() {
    const ATTEMPTS: u64 = 400;
    let prepared = common::prepared();
    let mut machine = prepared.machine();
    machine.cpus = 1;
    // Counted time: the host's 400 attempts take the same part of a second on
    // any build machine.
    machine.counted = true;
    let (mut vm, mut agent) = prepared.start(&machine, "log-limit");
    let mark = vm.log.mark();
    for _ in 0..ATTEMPTS {
        // Refused; the agent survives its SIGBUS.
        let _ = agent.ask(&vm, &format!("poke read {SMMU:#x}"));
    }
    // The bucket fills again, and the next line says what was dropped.
    agent.ask(&vm, "sleep 3000").expect("a pause");
    let _ = agent.ask(&vm, &format!("poke read {:#x}", SMMU + 0x8000));
    let last = vm
        .wait_event(mark, "the last report", OFF_TIMEOUT, |event| {
            event.kind() == "cpu_fault" && event.number("address") == Some(SMMU + 0x8000)
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let events = vm.events_since(mark);
    let lines = events
        .iter()
        .filter(|event| event.kind() == "cpu_fault")
        .count() as u64;
    let dropped: u64 = events
        .iter()
        .filter(|event| event.kind() == "cpu_fault")
        .filter_map(|event| event.number("dropped"))
        .sum();
    assert!(last.number("dropped").is_some());
    assert!(dropped > 0, "nothing was dropped: {lines} lines");
    assert_eq!(lines + dropped, ATTEMPTS + 1);
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}
