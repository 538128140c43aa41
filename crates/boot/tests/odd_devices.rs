//! What real trees have and what does no harm: it is passed over, or the device is
//! withheld, and the boot goes on.

mod support;

use portcullis_boot::{
    BootError, Fdt, HostRegisters, HostTreePlan, Interrupt, Machine, Odd, Trigger, Verdict,
    Withheld,
};
use support::{Tree, cells, changed, listing, range, reg, strings};

const DMA: &str = "dma@c000000";

fn read(change: impl FnOnce(&mut Tree)) -> Machine {
    Machine::from_fdt(&changed(change)).unwrap()
}

/// What is odd, by path.
fn odd(blob: &[u8]) -> Vec<(String, Odd)> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let all = machine.odd.iter();
    all.map(|(node, odd)| (fdt.path(node).to_string(), odd))
        .collect()
}

/// Paths of the enabled devices that are withheld.
fn withheld(blob: &[u8]) -> Vec<(String, Withheld)> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let mut found = Vec::new();
    machine
        .for_each_note(&fdt, |note| match note.verdict {
            Verdict::Withheld(why) => found.push((note.path.to_string(), why)),
            _ => panic!("{note:?}"),
        })
        .unwrap();
    found
}

/// Registers for the device behind the SMMU, so that it can be withheld.
fn with_registers(tree: &mut Tree) -> &mut Tree {
    let dma = tree.at(DMA);
    dma.set("reg", reg(&[(0xc00_0000, 0x1000)]));
    dma
}

/// A second SMMU, which is disabled: phandle 9.
fn disabled_smmu() -> Tree {
    let mut smmu = support::machine().at("smmu@9050000").clone();
    smmu.name = "smmu@a000000".into();
    smmu.set("phandle", cells(&[9]));
    smmu.set("reg", reg(&[(0xa00_0000, 0x2_0000)]));
    smmu.set("status", *b"disabled\0");
    smmu
}

// Interrupts.

/// Arm's FVP: the UART is behind a nexus, and its interrupt is one cell (Linux,
/// `arch/arm64/boot/dts/arm/rtsm_ve-motherboard.dtsi`).
#[test]
fn a_console_whose_interrupt_goes_through_a_nexus() {
    let machine = read(|tree| {
        let mut uart = tree.at("pl011@9000000").clone();
        uart.set("interrupts", cells(&[5]));
        let nexus = Tree::new("bus@8000000")
            .text("compatible", "simple-bus")
            .with("#address-cells", cells(&[2]))
            .with("#size-cells", cells(&[2]))
            .with("#interrupt-cells", cells(&[1]))
            .with("ranges", [])
            .with("interrupt-map-mask", cells(&[0, 0, 63]))
            .with("interrupt-map", cells(&[0, 0, 5, 1, 0, 0, 0, 5, 4]))
            .child(uart);
        tree.remove_child("pl011@9000000");
        tree.children.push(nexus);
        tree.at("chosen")
            .set("stdout-path", *b"/bus@8000000/pl011@9000000\0");
    });
    let console = machine.console.unwrap();
    assert_eq!(console.registers, range(0x900_0000, 0x1000));
}

/// HiSilicon's hip07: a controller turns the wire into a message (Linux binding
/// `hisilicon,mbigen-v2.txt`; `arch/arm64/boot/dts/hisilicon/hip07.dtsi`).
#[test]
fn an_smmu_whose_interrupts_go_elsewhere() {
    let mbigen = |tree: &mut Tree| {
        let mut smmu = tree.at("smmu@9050000").clone();
        smmu.set("interrupt-parent", cells(&[8]));
        smmu.set("interrupts", cells(&[733, 1, 734, 1]));
        tree.remove_child("smmu@9050000");
        tree.children.push(smmu);
        tree.children.push(
            Tree::new("mbigen")
                .with("phandle", cells(&[8]))
                .with("interrupt-controller", [])
                .with("#interrupt-cells", cells(&[2])),
        );
    };
    let lines = read(mbigen).smmus.get(0).unwrap().interrupts;
    assert_eq!((lines.event, lines.gerror), (None, None));
    let found = odd(&changed(mbigen));
    assert_eq!(found, [("/smmu@9050000".into(), Odd::InterruptElsewhere)]);
}

