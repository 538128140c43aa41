//! A host with a virtio-iommu and more isolation groups than a small machine has:
//! each root port and each device behind one is a group, with a domain of its own.
//!
//! Public sources: others have such limits, too (github.com/cloud-hypervisor/cloud-hypervisor,
//! pull request 8105, "Cap number of domains per device"; github.com/managarm/managarm, issue
//! 1410: "this number can be as low as 16").

mod common;

use portcullis_testbed::agent::{Agent, BOOT_TIMEOUT};
use portcullis_testbed::demo::OFF_TIMEOUT;
use portcullis_testbed::disk::Disk;
use portcullis_testbed::proof::Host;
use portcullis_testbed::setup::kernel::{Flavour, Version};
use portcullis_testbed::vm::{Vm, Watch};

/// Root ports, eight in a slot, and a device behind each.
fn ports(count: u32) -> Vec<String> {
    let mut devices = Vec::new();
    for port in 0..count {
        // Slot 0 is the host bridge's, the last ones are the other devices'.
        let (slot, function) = (port / 8 + 2, port % 8);
        devices.push(format!(
            "pcie-root-port,id=port{port},chassis={port},addr={slot:#x}.{function},\
             multifunction=on,hotplug=off"
        ));
        devices.push(format!("edu,bus=port{port},dma_mask=0xffffffffff"));
    }
    devices
}

/// Boots with so many ports and more arguments for the hypervisor; the groups that the
/// host finds, and the machine.
///
/// The kernel is the newer one, which makes use of ACS for devices of a device tree:
/// 6.12 puts all functions of a slot, and what is behind them, into one group.
fn boot(name: &str, count: u32, more: &str) -> (u64, Vm, Agent, Disk) {
    let arguments = common::arguments("paravirt") + more;
    let host = common::host_of(Version::V7, Flavour::Pages4K, &arguments, &[]);
    let Host { lab, mut machine } = host;
    let disk = Disk::new(&lab.workspace, name).expect("a disk");
    machine.disk = Some(disk.path().to_owned());
    machine.devices = ports(count);
    let watch = Watch::quietly(name);
    let vm = Vm::start(&lab, &machine, &watch).expect("QEMU starts");
    let agent = Agent::wait_within(&vm, 0, 2 * BOOT_TIMEOUT);
    let mut agent = agent.unwrap_or_else(|error| panic!("{error}"));
    // An exit status has eight bits.
    let mut part = |of: &str| {
        let count = format!("sh exit $(($(ls /sys/kernel/iommu_groups | wc -l) {of} 256))");
        let reply = agent.ask(&vm, &count).expect("a shell");
        reply.number("status").expect("a number")
    };
    let groups = part("/") * 256 + part("%");
    (groups, vm, agent, disk)
}

fn reads_the_disk(vm: &Vm, agent: &mut Agent) {
    let read = "sh dd if=/dev/nvme0n1 of=/dev/null bs=1M count=8";
    let reply = agent.ask(vm, read).expect("a shell");
    assert_eq!(reply.get("status"), Some("0"), "the disk works");
}

fn power_off(mut vm: Vm, mut agent: Agent) {
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// What the log says is to be done about domains for which there was no room.
fn refusals(vm: &Vm) -> Vec<String> {
    let events = vm.events_since(0);
    let refused = events
        .iter()
        .filter(|event| event.kind() == "domain_refused");
    let fixes = refused.filter_map(|event| event.get("fix"));
    fixes.map(str::to_owned).collect()
}

#[test]
fn more_than_128_groups_have_a_domain_each() {
    // A fixed number of 128 left every device without one.
    let (groups, vm, mut agent, _disk) = boot("many-groups", 72, "");
    assert!(groups > 144, "{groups} groups");
    reads_the_disk(&vm, &mut agent);
    assert_eq!(refusals(&vm), Vec::<String>::new());
    power_off(vm, agent);
}

/// With memory for some of them only, one line of the log says what to do, and
/// those that came first work.
#[test]
fn memory_that_is_used_up_is_said_and_harms_the_newcomer_alone() {
    let (_, vm, mut agent, _disk) = boot("full-tables", 72, " dma-tables=1M");
    let said = refusals(&vm);
    assert_eq!(said, ["more than dma-tables=0x100000"], "{}", vm.tails());
    let alive = agent.ask(&vm, "sh true").expect("a shell");
    assert_eq!(alive.get("status"), Some("0"));
    power_off(vm, agent);
}
