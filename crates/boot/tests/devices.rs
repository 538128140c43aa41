//! Which devices the host gets, and which addresses with them.

mod support;

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{
    BootError, Fdt, HostRegisters, HostTreePlan, Machine, Verdict, WITHHELD_LIMIT, Withheld,
};
use support::{Tree, cells, listing, machine, range, reg, strings};

/// The machine with more nodes below the root and a command line.
fn tree(line: &str, nodes: Vec<Tree>) -> Vec<u8> {
    let mut tree = machine();
    tree.at("chosen").set("bootargs", strings(&[line]));
    nodes.into_iter().fold(tree, Tree::child).flatten()
}

/// A device at `at`, with one page of registers.
fn device(model: &str, at: u64) -> Tree {
    Tree::new(&format!("device@{at:x}"))
        .text("compatible", model)
        .with("reg", reg(&[(at, 0x1000)]))
}

fn open(blob: &[u8]) -> Result<(Machine, HostRegisters), BootError> {
    let fdt = Fdt::new(blob)?;
    let machine = Machine::from_tree(&fdt)?;
    let mut registers = HostRegisters::new();
    registers.find(&fdt, &machine)?;
    Ok((machine, registers))
}

/// Whether the host's CPUs reach an address, by way of registers.
fn reaches(blob: &[u8], at: u64) -> bool {
    let (_, registers) = open(blob).unwrap();
    let mut pages = registers.pages();
    pages.any(|range| range.contains(PhysAddr::new(at)))
}

/// The lines of the log on devices: path, nodes, verdict.
fn notes(blob: &[u8]) -> Vec<(String, usize, Verdict)> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let mut notes = Vec::new();
    let each = |note: &portcullis_boot::DeviceNote| {
        notes.push((note.path.to_string(), note.nodes, note.verdict));
    };
    machine.for_each_note(&fdt, each).unwrap();
    notes
}

/// Whether the host's tree has a node.
fn shows(blob: &[u8], path: &str) -> bool {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    listing(&out[..size]).iter().any(|line| line == path)
}

const DMA: Verdict = Verdict::Withheld(Withheld::DoesDma);
const UNKNOWN: Verdict = Verdict::Withheld(Withheld::Unknown);
const AT: u64 = 0xb00_0000;

/// On arm64 a master that is not coherent has no property that tells: what is
/// not known is withheld.
#[test]
fn a_binding_that_is_not_known_is_withheld() {
    for (model, expected) in [
        ("snps,dwmac-4.20a", Some(UNKNOWN)),
        ("vendor,clock-controller", Some(UNKNOWN)),
        ("virtio,mmio", Some(DMA)),
        ("arm,pl330", Some(DMA)),
        ("arm,pl061", None),
        ("snps,dw-apb-uart", None),
        ("arm,sp805", None),
        ("cfi-flash", None),
        ("syscon", None),
    ] {
        let blob = tree("", vec![device(model, AT)]);
        let path = format!("/device@{AT:x}");
        let noted = notes(&blob);
        match expected {
            Some(verdict) => assert_eq!(noted, [(path.clone(), 1, verdict)], "{model}"),
            None => assert_eq!(noted, [], "{model}"),
        }
        assert_eq!(reaches(&blob, AT), expected.is_none(), "{model}");
        assert_eq!(shows(&blob, &path), expected.is_none(), "{model}");
    }
}

/// Devicetree Specification v0.4, 2.3.1: from most specific to most general.
#[test]
fn the_most_specific_model_counts() {
    let with = |models: &[&str]| {
        let node = device("", AT).with("compatible", strings(models));
        reaches(&tree("", vec![node]), AT)
    };
    assert!(with(&["arm,pl011", "arm,primecell"]));
    assert!(!with(&["vendor,gpu-wrapper", "syscon"]));
    assert!(!with(&["vendor,uart-with-dma", "arm,pl011"]));
    // A node that says of itself that it does DMA is taken at its word.
    for property in ["dma-coherent", "dma-noncoherent"] {
        let node = device("arm,pl061", AT).with(property, []);
        let blob = tree("", vec![node]);
        assert_eq!(notes(&blob), [(format!("/device@{AT:x}"), 1, DMA)]);
        assert!(!reaches(&blob, AT));
    }
}

