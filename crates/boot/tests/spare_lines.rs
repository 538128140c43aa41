//! SMMUs with no interrupt to spare: the host's are on an SPI that the distributor has
//! and that nothing in the tree names. (Linux, `arch/arm64/boot/dts`: `xilinx/versal-net.dtsi`
//! has one line for all, `combined`; `nvidia/tegra264.dtsi` has `eventq` and `gerror`.)

mod support;

use portcullis_boot::{BootError, Fdt, HostLines, HostTreePlan, Machine, Odd};
use support::{Board, Tree, cells, machine};

const MODES: [&str; 2] = ["host-iommu=nested", "host-iommu=paravirt"];

/// A machine whose SMMU has one line, to which the hypervisor listens.
fn combined(mode: &str) -> Tree {
    let mut tree = machine();
    let smmu = tree.at("smmu@9050000");
    smmu.set("interrupts", cells(&[0, 74, 4]));
    smmu.set("interrupt-names", *b"eventq\0");
    tree.at("chosen")
        .set("bootargs", [mode.as_bytes(), b"\0"].concat());
    tree
}

fn on(spis: u32) -> Board {
    Board {
        end: u64::MAX,
        spis,
        extended: 0,
    }
}

/// The INTID that the host gets where 288 are implemented.
fn line(tree: &Tree) -> Option<u32> {
    let machine = Machine::from_fdt_on(&tree.flatten(), &on(288)).unwrap();
    let line = machine.host_lines.iter().next();
    line.and_then(HostLines::event)
        .or(machine.viommus.get(0).map(|viommu| viommu.line))
}

#[test]
fn the_highest_that_no_node_names() {
    for mode in MODES {
        let mut tree = combined(mode);
        assert_eq!(line(&tree), Some(287), "{mode}");
        let blob = tree.flatten();
        let machine = Machine::from_fdt_on(&blob, &on(288)).unwrap();
        let odd: Vec<_> = machine.odd.iter().map(|(_, odd)| odd).collect();
        assert_eq!(odd, [Odd::NoSpareInterrupt]);
        // The host's tree has it as SPI 255, an edge.
        let fdt = Fdt::new(&blob).unwrap();
        let plan = HostTreePlan::new(&machine, &[], true);
        let mut out = vec![0; plan.bytes_needed(&fdt)];
        let size = plan.write(&fdt, &mut out).unwrap();
        let host = Fdt::new(&out[..size]).unwrap();
        let named = host
            .nodes()
            .any(|(_, node)| node.property(b"interrupts") == Some(&cells(&[0, 255, 1])[..]));
        assert!(named, "{mode}");
        // One of its own goes first.
        let smmu = tree.at("smmu@9050000");
        smmu.set("interrupts", cells(&[0, 74, 4, 0, 75, 1]));
        smmu.set("interrupt-names", *b"eventq\0priq\0");
        assert_eq!(line(&tree), Some(32 + 75), "{mode}");
    }
}

/// Whatever a node says of an SPI, in whatever property, leaves it alone.
#[test]
fn what_a_node_names_is_left_alone() {
    let named = [
        ("interrupts", cells(&[0, 254, 4, 0, 255, 4])),
        (
            "interrupts-extended",
            cells(&[7, 1, 1, 0, 254, 4, 1, 0, 255, 4]),
        ),
        // A bus address of no cells, and one of two.
        (
            "interrupt-map",
            cells(&[0, 0, 0, 1, 1, 0, 254, 4, 0, 0, 0, 2, 1, 0, 0, 0, 255, 4]),
        ),
        ("mbi-ranges", cells(&[286, 2])),
        ("marvell,spi-ranges", cells(&[254, 2])),
        ("qcom,pdc-ranges", cells(&[0, 254, 2])),
        ("ti,interrupt-ranges", cells(&[0, 286, 2])),
        ("msi-ranges", cells(&[1, 0, 254, 1, 2])),
    ];
    for (name, value) in named {
        let mut tree = combined(MODES[0]);
        tree.children.push(Tree::new("device").with(name, value));
        assert_eq!(line(&tree), Some(285), "{name}");
    }
    for (first, size) in [
        ("arm,msi-base-spi", "arm,msi-num-spis"),
        ("al,msi-base-spi", "al,msi-num-spis"),
    ] {
        let mut tree = combined(MODES[0]);
        let node = Tree::new("device")
            .with(first, cells(&[200]))
            .with(size, cells(&[88]));
        tree.children.push(node);
        assert_eq!(line(&tree), Some(199), "{first}");
    }
    // Numbers that are none.
    let mut tree = combined(MODES[0]);
    let node = Tree::new("device")
        .with("interrupts", cells(&[0, u32::MAX, 4, 1, 255, 4]))
        .with("mbi-ranges", cells(&[u32::MAX, u32::MAX, 7]))
        .with("interrupts-extended", cells(&[1]));
    tree.children.push(node);
    assert_eq!(line(&tree), Some(287));
}

