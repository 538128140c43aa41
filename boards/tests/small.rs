//! Made-up trees: what a boot loader adds, and what of a board is of use.
#![allow(missing_docs)]

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use portcullis_boards::board::{Outcome, Smmus, try_board};
use portcullis_boards::loader::{MEMORY, load};
use portcullis_boards::nodes::{Nodes, read};

fn cells(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

/// A node with properties of cells, and with models.
fn node(name: &str, models: &str, properties: &[(&str, &[u32])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    if !models.is_empty() {
        node.add_property(DeviceTreeProperty::new_unchecked("compatible", models));
    }
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new_unchecked(*name, cells(value)));
    }
    node
}

fn with_text(mut node: DeviceTreeNode, name: &str, text: &str) -> DeviceTreeNode {
    node.add_property(DeviceTreeProperty::new_unchecked(name, text));
    node
}

/// A board as its compiled tree has it: no memory, no modules, the SMMU disabled, and
/// a device behind it that needs the clock of `clock`.
fn board(clock: &str) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    for (name, value) in [
        ("#address-cells", 1),
        ("#size-cells", 1),
        ("interrupt-parent", 1),
    ] {
        root.add_property(DeviceTreeProperty::new_unchecked(name, cells(&[value])));
    }
    let cpu = node("cpu@0", "vendor,cpu", &[("reg", &[0])]);
    let mut cpus = node(
        "cpus",
        "",
        &[("#address-cells", &[1]), ("#size-cells", &[0])],
    );
    cpus.add_child(with_text(cpu, "device_type", "cpu"));
    root.add_child(cpus);
    root.add_child(with_text(
        node("psci", "arm,psci-1.0", &[]),
        "method",
        "smc",
    ));
    root.add_child(node(
        "gic@8000000",
        "arm,gic-v3",
        &[
            ("phandle", &[1]),
            ("#interrupt-cells", &[3]),
            ("interrupt-controller", &[]),
            ("reg", &[0x800_0000, 0x1_0000, 0x80a_0000, 0x2_0000]),
        ],
    ));
    let smmu = node(
        "iommu@9000000",
        "arm,smmu-v3",
        &[
            ("phandle", &[2]),
            ("#iommu-cells", &[1]),
            ("reg", &[0x900_0000, 0x2_0000]),
        ],
    );
    root.add_child(with_text(smmu, "status", "disabled"));
    root.add_child(node(
        "clock@9100000",
        clock,
        &[
            ("phandle", &[3]),
            ("#clock-cells", &[0]),
            ("reg", &[0x910_0000, 0x1000]),
        ],
    ));
    root.add_child(node(
        "disk@9200000",
        "vendor,disk",
        &[
            ("reg", &[0x920_0000, 0x1000]),
            ("iommus", &[2, 7]),
            ("clocks", &[3]),
        ],
    ));
    tree
}

#[test]
fn a_board_that_lacks_a_clock_is_of_no_use() {
    let tried = try_board("a", &board("vendor,clock").to_dtb()).expect("a board");
    let accepted = |outcome: &Outcome| matches!(outcome, Outcome::Accepted { withheld: 1, .. });
    assert!(tried.outcomes.iter().all(accepted), "{:?}", tried.outcomes);
    assert_eq!((tried.smmus, tried.disabled_smmus), (1, 1));
    let of_use = tried.of_use.expect("it starts");
    assert_eq!((of_use.confined, of_use.lacking.len()), (1, 1));
    let lack = &of_use.lacking[0];
    assert_eq!(lack.property, "clocks");
    assert_eq!(
        (lack.device.as_str(), lack.supplier.as_str()),
        ("/disk@9200000", "/clock@9100000")
    );
    assert!(of_use.reason().is_some());
    // As it is there is no SMMU.
    let Some(Outcome::Refused { reason }) = tried.as_it_is else {
        panic!("it starts without an SMMU");
    };
    assert_eq!(reason, "the device tree has no SMMU");
}

#[test]
fn a_board_whose_clock_stays_is_of_use() {
    let tried = try_board("a", &board("arm,sp804").to_dtb()).expect("a board");
    let of_use = tried.of_use.expect("it starts");
    assert_eq!((of_use.confined, of_use.reason()), (1, None));
}

/// Where memory is, by what the tree says of it.
fn memory(change: impl FnOnce(&mut DeviceTreeNode)) -> Vec<(u64, u64)> {
    let mut tree = board("vendor,clock");
    change(&mut tree.root);
    let loaded = load(&tree.to_dtb(), "", Smmus::Enabled).expect("a board with room");
    let tree = read(&loaded.blob).expect("a tree");
    let nodes = Nodes::of(&tree.root);
    let at = nodes
        .iter()
        .position(|place| place.path.starts_with("/memory"));
    nodes.registers(at.expect("memory"))
}

#[test]
fn memory_is_where_the_tree_leaves_room() {
    let with = |reg: &'static [u32]| {
        move |root: &mut DeviceTreeNode| {
            let node = node("memory@0", "", &[("reg", reg)]);
            root.add_child(with_text(node, "device_type", "memory"));
        }
    };
    // The first GiB has registers.
    assert_eq!(memory(|_| {}), [(1 << 30, MEMORY)]);
    assert_eq!(memory(with(&[0, 0])), [(1 << 30, MEMORY)]);
    assert_eq!(memory(with(&[0x6000_0000, 0])), [(0x6000_0000, MEMORY)]);
    assert_eq!(
        memory(with(&[0x6000_0000, 0x2000_0000])),
        [(0x6000_0000, 0x2000_0000)]
    );
    // From where something is reserved, up to the next registers.
    let reserved = |root: &mut DeviceTreeNode| {
        let cells: [(&str, &[u32]); 2] = [("#address-cells", &[1]), ("#size-cells", &[1])];
        let mut parent = node("reserved-memory", "", &cells);
        parent.add_child(node("a@80100000", "", &[("reg", &[0x8010_0000, 0x1000])]));
        root.add_child(parent);
        let uart = node(
            "uart@d0000000",
            "vendor,uart",
            &[("reg", &[0xd000_0000, 0x1000])],
        );
        root.add_child(uart);
    };
    assert_eq!(memory(reserved), [(0x8000_0000, 0x5000_0000)]);
}
