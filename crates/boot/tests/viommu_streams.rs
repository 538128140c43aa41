//! Several virtio-iommus: which has what, and what the host's tree says of it.

mod support;

use portcullis_boot::{
    BootError, Fdt, HostTreePlan, Machine, PciHost, VIOMMU_LIMIT, ViommuRange, ViommuStreams,
};
use portcullis_pci_survey::{SLOTS, Slot};
use std::collections::BTreeMap;
use support::{Board, Tree, cells, machine, range, reg, strings};

/// A machine whose host may have up to `most` virtio-iommus.
fn paravirt(most: usize) -> Tree {
    let mut tree = machine();
    let line = format!("host-iommu=paravirt viommus={most}");
    tree.at("chosen").set("bootargs", strings(&[&line]));
    tree.at("pcie@10000000")
        .set("compatible", strings(&["pci-host-ecam-generic"]));
    tree.at("pcie@10000000")
        .set("reg", reg(&[(0x2000_0000, 0x1000_0000)]));
    tree.at("pcie@10000000")
        .set("iommu-map", cells(&[0, 2, 0, 0x1_0000]));
    tree.remove_child("dma@c000000");
    tree
}

fn second_smmu() -> Tree {
    Tree::new("smmu@a000000")
        .text("compatible", "arm,smmu-v3")
        .with("phandle", cells(&[9]))
        .with("reg", reg(&[(0xa00_0000, 0x2_0000)]))
        .with("interrupts", cells(&[0, 80, 1, 0, 83, 1]))
        .with("interrupt-names", strings(&["eventq", "gerror"]))
}

fn device(at: u64, iommus: &[u32]) -> Tree {
    Tree::new(&format!("dma@{at:x}"))
        .text("compatible", "arm,pl330")
        .with("reg", reg(&[(at, 0x1000)]))
        .with("iommus", cells(iommus))
}

const NOTHING: [Slot; SLOTS] = [Slot::Empty; SLOTS];

/// A root bus with this in its slots.
fn bus(slots: &[(usize, Slot)]) -> [Slot; SLOTS] {
    let mut all = NOTHING;
    for (number, slot) in slots {
        all[*number] = *slot;
    }
    all
}

/// 288 interrupts.
const BOARD: Board = Board {
    end: u64::MAX,
    spis: 288,
    extended: 0,
};

/// A machine, and what becomes of it.
struct Divided {
    blob: Vec<u8>,
    machine: Machine,
    instances: ViommuStreams,
}

impl Divided {
    fn new(tree: &Tree, mut root: impl FnMut(&PciHost) -> Option<[Slot; SLOTS]>) -> Self {
        let blob = tree.flatten();
        let machine = Machine::from_fdt_on(&blob, &BOARD).unwrap();
        let instances = ViommuStreams::divide(&machine, &Fdt::new(&blob).unwrap(), &mut root);
        let this = Self {
            blob,
            machine,
            instances,
        };
        this.is_sound();
        this
    }

    fn of(tree: &Tree, slots: &[(usize, Slot)]) -> Self {
        Self::new(tree, |_| Some(bus(slots)))
    }

    fn host_tree(&self) -> Vec<u8> {
        let fdt = Fdt::new(&self.blob).unwrap();
        let plan = HostTreePlan::new(&self.machine, &[], true)
            .with_instances(&self.machine, &self.instances);
        let mut out = vec![0xa5; plan.bytes_needed(&fdt)];
        let size = plan.write(&fdt, &mut out).unwrap();
        out.truncate(size);
        out
    }

    /// The cells of a property of the host's tree.
    fn seen(&self, node: &str, property: &str) -> Vec<u32> {
        let host = self.host_tree();
        let fdt = Fdt::new(&host).unwrap();
        let node = fdt.find(node.as_bytes()).expect("a node");
        let value = node.property(property.as_bytes()).expect("a property");
        let cell = |cell: &[u8; 4]| u32::from_be_bytes(*cell);
        value.as_chunks().0.iter().map(cell).collect()
    }

    /// The virtio-iommu of a stream.
    fn of_stream(&self, smmu: usize, stream: u32) -> Option<u8> {
        let has = |share: &&ViommuRange| {
            share.smmu == smmu && (share.first..=share.last).contains(&stream)
        };
        self.instances
            .shares()
            .find(has)
            .map(|share| share.instance)
    }