#[test]
fn a_stream_of_an_smmu_confines_and_one_of_another_iommu_does_not() {
    let other = device("vendor,iommu", 0xc00_0000)
        .with("phandle", cells(&[9]))
        .with("#iommu-cells", cells(&[1]));
    let with = |iommu: u32| {
        let master = device("vendor,dma", AT).with("iommus", cells(&[iommu, 0x3000]));
        let blob = tree("", vec![other.clone(), master]);
        reaches(&blob, AT)
    };
    assert!(with(2));
    assert!(!with(9));
}

#[test]
fn the_command_line_may_allow_a_device() {
    let path = format!("/device@{AT:x}");
    let nodes = || vec![device("vendor,dma", AT), device("vendor,dma", AT + 0x1000)];
    let blob = tree(&format!("allow-unconfined={path}"), nodes());
    let second = format!("/device@{:x}", AT + 0x1000);
    assert_eq!(
        notes(&blob),
        [
            (path.clone(), 1, Verdict::Allowed),
            (second.clone(), 1, UNKNOWN)
        ]
    );
    assert!(reaches(&blob, AT) && !reaches(&blob, AT + 0x1000));
    assert!(shows(&blob, &path) && !shows(&blob, &second));
    // One that is behind an SMMU, or harmless, needs no warning.
    let blob = tree("allow-unconfined=/pl011@9000000", vec![]);
    assert_eq!(notes(&blob), []);
    let refused = |line: &str| open(&tree(line, vec![])).err().unwrap().to_string();
    assert_eq!(
        refused("allow-unconfined=/gpu@1"),
        "allow-unconfined=/gpu@1 names no node of the device tree"
    );
    assert_eq!(
        refused("allow-unconfined=/smmu@9050000"),
        "allow-unconfined=/smmu@9050000 names an SMMU or a part of one"
    );
}

/// A host need not believe its tree: a device that is disabled is there.
#[test]
fn a_disabled_device_keeps_the_page_that_it_is_in() {
    let master = |status: &str| {
        device("vendor,dma", AT)
            .with("reg", reg(&[(AT + 0x800, 0x100)]))
            .text("status", status)
    };
    let uart = || device("arm,pl011", AT).with("reg", reg(&[(AT, 0x100)]));
    for status in ["okay", "disabled"] {
        let blob = tree("", vec![uart(), master(status)]);
        assert!(!reaches(&blob, AT), "{status}");
        let fdt = Fdt::new(&blob).unwrap();
        let (machine, registers) = open(&blob).unwrap();
        let mut cut = Vec::new();
        registers
            .for_each_cut(&fdt, &machine, |path, range| {
                cut.push((path.to_string(), range));
            })
            .unwrap();
        assert_eq!(cut, [(format!("/device@{AT:x}"), range(AT, 0x100))]);
    }
    // There is no line for it: the host has lost nothing.
    assert_eq!(notes(&tree("", vec![master("disabled")])), []);
    // And one that does no DMA is not the host's while it is disabled.
    let off = device("arm,pl061", AT).text("status", "disabled");
    assert!(!reaches(&tree("", vec![off.clone()]), AT));
    let bus = |status: &str| {
        Tree::new("bus")
            .text("compatible", "simple-bus")
            .text("status", status)
            .with("#address-cells", cells(&[2]))
            .with("#size-cells", cells(&[2]))
            .with("ranges", [])
            .child(device("arm,pl061", AT))
    };
    assert!(!reaches(&tree("", vec![bus("disabled")]), AT));
    assert!(reaches(&tree("", vec![bus("okay")]), AT));
}

fn bus(ranges: &[u32], children: Vec<Tree>) -> Tree {
    Tree {
        children,
        ..Tree::new("bus")
            .text("compatible", "simple-bus")
            .with("#address-cells", cells(&[1]))
            .with("#size-cells", cells(&[1]))
            .with("ranges", cells(ranges))
    }
}

