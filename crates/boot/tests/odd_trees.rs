//! Trees that are odd and that Linux boots: what is odd is noted, and the boot goes
//! on.
//!
//! Public sources: a StreamID twice (Linux commit b00d24997a11, "stream 67328 already in
//! tree"); `iommu-map` that matches no requester (Linux, `drivers/of/base.c`, `of_map_id`;
//! github.com/qualcomm-linux/kernel-topics, pull request 1863); memory named twice (Linux
//! commit 7fa8ab65ee15, "Boards based on imx6sl have duplicate memory nodes"; Xen,
//! "xen/arm: fix duplicate memory node in DT"); a window before the ITS (Linux,
//! `arch/arm64/boot/dts/ti/k3-am64-main.dtsi`; <20231024084831.GA3788@JADEVM-DRA>).

mod support;

use portcullis_boot::{Fdt, HostTreePlan, Machine, Odd};
use support::{Tree, cells, changed, listing, machine};

fn read(blob: &[u8]) -> (Machine, Vec<(String, Odd)>) {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let odd = machine.odd.iter();
    let odd = odd.map(|(node, odd)| (fdt.path(node).to_string(), odd));
    let odd = odd.collect();
    (machine, odd)
}

fn streams(machine: &Machine) -> Vec<(u32, u32, bool)> {
    let streams = machine.streams.iter();
    streams.map(|s| (s.first, s.last, s.pcie)).collect()
}

/// Both devices stay the host's: whatever one of them may reach, the other does.
/// Linux says "Aliasing StreamID" and goes on (`arm-smmu-v3.c`,
/// `arm_smmu_insert_master`).
#[test]
fn a_stream_of_two_devices() {
    let (dma, pcie) = ("/dma@c000000".to_owned(), "/pcie@10000000".to_owned());
    let blob = changed(|t| t.at("dma@c000000").set("iommus", cells(&[2, 0xfff])));
    let (machine, odd) = read(&blob);
    assert_eq!(streams(&machine), [(0, 0xfff, true)]);
    assert_eq!(odd, [(dma.clone(), Odd::StreamShared)]);
    assert_eq!(machine.stream_nodes.len(), 2);
    assert!(machine.withheld.is_empty());
    // In whatever order: no stream of a PCIe device may stall.
    let blob = changed(|t| {
        t.children.retain(|node| node.name != "dma@c000000");
        t.children.insert(
            0,
            Tree::new("dma@c000000").with("iommus", cells(&[2, 0x80])),
        );
    });
    let (machine, odd) = read(&blob);
    assert_eq!(
        streams(&machine),
        [(0x80, 0x80, true), (0, 0x7f, true), (0x81, 0xfff, true)]
    );
    assert_eq!(odd, [(pcie, Odd::StreamShared)]);
    assert_eq!(machine.stream_nodes.len(), 2);
}

#[test]
fn a_stream_twice_for_one_device() {
    let twice = cells(&[2, 0x2000, 2, 0x2000, 2, u32::MAX, 2, u32::MAX]);
    let blob = changed(|t| t.at("dma@c000000").set("iommus", twice));
    let (machine, odd) = read(&blob);
    let all = [
        (0, 0xfff, true),
        (0x2000, 0x2000, false),
        (u32::MAX, u32::MAX, false),
    ];
    assert_eq!(streams(&machine), all);
    assert_eq!(odd, [("/dma@c000000".to_owned(), Odd::StreamTwice)]);
    let overlap = cells(&[0, 2, 0, 0x800, 0x800, 2, 0x7ff, 0x800]);
    let blob = changed(|t| t.at("pcie@10000000").set("iommu-map", overlap));
    let (machine, _) = read(&blob);
    let all = [
        (0, 0x7ff, true),
        (0x800, 0xffe, true),
        (0x2000, 0x2000, false),
    ];
    assert_eq!(streams(&machine), all);
}

