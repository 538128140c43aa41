//! The log of a machine that has no UART which the hypervisor can use.

mod common;

use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use portcullis_testbed::build;
use portcullis_testbed::machine::Machine;
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// The log is on a word of 8 bytes.
const STEP: usize = 8;

/// Has the tree say that the UARTs' clock can be switched off.
fn gate_the_clock(tree: &mut DeviceTree) {
    let clock = tree.find_node_mut("/apb-pclk").expect("QEMU's clock");
    let gated = DeviceTreeProperty::new("compatible", "example,gated-clock");
    clock.add_property(gated.expect("a property"));
}

/// Its lines are in memory, where a dump of the machine has them.
#[test]
fn the_log_stays_in_memory() {
    let prepared = common::prepared();
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let arguments = "host-iommu=identity log=info console=serial1";
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = Machine::new(prepared.boot_kernel(arguments, &kernel));
    machine.memory = "512M".to_owned();
    machine.ram_file = Some(ram.clone());
    let watch = Watch::quietly("kept-log");
    let mut vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, gate_the_clock)
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let status = vm
        .wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}\n{}", vm.tails());
    // Where firmware had it on, it says why it is not used.
    let printed = vm.events_since(0);
    let kinds: Vec<&str> = printed.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, ["console_unused"], "{}", vm.tails());

    let memory = std::fs::read(&ram).expect("the machine's memory");
    let magic = portcullis_kept_log::MAGIC.to_le_bytes();
    let logs: Vec<String> = (0..memory.len())
        .step_by(STEP)
        .filter(|at| memory[*at..].starts_with(&magic))
        .filter_map(|at| portcullis_kept_log::read(&memory[at..]))
        .map(|parts| String::from_utf8_lossy(&parts.concat()).into_owned())
        .filter(|text| text.contains("portcullis: "))
        .collect();
    // One from before the host ran, and one from afterwards.
    let [first, second] = logs.as_slice() else {
        panic!("{} logs in memory", logs.len());
    };
    let boot = "event=console_unused node=/pl011@9040000";
    for event in [boot, "event=host_start"] {
        let count = logs.iter().filter(|log| log.contains(event)).count();
        assert_eq!(count, 1, "{event}\n{first}\n{second}");
    }
    let end = "event=its_counts";
    let (at_boot, afterwards) = if first.contains(boot) {
        (first, second)
    } else {
        (second, first)
    };
    assert!(at_boot.contains("event=host_start") && !at_boot.contains(end));
    // What the hypervisor says when the host switches the machine off.
    assert!(afterwards.contains(end), "{afterwards}");
}