/// Devicetree Specification v0.4, 2.3.8.
#[test]
fn addresses_are_translated_through_every_bus() {
    let gpio = |at: u32, size: u32| {
        Tree::new(&format!("gpio@{at:x}"))
            .text("compatible", "arm,pl061")
            .with("reg", cells(&[at, size]))
    };
    let window = [0x1000, 0, AT as u32, 0x4000];
    let blob = tree("", vec![bus(&window, vec![gpio(0x2000, 0x1000)])]);
    assert!(reaches(&blob, AT + 0x1000));
    // Never what is on the bus' side, nor the rest of its window.
    for at in [AT, AT + 0x2000, 0x2000] {
        assert!(!reaches(&blob, at), "{at:#x}");
    }
    // What no window covers as a whole is no address.
    for (at, size) in [(0, 0x1000), (0x4000, 0x2000), (0x9000, 0x1000)] {
        let blob = tree("", vec![bus(&window, vec![gpio(at, size)])]);
        let (_, registers) = open(&blob).unwrap();
        assert!(registers.pages().all(|r| !r.overlaps(&range(AT, 0x10000))));
        assert!(registers.pages().all(|r| !r.overlaps(&range(0, 0x1_0000))));
    }
    // Without `ranges` there is no way through, as on an I2C bus.
    let mut lone = bus(&[], vec![gpio(AT as u32, 0x1000)]);
    lone.remove("ranges");
    assert!(!reaches(&tree("", vec![lone]), AT));
    let i2c = device("snps,designware-i2c", 0xc00_0000)
        .with("#address-cells", cells(&[1]))
        .with("#size-cells", cells(&[0]))
        .child(
            Tree::new("eeprom@50")
                .text("compatible", "atmel,24c02")
                .with("reg", cells(&[0x50])),
        );
    let blob = tree("", vec![i2c]);
    assert!(reaches(&blob, 0xc00_0000) && notes(&blob).is_empty());
    assert!(shows(&blob, "/device@c000000/eeprom@50"));
    // Nor are lengths that fit no entry, or cells that are absurd.
    let mut odd = bus(&window, vec![gpio(0x2000, 0x1000).with("reg", [0; 6])]);
    assert!(!reaches(&tree("", vec![odd.clone()]), AT + 0x1000));
    odd.set("#address-cells", cells(&[77]));
    assert!(!reaches(&tree("", vec![odd]), AT + 0x1000));
}

/// The frames of a timer have no model of their own (Linux binding
/// `timer/arm,arch_timer_mmio.yaml`); a child of a bus without one is nothing
/// that is known.
#[test]
fn a_part_is_judged_as_the_whole() {
    let frame = Tree::new("frame").with("reg", cells(&[0x2000, 0x1000]));
    let whole = |model: &str| {
        Tree {
            name: "whole".into(),
            ..bus(&[0, 0, AT as u32, 0x8000], vec![frame.clone()])
        }
        .text("compatible", model)
        .with("reg", reg(&[(0xc00_0000, 0x1000)]))
    };
    let blob = tree("", vec![whole("arm,armv7-timer-mem")]);
    assert!(reaches(&blob, AT + 0x2000) && notes(&blob).is_empty());
    let blob = tree("", vec![whole("vendor,switch")]);
    assert!(!reaches(&blob, AT + 0x2000));
    assert_eq!(notes(&blob), [("/whole".into(), 1, UNKNOWN)]);
    let blob = tree(
        "",
        vec![bus(&[0, 0, AT as u32, 0x8000], vec![frame.clone()])],
    );
    assert!(!reaches(&blob, AT + 0x2000));
    // What is inside of something that is withheld is withheld with it.
    let mut outer = whole("vendor,switch");
    outer.children[0].set("compatible", strings(&["arm,pl061"]));
    assert!(!reaches(&tree("", vec![outer]), AT + 0x2000));
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
    let bridge = |tree: &mut Tree| {
        let bridge = tree.at("pcie@10000000");
        bridge.set("compatible", strings(&["pci-host-ecam-generic"]));
        bridge.set("reg", reg(&[(0x2000_0000, 0x10_0000)]));
        bridge.set("#address-cells", cells(&[3]));
        bridge.set("#size-cells", cells(&[2]));
        let window = [0x200_0000, 0, 0x3000_0000, 0, 0x3000_0000, 0, 0x100_0000];
        bridge.set("ranges", cells(&window));
        bridge.children.push(port.clone());
    };
    let mut tree = machine();
    bridge(&mut tree);
    let blob = tree.flatten();
    assert_eq!(notes(&blob), []);
    for at in [0x2000_0000, 0x200f_f000, 0x3000_0000, 0x30ff_f000] {
        assert!(reaches(&blob, at), "{at:#x}");
    }
    assert!(!reaches(&blob, 0x2010_0000) && !reaches(&blob, 0x3100_0000));
    // Without its streams it goes, with everything below.
    tree.at("pcie@10000000").remove("iommu-map");
    let blob = tree.flatten();
    assert_eq!(notes(&blob), [("/pcie@10000000".into(), 1, DMA)]);
    for at in [0x2000_0000, 0x3000_0000] {
        assert!(!reaches(&blob, at), "{at:#x}");
    }
}

