//! One broken tree for each way to be broken, with the line a person gets.

mod support;

use portcullis_boot::{
    BANK_LIMIT, BootError, CPU_LIMIT, DEPTH_LIMIT, Fdt, Machine, NODE_LIMIT, PROPERTY_LIMIT,
    RESERVED_LIMIT, Structure,
};
use support::{Tree, cells, changed, machine, range, refusal, reg};

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
    let tree = machine().child(reserved(vec![one(0x6000_0000).with("no-map", [])]));
    let found = Machine::from_fdt(&tree.flatten_with(&[(0x4000_0000, 0x800)])).unwrap();
    let found: Vec<_> = found.reserved.iter().copied().collect();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].range, range(0x4000_0000, 0x800));
    assert!(found[0].by_loader && !found[0].no_map);
    assert_eq!(found[1].range, range(0x6000_0000, 0x1000));
    assert!(found[1].no_map && !found[1].by_loader);

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
    assert_eq!(reason(many), "the device tree has more than 64 CPUs");
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