/// A frame of message-based SPIs may have any, where the tree leaves that to its register
/// (Linux, `drivers/irqchip/irq-gic-v2m.c`, `gicv2m_init_one`: `V2M_MSI_TYPER`).
#[test]
fn a_frame_that_does_not_say_its_spis_has_them_all() {
    let mut tree = combined(MODES[0]);
    let frame = Tree::new("v2m@8020000").with("compatible", *b"arm,gic-v2m-frame\0");
    tree.children.push(frame);
    let error = Machine::from_fdt_on(&tree.flatten(), &on(288)).unwrap_err();
    assert!(matches!(error, BootError::NoSpareInterrupt { .. }));
    let frame = tree.at("v2m@8020000");
    frame.set("arm,msi-base-spi", cells(&[200]));
    frame.set("arm,msi-num-spis", cells(&[88]));
    assert_eq!(line(&tree), Some(199));
}

/// GICv3.1 has SPIs beside the others; a specifier's type is 2 for these.
#[test]
fn an_extended_spi_where_there_is_no_other() {
    let board = Board {
        end: u64::MAX,
        spis: 32,
        extended: 4096 + 64,
    };
    for mode in MODES {
        let mut tree = combined(mode);
        let expect = |tree: &Tree, intid: u32| {
            let blob = tree.flatten();
            let machine = Machine::from_fdt_on(&blob, &board).unwrap();
            let line = machine.host_lines.iter().next().and_then(HostLines::event);
            let line = line.or(machine.viommus.get(0).map(|viommu| viommu.line));
            assert_eq!(line, Some(intid), "{mode}");
            let fdt = Fdt::new(&blob).unwrap();
            let plan = HostTreePlan::new(&machine, &[], true);
            let mut out = vec![0; plan.bytes_needed(&fdt)];
            let size = plan.write(&fdt, &mut out).unwrap();
            let host = Fdt::new(&out[..size]).unwrap();
            let specifier = cells(&[2, intid - 4096, 1]);
            let named = host
                .nodes()
                .any(|(_, node)| node.property(b"interrupts") == Some(&specifier[..]));
            assert!(named, "{mode}");
        };
        expect(&tree, 4096 + 63);
        let named = cells(&[2, 63, 4, 0, 62, 4, 2, 61, 4]);
        tree.children
            .push(Tree::new("device").with("interrupts", named));
        expect(&tree, 4096 + 62);
    }
}

#[test]
fn each_smmu_has_one_of_its_own() {
    let mut tree = combined(MODES[0]);
    let mut second = tree.at("smmu@9050000").clone();
    second.name = "smmu@9150000".into();
    second.set("reg", support::reg(&[(0x915_0000, 0x2_0000)]));
    second.set("phandle", cells(&[9]));
    second.set("interrupts", cells(&[0, 255, 4]));
    tree.children.push(second);
    let machine = Machine::from_fdt_on(&tree.flatten(), &on(288)).unwrap();
    let lines: Vec<_> = machine.host_lines.iter().copied().collect();
    assert_eq!(lines, [HostLines::Combined(286), HostLines::Combined(285)]);
}