    /// Each stream of the machine has one virtio-iommu, and the tree leads each device to
    /// the one that has its streams.
    fn is_sound(&self) {
        let (machine, instances) = (&self.machine, &self.instances);
        assert!((1..=machine.viommus.len().max(1)).contains(&instances.count()));
        let size = |first: u32, last: u32| u64::from(last - first) + 1;
        let all: u64 = machine.streams.iter().map(|r| size(r.first, r.last)).sum();
        let shared: u64 = instances.shares().map(|s| size(s.first, s.last)).sum();
        assert_eq!(all, shared);
        for (index, share) in instances.shares().enumerate() {
            assert!(usize::from(share.instance) < instances.count());
            let apart = |other: &ViommuRange| {
                other.smmu != share.smmu || other.last < share.first || share.last < other.first
            };
            assert!(instances.shares().skip(index + 1).all(apart));
            let known = |r: &portcullis_boot::StreamRange| {
                r.smmu == share.smmu && r.first <= share.first && share.last <= r.last
            };
            assert!(machine.streams.iter().any(known));
        }
        let host = self.host_tree();
        let fdt = Fdt::new(&host).unwrap();
        let phandles: BTreeMap<u32, u8> = (0..)
            .zip(machine.viommus.iter().take(instances.count()))
            .filter_map(|(index, viommu)| Some((viommu.phandle?, index)))
            .collect();
        let nodes = fdt
            .nodes()
            .filter(|(_, node)| node.is_compatible(b"virtio,mmio"));
        assert_eq!(nodes.count(), instances.count());
        for (_, node) in fdt.nodes() {
            let references: Vec<(u32, u32, u32)> =
                match (node.property(b"iommus"), node.property(b"iommu-map")) {
                    (Some(value), _) => value
                        .as_chunks::<8>()
                        .0
                        .iter()
                        .map(|entry| {
                            let cell = |at: usize| {
                                u32::from_be_bytes(entry[at..at + 4].try_into().unwrap())
                            };
                            (cell(0), cell(4), 1)
                        })
                        .collect(),
                    (_, Some(value)) => value
                        .as_chunks::<16>()
                        .0
                        .iter()
                        .map(|entry| {
                            let cell = |at: usize| {
                                u32::from_be_bytes(entry[at..at + 4].try_into().unwrap())
                            };
                            (cell(4), cell(8), cell(12))
                        })
                        .collect(),
                    _ => continue,
                };
            for (phandle, endpoint, count) in references {
                let instance = phandles[&phandle];
                for endpoint in [endpoint, endpoint + count - 1] {
                    let (smmu, stream) = machine.stream_of(endpoint).expect("a stream");
                    assert_eq!(
                        self.of_stream(smmu, stream),
                        Some(instance),
                        "{endpoint:#x}"
                    );
                }
            }
        }
    }
}

/// Functions in slots 1 to 3.
const THREE: [(usize, Slot); 3] = [
    (1, Slot::Functions),
    (2, Slot::Functions),
    (3, Slot::Functions),
];

#[test]
fn a_slot_has_one_with_all_its_functions() {
    let divided = Divided::of(&paravirt(2), &THREE);
    assert_eq!(divided.instances.count(), 2);
    // What is not known, slot 2, and everything behind bridges, is the first one's.
    for (stream, instance) in [
        (0, 0),
        (7, 0),
        (8, 1),
        (0xf, 1),
        (0x10, 0),
        (0x17, 0),
        (0x18, 1),
        (0x1f, 1),
        (0x20, 0),
        (0xff, 0),
        (0x108, 0),
        (0xffff, 0),
    ] {
        assert_eq!(divided.of_stream(0, stream), Some(instance), "{stream:#x}");
    }
    assert_eq!(
        divided.seen("/pcie@10000000", "iommu-map"),
        [
            [0, 2, 0, 8],
            [8, 9002, 8, 8],
            [0x10, 2, 0x10, 8],
            [0x18, 9002, 0x18, 8],
            [0x20, 2, 0x20, 0xffe0],
        ]
        .concat()
        .iter()
        .map(|cell| if *cell == 9002 {
            divided.machine.viommus.get(1).unwrap().phandle.unwrap()
        } else {
            *cell
        })
        .collect::<Vec<_>>()
    );
}

