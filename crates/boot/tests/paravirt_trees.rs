//! The host's tree in paravirt mode: one virtio-iommu in the place of the SMMUs,
//! with a number for each of their streams.

mod support;

use portcullis_boot::{BootError, Fdt, HostIommu, HostTreePlan, Machine, endpoint};
use support::{Tree, cells, listing, machine, range, reg, strings};

/// The smallest machine in paravirt mode.
fn paravirt() -> Tree {
    let mut tree = machine();
    tree.at("chosen")
        .set("bootargs", strings(&["host-iommu=paravirt"]));
    let smmu = tree.at("smmu@9050000");
    smmu.set(
        "interrupts",
        cells(&[0, 74, 1, 0, 75, 1, 0, 76, 1, 0, 77, 1]),
    );
    smmu.set(
        "interrupt-names",
        strings(&["eventq", "priq", "cmdq-sync", "gerror"]),
    );
    tree
}

/// A second SMMU, with phandle 9.
fn second() -> Tree {
    Tree::new("smmu@a000000")
        .text("compatible", "arm,smmu-v3")
        .with("phandle", cells(&[9]))
        .with("reg", reg(&[(0xa00_0000, 0x2_0000)]))
        .with("interrupts", cells(&[0, 80, 1, 0, 83, 1]))
        .with("interrupt-names", strings(&["eventq", "gerror"]))
}

fn host_tree(blob: &[u8]) -> Vec<u8> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0xa5; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    out.truncate(size);
    out
}

/// The cells of a property of the host's tree.
fn seen(blob: &[u8], node: &str, property: &str) -> Option<Vec<u32>> {
    let host = host_tree(blob);
    let fdt = Fdt::new(&host).unwrap();
    let value = fdt.find(node.as_bytes())?.property(property.as_bytes())?;
    let cell = |cell: &[u8; 4]| u32::from_be_bytes(*cell);
    Some(value.as_chunks().0.iter().map(cell).collect())
}

#[test]
fn a_virtio_iommu_comes_in_the_place_of_the_smmu() {
    let blob = paravirt().flatten();
    let lines = listing(&host_tree(&blob));
    let node: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("/viommu@9050000 "))
        .collect();
    assert_eq!(
        node,
        [
            r"compatible = virtio,mmio\x00",
            r"reg = \x00\x00\x00\x00\t\x05\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00",
            r"interrupt-parent = \x00\x00\x00\x01",
            r"interrupts = \x00\x00\x00\x00\x00\x00\x00K\x00\x00\x00\x01",
            "dma-coherent = ",
            r"#iommu-cells = \x00\x00\x00\x01",
            r"phandle = \x00\x00\x00\x02",
        ]
    );
    assert!(!lines.iter().any(|line| line.contains("smmu")));
    assert_eq!(
        seen(&blob, "/pcie@10000000", "iommu-map"),
        Some(vec![0, 2, 0, 0x1000])
    );
    assert_eq!(seen(&blob, "/dma@c000000", "iommus"), Some(vec![2, 0x2000]));

    let machine = Machine::from_fdt(&blob).unwrap();
    assert_eq!(machine.host_iommu, HostIommu::Paravirt);
    assert!(machine.host_lines.is_empty());
    let viommu = *machine.viommus.get(0).unwrap();
    assert_eq!(viommu.registers, range(0x905_0000, 0x1000));
    assert_eq!(viommu.line, 107);
    for (number, stream) in [
        (0, Some((0, 0))),
        (0xfff, Some((0, 0xfff))),
        (0x1000, None),
        (0x2000, Some((0, 0x2000))),
        (0x2001, None),
        (0x1000_0000, None),
        (u32::MAX, None),
    ] {
        assert_eq!(machine.stream_of(number), stream, "{number:#x}");
    }
}

#[test]
fn other_modes_have_none() {
    for mode in ["identity", "nested"] {
        let mut tree = paravirt();
        tree.at("chosen")
            .set("bootargs", strings(&[&format!("host-iommu={mode}")]));
        let blob = tree.flatten();
        assert!(Machine::from_fdt(&blob).unwrap().viommus.is_empty());
        let lines = listing(&host_tree(&blob));
        assert!(!lines.iter().any(|line| line.contains("viommu")));
    }
}

#[test]
fn a_machine_without_smmu_is_refused_later() {
    let mut tree = paravirt();
    tree.remove_child("smmu@9050000");
    tree.at("pcie@10000000").remove("iommu-map");
    tree.at("dma@c000000").remove("iommus");
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    assert!(machine.viommus.is_empty());
    assert!(machine.require_smmu().is_err());
}

#[test]
fn the_streams_of_several_smmus_have_different_numbers() {
    let mut tree = paravirt().child(second());
    tree.at("pcie@10000000")
        .set("iommu-map", cells(&[0, 2, 0, 0x800, 0x800, 9, 0, 0x800]));
    tree.at("pcie@10000000")
        .set("iommu-map-mask", cells(&[0xffff]));
    tree.at("dma@c000000")
        .set("iommus", cells(&[9, 0x2000, 2, 0x2000]));
    let blob = tree.flatten();
    assert_eq!(
        seen(&blob, "/pcie@10000000", "iommu-map"),
        Some(vec![0, 2, 0, 0x800, 0x800, 2, 0x1000_0000, 0x800])
    );
    assert_eq!(
        seen(&blob, "/pcie@10000000", "iommu-map-mask"),
        Some(vec![0xffff])
    );
    assert_eq!(
        seen(&blob, "/dma@c000000", "iommus"),
        Some(vec![2, 0x1000_2000, 2, 0x2000])
    );
    let machine = Machine::from_fdt(&blob).unwrap();
    assert_eq!(machine.stream_of(0x7ff), Some((0, 0x7ff)));
    assert_eq!(machine.stream_of(0x800), None);
    assert_eq!(machine.stream_of(0x1000_07ff), Some((1, 0x7ff)));
    assert_eq!(machine.stream_of(0x1000_2000), Some((1, 0x2000)));
    for stream in machine.streams.iter() {
        assert_eq!(
            machine.stream_of(stream.first_endpoint()),
            Some((stream.smmu, stream.first))
        );
    }
    assert_eq!(endpoint(15, 0xfff_ffff), u32::MAX);
}