/// An SMMU that is a device of an ITS sends messages there, where no SPI is free.
#[test]
fn messages_where_there_is_no_spi_at_all() {
    let with = |change: &dyn Fn(&mut Tree)| {
        let mut tree = combined(MODES[0]);
        tree.at("intc@8000000/its@8080000")
            .set("#msi-cells", cells(&[1]));
        let smmu = tree.at("smmu@9050000");
        smmu.set("msi-parent", cells(&[3, 0x1234]));
        smmu.set("dma-coherent", Vec::new());
        change(&mut tree);
        tree.flatten()
    };
    let found = |blob: &[u8]| {
        let machine = Machine::from_fdt_on(blob, &on(32));
        machine.map(|machine| *machine.host_lines.get(0).unwrap())
    };
    let blob = with(&|_| {});
    let message = HostLines::Message {
        its: 0,
        device: 0x1234,
    };
    assert_eq!(found(&blob).unwrap(), message);
    // The host's tree says the same, and no interrupt.
    let machine = Machine::from_fdt_on(&blob, &on(32)).unwrap();
    let odd: Vec<_> = machine.odd.iter().map(|(_, odd)| odd).collect();
    assert_eq!(odd, [Odd::InterruptsAsMessages]);
    assert!(machine.msis.iter().any(|range| range.first == 0x1234));
    let fdt = Fdt::new(&blob).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let host = Fdt::new(&out[..size]).unwrap();
    let mut smmus = host
        .nodes()
        .filter(|(_, node)| node.is_compatible(b"arm,smmu-v3"));
    let (_, smmu) = smmus.next().unwrap();
    assert_eq!(smmu.property(b"msi-parent"), Some(&cells(&[3, 0x1234])[..]));
    assert_eq!(smmu.property(b"interrupts"), None);
    assert_eq!(smmu.property(b"interrupt-names"), None);
    // An SPI goes first.
    let line = Machine::from_fdt_on(&blob, &on(288)).unwrap().host_lines;
    assert!(line.iter().eq(&[HostLines::Combined(287)]));
    // Not for a host without an ITS, nor where that cannot tell who sends, nor without
    // registers for it.
    let refusing: [&dyn Fn(&mut Tree); 6] = [
        &|tree| {
            let arguments = *b"host-iommu=nested gic-its=off\0";
            tree.at("chosen").set("bootargs", arguments);
        },
        &|tree| {
            let window = cells(&[0x5800_0000, 0x40_0000]);
            tree.at("intc@8000000/its@8080000")
                .set("socionext,synquacer-pre-its", window);
        },
        &|tree| tree.at("smmu@9050000").remove("dma-coherent"),
        &|tree| tree.at("smmu@9050000").set("msi-parent", cells(&[3])),
        &|tree| tree.at("smmu@9050000").set("msi-parent", cells(&[4, 1])),
        &|tree| {
            tree.at("intc@8000000/its@8080000")
                .set("#msi-cells", cells(&[2]))
        },
    ];
    for (index, change) in refusing.iter().enumerate() {
        let error = found(&with(change)).unwrap_err();
        let none = matches!(error, BootError::NoSpareInterrupt { .. });
        assert!(none, "{index}: {error}");
    }
}

#[test]
fn there_may_be_none() {
    for mode in MODES {
        let blob = combined(mode).flatten();
        for spis in [0, 32] {
            let error = Machine::from_fdt_on(&blob, &on(spis)).unwrap_err();
            assert!(matches!(error, BootError::NoSpareInterrupt { .. }));
        }
        // A distributor in RAM is not asked.
        let mut tree = combined(mode);
        tree.at("memory@40000000")
            .set("reg", support::reg(&[(0, 0x8000_0000)]));
        let error = Machine::from_fdt_on(&tree.flatten(), &on(288)).unwrap_err();
        assert!(matches!(error, BootError::NoSpareInterrupt { .. }));
    }
}
