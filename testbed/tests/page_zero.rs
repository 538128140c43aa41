//! An SMMU of whose registers the tree names page 0 alone, as that of Cavium's
//! ThunderX2 (`cavium,cn9900-broken-page1-regspace`). QEMU's has all of them there too.
//!
//! Public source: Linux, `Documentation/arch/arm64/silicon-errata.rst`, "ThunderX2 SMMUv3",
//! erratum 74, and the binding `iommu/arm,smmu-v3.yaml`.

mod common;

use dtoolkit::model::DeviceTreeProperty;
use portcullis_testbed::agent::Agent;
use portcullis_testbed::demo::OFF_TIMEOUT;
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};

const BROKEN: &str = "cavium,cn9900-broken-page1-regspace";
const PLACEHOLDER: &str = "page-0-only";

/// The tree with another name for the one property called `old`: longer ones than of 31
/// bytes are in many trees, and the library makes none.
fn renamed(mut blob: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    let word = |blob: &[u8], at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
    let [total, structure, strings, size] = [4, 8, 12, 32].map(|at| word(&blob, at) as usize);
    assert_eq!(strings + size, total, "the strings are at the end");
    let names = &blob[strings..];
    let wanted = [old.as_bytes(), b"\0"].concat();
    let offset = names.windows(wanted.len()).position(|name| *name == wanted);
    // A PROP of no bytes with that name (Devicetree Specification v0.4, 5.4.1).
    let token = [3, 0, offset.expect("the name") as u32]
        .map(u32::to_be_bytes)
        .concat();
    let mut at = (structure..strings).step_by(4);
    let at = at
        .find(|at| blob[*at..].starts_with(&token))
        .expect("the property");
    blob[at + 8..at + 12].copy_from_slice(&(size as u32).to_be_bytes());
    blob.extend_from_slice(new.as_bytes());
    blob.push(0);
    for (field, old) in [(4, total), (32, size)] {
        let value = (old + new.len() + 1) as u32;
        blob[field..field + 4].copy_from_slice(&value.to_be_bytes());
    }
    blob
}

#[test]
fn events_of_an_smmu_without_page_1_are_read() {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = prepared.machine();
    machine.ram_file = Some(ram.clone());
    machine.edu = true;
    let watch = Watch::quietly("page-zero");
    let mut vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, |tree| {
            let smmu = tree.find_node_mut("/smmuv3@9050000").expect("the SMMU");
            let reg = [0x905_0000_u64, 0x1_0000].map(u64::to_be_bytes).concat();
            smmu.property_mut("reg").expect("reg").set_value(reg);
            let broken = DeviceTreeProperty::new(PLACEHOLDER, Vec::<u8>::new());
            smmu.add_property(broken.expect("a property"));
        })?;
        let blob = renamed(tree::read(&ram)?, PLACEHOLDER, BROKEN);
        tree::write(&ram, &blob)
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let mut agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{error}"));
    agent.ask(&vm, "edu init").expect("the device");
    // The hypervisor's own registers.
    agent
        .ask(&vm, "edu write 0x9050000 1 8")
        .expect("a transfer");
    agent.ask(&vm, "sh busybox sleep 2").expect("a shell");
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
    let events = vm.events_since(0);
    let faults = events.iter().filter(|event| event.kind() == "dma_fault");
    assert!(faults.count() > 0, "{}", vm.tails());
}
