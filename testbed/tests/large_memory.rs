//! RAM at high addresses: above 512 GiB, which 39 bits of address end at, and above
//! what the SMMU reaches.
//!
//! Public source: QEMU's SMMU has 44 bits of output ("QEMU SMMUv3 currently sets the output
//! address size (OAS) to 44 bits", patchew.org/QEMU/20251120132213.56581-1-skolothumtho@nvidia.com).

mod common;

use dtoolkit::Property;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use portcullis_testbed::agent::Agent;
use portcullis_testbed::demo::OFF_TIMEOUT;
use portcullis_testbed::disk::{self, Disk};
use portcullis_testbed::logfmt::Event;
use portcullis_testbed::machine::Machine;
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};

const GIB: u64 = 1 << 30;
const RAM: u64 = 0x4000_0000;

/// Boots `machine`, whose RAM is a file of as many bytes as it says, most of which
/// are never touched, with another tree; reads its disk; switches it off.
fn boots(mut machine: Machine, name: &str, change: impl FnOnce(&mut DeviceTree)) -> Vec<Event> {
    let prepared = common::prepared();
    let workspace = &prepared.lab.workspace;
    let directory = tempfile::tempdir_in(workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let disk = Disk::new(workspace, name).expect("a disk");
    machine.disk = Some(disk.path().to_owned());
    machine.ram_file = Some(ram.clone());
    let watch = Watch::quietly(name);
    let mut vm = Vm::start_after(&prepared.lab, &machine, &watch, || tree::edit(&ram, change))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{name}: {error}"));
    let command = format!("nvme verify {:#x} 0 0x100000", disk::SEED);
    agent.ask(&vm, &command).expect("the disk's data");
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let events = vm.events_since(0);
    let fault = events.iter().find(|event| event.kind() == "dma_fault");
    assert!(fault.is_none(), "{name}: {fault:?}");
    events
}

/// The host has 1 GiB at the start and 1 GiB at the end of 600 GiB of RAM; pool and
/// tables are in the upper one.
fn reaches_600_gib(machine: Machine, name: &str) {
    let high = RAM + 599 * GIB;
    let mut machine = machine;
    machine.memory = "600G".to_owned();
    let events = boots(machine, name, |tree| {
        let node = tree.find_node_mut("/memory@40000000").expect("RAM");
        let reg = node.property_mut("reg").expect("reg");
        assert_eq!((&*reg).value().len(), 16);
        reg.set_value([RAM, GIB, high, GIB].map(u64::to_be_bytes).concat());
    });
    let pool = events
        .iter()
        .find(|event| event.kind() == "memory_reserved" && event.get("what") == Some("pool"));
    let base = pool.and_then(|pool| pool.number("base")).expect("the pool");
    assert!(base >= high, "{base:#x}");
}

#[test]
fn ram_above_512_gib() {
    // 40 bits, with two tables side by side at level 1 for CPUs, and 44 bits from
    // level 0 for devices.
    reaches_600_gib(common::prepared().machine(), "600g");
    // 44 bits for both.
    let mut machine = common::prepared().machine();
    machine.cpu = "neoverse-n1".to_owned();
    reaches_600_gib(machine, "600g-n1");
}

#[test]
fn ram_above_512_gib_nested() {
    reaches_600_gib(common::prepared().nested_machine(), "600g-nested");
}

#[test]
fn ram_above_512_gib_paravirt() {
    reaches_600_gib(common::prepared().paravirt_machine(), "600g-paravirt");
}

/// QEMU's SMMU has 44 bits of output. There is no RAM at 2^45, whatever this tree
/// says, so that the host would not get far with it.
#[test]
fn ram_that_the_smmu_does_not_reach_is_left_out() {
    let mut machine = common::prepared().machine();
    machine.memory = "512M".to_owned();
    let events = boots(machine, "too-far", |tree| {
        let mut bank = DeviceTreeNode::new("memory@200000000000").expect("a node");
        let reg = [1u64 << 45, GIB].map(u64::to_be_bytes).concat();
        let properties = [
            DeviceTreeProperty::new("device_type", "memory"),
            DeviceTreeProperty::new("reg", reg),
        ];
        for property in properties {
            bank.add_property(property.expect("a property"));
        }
        tree.root.add_child(bank);
    });
    let lost = events
        .iter()
        .find(|event| event.kind() == "memory_unreachable");
    let lost = lost.expect("a line");
    // cortex-a76 has 40 bits.
    assert_eq!(
        (lost.number("bytes"), lost.number("above")),
        (Some(GIB), Some(1 << 40))
    );
}
