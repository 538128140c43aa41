//! What is different in the host's tree, and that nothing else is.

mod support;

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{BootError, Fdt, HostTreePlan, Machine, NewNode, PATH_LIMIT};
use support::{Tree, cells, listing, machine, range, reg, strings};

fn host_tree(blob: &[u8], protected: &[Range<PhysAddr>]) -> Vec<u8> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::identity(&machine, protected);
    let mut out = vec![0xa5; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    out.truncate(size);
    out
}

/// The lines that only the first and only the second tree has.
fn difference(before: &[u8], after: &[u8]) -> (Vec<String>, Vec<String>) {
    let (before, after) = (listing(before), listing(after));
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|line| !b.contains(line)).cloned().collect()
    };
    (only(&before, &after), only(&after, &before))
}

#[test]
fn every_difference() {
    let before = machine().flatten();
    let after = host_tree(&before, &[range(0x7fe0_0000, 0x20_0000)]);
    let (gone, new) = difference(&before, &after);
    let gone: Vec<_> = gone
        .iter()
        .map(|line| line.split(" = ").next().unwrap())
        .collect();
    assert_eq!(
        gone,
        [
            "/smmu@9050000",
            "/smmu@9050000 compatible",
            "/smmu@9050000 phandle",
            "/smmu@9050000 #iommu-cells",
            "/smmu@9050000 reg",
            "/smmu@9050000 interrupts",
            "/smmu@9050000 interrupt-names",
            "/pcie@10000000 iommu-map",
            "/dma@c000000 iommus",
            "/aliases iommu0",
            "/chosen bootargs",
            "/chosen/module@48000000",
            "/chosen/module@48000000 compatible",
            "/chosen/module@48000000 reg",
            "/chosen/module@48000000 bootargs",
            "/chosen/module@50000000",
            "/chosen/module@50000000 compatible",
            "/chosen/module@50000000 reg",
        ]
    );
    assert_eq!(
        new,
        [
            r"/chosen bootargs = console=ttyAMA0\x00",
            r"/chosen linux,initrd-start = \x00\x00\x00\x00P\x00\x00\x00",
            r"/chosen linux,initrd-end = \x00\x00\x00\x00P\x10\x00\x00",
            r"/reserved-memory",
            r"/reserved-memory #address-cells = \x00\x00\x00\x02",
            r"/reserved-memory #size-cells = \x00\x00\x00\x02",
            r"/reserved-memory ranges = ",
            r"/reserved-memory/portcullis@7fe00000",
            r"/reserved-memory/portcullis@7fe00000 reg = \x00\x00\x00\x00\x7f\xe0\x00\x00\x00\x00\x00\x00\x00 \x00\x00",
            r"/reserved-memory/portcullis@7fe00000 no-map = ",
        ]
    );
}

#[test]
fn a_dedicated_console_goes_with_its_aliases() {
    let with = |line: &str| {
        let mut tree = machine();
        tree.at("chosen").set("bootargs", strings(&[line]));
        let lines = listing(&host_tree(&tree.flatten(), &[]));
        let has = |path: &str| lines.iter().any(|line| line.starts_with(path));
        (
            has("/pl011@9040000"),
            has("/aliases serial1"),
            has("/aliases serial0"),
        )
    };
    assert_eq!(with("console=serial1"), (false, false, true));
    assert_eq!(with("console=/pl011@9040000"), (false, false, true));
    assert_eq!(with("console=serial0"), (true, true, true));
    assert_eq!(with("console=stdout"), (true, true, true));
    assert_eq!(with(""), (true, true, true));
}