/// In paravirt mode both devices have the one endpoint.
#[test]
fn a_shared_stream_is_one_endpoint() {
    let blob = changed(|t| {
        t.at("dma@c000000").set("iommus", cells(&[2, 0xfff]));
        t.at("chosen").set("bootargs", *b"host-iommu=paravirt\0");
        let smmu = t.at("smmu@9050000");
        smmu.set("interrupts", cells(&[0, 74, 1, 0, 75, 1, 0, 77, 1]));
        smmu.set("interrupt-names", *b"eventq\0priq\0gerror\0");
    });
    let (machine, _) = read(&blob);
    assert_eq!(machine.stream_of(0xfff), Some((0, 0xfff)));
    let fdt = Fdt::new(&blob).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let line = r"/dma@c000000 iommus = \x00\x00\x00\x02\x00\x00\x0f\xff";
    assert!(listing(&out[..size]).iter().any(|found| found == line));
}

/// Linux looks a requester ID up among the entries, and no entry of 0 has one
/// (`drivers/of/base.c`, `of_map_id`).
#[test]
fn a_map_for_nobody() {
    let map = |value: &[u32]| {
        let value = cells(value);
        let blob = changed(|t| t.at("pcie@10000000").set("iommu-map", value));
        let (machine, odd) = read(&blob);
        assert_eq!(odd, [("/pcie@10000000".to_owned(), Odd::MapEntry)]);
        streams(&machine)
    };
    let dma = (0x2000, 0x2000, false);
    assert_eq!(
        map(&[0, 2, 0, 0, 0, 2, 0x100, 8]),
        [(0x100, 0x107, true), dma]
    );
    assert_eq!(
        map(&[1, 2, 0x1_0000, 0x1_0000]),
        [(0x1_0000, 0x1_fffe, true), dma]
    );
    assert_eq!(
        map(&[0x1_0000, 2, 0, 1, 0, 2, 0x100, 8]),
        [(0x100, 0x107, true), dma]
    );
    // Of one for nobody alone, nothing is confined.
    let blob = changed(|t| t.at("pcie@10000000").set("iommu-map", cells(&[0, 2, 0, 0])));
    let (machine, _) = read(&blob);
    assert_eq!(streams(&machine), [dma]);
    assert_eq!(machine.stream_nodes.len(), 1);
    let msis = cells(&[0, 3, 0, 0, 8, 3, 0x10, 0x1_0000]);
    let blob = changed(|t| t.at("pcie@10000000").set("msi-map", msis));
    let (machine, odd) = read(&blob);
    assert_eq!(odd, [("/pcie@10000000".to_owned(), Odd::MapEntry)]);
    let msis: Vec<_> = machine.msis.iter().map(|m| (m.first, m.last)).collect();
    assert_eq!(msis, [(0x10, 0x1_0007)]);
}

/// `reg` has addresses alone where the parent has `#size-cells` of 0, and these may be
/// several (x1e80100: `pon@1300` and `rtc@6100` of a PMIC on SPMI). Such a bus has no way
/// to the CPUs' addresses, so that nothing is read from them, and the nodes stay.
#[test]
fn registers_without_a_size() {
    let part = Tree::new("rtc@6100").with("reg", cells(&[0x6100, 0x6200]));
    let pmic = Tree::new("pmic@0")
        .with("reg", cells(&[0, 0]))
        .with("#address-cells", cells(&[1]))
        .with("#size-cells", cells(&[0]))
        .child(part);
    let spmi = Tree::new("spmi")
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[0]))
        .child(pmic);
    let blob = machine().child(spmi).flatten();
    let (machine, odd) = read(&blob);
    assert_eq!((odd.len(), machine.withheld.len()), (0, 0));
    let fdt = Fdt::new(&blob).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let host = listing(&out[..size]);
    let shown = |line: &String| line.contains("/spmi/pmic@0/rtc@6100 reg");
    assert!(host.iter().any(shown), "{host:#?}");
}

#[test]
fn there_is_a_limit_to_what_is_told() {
    let mut tree = machine();
    for index in 0..40 {
        let node = Tree::new(&format!("dma@{index:x}")).with("iommus", cells(&[2, 1]));
        tree.children.push(node);
    }
    let (machine, odd) = read(&tree.flatten());
    assert_eq!((odd.len(), machine.odd.more()), (32, 8));
    assert_eq!(machine.stream_nodes.len(), 42);
}