#[test]
fn interrupts_that_say_nothing() {
    let line = |intid| {
        let trigger = Trigger::Edge;
        Some(Interrupt { intid, trigger })
    };
    let with = |property: &str, value: Vec<u8>| {
        let blob = changed(|tree| tree.at("smmu@9050000").set(property, value));
        let lines = *Machine::from_fdt(&blob).unwrap().smmus.get(0).unwrap();
        let odd = odd(&blob)
            .into_iter()
            .map(|(_, odd)| odd)
            .collect::<Vec<_>>();
        (lines.interrupts.event, lines.interrupts.gerror, odd)
    };
    let elsewhere = vec![Odd::InterruptElsewhere];
    for (second, what) in [
        (vec![0, 77], "it is cut off"),
        (vec![0, 77, 2], "of a falling edge"),
        (vec![0, 988, 1], "no SPI"),
        (vec![4, 0, 1], "of no kind"),
    ] {
        let value = cells(&[vec![0, 74, 1], second].concat());
        let expected = (line(106), None, elsewhere.clone());
        assert_eq!(with("interrupts", value), expected, "{what}");
    }
    // An ITS, and nobody.
    for parent in [3, 77] {
        let found = with("interrupt-parent", cells(&[parent]));
        assert_eq!(found, (None, None, elsewhere.clone()), "{parent}");
    }
    let found = with("interrupt-names", strings(&["eventq"]));
    assert_eq!(found, (line(106), None, vec![Odd::InterruptUnnamed]));
    let many: Vec<u32> = (0..65).flat_map(|i| [0, i, 4]).collect();
    let found = with("interrupts", cells(&many));
    assert!(found.2.contains(&Odd::InterruptUnnamed));
}

// Streams.

/// NXP's imx95 and NVIDIA's tegra264: an SMMU is disabled and a device names it (Linux,
/// `arch/arm64/boot/dts/freescale/imx95.dtsi`).
#[test]
fn a_device_behind_a_disabled_smmu_has_none() {
    let blob = changed(|tree| {
        with_registers(tree).set("iommus", cells(&[9, 0x2000]));
        tree.children.push(disabled_smmu());
    });
    let machine = Machine::from_fdt(&blob).unwrap();
    assert!(!machine.streams.iter().any(|range| range.first == 0x2000));
    assert_eq!(
        withheld(&blob),
        [("/dma@c000000".into(), Withheld::DoesDma)]
    );
    // Nor is it one that does no DMA, whatever its model is.
    let blob = changed(|tree| {
        let dma = with_registers(tree);
        dma.set("compatible", *b"ns16550a\0");
        dma.set("iommus", cells(&[9, 0x2000]));
        tree.children.push(disabled_smmu());
    });
    assert_eq!(
        withheld(&blob),
        [("/dma@c000000".into(), Withheld::DoesDma)]
    );
}

/// The command line can give it to the host all the same.
#[test]
fn a_device_behind_a_disabled_smmu_can_be_allowed() {
    let machine = read(|tree| {
        with_registers(tree).set("iommus", cells(&[9, 0x2000]));
        tree.children.push(disabled_smmu());
        tree.at("chosen")
            .set("bootargs", *b"allow-unconfined=/dma@c000000\0");
    });
    assert!(machine.withheld.is_empty());
}

/// Part of what such a device does passes no SMMU of ours, or may pass none.
#[test]
fn a_device_with_two_kinds_of_iommu_is_not_confined() {
    type Change = fn(&mut Tree);
    let cases: [(Change, &str); 6] = [
        (
            |dma| dma.set("iommus", cells(&[2, 0x2000, 9, 1])),
            "disabled",
        ),
        (
            |dma| dma.set("iommus", cells(&[9, 1, 2, 0x2000])),
            "disabled first",
        ),
        (
            |dma| dma.set("iommus", cells(&[2, 0x2000, 77, 1])),
            "nobody",
        ),
        (|dma| dma.set("iommus", cells(&[2, 0x2000, 2])), "cut off"),
        (
            |dma| {
                dma.set("iommus", cells(&[9, 1]));
                dma.set("iommu-map", cells(&[0, 2, 0x3000, 1]));
            },
            "in two properties",
        ),
        (
            |dma| dma.set("iommu-map", cells(&[0, 2, 0x3000, 1, 1])),
            "entries of five cells",
        ),
    ];
    for (change, what) in cases {
        let blob = changed(|tree| {
            change(with_registers(tree));
            tree.children.push(disabled_smmu());
        });
        let fdt = Fdt::new(&blob).unwrap();
        let node = fdt.find(b"/dma@c000000").unwrap().id();
        for mode in [
            "host-iommu=identity",
            "host-iommu=nested",
            "host-iommu=paravirt",
        ] {
            let mut tree = Tree::read(&blob);
            tree.at("chosen").set("bootargs", strings(&[mode]));
            tree.at("smmu@9050000")
                .set("interrupts", cells(&[0, 74, 1, 0, 75, 1, 0, 77, 1]));
            tree.at("smmu@9050000")
                .set("interrupt-names", strings(&["eventq", "priq", "gerror"]));
            let machine = Machine::from_fdt(&tree.flatten()).unwrap();
            assert!(!machine.streams.iter().any(|range| range.node == node));
        }
        let found = (odd(&blob), withheld(&blob));
        let path = || "/dma@c000000".to_owned();
        let expected = (
            vec![(path(), Odd::StreamsUnclear)],
            vec![(path(), Withheld::DoesDma)],
        );
        assert_eq!(found, expected, "{what}");
    }
}

