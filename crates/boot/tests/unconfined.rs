//! Which devices count as passing every SMMU by.

mod support;

use portcullis_boot::Machine;
use support::{Tree, cells, changed, range};

fn unconfined(
    change: impl FnOnce(&mut Tree),
) -> Vec<portcullis_addr::Range<portcullis_addr::PhysAddr>> {
    let machine = Machine::from_fdt(&changed(change)).unwrap();
    machine
        .unconfined
        .iter()
        .map(|device| device.range)
        .collect()
}

/// A root port and what is below it do DMA through the host bridge, whose
/// `iommu-map` speaks for them. Their `reg` is a function's number, not an
/// address (PCI Bus Binding to IEEE 1275, 2.1.4.2).
#[test]
fn what_is_below_a_bridge_is_left_to_the_bridge() {
    let endpoint = Tree::new("nic@0")
        .with("reg", cells(&[0x1_0000, 0, 0, 0, 0]))
        .with("dma-coherent", []);
    let port = Tree::new("pcie@8,0")
        .text("device_type", "pci")
        .with("reg", cells(&[0x4000, 0, 0, 0, 0]))
        .child(endpoint);
    let before = unconfined(|_| {});
    let after = unconfined(move |tree| {
        let bridge = tree.at("pcie@10000000");
        bridge.set("device_type", "pci\0");
        let with_port = std::mem::replace(bridge, Tree::new("")).child(port);
        *bridge = with_port;
    });
    assert_eq!(after, before);
}

#[test]
fn a_device_that_does_dma_and_names_no_stream_is_one() {
    let dma = |tree: &mut Tree| {
        let device = Tree::new("dma@b000000")
            .with("reg", cells(&[0, 0x0b00_0000, 0, 0x1000]))
            .with("dma-coherent", []);
        let root = std::mem::replace(tree, Tree::new("")).child(device);
        *tree = root;
    };
    let found = unconfined(dma);
    assert!(found.contains(&range(0x0b00_0000, 0x1000)), "{found:?}");
}
