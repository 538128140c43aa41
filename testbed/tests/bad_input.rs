//! What cannot work ends in one line that says why, and in power-off.

mod common;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use portcullis_testbed::agent::Agent;
use portcullis_testbed::logfmt::Event;
use portcullis_testbed::machine::{
    Boot, HYPERVISOR_ARGUMENTS, INITRD_ADDRESS, KERNEL_ADDRESS, Machine, ModuleKind,
};
use portcullis_testbed::vm::{Vm, Watch};
use portcullis_testbed::{Result, tree};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Boots a machine that must refuse, and checks how it does so: its reason
/// has to contain one of `words`.
fn refuses(machine: &Machine, name: &str, words: &[&str]) {
    refuses_after(machine, name, words, || Ok(()));
}

fn refuses_after(
    machine: &Machine,
    name: &str,
    words: &[&str],
    before: impl FnOnce() -> Result<()>,
) {
    refuses_with_smmus(machine, name, words, (u64::from(machine.smmu), 0), before);
}

/// The same, where so many SMMUs are `(fenced, silent)` in the end.
fn refuses_with_smmus(
    machine: &Machine,
    name: &str,
    words: &[&str],
    (fenced, silent): (u64, u64),
    before: impl FnOnce() -> Result<()>,
) {
    let prepared = common::prepared();
    let mut vm = Vm::start_after(&prepared.lab, machine, &Watch::quietly(name), before)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let status = vm
        .wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(status.success(), "{name}: {status}\n{}", vm.tails());
    // As long as no console was chosen, the hypervisor talks on the first one.
    let lines = [vm.log.lines_since(0), vm.host.lines_since(0)].concat();
    let events: Vec<Event> = lines
        .iter()
        .filter_map(|line| Event::parse(&line.text))
        .collect();
    let errors: Vec<_> = events
        .iter()
        .filter(|event| event.kind() == "boot_error")
        .collect();
    assert_eq!(
        errors.len(),
        1,
        "{name}: one boot_error line\n{}",
        vm.tails()
    );
    let reason = errors[0].get("reason").unwrap_or("").to_lowercase();
    let fix = errors[0].get("fix").unwrap_or("");
    assert!(
        !fix.is_empty(),
        "{name}: no word about what would be right\n{}",
        vm.tails()
    );
    // Whatever was wrong, DMA was stopped before the line was printed.
    assert_eq!(
        errors[0].number("smmus_fenced"),
        Some(fenced),
        "{name}\n{}",
        vm.tails()
    );
    assert_eq!(errors[0].number("smmus_silent"), Some(silent), "{name}");
    let named = words
        .iter()
        .any(|word| reason.contains(&word.to_lowercase()));
    assert!(named, "{name}: {reason:?} names none of {words:?}");
    assert!(
        !events.iter().any(|event| event.kind() == "host_start"),
        "{name}: the host started"
    );
    let strange = lines.iter().find(|line| Event::parse(&line.text).is_none());
    assert!(
        strange.is_none(),
        "{name}: somebody else spoke: {strange:?}"
    );
}

/// The usual machine with its RAM in a file, in a directory that goes with
/// the returned value.
fn editable() -> (Machine, tempfile::TempDir, PathBuf) {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = prepared.machine();
    machine.memory = "512M".to_owned();
    machine.ram_file = Some(ram.clone());
    (machine, directory, ram)
}

/// Boots the usual machine with an altered tree.
fn refuses_tree(name: &str, words: &[&str], change: impl FnOnce(&mut DeviceTree)) {
    let (machine, _directory, ram) = editable();
    refuses_after(&machine, name, words, || tree::edit(&ram, change));
}

/// Boots the usual machine with an altered blob.
fn refuses_blob(name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let (machine, _directory, ram) = editable();
    refuses_after(&machine, name, &["tree", "fdt"], || alter(&ram, change));
}

fn alter(ram: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = tree::read(ram)?;
    change(&mut bytes);
    tree::write(ram, &bytes)
}

/// The node of the module loaded at `address`.
fn module_mut(tree: &mut DeviceTree, address: u64) -> &mut DeviceTreeNode {
    let path = format!("/chosen/module@{address:#x}");
    tree.find_node_mut(&path)
        .unwrap_or_else(|| panic!("no {path}"))
}

#[test]
fn a_machine_without_smmu() {
    let mut machine = common::prepared().machine();
    machine.smmu = false;
    refuses(&machine, "no-smmu", &["SMMU"]);
}

#[test]
fn an_smmu_without_stage_2() {
    let mut machine = common::prepared().machine();
    // The emulated SMMU of older machine types has stage 1 only.
    machine.model = "virt-9.1".to_owned();
    refuses(&machine, "stage-1-only", &["stage"]);
}