#[test]
fn each_has_a_page_and_a_line_of_its_own() {
    let divided = Divided::of(&paravirt(4), &THREE);
    assert_eq!(divided.instances.count(), 4);
    let viommus: Vec<_> = divided.machine.viommus.iter().copied().collect();
    for (index, viommu) in viommus.iter().enumerate() {
        let at = 0x905_0000 + index as u64 * 0x1000;
        assert_eq!(viommu.registers, range(at, 0x1000));
        let node = format!("/viommu@{at:x}");
        assert_eq!(divided.seen(&node, "reg"), [0, at as u32, 0, 0x1000]);
        let line = divided.seen(&node, "interrupts");
        assert_eq!(line, [0, viommu.line - 32, 1]);
        assert_eq!(divided.seen(&node, "phandle"), [viommu.phandle.unwrap()]);
    }
    let mut lines: Vec<_> = viommus.iter().map(|viommu| viommu.line).collect();
    let mut phandles: Vec<_> = viommus.iter().map(|viommu| viommu.phandle).collect();
    for all in [
        &mut lines,
        &mut phandles.iter().map(|p| p.unwrap()).collect(),
    ] {
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4);
    }
    phandles.sort_unstable();
    let host = divided.host_tree();
    for phandle in phandles {
        let fdt = Fdt::new(&host).unwrap();
        let same = fdt.nodes().filter(|(_, node)| node.phandle() == phandle);
        assert_eq!(same.count(), 1);
    }
}

#[test]
fn there_are_no_more_than_lines_pages_and_units() {
    // No line but that of the physical SMMU: the machine is not asked for others.
    let mut tree = paravirt(8);
    tree.at("smmu@9050000")
        .set("interrupts", cells(&[0, 74, 1, 0, 75, 1, 0, 77, 1]));
    tree.at("smmu@9050000")
        .set("interrupt-names", strings(&["eventq", "priq", "gerror"]));
    let one = Machine::from_fdt(&tree.flatten()).unwrap();
    assert_eq!(one.viommus.len(), 1);
    // Three pages.
    tree.at("smmu@9050000")
        .set("reg", reg(&[(0x905_0000, 0x3000)]));
    let divided = Divided::of(&tree, &THREE);
    assert_eq!(divided.machine.viommus.len(), 3);
    assert_eq!(divided.instances.count(), 3);
    // Two units: the host bridge and one of its slots.
    let divided = Divided::of(&paravirt(8), &[(5, Slot::Functions)]);
    assert_eq!(divided.machine.viommus.len(), VIOMMU_LIMIT);
    assert_eq!(divided.instances.count(), 2);
    // None, where configuration space cannot be read.
    let divided = Divided::new(&paravirt(8), |_| None);
    assert_eq!(divided.instances.count(), 1);
    let divided = Divided::of(&paravirt(8), &[]);
    assert_eq!(divided.instances.count(), 1);
    let divided = Divided::of(&paravirt(1), &THREE);
    assert_eq!(
        (divided.machine.viommus.len(), divided.instances.count()),
        (1, 1)
    );
    assert_eq!(
        divided.seen("/pcie@10000000", "iommu-map"),
        [0, 2, 0, 0x1_0000]
    );
}

#[test]
fn what_is_behind_a_bridge_stays_with_the_rest() {
    let slots = [
        (1, Slot::Bridge(Some((1, 3)))),
        (2, Slot::Functions),
        (3, Slot::Bridge(None)),
    ];
    let divided = Divided::of(&paravirt(8), &slots);
    assert_eq!(divided.instances.count(), 2);
    for (stream, instance) in [(8, 0), (0x10, 1), (0x18, 0), (0x100, 0), (0x3ff, 0)] {
        assert_eq!(divided.of_stream(0, stream), Some(instance), "{stream:#x}");
    }
}

