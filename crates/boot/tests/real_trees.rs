//! Trees that QEMU 10.0.2 wrote; `tests/trees/README.md` says how.

mod support;

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{
    Conduit, Fdt, Gic, HostRegisters, HostTreePlan, Interrupt, LogLevel, Machine, PsciVersion,
    Trigger, Verdict,
};
use support::{listing, range};

const MODULES: &[u8] = include_bytes!("trees/gicv3-smmu-modules.dtb");
const NUMA: &[u8] = include_bytes!("trees/gicv3-smmu-numa.dtb");
const SINGLE: &[u8] = include_bytes!("trees/gicv3-smmu.dtb");
const GICV2: &[u8] = include_bytes!("trees/gicv2.dtb");

#[test]
fn the_machine_behind_the_tree() {
    let machine = Machine::from_fdt(MODULES).unwrap();
    assert_eq!(machine.log, LogLevel::Debug);
    assert!(machine.memory.iter().eq(&[range(0x4000_0000, 2 << 30)]));
    assert!(machine.reserved.is_empty() && machine.hidden.is_empty());
    assert!(machine.cpus.iter().map(|cpu| cpu.affinity).eq(0..4));
    assert_eq!(machine.psci.conduit, Conduit::Smc);
    assert_eq!(machine.psci.version, PsciVersion::V1_0);
    let Gic::V3(gic) = &machine.gic else {
        panic!("{:?}", machine.gic);
    };
    assert_eq!(gic.distributor, range(0x800_0000, 0x1_0000));
    assert!(
        gic.redistributors
            .iter()
            .eq(&[range(0x80a_0000, 0xf6_0000)])
    );
    let its = gic.its.get(0).unwrap();
    assert_eq!(its.registers, range(0x808_0000, 0x2_0000));
    assert_eq!(its.doorbell, range(0x809_0000, 0x1_0000));
    assert_eq!(its.target, range(0x809_0040, 4));
    let console = machine.console.unwrap();
    assert_eq!(console.registers, range(0x904_0000, 0x1000));
    assert!(console.dedicated);
    let kernel = machine.modules.kernel.range;
    assert_eq!(kernel, range(0x4a00_0000, 0x2a1_cfc0));
    let ramdisk = machine.modules.ramdisk.unwrap().range;
    assert_eq!(ramdisk, range(0x5000_0000, 0x1_0000));
}

#[test]
fn the_smmu_and_its_streams() {
    let machine = Machine::from_fdt(MODULES).unwrap();
    let smmu = machine.smmus.get(0).unwrap();
    assert_eq!(machine.smmus.len(), 1);
    assert_eq!(smmu.registers, range(0x905_0000, 0x2_0000));
    assert_eq!(smmu.path.as_str(), "/smmuv3@9050000");
    assert!(smmu.coherent);
    let edge = |intid| {
        Some(Interrupt {
            intid,
            trigger: Trigger::Edge,
        })
    };
    assert_eq!(smmu.interrupts.event, edge(106));
    assert_eq!(smmu.interrupts.pri, edge(107));
    assert_eq!(smmu.interrupts.sync, edge(108));
    assert_eq!(smmu.interrupts.gerror, edge(109));
    assert_eq!(smmu.interrupts.combined, None);
    let streams: Vec<_> = machine.streams.iter().collect();
    assert_eq!(streams.len(), 1);
    assert_eq!((streams[0].first, streams[0].last), (0, 0xffff));
}

#[test]
fn what_the_machine_takes_is_bounded() {
    assert!(size_of::<Machine>() <= 28 << 10);
}

#[test]
fn trees_without_modules_say_so() {
    for tree in [SINGLE, NUMA, GICV2] {
        let error = Machine::from_fdt(tree).unwrap_err();
        assert_eq!(error.to_string(), "/chosen has no kernel module");
    }
}

/// A QEMU tree with the modules that guest-loader would have added.
fn with_modules(blob: &[u8]) -> Vec<u8> {
    let mut tree = support::Tree::read(blob);
    let chosen = support::machine().at("chosen").clone();
    tree.at("chosen").children = chosen.children;
    tree.flatten()
}

#[test]
fn two_banks_and_eight_cpus() {
    let machine = Machine::from_fdt(&with_modules(NUMA)).unwrap();
    let banks: Vec<_> = machine.memory.iter().copied().collect();
    // One after the other, so that they are one.
    assert_eq!(banks, [range(0x4000_0000, 8 << 30)]);
    assert_eq!(machine.cpus.len(), 8);
    let console = machine.console.unwrap();
    assert_eq!(console.registers, range(0x900_0000, 0x1000));
    assert!(!console.dedicated);
}

#[test]
fn gicv2_with_its_frame() {
    let machine = Machine::from_fdt(&with_modules(GICV2)).unwrap();
    assert!(machine.smmus.is_empty() && machine.streams.is_empty());
    let Gic::V2(gic) = &machine.gic else {
        panic!("{:?}", machine.gic);
    };
    assert_eq!(gic.distributor, range(0x800_0000, 0x1_0000));
    assert_eq!(gic.cpu_interface, range(0x801_0000, 0x1_0000));
    assert_eq!(gic.virtualization.len(), 2);
    let frame = gic.frames.get(0).unwrap();
    assert_eq!(frame.doorbell, range(0x802_0000, 0x1000));
    assert_eq!(frame.target, range(0x802_0040, 4));
}

