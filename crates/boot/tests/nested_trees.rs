//! The host's tree in nested mode: an SMMU that the host drives, on interrupts
//! that the hypervisor does not need.

mod support;

use portcullis_boot::{BootError, Fdt, HostIommu, HostLines, HostTreePlan, Machine};
use support::{Tree, cells, listing, machine, reg, strings};

const SMMU: &str = "smmu@9050000";

/// The smallest machine in nested mode, after `change` of its SMMU.
fn nested(change: impl FnOnce(&mut Tree)) -> Tree {
    let mut tree = machine();
    tree.at("chosen")
        .set("bootargs", strings(&["host-iommu=nested"]));
    let smmu = tree.at(SMMU);
    smmu.set(
        "interrupts",
        cells(&[0, 74, 1, 0, 75, 1, 0, 76, 1, 0, 77, 1]),
    );
    smmu.set(
        "interrupt-names",
        strings(&["eventq", "priq", "cmdq-sync", "gerror"]),
    );
    change(smmu);
    tree
}

fn host_tree(blob: &[u8], coherent: bool) -> Vec<u8> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], coherent);
    let mut out = vec![0xa5; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    out.truncate(size);
    out
}

/// The properties of the SMMU in the host's tree.
fn smmu(tree: &Tree, coherent: bool) -> Vec<String> {
    let prefix = format!("/{SMMU} ");
    listing(&host_tree(&tree.flatten(), coherent))
        .iter()
        .filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
        .collect()
}

#[test]
fn the_smmu_stays_with_what_refers_to_it() {
    let tree = nested(|_| {});
    let lines = listing(&host_tree(&tree.flatten(), true));
    for kept in [
        "/pcie@10000000 iommu-map = ",
        "/dma@c000000 iommus = ",
        "/aliases iommu0 = ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(kept)), "{kept}");
    }
    assert_eq!(
        smmu(&tree, true),
        [
            r"compatible = arm,smmu-v3\x00",
            r"interrupt-parent = \x00\x00\x00\x01",
            // priq (SPI 75) and cmdq-sync (76).
            r"interrupts = \x00\x00\x00\x00\x00\x00\x00K\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00L\x00\x00\x00\x01",
            r"interrupt-names = eventq\x00gerror\x00",
            "dma-coherent = ",
            r"phandle = \x00\x00\x00\x02",
            r"#iommu-cells = \x00\x00\x00\x01",
            r"reg = \x00\x00\x00\x00\t\x05\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00",
        ]
    );
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    assert_eq!(machine.host_iommu, HostIommu::Nested);
    assert!(machine.host_lines.iter().eq(&[HostLines::Separate {
        event: 107,
        error: 108
    }]));
    let pcie: Vec<_> = machine.streams.iter().map(|s| (s.first, s.pcie)).collect();
    assert_eq!(pcie, [(0, true), (0x2000, false)]);
}

#[test]
fn what_is_particular_to_the_physical_smmu_goes() {
    let tree = nested(|smmu| {
        smmu.set("compatible", strings(&["vendor,smmu", "arm,smmu-v3"]));
        smmu.set("msi-parent", cells(&[3, 0]));
        smmu.set("dma-coherent", []);
        smmu.set("cavium,cn9900-broken-page1-regspace", []);
        smmu.set("hisilicon,broken-prefetch-cmd", []);
        smmu.set("vendor,mode", cells(&[7]));
    });
    let names: Vec<_> = smmu(&tree, false)
        .iter()
        .map(|line| line.split(" = ").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "compatible",
            "interrupt-parent",
            "interrupts",
            "interrupt-names",
            "dma-noncoherent",
            "phandle",
            "#iommu-cells",
            "reg",
            "vendor,mode"
        ]
    );
}