#[test]
fn where_the_host_keeps_bus_numbers_a_bridge_goes_with_what_is_behind() {
    let mut tree = paravirt(8);
    tree.at("chosen").set("linux,pci-probe-only", cells(&[1]));
    let slots = [
        (1, Slot::Bridge(Some((1, 3)))),
        (2, Slot::Functions),
        (3, Slot::Bridge(None)),
        (4, Slot::Bridge(Some((4, 4)))),
    ];
    let divided = Divided::of(&tree, &slots);
    assert_eq!(divided.instances.count(), 4);
    let same = |streams: &[u32]| {
        let found: Vec<_> = streams.iter().map(|s| divided.of_stream(0, *s)).collect();
        assert!(found.iter().all(|of| *of == found[0]), "{found:?}");
        found[0].expect("a virtio-iommu")
    };
    let units = [
        same(&[0, 0x18, 0x1f, 0x28, 0x500, 0xffff]),
        same(&[8, 0xf, 0x100, 0x2ab, 0x3ff]),
        same(&[0x10, 0x17]),
        same(&[0x20, 0x400, 0x4ff]),
    ];
    assert_eq!(units, [0, 1, 2, 3]);
    // Numbers that two slots claim, or that the host bridge has not, say nothing.
    for claimed in [(3, 4), (3, 5), (0, 5), (5, 0xff)] {
        let mut slots = slots;
        slots[3].1 = Slot::Bridge(Some(claimed));
        tree.at("pcie@10000000").set("bus-range", cells(&[0, 0xf]));
        let divided = Divided::of(&tree, &slots);
        assert_eq!(divided.of_stream(0, 0x20), Some(0), "{claimed:?}");
        let overlaps = claimed.0 <= 3 && claimed.1 >= 1;
        assert_eq!(divided.of_stream(0, 8) == Some(0), overlaps, "{claimed:?}");
    }
}

#[test]
fn a_mask_that_takes_slots_for_one_keeps_them_together() {
    for (mask, count) in [
        (0xffff, 4),
        (0xfff8, 4),
        (0xff, 1),
        (0xfff0, 1),
        (0x7fff, 1),
    ] {
        let mut tree = paravirt(8);
        tree.at("pcie@10000000")
            .set("iommu-map-mask", cells(&[mask]));
        // What is above the mask is never looked up.
        tree.at("pcie@10000000")
            .set("iommu-map", cells(&[0, 2, 0, mask]));
        let divided = Divided::of(&tree, &THREE);
        assert_eq!(divided.instances.count(), count, "{mask:#x}");
        assert_eq!(divided.seen("/pcie@10000000", "iommu-map-mask"), [mask]);
    }
}

#[test]
fn streams_that_are_named_twice_are_one_unit() {
    // Of the same host bridge.
    let mut tree = paravirt(8);
    tree.at("pcie@10000000")
        .set("iommu-map", cells(&[0, 2, 0, 0x100, 0x100, 2, 0, 0x100]));
    assert_eq!(Divided::of(&tree, &THREE).instances.count(), 1);
    // Of another node.
    let tree = paravirt(8).child(device(0xc00_0000, &[2, 9]));
    let divided = Divided::of(&tree, &THREE);
    assert_eq!(divided.instances.count(), 1);
    let other = [
        device(0xc00_0000, &[2, 0x2_0000]),
        device(0xc10_0000, &[2, 0x2_0001]),
    ];
    let [first, second] = other;
    let tree = paravirt(8).child(first).child(second);
    assert_eq!(Divided::of(&tree, &[]).instances.count(), 3);
    // Three nodes of which the last has streams of both others.
    let tree = tree.child(device(0xc20_0000, &[2, 0x2_0000, 2, 0x2_0001]));
    let divided = Divided::of(&tree, &[]);
    assert_eq!(divided.instances.count(), 2);
    assert_eq!(
        divided.of_stream(0, 0x2_0000),
        divided.of_stream(0, 0x2_0001)
    );
    let third = divided.seen("/dma@c200000", "iommus");
    assert_eq!(
        [third[0], third[2]],
        [divided.seen("/dma@c000000", "iommus")[0]; 2]
    );
}

