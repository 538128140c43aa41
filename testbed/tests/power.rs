//! CPUs go and come back, and the machine restarts and switches off.

mod common;

use portcullis_testbed::agent::{Agent, BOOT_TIMEOUT};
use portcullis_testbed::demo::{OFF_TIMEOUT, SMMU};

#[test]
fn cpus_can_be_switched_off_and_on_again() {
    let prepared = common::prepared();
    let mut machine = prepared.machine();
    machine.cpus = 3;
    machine.edu = true;
    let (mut vm, mut agent) = prepared.start(&machine, "hotplug");
    let online = |agent: &mut Agent, vm: &_| {
        let data = agent
            .ask(vm, "cat /sys/devices/system/cpu/online")
            .expect("a file")
            .data();
        String::from_utf8_lossy(&data).trim().to_owned()
    };
    for _ in 0..2 {
        agent.ask(&vm, "cpu 2 off").expect("CPU 2 goes");
        agent.ask(&vm, "cpu 1 off").expect("CPU 1 goes");
        assert_eq!(online(&mut agent, &vm), "0");
        agent.ask(&vm, "cpu 1 on").expect("CPU 1 comes back");
        agent.ask(&vm, "cpu 2 on").expect("CPU 2 comes back");
        assert_eq!(online(&mut agent, &vm), "0-2");
    }
    // A CPU that came back is still behind the fence: each one in turn tries.
    for cpu in 0..3 {
        let mark = vm.log.mark();
        let command = format!("sh taskset -c {cpu} devmem {SMMU:#x} 32");
        let reply = agent.ask(&vm, &command).expect("a shell");
        assert_ne!(
            reply.get("status"),
            Some("0"),
            "CPU {cpu} reached the SMMU: {reply:?}"
        );
        vm.wait_event(mark, "the report", OFF_TIMEOUT, |event| {
            event.kind() == "cpu_fault" && event.number("cpu") == Some(cpu)
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_machine_restarts_fenced_and_switches_off() {
    let prepared = common::prepared();
    let mut machine = prepared.machine();
    machine.edu = true;
    let (mut vm, mut agent) = prepared.start(&machine, "reboot");
    let host_mark = vm.host.mark();
    let log_mark = vm.log.mark();
    agent.tell(&vm, "reboot").expect("a command");
    let mut agent =
        Agent::wait_within(&vm, host_mark, BOOT_TIMEOUT).unwrap_or_else(|error| panic!("{error}"));
    let events = vm.events_since(log_mark);
    for kind in ["memory_reserved", "smmu_ready", "host_start"] {
        assert!(
            events.iter().any(|event| event.kind() == kind),
            "no {kind} after the restart"
        );
    }
    let mark = vm.log.mark();
    agent.ask(&vm, "edu init").expect("the edu device");
    agent
        .ask(&vm, &format!("edu write {SMMU:#x} 1 8"))
        .expect("a transfer");
    vm.wait_event(mark, "the fault", OFF_TIMEOUT, |event| {
        event.kind() == "dma_fault"
    })
    .unwrap_or_else(|error| panic!("{error}"));
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}
