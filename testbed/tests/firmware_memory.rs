//! Memory that the tree says is firmware's: neither the host nor the hypervisor
//! on its behalf comes near it.

mod common;

use dtoolkit::Node;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use portcullis_testbed::agent::Agent;
use portcullis_testbed::build;
use portcullis_testbed::machine::Machine;
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Above all RAM of the machine: an access ends in an external abort, as it does
/// on a board whose interconnect keeps such memory from us.
const CARVE_OUT: u64 = 0x8000_0000;
const SIZE: u64 = 2 << 20;

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).expect("a node");
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new(*name, *value).expect("a property"));
    }
    node
}

/// Has the tree say that there is RAM at [`CARVE_OUT`], and that it is
/// firmware's.
fn carve_out(tree: &mut DeviceTree) {
    let reg = [CARVE_OUT, SIZE].map(u64::to_be_bytes).concat();
    let two = 2_u32.to_be_bytes();
    tree.root.add_child(node(
        &format!("memory@{CARVE_OUT:x}"),
        &[("device_type", b"memory\0"), ("reg", &reg)],
    ));
    let mut reserved = node(
        "reserved-memory",
        &[
            ("#address-cells", &two),
            ("#size-cells", &two),
            ("ranges", &[]),
        ],
    );
    reserved.add_child(node(
        &format!("monitor@{CARVE_OUT:x}"),
        &[("reg", &reg), ("no-map", &[])],
    ));
    assert!(tree.root.child("reserved-memory").is_none());
    tree.root.add_child(reserved);
}

/// A host that points the queues and tables of its SMMU there is told so by its
/// SMMU, and the hypervisor lives on.
#[test]
fn a_queue_in_memory_of_firmwares_is_an_error_of_the_hosts() {
    let prepared = common::prepared();
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let arguments = "host-iommu=nested log=info console=serial1";
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = Machine::new(prepared.boot_kernel(arguments, &kernel));
    machine.memory = "512M".to_owned();
    machine.ram_file = Some(ram.clone());
    let watch = Watch::quietly("firmware-memory");
    let mut vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, carve_out)
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let status = vm
        .wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}\n{}", vm.tails());
    let has = |text: &str| {
        let mut lines = vm.host.lines_since(0).into_iter();
        lines.any(|line| line.text.contains(text))
    };
    for check in [
        "smmu_queue_in_firmware result=ok",
        "smmu_events_in_firmware result=ok",
        "smmu_table_in_firmware result=ok",
        "done wrong=0",
    ] {
        assert!(has(check), "{check}\n{}", vm.tails());
    }
    let events = vm.events_since(0);
    let base = format!("{CARVE_OUT:#x}");
    assert!(
        events.iter().any(|event| {
            event.kind() == "memory_reserved"
                && event.get("what") == Some("firmware")
                && event.get("base") == Some(&base)
        }),
        "{}",
        vm.tails()
    );
    assert!(
        !events
            .iter()
            .any(|event| event.kind() == "hypervisor_exception"),
        "{}",
        vm.tails()
    );
}

/// Memory of firmware's inside the machine's RAM.
const INSIDE: u64 = 0x5c00_0000;

/// `base` and `end` of each line of `/proc/iomem` that says that it is free.
fn reserved_lines(iomem: &str) -> Vec<(u64, u64)> {
    let lines = iomem.lines().filter(|line| line.ends_with(": reserved"));
    let range = |line: &str| {
        let (range, _) = line.trim().split_once(" : ")?;
        let (start, last) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some((number(start)?, number(last)? + 1))
    };
    lines.filter_map(range).collect()
}

