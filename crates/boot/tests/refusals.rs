//! One broken tree for each way to be broken, with the line a person gets.

mod support;

use portcullis_boot::{
    BANK_LIMIT, BootError, CPU_LIMIT, Console, DEPTH_LIMIT, Fdt, Machine, NODE_LIMIT,
    PROPERTY_LIMIT, RESERVED_LIMIT, SMMU_LIMIT, STREAM_RANGE_LIMIT, Structure,
};
use support::{Tree, cells, changed, machine, range, refusal, reg, strings};

fn reason(change: impl FnOnce(&mut Tree)) -> String {
    refusal(change).0
}

#[test]
fn the_machine_they_are_made_from_is_accepted() {
    let machine = Machine::from_fdt(&machine().flatten()).unwrap();
    assert_eq!(machine.smmus.len(), 1);
    assert_eq!(machine.require_smmu(), Ok(()));
}

// The tree as a whole.

#[test]
fn header() {
    let good = machine().flatten();
    let open = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        Fdt::new(&bad).err().unwrap()
    };
    assert_eq!(
        open(&|b| b.truncate(3)),
        BootError::TreeTruncated { have: 3, need: 40 }
    );
    let (have, need) = (good.len() as u64 - 1, good.len() as u64);
    assert_eq!(
        open(&|b| b.truncate(good.len() - 1)),
        BootError::TreeTruncated { have, need }
    );
    assert_eq!(
        open(&|b| b[0] = 0),
        BootError::TreeMagic { found: 0x0d_feed }
    );
    assert!(matches!(open(&|b| b[4] = 1), BootError::TreeTooBig { .. }));
    assert_eq!(
        open(&|b| b[23] = 16),
        BootError::TreeVersion {
            version: 16,
            compatible: 16
        }
    );
    assert!(matches!(
        open(&|b| b[27] = 18),
        BootError::TreeVersion { compatible: 18, .. }
    ));
}

#[test]
fn the_size_is_in_the_header() {
    let good = machine().flatten();
    let size = |len: usize| Fdt::size_from_header(&good[..len]);
    assert_eq!(
        size(portcullis_boot::TREE_HEADER_SIZE),
        Ok(good.len() as u64)
    );
    assert_eq!(size(7), Err(BootError::TreeTruncated { have: 7, need: 40 }));
    // A size that does not even hold the header.
    let mut bad = good;
    bad[4..8].copy_from_slice(&cells(&[39]));
    assert!(matches!(
        Fdt::new(&bad),
        Err(BootError::TreeTruncated { need: 40, .. })
    ));
}

#[test]
fn blocks() {
    let good = machine().flatten();
    for (field, value) in [
        (8, 0x1000_0000_u32),
        (8, 41),
        (8, 36),
        (12, 0xffff_ffff),
        (16, 0xffff_fff8),
        (16, 44),
        (32, 0xffff_ffff),
        (36, 0xffff_fffc),
    ] {
        let mut bad = good.clone();
        bad[field..field + 4].copy_from_slice(&value.to_be_bytes());
        let problem = match Fdt::new(&bad).err() {
            Some(BootError::TreeStructure { problem, .. }) => problem,
            other => panic!("{field}: {other:?}"),
        };
        assert_eq!(problem, Structure::Block, "{field}");
    }
    // Reservations without an end.
    let mut bad = good.clone();
    let at = bad.len().next_multiple_of(8) - 8;
    bad[16..20].copy_from_slice(&u32::try_from(at).unwrap().to_be_bytes());
    assert!(matches!(
        Fdt::new(&bad).err(),
        Some(BootError::TreeStructure {
            problem: Structure::Reservations,
            ..
        })
    ));
}