#[test]
fn one_spare_line_serves_for_both() {
    let line = |names: &[&str], spis: &[u32]| {
        let tree = nested(|smmu| {
            let cell = |spi: &u32| [0, *spi, 1];
            smmu.set(
                "interrupts",
                cells(&spis.iter().flat_map(cell).collect::<Vec<_>>()),
            );
            smmu.set("interrupt-names", strings(names));
        });
        Machine::from_fdt(&tree.flatten()).map(|machine| *machine.host_lines.get(0).unwrap())
    };
    let only = |intid| Ok(HostLines::Combined(intid));
    assert_eq!(
        line(&["eventq", "gerror", "priq"], &[74, 77, 75]),
        only(107)
    );
    assert_eq!(
        line(&["eventq", "gerror", "cmdq-sync"], &[74, 77, 76]),
        only(108)
    );
    assert_eq!(
        line(&["eventq", "gerror", "combined"], &[74, 77, 78]),
        only(110)
    );
    // Two names for one line.
    assert_eq!(
        line(
            &["eventq", "gerror", "priq", "cmdq-sync"],
            &[74, 77, 75, 75]
        ),
        only(107)
    );
    // A name for a line that the hypervisor listens to.
    for (names, spis) in [
        (&["eventq", "gerror"][..], &[74, 77][..]),
        (&["combined"], &[74]),
        (&["eventq", "gerror", "priq"], &[74, 77, 74]),
        (&["priq", "combined"], &[74, 74]),
    ] {
        let error = line(names, spis).unwrap_err();
        assert!(matches!(error, BootError::NoSpareInterrupt { .. }));
        assert_eq!(
            (error.to_string(), error.fix().to_string()),
            (
                "/smmu@9050000 has no SPI that the hypervisor could leave to the host".into(),
                "name an SPI priq or cmdq-sync that nothing else uses, or use host-iommu=identity"
                    .into()
            )
        );
    }
}

#[test]
fn two_smmus_share_no_line() {
    let second = |spis: [u32; 4]| {
        let [a, b, c, d] = spis;
        Tree::new("smmu@a000000")
            .text("compatible", "arm,smmu-v3")
            .with("phandle", cells(&[9]))
            .with("reg", reg(&[(0xa00_0000, 0x2_0000)]))
            .with("interrupts", cells(&[0, a, 1, 0, b, 1, 0, c, 1, 0, d, 1]))
            .with(
                "interrupt-names",
                strings(&["eventq", "priq", "cmdq-sync", "gerror"]),
            )
    };
    let lines = |spis| {
        let blob = nested(|_| {}).child(second(spis)).flatten();
        Machine::from_fdt(&blob).map(|machine| machine.host_lines.iter().copied().collect())
    };
    let both: Result<Vec<_>, _> = lines([80, 81, 82, 83]);
    assert_eq!(
        both.unwrap()[1],
        HostLines::Separate {
            event: 113,
            error: 114
        }
    );
    // Its priq is the first one's; its cmdq-sync is left.
    assert_eq!(
        lines([80, 75, 82, 83]).unwrap()[1],
        HostLines::Combined(114)
    );
    // Both are the first one's.
    assert!(lines([80, 75, 76, 83]).is_err());
    // The hypervisor listens to what was the first one's priq.
    assert_eq!(
        lines([75, 81, 82, 83]).unwrap()[0],
        HostLines::Combined(108)
    );
}

#[test]
fn four_interrupt_cells_are_written_as_four() {
    let mut tree = nested(|smmu| {
        smmu.set(
            "interrupts",
            cells(&[0, 74, 1, 0, 0, 75, 1, 0, 0, 76, 4, 0, 0, 77, 1, 0]),
        );
    });
    tree.at("intc@8000000").set("#interrupt-cells", cells(&[4]));
    for uart in ["pl011@9000000", "pl011@9040000"] {
        tree.at(uart).remove("interrupts");
    }
    let blob = host_tree(&tree.flatten(), true);
    let after = Fdt::new(&blob).unwrap();
    let node = after.find(b"/smmu@9050000").unwrap();
    assert_eq!(
        node.property(b"interrupts"),
        Some(&*cells(&[0, 75, 1, 0, 0, 76, 1, 0]))
    );
}

#[test]
fn disabled_smmus_and_monitors_still_go() {
    let disabled = Tree::new("smmu@a000000")
        .text("compatible", "arm,smmu-v3")
        .with("phandle", cells(&[9]))
        .with("reg", reg(&[(0xa00_0000, 0x2_0000)]))
        .text("status", "disabled");
    let monitor = Tree::new("pmu@9052000")
        .text("compatible", "arm,smmu-v3-pmcg")
        .with("reg", reg(&[(0x905_2000, 0x1000)]));
    let device = Tree::new("dma@d000000")
        .with("iommus", cells(&[9, 1]))
        .text("status", "disabled");
    let blob = nested(|_| {})
        .child(disabled)
        .child(monitor)
        .child(device)
        .flatten();
    let lines = listing(&host_tree(&blob, true));
    for gone in ["/smmu@a000000", "/pmu@9052000", "/dma@d000000 iommus"] {
        assert!(!lines.iter().any(|line| line.starts_with(gone)), "{gone}");
    }
}

#[test]
fn every_size_that_is_too_small_is_refused() {
    let blob = nested(|_| {}).flatten();
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
