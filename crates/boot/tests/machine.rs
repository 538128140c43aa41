//! Forms of a tree that QEMU does not write but other firmware does.

mod support;

use portcullis_boot::{Conduit, Gic, Interrupt, Machine, PsciVersion, Trigger};
use support::{Tree, cells, changed, machine, range, reg, strings};

fn read(change: impl FnOnce(&mut Tree)) -> Machine {
    Machine::from_fdt(&changed(change)).unwrap()
}

const SMMU: &str = "smmu@9050000";

/// The machine with its SMMU inside two buses.
fn nested_smmu(outer: &[u8], inner: &[u8]) -> Tree {
    let mut tree = machine();
    let smmu = tree.at(SMMU).clone();
    tree.remove_child(SMMU);
    tree.at("aliases").remove("iommu0");
    let smmu = smmu.with("reg", cells(&[0x5_0000, 0x2_0000]));
    let bus = |name: &str, ranges: &[u8]| {
        Tree::new(name)
            .text("compatible", "simple-bus")
            .with("#address-cells", cells(&[1]))
            .with("#size-cells", cells(&[1]))
            .with("ranges", ranges)
    };
    tree.child(bus("soc", outer).child(bus("iommus", inner).child(smmu)))
}

#[test]
fn registers_behind_buses_are_translated() {
    // soc: 0x0 to 0x4_0000_0000; inside it, 0x5_0000 to 0x10_0000.
    let outer = cells(&[0, 4, 0, 0x4000_0000]);
    let inner = cells(&[0, 0x900_0000, 0x1_0000, 0x5_0000, 0x10_0000, 0x10_0000]);
    let tree = nested_smmu(&outer, &inner);
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    let smmu = machine.smmus.get(0).unwrap();
    assert_eq!(smmu.registers, range(0x4_0010_0000, 0x2_0000));
    assert_eq!(smmu.path.as_str(), "/soc/iommus/smmu@9050000");

    let identity = nested_smmu(&outer, &[]);
    let machine = Machine::from_fdt(&identity.flatten()).unwrap();
    let registers = machine.smmus.get(0).unwrap().registers;
    assert_eq!(registers, range(0x4_0005_0000, 0x2_0000));
}

#[test]
fn registers_that_no_bus_passes_on_are_refused() {
    let text = |outer: &[u8], inner: &[u8]| {
        let tree = nested_smmu(outer, inner).flatten();
        Machine::from_fdt(&tree).unwrap_err().to_string()
    };
    let lost = |address: &str| {
        format!(
            "the address {address} of /soc/iommus/smmu@9050000 is not in the ranges of the bus around it"
        )
    };
    // A window that holds only half of the registers.
    let half = cells(&[0x5_0000, 0, 0x1_0000]);
    assert_eq!(text(&[], &half), lost("0x50000"));
    // Past the end of the address space.
    let wrap = cells(&[0, 0xffff_ffff, 0xffff_ffff, 0x4000_0000]);
    assert_eq!(text(&wrap, &[]), lost("0x50000"));
    assert_eq!(text(&[0; 15], &[]), "ranges of /soc has 15 bytes");
}

#[test]
fn interrupts_extended_and_other_kinds() {
    let machine = read(|t| {
        let smmu = t.at(SMMU);
        let lines = [1, 0, 10, 4, 1, 2, 5, 1, 1, 3, 6, 4];
        smmu.set("interrupts-extended", cells(&lines));
        smmu.set(
            "interrupt-names",
            strings(&["combined", "priq", "cmdq-sync"]),
        );
    });
    let interrupts = machine.smmus.get(0).unwrap().interrupts;
    let line = |intid, trigger| Some(Interrupt { intid, trigger });
    assert_eq!(interrupts.combined, line(42, Trigger::Level));
    assert_eq!(interrupts.pri, line(4101, Trigger::Edge));
    assert_eq!(interrupts.sync, line(1062, Trigger::Level));
    assert_eq!((interrupts.event, interrupts.gerror), (None, None));
}

#[test]
fn coherence_is_inherited_and_can_be_taken_back() {
    let coherent = |change: fn(&mut Tree)| read(change).smmus.get(0).unwrap().coherent;
    assert!(!coherent(|_| ()));
    assert!(coherent(|t| t.at(SMMU).set("dma-coherent", [])));
    assert!(coherent(|t| t.set("dma-coherent", [])));
    assert!(!coherent(|t| {
        t.set("dma-coherent", []);
        t.at(SMMU).set("dma-noncoherent", []);
    }));
}

#[test]
fn several_smmus_may_use_the_same_stream_ids() {
    let machine = read(|t| {
        let mut second = t.at(SMMU).clone();
        second.name = "smmu@a000000".into();
        second.set("phandle", cells(&[7]));
        second.set("reg", reg(&[(0xa00_0000, 0x2_0000)]));
        t.children.push(second);
        let streams = [2, 0x2000, 7, 0x2000, 7, 0];
        t.at("dma@c000000").set("iommus", cells(&streams));
    });
    let found: Vec<_> = machine
        .streams
        .iter()
        .map(|range| (range.smmu, range.first, range.last))
        .collect();
    assert_eq!(
        found,
        [
            (0, 0, 0xfff),
            (0, 0x2000, 0x2000),
            (1, 0x2000, 0x2000),
            (1, 0, 0)
        ]
    );
}

#[test]
fn affinities_of_two_cells() {
    let machine = read(|t| {
        t.at("cpus").set("#address-cells", cells(&[2]));
        t.at("cpus/cpu@0").set("reg", cells(&[0x12, 0x0003_0201]));
    });
    assert_eq!(machine.cpus.get(0).unwrap().affinity, 0x12_0003_0201);
}

#[test]
fn older_firmware_by_hvc() {
    let machine = read(|t| {
        t.at("psci").set("compatible", *b"arm,psci-0.2\0");
        t.at("psci").set("method", *b"hvc\0");
    });
    assert_eq!(machine.psci.conduit, Conduit::Hvc);
    assert_eq!(machine.psci.version, PsciVersion::V0_2);
}

#[test]
fn a_gic_with_everything() {
    let machine = read(|t| {
        let gic = t.at("intc@8000000");
        gic.set("#redistributor-regions", cells(&[2]));
        gic.set("redistributor-stride", cells(&[0, 0x2_0000]));
        let registers = [
            0x800_0000, 0x810_0000, 0x820_0000, 0x830_0000, 0x831_0000, 0x832_0000,
        ];
        let registers: Vec<_> = registers.iter().map(|at| (*at, 0x1_0000)).collect();
        gic.set("reg", reg(&registers));
    });
    let Gic::V3(gic) = &machine.gic else {
        panic!("{:?}", machine.gic);
    };
    assert_eq!(gic.stride, Some(0x2_0000));
    let regions = [range(0x810_0000, 0x1_0000), range(0x820_0000, 0x1_0000)];
    assert!(gic.redistributors.iter().eq(&regions));
    assert_eq!(gic.compatibility.len(), 3);
    assert_eq!(machine.gic.doorbells().count(), 1);
}

#[test]
fn a_machine_without_a_usable_console() {
    let machine = read(|t| {
        t.at("chosen").remove("stdout-path");
        t.at("chosen").remove("bootargs");
    });
    assert_eq!(machine.console, None);
    // Nobody else uses it as standard output: it is the hypervisor's.
    let machine = read(|t| {
        t.at("chosen").remove("stdout-path");
        t.at("chosen").set("bootargs", *b"console=serial0\0");
    });
    assert!(machine.console.unwrap().dedicated);
}