/// The lines on devices that the host does not get.
fn notes(blob: &[u8]) -> Vec<(Range<PhysAddr>, usize, String)> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let mut notes = Vec::new();
    machine
        .for_each_note(&fdt, |note| {
            assert!(matches!(note.verdict, Verdict::Withheld(_)));
            notes.push((note.range, note.nodes, note.path.to_string()));
        })
        .unwrap();
    notes
}

/// What the host's CPUs reach beside RAM, ascending.
fn registers(blob: &[u8]) -> Vec<Range<PhysAddr>> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let mut registers = HostRegisters::new();
    registers.find(&fdt, &machine).unwrap();
    let mut pages: Vec<_> = registers.pages().collect();
    pages.sort_by_key(Range::start);
    pages
}

/// fw_cfg and the virtio-mmio transports of QEMU's machine do DMA and have no
/// SMMU before them; what is behind the PCIe bridge has one.
#[test]
fn devices_past_the_smmu_are_found() {
    let transports = (range(0xa00_0000, 0x4000), 32, "/virtio_mmio@a000000".into());
    let fw_cfg = (range(0x902_0000, 0x18), 1, "/fw-cfg@9020000".into());
    let mut found = notes(MODULES);
    found.sort_by_key(|note| note.0.start());
    assert_eq!(found, [fw_cfg.clone(), transports.clone()]);
    // Without an SMMU the bridge is one of them.
    let bare = with_modules(GICV2);
    let ecam = (
        range(0x40_1000_0000, 0x1000_0000),
        1,
        "/pcie@10000000".into(),
    );
    let mut found = notes(&bare);
    found.sort_by_key(|note| note.0.start());
    assert_eq!(found, [fw_cfg, transports, ecam]);
}

/// Every register of QEMU's machine that a Linux uses, and no gap.
#[test]
fn the_host_reaches_what_its_tree_names() {
    let gic = range(0x800_0000, 0x1_0000);
    let its = range(0x808_0000, 0x2_0000);
    let redistributors = range(0x80a_0000, 0xf6_0000);
    // UART, clock and GPIOs; the second UART is the hypervisor's, and neither
    // fw_cfg nor the SMMU is the host's.
    let uart = range(0x900_0000, 0x1000);
    let clock = range(0x901_0000, 0x1000);
    let gpio = range(0x903_0000, 0x1000);
    let windows = range(0x1000_0000, 0x2fff_0000 - 0x1000_0000 + 0xf01_0000);
    let found = registers(MODULES);
    for given in [gic, its, redistributors, uart, clock, gpio, windows] {
        assert!(found.iter().any(|range| range.covers(&given)), "{given}");
    }
    let flash = range(0, 0x800_0000);
    let ecam = range(0x40_1000_0000, 0x1000_0000);
    let high = range(0x80_0000_0000, 0x80_0000_0000);
    let all = [
        // Flash and distributor touch.
        range(0, 0x801_0000),
        // Redistributors and UART touch.
        range(0x808_0000, 0x2_0000 + 0xf6_0000 + 0x1000),
        clock,
        gpio,
        windows,
        ecam,
        high,
    ];
    assert!(all[0].covers(&flash));
    assert_eq!(found, all);
    // Without an SMMU the bridge is withheld, with its ECAM and the three windows
    // in which its functions' registers are.
    let bare = registers(&with_modules(GICV2));
    for window in [windows, ecam, high] {
        assert!(
            !bare.iter().any(|range| range.overlaps(&window)),
            "{window}"
        );
    }
}

#[test]
fn the_hosts_tree_is_the_same_but_for_the_smmu() {
    for blob in [MODULES.to_vec(), with_modules(NUMA), with_modules(SINGLE)] {
        let fdt = Fdt::new(&blob).unwrap();
        let machine = Machine::from_tree(&fdt).unwrap();
        let protected = [range(0x7fe0_0000, 0x20_0000), range(0x4020_0000, 0x8_0000)];
        let plan = HostTreePlan::identity(&machine, &protected);
        let mut out = vec![0; plan.bytes_needed(&fdt)];
        let size = plan.write(&fdt, &mut out).unwrap();
        let after = listing(&out[..size]);
        let gone: Vec<_> = listing(&blob)
            .into_iter()
            .filter(|line| !after.contains(line))
            .collect();
        for line in &gone {
            let expected = [
                "/smmuv3@",
                "/chosen",
                "/pl011@9040000",
                "/aliases serial1",
                "/fw-cfg@9020000",
                "/virtio_mmio@a00",
            ];
            let stream = line.starts_with("/pcie@10000000 iommu-map = ");
            assert!(
                stream || expected.iter().any(|e| line.starts_with(e)),
                "{line}"
            );
        }
        assert!(!after.iter().any(|line| {
            ["iommu", "smmu", "virtio_mmio", "fw-cfg"]
                .iter()
                .any(|word| line.contains(word))
        }));
        let host = Fdt::new(&out[..size]).unwrap();
        let reserved = host.find(b"/reserved-memory").unwrap();
        assert_eq!(reserved.children().count(), 2);
    }
}