#[test]
fn the_command_line_may_allow_addresses() {
    let line = format!("mmio-allow={AT:#x},0x2000");
    let blob = tree(&line, vec![]);
    assert!(reaches(&blob, AT) && reaches(&blob, AT + 0x1000));
    assert!(!reaches(&blob, AT - 1) && !reaches(&blob, AT + 0x2000));
    let refused = |line: &str, nodes: Vec<Tree>| {
        let error = open(&tree(line, nodes)).err().unwrap();
        assert!(error.fix().to_string().contains("allow-unconfined="));
        error.to_string()
    };
    let here = Range::from_size(PhysAddr::new(AT), 0x2000).unwrap();
    assert_eq!(
        refused(&line, vec![device("vendor,dma", AT + 0x1800)]),
        format!("mmio-allow= of {here} is for a device that is withheld")
    );
    assert!(refused("mmio-allow=0x9050000,0x1000", vec![]).contains("withheld"));
    assert!(refused("mmio-allow=0x3ffff000,0x2000", vec![]).ends_with("is for RAM"));
}

/// Memory that the tree does not name: the host's, and nothing of ours lies there.
#[test]
fn the_command_line_may_allow_memory_to_come() {
    let memory = |line: &str| {
        let blob = tree(line, vec![]);
        open(&blob).map(|(machine, _)| {
            let all: Vec<_> = machine.all_memory().copied().collect();
            (all, machine.memory.iter().count())
        })
    };
    let range = |start: u64, size: u64| Range::from_size(PhysAddr::new(start), size).unwrap();
    let (before, banks) = memory("").unwrap();
    assert_eq!(before.len(), banks);
    let line = "memory-allow=0x200000000,0x40000000 memory-allow=0x180000000,0x1000";
    let (after, same) = memory(line).unwrap();
    assert_eq!(same, banks);
    let added = [
        range(0x1_8000_0000, 0x1000),
        range(0x2_0000_0000, 0x4000_0000),
    ];
    assert_eq!(after, [before, added.to_vec()].concat());

    let refused = |line: &str| memory(line).err().unwrap().to_string();
    assert!(refused("memory-allow=0x40000000,0x1000").ends_with("is RAM of the device tree"));
    let twice = "memory-allow=0x200000000,0x2000 memory-allow=0x200001000,0x2000";
    assert!(refused(twice).ends_with("is named twice"));
    // The SMMU's registers, which are withheld, and those of the UART, which is given.
    for registers in [0x905_0000, 0x900_0000] {
        let line = format!("memory-allow={registers:#x},0x1000");
        assert!(
            refused(&line).ends_with("has registers of a device in it"),
            "{line}"
        );
    }
    assert!(refused("memory-allow=0x200000000,0x800").contains("memory-allow"));

    let both = "mmio-allow=0x200000000,0x1000 memory-allow=0x200000000,0x1000";
    assert!(refused(both).ends_with("is in mmio-allow= too"));

    // Below all RAM it comes first.
    let (first, _) = memory("memory-allow=0x1000000,0x1000").unwrap();
    assert_eq!(first.first(), Some(&range(0x100_0000, 0x1000)));
    assert!(first.is_sorted_by_key(|range| range.start()));
    // What a device has that is switched off is no memory.
    let mut off = device("vendor,dma", 0x2_0000_0000);
    off.set("status", strings(&["disabled"]));
    let line = "memory-allow=0x200000000,0x40000000";
    let error = open(&tree(line, vec![off])).err().unwrap().to_string();
    assert!(
        error.ends_with("has registers of a device in it"),
        "{error}"
    );
}

