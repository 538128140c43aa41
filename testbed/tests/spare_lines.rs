//! A board whose SMMU has no interrupt to spare: the host's SMMU or virtio-iommu
//! signals on an SPI that no node of the tree names, and an SMMU by messages to the
//! host's ITS where nodes name all of them.

mod common;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use portcullis_testbed::agent::Agent;
use portcullis_testbed::demo::OFF_TIMEOUT;
use portcullis_testbed::machine::Machine;
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};

/// Boots a host whose SMMU has the lines `eventq` and `gerror` alone in the tree, has
/// a device do what is not mapped, and waits for the host's driver to say `word`,
/// which it does in its interrupt.
fn a_fault_is_heard(
    mut machine: Machine,
    name: &str,
    word: &str,
    change: impl FnOnce(&mut DeviceTree),
) {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    machine.ram_file = Some(ram.clone());
    machine.edu = true;
    let watch = Watch::quietly(name);
    let mut vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, |tree| {
            let smmu = tree.find_node_mut("/smmuv3@9050000").expect("the SMMU");
            let cells = [0_u32, 74, 1, 0, 77, 1].map(u32::to_be_bytes).concat();
            for (name, value) in [
                ("interrupts", cells),
                ("interrupt-names", b"eventq\0gerror\0".to_vec()),
            ] {
                smmu.property_mut(name).expect(name).set_value(value);
            }
            change(tree);
        })
    })
    .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{name}: {error}"));
    for command in [
        "sh spare && edu pci-stub && edu ''",
        "edu init",
        "edu write 0x48000000 1 8",
    ] {
        agent
            .ask(&vm, command)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // A transfer takes a tenth of a second.
    let heard = format!("sh busybox sleep 2; busybox dmesg | busybox grep '{word}'");
    let reply = agent.ask(&vm, &heard).expect("a shell");
    assert_eq!(reply.get("status"), Some("0"), "{name}\n{}", vm.tails());
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn an_smmu_that_signals_where_nothing_does() {
    let machine = common::prepared().nested_machine();
    a_fault_is_heard(machine, "spare-nested", "event 0x", |_| {});
}

/// The DeviceID is one that no device has: the last of the last bus.
#[test]
fn an_smmu_that_sends_messages() {
    let machine = common::prepared().nested_machine();
    a_fault_is_heard(machine, "spare-message", "event 0x", |tree| {
        let its = tree.find_node_mut("/intc@8000000/its@8080000");
        let its = its.expect("the ITS").property("phandle").expect("phandle");
        let parent = [its.value(), &0xffff_u32.to_be_bytes()].concat();
        let smmu = tree.find_node_mut("/smmuv3@9050000").expect("the SMMU");
        smmu.add_property(DeviceTreeProperty::new_unchecked("msi-parent", parent));
        let all = [0_u32, 988].map(u32::to_be_bytes).concat();
        let mut node = DeviceTreeNode::new_unchecked("all-spis");
        node.add_property(DeviceTreeProperty::new_unchecked("mbi-ranges", all));
        tree.root.add_child(node);
    });
}

#[test]
fn a_virtio_iommu_that_signals_where_nothing_does() {
    let machine = common::prepared().paravirt_machine();
    a_fault_is_heard(machine, "spare-paravirt", "page fault from EP", |_| {});
}