#[test]
fn smmus_come_first() {
    let mut tree = paravirt(2).child(second_smmu());
    for (at, stream) in [(0xc00_0000, 1), (0xc10_0000, 2), (0xc20_0000, 3)] {
        tree = tree.child(device(at, &[9, stream]));
    }
    let divided = Divided::of(&tree, &THREE);
    assert_eq!(divided.instances.count(), 2);
    assert!(
        divided
            .instances
            .shares()
            .all(|share| usize::from(share.instance) == share.smmu)
    );
    // The phandle of the second SMMU is that of the second virtio-iommu.
    assert_eq!(divided.seen("/dma@c000000", "iommus"), [9, 0x1000_0001]);
    // Four units on the first, three on the second: two each, then one more where the most
    // are.
    let line = strings(&["host-iommu=paravirt viommus=5"]);
    tree.at("chosen").set("bootargs", line);
    let divided = Divided::of(&tree, &THREE);
    assert_eq!(divided.instances.count(), 5);
    let on = |smmu: usize| {
        let shares = divided.instances.shares();
        let mut on: Vec<_> = shares
            .filter(|s| s.smmu == smmu)
            .map(|s| s.instance)
            .collect();
        on.sort_unstable();
        on.dedup();
        on
    };
    assert_eq!((on(0), on(1)), (vec![0, 1, 2], vec![3, 4]));
    // More SMMUs than virtio-iommus.
    let line = strings(&["host-iommu=paravirt viommus=1"]);
    tree.at("chosen").set("bootargs", line);
    assert_eq!(Divided::of(&tree, &THREE).instances.count(), 1);
}

#[test]
fn two_host_bridges_are_two_units() {
    let other = paravirt(8)
        .at("pcie@10000000")
        .clone()
        .with("reg", reg(&[(0x3000_0000, 0x100_0000)]))
        .with("ranges", cells(&[]))
        .with("iommu-map", cells(&[0, 2, 0x1_0000, 0x1000]));
    let mut tree = paravirt(8);
    let mut other = other;
    other.name = "pcie@30000000".into();
    other.remove("phandle");
    tree = tree.child(other);
    let divided = Divided::of(&tree, &[(1, Slot::Functions)]);
    assert_eq!(divided.instances.count(), 4);
    let of = |stream| divided.of_stream(0, stream).unwrap();
    assert_eq!([of(0), of(0x1_0000), of(8), of(0x1_0008)], [0, 1, 2, 3]);
}

#[test]
fn a_machine_with_more_than_there_is_room_for_is_divided_as_far_as_there_is() {
    // Every slot of every host bridge, with entries that cut slots in two.
    let mut tree = paravirt(8);
    let map: Vec<u32> = (0..64).flat_map(|n| [n * 4, 2, n * 4, 4]).collect();
    tree.at("pcie@10000000").set("iommu-map", cells(&map));
    let all = [Slot::Functions; SLOTS];
    let divided = Divided::new(&tree, |_| Some(all));
    assert_eq!(divided.instances.count(), 8);
    let map: Vec<u32> = (0..65).flat_map(|n| [n * 4, 2, n * 4, 4]).collect();
    tree.at("pcie@10000000").set("iommu-map", cells(&map));
    let divided = Divided::new(&tree, |_| Some(all));
    assert_eq!(divided.instances.count(), 1);
    // Nodes enough to fill the lists, sharing streams.
    let mut tree = paravirt(8);
    tree.at("pcie@10000000").remove("iommu-map");
    for n in 0..60u32 {
        let at = 0xc00_0000 + u64::from(n) * 0x1000;
        tree = tree.child(device(at, &[2, 0x100 + n, 2, 0x101 + n]));
    }
    let divided = Divided::new(&tree, |_| None);
    assert_eq!(divided.instances.count(), 1);
}

#[test]
fn the_number_has_bounds() {
    for wrong in ["0", "9", "+1", "-1", "0x2", "", "two"] {
        let mut tree = paravirt(2);
        let line = format!("host-iommu=paravirt viommus={wrong}");
        tree.at("chosen").set("bootargs", strings(&[&line]));
        let error = Machine::from_fdt_on(&tree.flatten(), &BOARD).unwrap_err();
        assert!(
            matches!(error, BootError::ArgumentValue { key: "viommus", .. }),
            "{wrong}"
        );
        assert_eq!(error.fix().to_string(), "use a number from viommus=1 to 8");
    }
    // A trace has one set of domains.
    let mut tree = paravirt(2);
    let line = "host-iommu=paravirt viommus=4 trace=64K";
    tree.at("chosen").set("bootargs", strings(&[line]));
    let machine = Machine::from_fdt_on(&tree.flatten(), &BOARD).unwrap();
    assert_eq!(machine.viommus.len(), 1);
}