#[test]
fn symbols_of_what_goes_go_and_modules_elsewhere_stay() {
    let symbols = Tree::new("__symbols__")
        .text("smmu", "/smmu@9050000")
        .text("inside", "/smmu@9050000/port")
        .text("short", "/smmu")
        .text("other", "/intc@8000000/smmu@9050000")
        .text("kernel", "/chosen/module@48000000")
        .text("gic", "/intc@8000000")
        .with("odd", *b"/smmu@9050000");
    let elsewhere = Tree::new("firmware").text("compatible", "multiboot,module");
    let blob = machine().child(symbols).child(elsewhere).flatten();
    let lines = listing(&host_tree(&blob, &[]));
    let symbols: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("/__symbols__ "))
        .collect();
    assert_eq!(
        symbols,
        [
            r"other = /intc@8000000/smmu@9050000\x00",
            r"gic = /intc@8000000\x00",
            "odd = /smmu@9050000"
        ]
    );
    let mut tree = machine();
    for index in 0..=PATH_LIMIT {
        tree.at("aliases")
            .set(&format!("a{index}"), *b"/smmu@9050000\0");
    }
    let blob = tree.flatten();
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let error = HostTreePlan::identity(&machine, &[]).write(&fdt, &mut vec![0; blob.len()]);
    assert!(matches!(
        error,
        Err(BootError::TooMany {
            limit: PATH_LIMIT,
            ..
        })
    ));
    assert!(lines.iter().any(|line| line == "/firmware"));
}

#[test]
fn without_command_line_and_ramdisk_there_are_none() {
    let mut tree = machine();
    let chosen = tree.at("chosen");
    chosen.remove_child("module@50000000");
    chosen.at("module@48000000").remove("bootargs");
    chosen.set("linux,initrd-start", cells(&[1]));
    chosen.set("linux,initrd-end", cells(&[2]));
    chosen.set("kaslr-seed", cells(&[3, 4]));
    let lines = listing(&host_tree(&tree.flatten(), &[]));
    let chosen: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("/chosen "))
        .collect();
    assert_eq!(
        chosen,
        [
            r"/chosen stdout-path = serial0:115200n8\x00",
            r"/chosen kaslr-seed = \x00\x00\x00\x03\x00\x00\x00\x04"
        ]
    );
    assert!(!lines.iter().any(|line| line == "/reserved-memory"));
}

#[test]
fn monitors_disabled_smmus_and_what_refers_to_them_go() {
    let disabled = Tree::new("smmu@a000000")
        .text("compatible", "arm,smmu-v3")
        .with("phandle", cells(&[9]))
        .with("reg", reg(&[(0xa00_0000, 0x2_0000)]))
        .text("status", "disabled");
    let monitor = Tree::new("pmu@9052000")
        .text("compatible", "arm,smmu-v3-pmcg")
        .with("reg", reg(&[(0x905_2000, 0x1000), (0x906_2000, 0x1000)]));
    let device = Tree::new("dma@d000000")
        .with("iommus", cells(&[9, 1]))
        .text("status", "disabled");
    let blob = machine()
        .child(disabled)
        .child(monitor)
        .child(device)
        .flatten();
    let hidden = Machine::from_fdt(&blob).unwrap().hidden;
    let hidden: Vec<_> = hidden.iter().copied().collect();
    assert_eq!(
        hidden,
        [
            range(0xa00_0000, 0x2_0000),
            range(0x905_2000, 0x1000),
            range(0x906_2000, 0x1000)
        ]
    );
    let lines = listing(&host_tree(&blob, &[]));
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("smmu") || line.contains("iommu"))
    );
    assert!(lines.iter().any(|line| line == "/dma@d000000"));
}

#[test]
fn other_iommus_stay() {
    let other = Tree::new("iommu@b000000")
        .text("compatible", "arm,mmu-500")
        .with("phandle", cells(&[8]))
        .with("#iommu-cells", cells(&[2]));
    let device = Tree::new("gpu@e000000").with("iommus", cells(&[8, 1, 2, 8, 3, 4]));
    let bridge = Tree::new("pcie@20000000")
        .with("iommu-map-mask", cells(&[0xff]))
        .with("iommu-map", cells(&[0, 8, 0, 256]));
    let blob = machine().child(other).child(device).child(bridge).flatten();
    let lines = listing(&host_tree(&blob, &[]));
    for kept in [
        "/iommu@b000000 phandle",
        "/gpu@e000000 iommus",
        "/pcie@20000000 iommu-map-mask",
        "/pcie@20000000 iommu-map",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(kept)), "{kept}");
    }
}

