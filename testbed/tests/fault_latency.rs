//! A refused DMA is in the log within 100 ms, whatever the host does.
//!
//! The machine counts instructions instead of time, so that the load of the
//! build machine does not matter: a second of its clock is 10^9 instructions.

mod common;

use portcullis_testbed::agent::Agent;
use portcullis_testbed::demo::{OFF_TIMEOUT, SMMU};
use portcullis_testbed::vm::Vm;
use std::time::Duration;

/// Time from the command until the edu device acts, in seconds.
const EDU_DELAY: f64 = 0.1;
/// What may pass from the fault to the report.
const LIMIT: f64 = 0.1;
/// Longest time in the log (in real time) until the line arrives.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a forbidden DMA, does `meanwhile` for half a second and returns the
/// time from the DMA to its report.
fn latency(vm: &Vm, agent: &mut Agent, meanwhile: &str) -> f64 {
    let mark = vm.log.mark();
    let start = agent
        .ask(vm, &format!("edu start write {SMMU:#x} 8"))
        .expect("a transfer");
    let started = start.number("cntvct").expect("a time") as f64 / agent.frequency as f64;
    let end = agent
        .ask_within(vm, &format!("{meanwhile} 500"), PATIENCE)
        .expect("an answer");
    let ended = end.number("cntvct").expect("a time") as f64 / agent.frequency as f64;
    let event = vm
        .wait_event(mark, "the fault", PATIENCE, |event| {
            event.kind() == "dma_fault"
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let reported = event.seconds("t").expect("the time of the report");
    assert!(
        reported < ended,
        "reported at {reported} only after {meanwhile} ended at {ended}"
    );
    reported - (started + EDU_DELAY)
}

#[test]
fn a_fault_is_reported_at_once_while_the_host_spins_and_while_it_sleeps() {
    let prepared = common::prepared();
    let mut machine = prepared.machine();
    machine.cpus = 1;
    machine.counted = true;
    machine.edu = true;
    let (mut vm, mut agent) = prepared.start(&machine, "latency");
    agent.ask(&vm, "edu init").expect("the edu device");
    for meanwhile in ["spin", "sleep"] {
        let latency = latency(&vm, &mut agent, meanwhile);
        // The device's clock has milliseconds, so it may act one early.
        let range = -0.002..=LIMIT;
        assert!(
            range.contains(&latency),
            "{meanwhile}: reported after {latency} s"
        );
        agent
            .ask(&vm, "edu finish")
            .expect("the end of the transfer");
    }
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}