#[test]
fn no_module() {
    let mut machine = common::prepared().machine();
    if let Boot::Portcullis { modules, .. } = &mut machine.boot {
        modules.clear();
    }
    refuses(&machine, "no-module", &["module", "kernel"]);
}

#[test]
fn a_kernel_that_is_not_aligned() {
    let mut machine = common::prepared().machine();
    if let Boot::Portcullis { modules, .. } = &mut machine.boot {
        modules[0].address += 0x1_0000;
    }
    refuses(&machine, "unaligned", &["align", "2 MiB"]);
}

#[test]
fn a_kernel_that_is_no_kernel() {
    let mut machine = common::prepared().machine();
    if let Boot::Portcullis { modules, .. } = &mut machine.boot {
        let initrd = modules[1].path.clone();
        modules[0].path = initrd;
    }
    refuses(&machine, "no-image", &["image", "kernel"]);
}

#[test]
fn two_kernels() {
    let mut machine = common::prepared().machine();
    if let Boot::Portcullis { modules, .. } = &mut machine.boot {
        modules[1].kind = ModuleKind::Kernel("console=ttyAMA0".to_owned());
    }
    refuses(&machine, "two-kernels", &["kernel"]);
}

#[test]
fn modules_that_overlap() {
    refuses_tree("overlap", &["overlap"], |tree| {
        let initrd = module_mut(tree, INITRD_ADDRESS);
        let reg = initrd.property_mut("reg").expect("reg");
        let old = (&*reg).value().to_vec();
        let size = old[old.len() / 2..].to_vec();
        let mut value = (KERNEL_ADDRESS + 0x10_0000).to_be_bytes().to_vec();
        value.extend(size);
        reg.set_value(value);
    });
}

#[test]
fn a_command_line_that_makes_no_sense() {
    let prepared = common::prepared();
    let cases = [
        (
            "mode",
            "host-iommu=sideways console=serial1",
            ["host-iommu", "sideways"],
        ),
        (
            "level",
            "host-iommu=identity log=loud console=serial1",
            ["log", "loud"],
        ),
        (
            "key",
            "host-iommu=identity sound=on console=serial1",
            ["sound", "unknown"],
        ),
    ];
    for (name, arguments, words) in cases {
        let machine = Machine::new(prepared.boot(arguments));
        refuses(&machine, &format!("bootargs-{name}"), &words);
    }
}

#[test]
fn too_little_memory() {
    let mut machine = Machine::new(common::prepared().boot(HYPERVISOR_ARGUMENTS));
    machine.memory = "64M".to_owned();
    refuses(&machine, "little-memory", &["memory", "RAM"]);
}

#[test]
fn a_tree_without_its_magic_number() {
    refuses_blob("no-magic", |bytes| bytes[..4].fill(0));
}

#[test]
fn a_tree_whose_structure_is_garbage() {
    refuses_blob("garbage", |bytes| {
        let start = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
        bytes[start..].fill(0xff);
    });
}

#[test]
fn a_tree_that_claims_to_be_huge() {
    refuses_blob("huge", |bytes| bytes[4..8].fill(0xff));
}