#[test]
fn reserved_memory_that_exists_is_added_to() {
    let firmware = Tree::new("fw@60000000").with("reg", reg(&[(0x6000_0000, 0x1000)]));
    let parent = Tree::new("reserved-memory")
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[2]))
        .with("ranges", [])
        .child(firmware);
    let blob = machine().child(parent).flatten();
    let protected = [range(0x1_7000_0000, 0x1000)];
    let (_, new) = difference(&blob, &host_tree(&blob, &protected));
    let added: Vec<_> = new
        .iter()
        .filter(|line| line.contains("reserved"))
        .collect();
    assert_eq!(
        added,
        [
            r"/reserved-memory/portcullis@170000000",
            r"/reserved-memory/portcullis@170000000 reg = \x00\x00\x00\x01p\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00",
            r"/reserved-memory/portcullis@170000000 no-map = ",
        ]
    );
}

#[test]
fn an_empty_reserved_memory_is_completed() {
    let blob = machine().child(Tree::new("reserved-memory")).flatten();
    let after = host_tree(&blob, &[range(0x1_0000_0000, 0x1000)]);
    let fdt = Fdt::new(&after).unwrap();
    let parent = fdt.find(b"/reserved-memory").unwrap();
    assert_eq!(parent.property(b"ranges"), Some(&[][..]));
    let ranges: Vec<_> = parent
        .children()
        .map(|node| node.property(b"reg").unwrap().to_vec())
        .collect();
    assert_eq!(ranges, [reg(&[(0x1_0000_0000, 0x1000)])]);
}

#[test]
fn reservations_and_boot_cpu_are_kept() {
    let mut blob = machine().flatten_with(&[(0x4000_0000, 0x1000), (0x5000_0000, 0)]);
    blob[31] = 7;
    let after = host_tree(&blob, &[]);
    let reservations: Vec<_> = Fdt::new(&after).unwrap().reservations().collect();
    assert_eq!(reservations, [(0x4000_0000, 0x1000), (0x5000_0000, 0)]);
    assert_eq!(after[31], 7);
}

#[test]
fn nodes_can_be_added() {
    let blob = machine().flatten();
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let reg = reg(&[(0xa00_0000, 0x200)]);
    let properties = [
        ("compatible", &b"virtio,mmio\0"[..]),
        ("reg", &reg),
        ("#iommu-cells", &[0, 0, 0, 1]),
    ];
    let node = NewNode {
        name: "virtio@a000000",
        properties: &properties,
    };
    let mut plan = HostTreePlan::identity(&machine, &[]);
    plan.add = core::slice::from_ref(&node);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let after = Fdt::new(&out[..size]).unwrap();
    let added = after.find(b"/virtio@a000000").unwrap();
    assert!(added.is_compatible(b"virtio,mmio"));
    assert_eq!(added.u32("#iommu-cells"), Ok(Some(1)));

    let unknown = NewNode {
        name: "x",
        properties: &[("surprise", &[])],
    };
    plan.add = core::slice::from_ref(&unknown);
    assert!(matches!(
        plan.write(&fdt, &mut out),
        Err(BootError::UnknownName { .. })
    ));
}

#[test]
fn every_size_that_is_too_small_is_refused() {
    let blob = machine().flatten();
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let protected = [range(0x7fe0_0000, 0x20_0000)];
    let plan = HostTreePlan::identity(&machine, &protected);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    for have in 0..size {
        let error = plan.write(&fdt, &mut out[..have]).unwrap_err();
        assert_eq!(error, BootError::OutputTooSmall { have: have as u64 });
    }
    assert_eq!(plan.write(&fdt, &mut out[..size]), Ok(size));
}