#[test]
fn large_stream_ids_need_a_machine_with_one_smmu() {
    let blob = |stream, tree: Tree| {
        let mut tree = tree;
        tree.at("dma@c000000").set("iommus", cells(&[2, stream]));
        tree.flatten()
    };
    let one = blob(u32::MAX, paravirt());
    assert_eq!(
        seen(&one, "/dma@c000000", "iommus"),
        Some(vec![2, u32::MAX])
    );
    assert_eq!(
        Machine::from_fdt(&one).unwrap().stream_of(u32::MAX),
        Some((0, u32::MAX))
    );
    assert!(Machine::from_fdt(&blob(0xfff_ffff, paravirt().child(second()))).is_ok());
    let error = Machine::from_fdt(&blob(0x1000_0000, paravirt().child(second()))).unwrap_err();
    assert_eq!(
        (error.to_string(), error.fix().to_string()),
        (
            "/dma@c000000 has stream 0x10000000, too large for a number among several SMMUs".into(),
            "name StreamIDs up to 0xfffffff, or use host-iommu=identity or nested".into()
        )
    );
}

#[test]
fn any_smmu_may_have_the_interrupt() {
    // The first one has none to spare.
    let mut tree = paravirt();
    tree.at("smmu@9050000")
        .set("interrupts", cells(&[0, 74, 1, 0, 77, 1]));
    tree.at("smmu@9050000")
        .set("interrupt-names", strings(&["eventq", "gerror"]));
    let error = Machine::from_fdt(&tree.flatten()).unwrap_err();
    assert!(matches!(error, BootError::NoSpareInterrupt { .. }));
    let other = second()
        .with("interrupts", cells(&[0, 80, 1, 0, 82, 1, 0, 83, 1]))
        .with(
            "interrupt-names",
            strings(&["eventq", "cmdq-sync", "gerror"]),
        );
    let machine = Machine::from_fdt(&tree.child(other).flatten()).unwrap();
    let viommu = *machine.viommus.get(0).unwrap();
    assert_eq!((viommu.line, viommu.phandle), (114, Some(2)));
    assert_eq!(viommu.registers, range(0x905_0000, 0x1000));
}

#[test]
fn registers_that_are_no_page_are_refused() {
    for (at, size) in [(0x905_0800, 0x2_0000), (0x905_0000, 0x800)] {
        let mut tree = paravirt();
        tree.at("smmu@9050000").set("reg", reg(&[(at, size)]));
        let error = Machine::from_fdt(&tree.flatten()).unwrap_err();
        assert_eq!(error.fix().to_string(), "whole pages of 4 KiB");
    }
}

#[test]
fn what_is_disabled_refers_to_nothing() {
    let mut tree = paravirt();
    tree.at("dma@c000000").set("status", strings(&["disabled"]));
    // No whole entry, and nobody has looked at it.
    tree.at("dma@c000000").set("iommus", cells(&[2]));
    let blob = tree.flatten();
    assert_eq!(seen(&blob, "/dma@c000000", "iommus"), None);
    assert!(listing(&host_tree(&blob)).contains(&"/dma@c000000".to_owned()));
}

#[test]
fn every_size_that_is_too_small_is_refused() {
    let blob = paravirt().child(second()).flatten();
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    for have in 0..size {
        let error = plan.write(&fdt, &mut out[..have]).unwrap_err();
        assert_eq!(error, BootError::OutputTooSmall { have: have as u64 });
    }
}

#[test]
fn the_tree_of_qemu_has_all_its_pci_devices_behind_it() {
    let mut blob = include_bytes!("trees/gicv3-smmu-modules.dtb").to_vec();
    let (from, to) = (b"host-iommu=identity", b"host-iommu=paravirt");
    let at = blob.windows(from.len()).position(|part| part == from);
    let at = at.expect("the tree names its mode");
    blob[at..at + to.len()].copy_from_slice(to);
    let host = host_tree(&blob);
    let fdt = Fdt::new(&host).unwrap();
    let viommu = fdt.find(b"/viommu@9050000").expect("a virtio-iommu");
    assert!(viommu.is_compatible(b"virtio,mmio"));
    let phandle = viommu.phandle().expect("a phandle");
    let same = |node: &portcullis_boot::Node<'_>| node.phandle() == Some(phandle);
    assert_eq!(fdt.nodes().filter(|(_, node)| same(node)).count(), 1);
    assert_eq!(
        seen(&blob, "/pcie@10000000", "iommu-map"),
        Some(vec![0, phandle, 0, 0x1_0000])
    );
    let transports = fdt
        .nodes()
        .filter(|(_, node)| node.is_compatible(b"virtio,mmio"));
    assert_eq!(transports.count(), 1);
}