/// A node without registers is no device that could be withheld. It stays, without a
/// stream.
#[test]
fn a_node_without_registers_loses_what_names_a_disabled_smmu() {
    for mode in ["host-iommu=identity", "host-iommu=paravirt"] {
        let blob = changed(|tree| {
            tree.at(DMA).set("iommus", cells(&[9, 0x2000]));
            tree.children.push(disabled_smmu());
            tree.at("chosen").set("bootargs", strings(&[mode]));
            tree.at("smmu@9050000")
                .set("interrupts", cells(&[0, 74, 1, 0, 75, 1, 0, 77, 1]));
            tree.at("smmu@9050000")
                .set("interrupt-names", strings(&["eventq", "priq", "gerror"]));
        });
        let fdt = Fdt::new(&blob).unwrap();
        let machine = Machine::from_tree(&fdt).unwrap();
        let plan = HostTreePlan::new(&machine, &[], true);
        let mut out = vec![0; plan.bytes_needed(&fdt)];
        let size = plan.write(&fdt, &mut out).unwrap();
        let lines = listing(&out[..size]);
        assert!(lines.iter().any(|line| line == "/dma@c000000"));
        assert!(
            !lines
                .iter()
                .any(|line| line.starts_with("/dma@c000000 iommus"))
        );
    }
}

// The interrupt controller.

/// TI's K3: an ITS of one frame, behind a window in which a write's address says
/// whose it is (`arch/arm64/boot/dts/ti/k3-j721e-main.dtsi`).
fn with_window(tree: &mut Tree) {
    let its = tree.at("intc@8000000/its@8080000");
    its.set("reg", reg(&[(0x808_0000, 0x1_0000)]));
    its.set(
        "socionext,synquacer-pre-its",
        cells(&[0x100_0000, 0x40_0000]),
    );
}

#[test]
fn a_window_before_the_its_is_its_doorbell() {
    let machine = read(with_window);
    let its = *machine.doorbells().next().unwrap();
    let window = range(0x100_0000, 0x40_0000);
    assert_eq!(its.registers, range(0x808_0000, 0x1_0000));
    assert_eq!((its.doorbell, its.target), (window, window));
    assert!(its.id_in_address);
    assert!(!read(|_| {}).doorbells().any(|its| its.id_in_address));
}

/// A CPU that writes there would raise any device's interrupt.
#[test]
fn the_window_is_for_devices_alone() {
    let blob = changed(|tree| {
        with_window(tree);
        // A flash that claims to be there too.
        tree.children.push(
            Tree::new("flash@1000000")
                .text("compatible", "cfi-flash")
                .with("reg", reg(&[(0x100_0000, 0x80_0000)])),
        );
    });
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let mut registers = HostRegisters::new();
    registers.find(&fdt, &machine).unwrap();
    registers.withhold_gic(&machine, true).unwrap();
    let window = range(0x100_0000, 0x40_0000);
    assert!(registers.is_withheld(&window));
    assert!(!registers.pages().any(|pages| pages.overlaps(&window)));
    // Where the doorbell itself is.
    assert!(registers.is_withheld(&range(0x809_0000, 0x1000)));
    let rest = range(0x140_0000, 0x40_0000);
    assert!(registers.pages().any(|pages| pages.covers(&rest)));
}

#[test]
fn a_window_in_ram_or_of_no_size_is_refused() {
    let with = |value: &[u32]| {
        let value = cells(value);
        let blob = changed(|tree| {
            with_window(tree);
            tree.at("intc@8000000/its@8080000")
                .set("socionext,synquacer-pre-its", value);
        });
        Machine::from_fdt(&blob).and_then(|machine| machine.check_hardware())
    };
    assert_eq!(with(&[0x100_0000, 0x40_0000]), Ok(()));
    for wrong in [
        &[0x4100_0000, 0x40_0000][..],
        &[0x100_0000],
        &[0x100_0000, 0],
        &[0x100_0800, 0x1000],
        // Registers of the interrupt controller: its distributor, the ITS' own, and
        // those of the first redistributor.
        &[0x7f0_0000, 0x40_0000],
        &[0x808_0000, 0x1000],
        &[0x80a_0000, 0x1000],
    ] {
        assert!(with(wrong).is_err(), "{wrong:x?}");
    }
    // A doorbell that is the distributor.
    let blob = changed(|tree| {
        let its = tree.at("intc@8000000/its@8080000");
        its.set("reg", reg(&[(0x7ff_0000, 0x2_0000)]));
    });
    let refused = Machine::from_fdt(&blob).and_then(|machine| machine.check_hardware());
    assert!(matches!(refused, Err(BootError::DoorbellWithheld { .. })));
    // One frame, and no window.
    let blob = changed(|tree| {
        with_window(tree);
        tree.at("intc@8000000/its@8080000")
            .remove("socionext,synquacer-pre-its");
    });
    assert!(Machine::from_fdt(&blob).is_err());
}