/// An SMMU has more register pages than two: none of them is the host's, nor
/// what a second entry of `reg` names.
#[test]
fn what_is_beside_an_smmu_is_not_the_hosts() {
    let mut with = machine();
    let smmu = [(0x905_0000, 0x2_0000), (0xd00_0000, 0x1000)];
    with.at("smmu@9050000").set("reg", reg(&smmu));
    let beside = device("arm,pl061", 0xd00_0000);
    let blob = with.child(beside).flatten();
    for at in [0x905_0000, 0x906_0000, 0x907_0000, 0x909_0000, 0xd00_0000] {
        assert!(!reaches(&blob, at), "{at:#x}");
    }
    // A monitor is withheld, and nothing that the command line could allow.
    let monitor = || vec![device("arm,smmu-v3-pmcg", AT)];
    let blob = tree("", monitor());
    assert!(!reaches(&blob, AT) && notes(&blob).is_empty());
    let error = open(&tree("allow-unconfined=/device@b000000", monitor()));
    let error = error.err().unwrap().to_string();
    assert!(error.ends_with("names an SMMU or a part of one"), "{error}");
}

#[test]
fn memory_that_drivers_map_need_not_be_ram() {
    let carve_out = |at: u64| {
        Tree::new(&format!("region@{at:x}"))
            .with("reg", reg(&[(at, 0x1000)]))
            .with("no-map", [])
    };
    let reserved = Tree::new("reserved-memory")
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[2]))
        .with("ranges", [])
        .child(carve_out(AT).text("compatible", "arm,scmi-shmem"))
        .child(carve_out(AT + 0x1000));
    let gpio = device("arm,pl061", AT + 0x1000);
    let blob = tree("", vec![reserved, gpio]);
    assert!(reaches(&blob, AT) && !reaches(&blob, AT + 0x1000));
}

#[test]
fn there_is_a_limit() {
    let many = |count: usize| {
        let nodes = (0..count as u64).map(|n| device("vendor,dma", AT + n * 0x2000));
        open(&tree("", nodes.collect())).map(|_| ())
    };
    assert_eq!(many(300), Ok(()));
    assert_eq!(
        many(WITHHELD_LIMIT + 1),
        Err(BootError::TooMany {
            what: "devices without an SMMU",
            limit: WITHHELD_LIMIT
        })
    );
}

/// Where the functions are that the hypervisor looks at (Linux binding
/// `pci/host-generic-pci.yaml`).
#[test]
fn host_bridges_have_configuration_space() {
    let with = |change: &dyn Fn(&mut Tree)| {
        let mut tree = machine();
        let bridge = tree.at("pcie@10000000");
        bridge.set("compatible", strings(&["pci-host-ecam-generic"]));
        bridge.set("reg", reg(&[(0x2000_0000, 0x40_0000)]));
        change(bridge);
        let machine = Machine::from_fdt(&tree.flatten())?;
        let host = machine.pci_hosts.iter().next().copied();
        Ok::<_, BootError>(host)
    };
    let host = with(&|_| {}).unwrap().unwrap();
    assert_eq!(
        (host.buses(), host.path.as_str()),
        (0..=3, "/pcie@10000000")
    );
    assert_eq!(host.bus(3), Some(range(0x2030_0000, 0x10_0000)));
    assert_eq!(host.bus(4), None);
    let host = with(&|bridge| bridge.set("bus-range", cells(&[0x40, 0x41])));
    let host = host.unwrap().unwrap();
    assert_eq!(host.buses(), 0x40..=0x41);
    assert_eq!(host.bus(0x41), Some(range(0x2010_0000, 0x10_0000)));
    assert_eq!((host.bus(0x42), host.bus(0)), (None, None));
    // Another kind, no bus' worth of space, none that is the host's.
    let host = with(&|bridge| bridge.set("compatible", strings(&["snps,dw-pcie"])));
    assert_eq!(host.unwrap().unwrap().ecam, None);
    let host = with(&|bridge| bridge.set("reg", reg(&[(0x2000_0000, 0xf_0000)])));
    assert_eq!(host.unwrap().unwrap().ecam, None);
    assert_eq!(with(&|bridge| bridge.remove("iommu-map")), Ok(None));
    assert_eq!(
        with(&|bridge| bridge.set("status", strings(&["disabled"]))),
        Ok(None)
    );
    let error = with(&|bridge| bridge.set("bus-range", cells(&[0, 256]))).unwrap_err();
    assert_eq!(error.fix().to_string(), "two numbers below 256");
}