/// Linux shrugs at it, and so does the hypervisor: it says so, and boots.
#[test]
fn a_tree_that_names_a_stream_twice() {
    let prepared = common::prepared();
    let (machine, _directory, ram) = editable();
    let change = |tree: &mut DeviceTree| {
        let names: Vec<String> = tree
            .root
            .children()
            .map(|child| child.name().to_owned())
            .collect();
        let name = names
            .iter()
            .find(|name| name.starts_with("pcie@"))
            .expect("a PCIe host");
        let pcie = tree
            .find_node_mut(&format!("/{name}"))
            .expect("a PCIe host");
        let map = pcie.property_mut("iommu-map").expect("iommu-map");
        let once = (&*map).value().to_vec();
        let twice = [once.clone(), once].concat();
        map.set_value(twice);
    };
    let watch = Watch::quietly("stream-twice");
    let before = || tree::edit(&ram, change);
    let mut vm = Vm::start_after(&prepared.lab, &machine, &watch, before)
        .unwrap_or_else(|error| panic!("{error}"));
    let mut agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{error}"));
    let events = vm.events_since(0);
    let odd = events.iter().filter(|event| event.kind() == "tree_odd");
    let reasons: Vec<_> = odd.filter_map(|event| event.get("reason")).collect();
    assert_eq!(reasons, ["it names a StreamID twice"]);
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_tree_without_memory() {
    refuses_tree("no-memory-node", &["memory", "RAM"], |tree| {
        let names: Vec<String> = tree
            .root
            .children()
            .map(|child| child.name().to_owned())
            .collect();
        for name in names.iter().filter(|name| name.starts_with("memory")) {
            tree.root.remove_child(name);
        }
    });
}

/// Sets the `reg` of a node directly below the root.
fn set_reg(tree: &mut DeviceTree, start: &str, address: u64, size: u64) {
    let names: Vec<String> = tree
        .root
        .children()
        .map(|child| child.name().to_owned())
        .collect();
    let name = names
        .iter()
        .find(|name| name.starts_with(start))
        .expect("the node");
    let node = tree.find_node_mut(&format!("/{name}")).expect("the node");
    let value = [address.to_be_bytes(), size.to_be_bytes()].concat();
    node.property_mut("reg").expect("reg").set_value(value);
}

#[test]
fn registers_in_ram() {
    // Nothing answers there, so nothing can be counted as fenced; the SMMU
    // that the tree hides is out of anybody's sight.
    let (mut machine, _directory, ram) = editable();
    machine.smmu = false;
    refuses_after(&machine, "smmu-in-ram", &["ram"], || {
        tree::edit(&ram, |tree| {
            let mut smmu = DeviceTreeNode::new("smmuv3@44000000").expect("a node");
            for (name, value) in [
                ("compatible", b"arm,smmu-v3\0".to_vec()),
                (
                    "reg",
                    [0x4400_0000u64, 0x2_0000].map(u64::to_be_bytes).concat(),
                ),
            ] {
                smmu.add_property(DeviceTreeProperty::new(name, value).expect("a property"));
            }
            tree.root.add_child(smmu);
        })
    });
}

/// A second SMMU has no power: the interconnect answers with an error, or with zeros
/// as QEMU's empty flash does. The first is fenced all the same. (Linux' driver of older
/// SMMUs wakes them first "to avoid unclocked register reads and potential NoC errors",
/// lists.infradead.org/pipermail/linux-arm-kernel/2026-January/1098706.html.)
#[test]
fn an_smmu_without_power() {
    for (index, (at, how)) in [(0x0b00_0000_u64, "abort"), (0, "zeros")]
        .into_iter()
        .enumerate()
    {
        let (machine, _directory, ram) = editable();
        let name = format!("silent-{index}");
        let words = [
            format!("smmu at {at:#x} answers with {how}"),
            format!("{at:#x} answers with an external {how}"),
        ];
        refuses_with_smmus(
            &machine,
            &name,
            &words.each_ref().map(String::as_str),
            (1, 1),
            || {
                tree::edit(&ram, |tree| {
                    let mut smmu = DeviceTreeNode::new(format!("smmuv3@{at:x}")).expect("a node");
                    let reg = [at, 0x2_0000].map(u64::to_be_bytes).concat();
                    for (name, value) in [("compatible", b"arm,smmu-v3\0".to_vec()), ("reg", reg)] {
                        smmu.add_property(
                            DeviceTreeProperty::new(name, value).expect("a property"),
                        );
                    }
                    tree.root.add_child(smmu);
                })
            },
        );
    }
}

#[test]
fn a_console_in_ram() {
    refuses_tree("console-in-ram", &["ram"], |tree| {
        set_reg(tree, "pl011@9040000", 0x4400_0000, 0x1000);
    });
}

/// QEMU gives a virtio device physical addresses unless it is told otherwise; the
/// tree says that all of its bus goes through the SMMU.
#[test]
fn a_device_that_goes_past_the_smmu() {
    let devices = [
        vec!["virtio-rng-pci"],
        // Of before virtio 1.0 alone, which has no feature bit for it.
        vec!["virtio-rng-pci,disable-modern=on,disable-legacy=off"],
        // Behind two bridges that have no bus numbers yet.
        vec![
            "pcie-root-port,id=above,chassis=1",
            "pcie-pci-bridge,id=below,bus=above",
            "virtio-rng-pci,iommu_platform=on,disable-legacy=on",
            "virtio-rng-pci,bus=below,addr=3",
        ],
    ];
    for (index, devices) in devices.into_iter().enumerate() {
        let mut machine = common::prepared().machine();
        machine.devices = devices.into_iter().map(str::to_owned).collect();
        let name = format!("past-the-smmu-{index}");
        refuses(&machine, &name, &["virtio-rng, does its DMA past"]);
    }
}

/// Memory that the tree does not name: the refusal says where it is.
#[test]
fn a_device_that_brings_memory() {
    let mut machine = common::prepared().machine();
    machine.memory = "1G,maxmem=4G,slots=1".to_owned();
    let backend = ["-object", "memory-backend-ram,id=more,size=1G"];
    machine.extra.extend(backend.map(Into::into));
    machine.devices = vec!["virtio-mem-pci,memdev=more,iommu_platform=on".to_owned()];
    let what = "virtio-mem, brings 0x40000000 bytes of memory at 0x80000000";
    refuses(&machine, "brings-memory", &[what, "memory-allow="]);
}

#[test]
fn a_tree_whose_cells_are_absurd() {
    refuses_tree("cells", &["cell", "tree"], |tree| {
        let cells = DeviceTreeProperty::new("#address-cells", 77_u32).expect("a property");
        tree.root.add_property(cells);
    });
}