fn problem(tree: &Tree) -> Structure {
    match Fdt::new(&tree.flatten()).err() {
        Some(BootError::TreeStructure { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

/// The tree with its structure block replaced by `tokens`.
fn raw(tokens: &[u32]) -> Result<(), Structure> {
    let reservations = [0u8; 16];
    let size = u32::try_from(tokens.len() * 4).unwrap();
    let header = [
        0xd00d_feed,
        56 + size + 4,
        56,
        56 + size,
        40,
        17,
        16,
        0,
        4,
        size,
    ];
    let blob = [&cells(&header), &reservations[..], &cells(tokens), b"reg\0"].concat();
    match Fdt::new(&blob) {
        Ok(_) => Ok(()),
        Err(BootError::TreeStructure { problem, .. }) => Err(problem),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn tokens() {
    assert_eq!(raw(&[1, 0, 2, 9]), Ok(()));
    assert_eq!(raw(&[4, 1, 0, 4, 3, 0, 0, 4, 2, 4, 9]), Ok(()));
    assert_eq!(raw(&[]), Err(Structure::Token));
    assert_eq!(raw(&[1, 0, 2]), Err(Structure::Token));
    assert_eq!(raw(&[1, 0, 5, 2, 9]), Err(Structure::Token));
    assert_eq!(raw(&[1, 0, 3, 99, 0, 2, 9]), Err(Structure::Token));
    assert_eq!(raw(&[1, 0, 3, 0, 99, 2, 9]), Err(Structure::Token));
    assert_eq!(raw(&[1, 0, 3, 0xffff_fffc, 0, 2, 9]), Err(Structure::Token));
    assert_eq!(raw(&[9]), Err(Structure::Nesting));
    assert_eq!(raw(&[1, 0, 9]), Err(Structure::Nesting));
    assert_eq!(raw(&[1, 0, 2, 2, 9]), Err(Structure::Nesting));
    assert_eq!(raw(&[1, 0, 2, 1, 0, 2, 9]), Err(Structure::Nesting));
    assert_eq!(raw(&[3, 0, 0, 1, 0, 2, 9]), Err(Structure::Order));
    let child = u32::from_be_bytes(*b"a\0\0\0");
    assert_eq!(
        raw(&[1, 0, 1, child, 2, 3, 0, 0, 2, 9]),
        Err(Structure::Order)
    );
    assert_eq!(raw(&[1, 0, 1, 0, 2, 2, 9]), Err(Structure::Name));
    assert_eq!(raw(&[1, child, 2, 9]), Err(Structure::Name));
    // The empty string is no name for a property.
    assert_eq!(raw(&[1, 0, 3, 0, 3, 2, 9]), Err(Structure::Name));
}

#[test]
fn limits_of_the_structure() {
    let nested = |depth: usize| {
        (1..depth).fold(Tree::new(""), |inner, _| Tree {
            name: String::new(),
            children: vec![Tree {
                name: "n".into(),
                ..inner
            }],
            ..Tree::default()
        })
    };
    assert!(Fdt::new(&nested(DEPTH_LIMIT).flatten()).is_ok());
    assert_eq!(problem(&nested(DEPTH_LIMIT + 1)), Structure::Depth);
    let wide = |nodes: usize| Tree {
        children: vec![Tree::new("n"); nodes - 1],
        ..Tree::default()
    };
    assert!(Fdt::new(&wide(NODE_LIMIT).flatten()).is_ok());
    assert_eq!(problem(&wide(NODE_LIMIT + 1)), Structure::Nodes);
    let full = |properties: usize| Tree {
        properties: vec![("p".into(), Vec::new()); properties],
        ..Tree::default()
    };
    assert!(Fdt::new(&full(PROPERTY_LIMIT).flatten()).is_ok());
    assert_eq!(problem(&full(PROPERTY_LIMIT + 1)), Structure::Properties);
    assert_eq!(problem(&Tree::new("").with("a b", [])), Structure::Name);
    let long = Tree::new("").child(Tree::new(&"x".repeat(256)));
    assert_eq!(problem(&long), Structure::Token);
}

// Memory.

#[test]
fn memory() {
    let memory = "memory@40000000";
    assert_eq!(
        refusal(|t| t.remove_child(memory)),
        (
            "the device tree has no memory".into(),
            "describe RAM in nodes with device_type = memory".into()
        )
    );
    assert_eq!(
        refusal(|t| t.at(memory).remove("reg")),
        (
            "/memory@40000000 has no property reg".into(),
            "add reg to that node".into()
        )
    );
    assert_eq!(
        refusal(|t| t.at(memory).set("reg", [0; 15])),
        (
            "reg of /memory@40000000 has 15 bytes".into(),
            "whole entries of #address-cells and #size-cells".into()
        )
    );
    let wraps = reg(&[(u64::MAX - 4095, 0x2000)]);
    assert_eq!(
        reason(|t| t.at(memory).set("reg", wraps)),
        "reg of /memory@40000000 holds 0xfffffffffffff000"
    );
    let twice = reg(&[(0x8000_0000, 0x10_0000), (0x4000_0000, 0x4010_0000)]);
    assert_eq!(
        reason(|t| t.at(memory).set("reg", twice)),
        "memory bank 0x40000000..0x80100000 overlaps memory bank 0x80000000..0x80100000"
    );
    let many: Vec<_> = (0..=BANK_LIMIT as u64).map(|i| (i << 20, 0x1000)).collect();
    assert_eq!(
        refusal(|t| t.at(memory).set("reg", reg(&many))),
        (
            "the device tree has more than 32 memory banks".into(),
            "describe at most 32 memory banks".into()
        )
    );
    assert_eq!(
        reason(|t| t.set("#address-cells", cells(&[4]))),
        "#address-cells of / holds 0x4"
    );
    assert_eq!(
        reason(|t| t.set("#size-cells", [0, 2])),
        "#size-cells of / has 2 bytes"
    );
}

#[test]
fn banks_are_sorted_cut_to_pages_and_may_be_empty() {
    let banks = reg(&[
        (0x8000_0800, 0x2000),
        (0, 0),
        (0x4000_0000, 0x1000),
        (0x7000, 8),
    ]);
    let machine = Machine::from_fdt(&changed(|t| t.at("memory@40000000").set("reg", banks)));
    let machine = machine.unwrap();
    let banks: Vec<_> = machine.memory.iter().copied().collect();
    assert_eq!(
        banks,
        [range(0x4000_0000, 0x1000), range(0x8000_1000, 0x1000)]
    );
}

#[test]
fn reserved_memory() {
    let reserved = |children: Vec<Tree>| Tree {
        children,
        ..Tree::new("reserved-memory")
            .with("#address-cells", cells(&[2]))
            .with("#size-cells", cells(&[2]))
            .with("ranges", [])
    };
    let one = |at: u64| Tree::new(&format!("fw@{at:x}")).with("reg", reg(&[(at, 0x1000)]));
    let mut tree = machine().child(reserved(vec![one(0x6000_0000).with("no-map", [])]));
    let found = Machine::from_fdt(&tree.flatten_with(&[(0x4000_0000, 0x800)])).unwrap();
    let found: Vec<_> = found.reserved.iter().copied().collect();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].range, range(0x4000_0000, 0x800));
    assert!(found[0].by_loader && !found[0].no_map);
    assert_eq!(found[1].range, range(0x6000_0000, 0x1000));
    assert!(found[1].no_map && !found[1].by_loader);

    tree.at("reserved-memory").remove("ranges");
    let error = Machine::from_fdt(&tree.flatten()).unwrap_err();
    assert_eq!(
        (error.to_string(), error.fix().to_string()),
        (
            "the address 0x60000000 of /reserved-memory/fw@60000000 is not in the ranges of the bus around it".into(),
            "add a ranges property to the bus that covers it".into()
        )
    );
    let many = (0..=RESERVED_LIMIT as u64).map(|i| one(0x4000_0000 + i * 0x1000));
    let tree = machine().child(reserved(many.collect()));
    assert_eq!(
        Machine::from_fdt(&tree.flatten()).unwrap_err(),
        BootError::TooMany {
            what: "reserved ranges",
            limit: RESERVED_LIMIT
        }
    );
}

// CPUs and firmware.

#[test]
fn cpus() {
    assert_eq!(
        reason(|t| t.remove_child("cpus")),
        "the device tree has no CPU"
    );
    assert_eq!(
        reason(|t| t.at("cpus/cpu@0").set("status", *b"disabled\0")),
        "the device tree has no CPU"
    );
    assert_eq!(
        refusal(|t| t.at("cpus/cpu@0").set("reg", cells(&[0x8000_0000]))),
        (
            "reg of /cpus/cpu@0 holds 0x80000000".into(),
            "the affinity fields of MPIDR_EL1 only".into()
        )
    );
    assert_eq!(
        reason(|t| t.at("cpus/cpu@0").remove("reg")),
        "/cpus/cpu@0 has no property reg"
    );
    let again = |t: &mut Tree| {
        let cpu = t.at("cpus/cpu@0").clone();
        t.at("cpus").children.push(cpu);
    };
    assert_eq!(
        refusal(again),
        (
            "two CPUs have affinity 0x0".into(),
            "give every cpu node the affinity of its own CPU in reg".into()
        )
    );
    assert_eq!(
        refusal(|t| t.at("cpus/cpu@0").set("enable-method", *b"spin-table\0")),
        (
            "enable-method of /cpus/cpu@0 holds spin-table".into(),
            "psci".into()
        )
    );
    let many = |t: &mut Tree| {
        for i in 1..=CPU_LIMIT as u32 {
            let cpu = t.at("cpus/cpu@0").clone().with("reg", cells(&[i]));
            t.at("cpus").children.push(cpu);
        }
    };
    assert_eq!(reason(many), "the device tree has more than 32 CPUs");
}

#[test]
fn psci() {
    assert_eq!(
        refusal(|t| t.remove_child("psci")),
        (
            "the device tree has no PSCI firmware".into(),
            "add a node compatible with arm,psci-0.2 or later".into()
        )
    );
    assert_eq!(
        reason(|t| t.at("psci").set("compatible", *b"arm,psci\0")),
        "the device tree has no PSCI firmware"
    );
    assert_eq!(
        reason(|t| t.at("psci").remove("method")),
        "/psci has no property method"
    );
    assert_eq!(
        refusal(|t| t.at("psci").set("method", *b"svc\0")),
        ("method of /psci holds svc".into(), "smc or hvc".into())
    );
    assert_eq!(
        refusal(|t| t.at("psci").set("method", *b"smc")),
        (
            "method of /psci is not a string".into(),
            "make it printable ASCII that ends in one NUL".into()
        )
    );
}

// The interrupt controller.

#[test]
fn gic() {
    assert_eq!(
        reason(|t| t.remove_child("intc@8000000")),
        "the device tree has no interrupt controller"
    );
    assert_eq!(
        refusal(|t| t
            .at("intc@8000000")
            .set("reg", reg(&[(0x800_0000, 0x1_0000)]))),
        (
            "reg of /intc@8000000 has 16 bytes".into(),
            "GICD and every redistributor region".into()
        )
    );
    assert_eq!(
        reason(|t| t
            .at("intc@8000000")
            .set("#redistributor-regions", cells(&[17]))),
        "the device tree has more than 16 redistributor regions"
    );
    assert_eq!(
        reason(|t| t
            .at("intc@8000000")
            .set("redistributor-stride", cells(&[4096]))),
        "redistributor-stride of /intc@8000000 holds 0x1000"
    );
    assert_eq!(
        refusal(|t| {
            t.at("intc@8000000/its@8080000")
                .set("reg", reg(&[(0x808_0000, 0x1_0000)]))
        }),
        (
            "reg of /intc@8000000/its@8080000 holds 0x8080000".into(),
            "at least two frames of 64 KiB, aligned to 64 KiB".into()
        )
    );
}

// The SMMUs and their streams.

#[test]
fn no_smmu() {
    let tree = changed(|t| {
        t.remove_child("smmu@9050000");
        t.remove_child("dma@c000000");
        t.remove_child("pcie@10000000");
    });
    let machine = Machine::from_fdt(&tree).unwrap();
    let error = machine.require_smmu().unwrap_err();
    assert_eq!(error.reason().to_string(), "the device tree has no SMMU");
}

#[test]
fn smmu_properties() {
    let smmu = "smmu@9050000";
    assert_eq!(
        reason(|t| t.at(smmu).remove("reg")),
        "/smmu@9050000 has no property reg"
    );
    assert_eq!(
        refusal(|t| t.at(smmu).set("#iommu-cells", cells(&[2]))),
        ("#iommu-cells of /smmu@9050000 holds 0x2".into(), "1".into())
    );
    assert_eq!(
        refusal(|t| t.at(smmu).set("interrupt-names", *b"eventq\0")),
        (
            "interrupt-names of /smmu@9050000 has 7 bytes".into(),
            "one name for each of its interrupts".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(smmu).set("interrupts", cells(&[0, 74, 1, 0, 77]))),
        "interrupts of /smmu@9050000 has 20 bytes"
    );
    assert_eq!(
        refusal(|t| t.at(smmu).set("interrupts", cells(&[0, 74, 1, 0, 77, 2]))),
        (
            "interrupts of /smmu@9050000 holds 0x2".into(),
            "1 (rising edge) or 4 (high level)".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(smmu).set("interrupts", cells(&[0, 988, 1]))),
        "interrupts of /smmu@9050000 holds 0x3dc"
    );
    assert_eq!(
        reason(|t| t.at(smmu).set("interrupts", cells(&[4, 0, 1]))),
        "interrupts of /smmu@9050000 holds 0x4"
    );
    assert_eq!(
        reason(|t| t.at(smmu).set("interrupt-parent", cells(&[3]))),
        "/smmu@9050000 interrupts through /intc@8000000/its@8080000, which is not the GIC"
    );
    assert_eq!(
        refusal(|t| t.at(smmu).set("interrupt-parent", cells(&[77]))),
        (
            "interrupt-parent of /smmu@9050000 refers to phandle 0x4d, which no node has".into(),
            "name the phandle of a node that exists".into()
        )
    );
    let many: Vec<u32> = (0..65).flat_map(|i| [0, i, 4]).collect();
    let names = "x\0".repeat(65);
    assert_eq!(
        reason(|t| {
            t.at(smmu).set("interrupts", cells(&many));
            t.at(smmu).set("interrupt-names", names);
        }),
        "the device tree has more than 64 interrupts of one node"
    );
    assert_eq!(
        reason(|t| t.at("psci").set("phandle", cells(&[2]))),
        "/smmu@9050000 and /psci both have phandle 0x2"
    );
    let many = |t: &mut Tree| {
        for _ in 0..SMMU_LIMIT {
            let mut smmu = t.at(smmu).clone();
            smmu.remove("phandle");
            t.children.push(smmu);
        }
    };
    assert_eq!(reason(many), "the device tree has more than 16 SMMUs");
}

#[test]
fn a_stream_named_twice() {
    assert_eq!(
        refusal(|t| t.at("dma@c000000").set("iommus", cells(&[2, 0xfff]))),
        (
            "stream 0xfff belongs to /pcie@10000000 and to /dma@c000000".into(),
            "name each StreamID of an SMMU in one place only".into()
        )
    );
    assert_eq!(
        reason(|t| {
            t.at("dma@c000000")
                .set("iommus", cells(&[2, 0x2000, 2, 0x2000]))
        }),
        "stream 0x2000 belongs to /dma@c000000 and to /dma@c000000"
    );
    let overlap = cells(&[0, 2, 0, 0x800, 0x800, 2, 0x7ff, 0x800]);
    assert_eq!(
        reason(|t| t.at("pcie@10000000").set("iommu-map", overlap)),
        "stream 0x7ff belongs to /pcie@10000000 and to /pcie@10000000"
    );
}

#[test]
fn stream_properties() {
    let map = |value: &[u32]| {
        let value = cells(value);
        reason(|t| t.at("pcie@10000000").set("iommu-map", value))
    };
    assert_eq!(map(&[0, 2, 0]), "iommu-map of /pcie@10000000 has 12 bytes");
    assert_eq!(
        map(&[0, 9, 0, 1]),
        "iommu-map of /pcie@10000000 refers to phandle 0x9, which no node has"
    );
    assert_eq!(map(&[0, 2, 0, 0]), "iommu-map of /pcie@10000000 holds 0x0");
    assert_eq!(
        map(&[1, 2, 0, 0x1_0000]),
        "iommu-map of /pcie@10000000 holds 0x10000"
    );
    assert_eq!(
        map(&[0, 2, 0xffff_ffff, 2]),
        "iommu-map of /pcie@10000000 holds 0xffffffff"
    );
    assert_eq!(
        map(&[0, 2, 0, 1, 1, 3, 1, 1]),
        "iommu-map of /pcie@10000000 names an SMMUv3 and another IOMMU"
    );
    assert_eq!(
        reason(|t| t.at("dma@c000000").set("iommus", cells(&[2]))),
        "iommus of /dma@c000000 has 4 bytes"
    );
    let many: Vec<u32> = (0..=STREAM_RANGE_LIMIT as u32)
        .flat_map(|i| [2, 0x2000 + i])
        .collect();
    assert_eq!(
        reason(|t| t.at("dma@c000000").set("iommus", cells(&many))),
        "the device tree has more than 128 ranges of streams"
    );
    assert_eq!(
        refusal(|t| t.at("smmu@9050000").set("status", *b"disabled\0")),
        (
            "iommu-map of /pcie@10000000 names the SMMU /smmu@9050000, which is disabled".into(),
            "enable the SMMU or remove the reference".into()
        )
    );
    let foreign: Vec<u32> = (0..257).flat_map(|_| [3]).collect();
    assert_eq!(
        reason(|t| t.at("dma@c000000").set("iommus", cells(&foreign))),
        "the device tree has more than 256 references to IOMMUs other than SMMUv3"
    );
}

#[test]
fn what_the_mask_hides_is_no_stream() {
    let blob = changed(|t| {
        let bridge = t.at("pcie@10000000");
        bridge.set(
            "iommu-map",
            cells(&[0, 2, 0x100, 0x800, 0x1000, 2, 0x5000, 8]),
        );
        bridge.set("iommu-map-mask", cells(&[0xf0]));
    });
    let machine = Machine::from_fdt(&blob).unwrap();
    let found: Vec<_> = machine.streams.iter().map(|s| (s.first, s.last)).collect();
    assert_eq!(found, [(0x100, 0x1f0), (0x2000, 0x2000)]);
}

// Command line, console and modules.

#[test]
fn command_line_and_console() {
    let line = |line: &'static str| refusal(|t| t.at("chosen").set("bootargs", strings(&[line])));
    assert_eq!(
        line("verbose=1").0,
        "the command line has the unknown key verbose"
    );
    assert_eq!(
        line("console=serial7"),
        (
            "console=serial7 names no PL011 of the device tree".into(),
            "name an alias such as serial1, the path of an arm,pl011 node, or stdout".into()
        )
    );
    assert_eq!(
        line("console=/psci").0,
        "console=/psci names no PL011 of the device tree"
    );
    assert_eq!(
        reason(|t| t.at("chosen").set("bootargs", [0x80, 0])),
        "the command line of the hypervisor is not printable ASCII"
    );
}

#[test]
fn the_reason_can_be_shown_although_the_rest_is_broken() {
    let registers = |change: fn(&mut Tree)| Console::for_errors(&changed(change));
    let (first, second) = (range(0x900_0000, 0x1000), range(0x904_0000, 0x1000));
    assert_eq!(registers(|t| t.remove_child("cpus")), Some(first));
    assert_eq!(
        registers(|t| t.at("chosen").set("bootargs", *b"console=serial1\0")),
        Some(second)
    );
    assert_eq!(
        registers(|t| t
            .at("chosen")
            .set("bootargs", *b"console=nowhere nonsense\0")),
        Some(first)
    );
    assert_eq!(registers(|t| t.remove_child("chosen")), Some(first));
    assert_eq!(Console::for_errors(&[0; 64]), None);
}

#[test]
fn modules() {
    let kernel = "chosen/module@48000000";
    let ramdisk = "chosen/module@50000000";
    assert_eq!(
        reason(|t| t.remove_child("chosen")),
        "/chosen has no kernel module"
    );
    assert_eq!(
        refusal(|t| t.at("chosen").remove_child("module@48000000")),
        (
            "/chosen has no kernel module".into(),
            "load the host's kernel as a module: compatible multiboot,module and multiboot,kernel"
                .into()
        )
    );
    let kind = |name: &str| strings(&["multiboot,module", name]);
    assert_eq!(
        refusal(|t| t.at(ramdisk).set("compatible", kind("multiboot,kernel"))),
        (
            "/chosen/module@48000000 and /chosen/module@50000000 are both kernel modules".into(),
            "pass one module of each kind".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(kernel).set("compatible", kind("xen,linux-initrd"))),
        "/chosen/module@48000000 and /chosen/module@50000000 are both ramdisk modules"
    );
    assert_eq!(
        refusal(|t| t.at(ramdisk).set("compatible", kind("xen,xsm-policy"))),
        (
            "/chosen/module@50000000 is a boot module of an unknown kind".into(),
            "use multiboot,kernel or multiboot,ramdisk".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(kernel).remove("reg")),
        "/chosen/module@48000000 has no property reg"
    );
    let two = reg(&[(0x4800_0000, 0x1000), (0x4900_0000, 0x1000)]);
    assert_eq!(
        refusal(|t| t.at(kernel).set("reg", two)),
        (
            "reg of /chosen/module@48000000 has 32 bytes".into(),
            "one address and one size".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(kernel).set("reg", reg(&[(0x4800_0000, 0)]))),
        "reg of /chosen/module@48000000 holds 0x48000000"
    );
}

#[test]
fn older_names_of_modules() {
    for (first, second) in [
        ("multiboot,kernel", "multiboot,ramdisk"),
        ("xen,linux-zimage", "xen,linux-initrd"),
        ("multiboot,module", "multiboot,module"),
        ("boot,module", "boot,module"),
    ] {
        let blob = changed(|t| {
            t.at("chosen/module@48000000")
                .set("compatible", strings(&[first]));
            t.at("chosen/module@50000000")
                .set("compatible", strings(&[second]));
        });
        let modules = Machine::from_fdt(&blob).unwrap().modules;
        assert_eq!(
            modules.kernel.range,
            range(0x4800_0000, 0x10_0000),
            "{first}"
        );
        let ramdisk = modules.ramdisk.unwrap();
        assert_eq!(ramdisk.range, range(0x5000_0000, 0x10_0000), "{second}");
    }
}