/// Linux ignores all of `/reserved-memory` when its cells are not the root's
/// (`drivers/of/fdt.c`, `__reserved_mem_check_root`), and all but the first node. So
/// it would run into memory that it does not have.
#[test]
fn a_host_knows_what_is_reserved_in_cells_that_linux_does_not_read() {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = prepared.machine();
    machine.memory = "512M".to_owned();
    machine.ram_file = Some(ram.clone());
    let watch = Watch::quietly("reserved-cells");
    let vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, |tree| {
            let one = 1_u32.to_be_bytes();
            let cells = [("#address-cells", &one[..]), ("#size-cells", &one)];
            for (name, start, first) in [
                ("reserved-memory", INSIDE, true),
                ("reserved-memory@1", INSIDE + SIZE, false),
            ] {
                let mut reserved = node(name, &cells);
                let reg = [start as u32, SIZE as u32].map(u32::to_be_bytes).concat();
                let monitor = [("reg", &reg[..]), ("no-map", &[])];
                reserved.add_child(node(&format!("monitor@{start:x}"), &monitor));
                let ranges =
                    DeviceTreeProperty::new("ranges", Vec::<u8>::new()).expect("a property");
                // The second lacks them.
                if first {
                    reserved.add_property(ranges);
                }
                tree.root.add_child(reserved);
            }
        })
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let mut agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{error}"));
    let iomem = agent.ask(&vm, "cat /proc/iomem").expect("a file").data();
    let iomem = String::from_utf8_lossy(&iomem).into_owned();
    let reserved = reserved_lines(&iomem);
    let events = vm.events_since(0);
    let announced = events
        .iter()
        .filter(|event| event.kind() == "memory_reserved")
        .filter_map(|event| Some((event.number("base")?, event.number("size")?)));
    let announced: Vec<_> = announced.collect();
    for expected in [(INSIDE, SIZE), (INSIDE + SIZE, SIZE)] {
        assert!(
            announced.contains(&expected),
            "{announced:x?}\n{}",
            vm.tails()
        );
    }
    // The image, the pool, and two of firmware's.
    assert_eq!(announced.len(), 4, "{announced:x?}");
    for (base, size) in announced {
        let covers = |(start, end): &(u64, u64)| *start <= base && base + size <= *end;
        assert!(reserved.iter().any(covers), "{base:#x}\n{iomem}");
    }
    // And what is left is the host's to use.
    let fill = "sh dd if=/dev/zero of=/fill bs=1M count=150 && rm /fill";
    let reply = agent.ask_within(&vm, fill, PATIENCE).expect("a shell");
    assert_eq!(reply.get("status"), Some("0"), "{}", vm.tails());
}

/// Firmware's picture is in memory that is marked `no-map`, as on most boards: the
/// host's driver maps it all the same (Linux, `simplefb` and `simpledrm`).
#[test]
fn a_host_draws_on_the_picture_that_firmware_left() {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = prepared.machine();
    machine.memory = "512M".to_owned();
    machine.ram_file = Some(ram.clone());
    let watch = Watch::quietly("framebuffer");
    let vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, |tree| {
            let two = 2_u32.to_be_bytes();
            let cells = [
                ("#address-cells", &two[..]),
                ("#size-cells", &two),
                ("ranges", &[]),
            ];
            let mut reserved = node("reserved-memory", &cells);
            let reg = [INSIDE, SIZE].map(u64::to_be_bytes).concat();
            let splash = [("reg", &reg[..]), ("no-map", &[])];
            reserved.add_child(node(&format!("splash@{INSIDE:x}"), &splash));
            tree.root.add_child(reserved);
            let [width, height, stride] = [640_u32, 480, 640 * 4].map(u32::to_be_bytes);
            tree.root.add_child(node(
                &format!("framebuffer@{INSIDE:x}"),
                &[
                    ("compatible", b"simple-framebuffer\0"),
                    ("reg", &reg),
                    ("width", &width),
                    ("height", &height),
                    ("stride", &stride),
                    ("format", b"a8r8g8b8\0"),
                ],
            ));
        })
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let mut agent = Agent::wait(&vm).unwrap_or_else(|error| panic!("{error}"));
    let draw = "sh [ -c /dev/fb0 ] && busybox dd if=/dev/zero of=/dev/fb0 bs=1M count=1";
    let reply = agent.ask(&vm, draw).expect("a shell");
    assert_eq!(reply.get("status"), Some("0"), "{}", vm.tails());
}
