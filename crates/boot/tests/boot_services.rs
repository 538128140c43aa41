//! What firmware leaves running or offers to be called, and what the host has of it.
//!
//! Public sources: github.com/OP-TEE/optee_os, issue 5170 ("you need mediator which will
//! translate requests from VM to OP-TEE"); Xen, `docs/hypervisor-guide/arm/firmware/arm-scmi.rst`
//! (SCMI by SMC goes through for one domain); Linux, `drivers/irqchip/irq-gic-v3-its.c`
//! ("Booted with LPIs enabled, memory probably corrupted").

mod support;

use portcullis_boot::{
    Fdt, FirmwareMemory, HostTreePlan, KernelHeader, KernelPages, Loaded, Machine, Odd,
};
use support::{Tree, cells, listing, machine, range, reg, strings};

fn host_tree(tree: &Tree) -> (Vec<String>, Vec<(String, Odd)>) {
    let blob = tree.flatten();
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let odd = machine.odd.iter();
    let odd = odd.map(|(node, odd)| (fdt.path(node).to_string(), odd));
    (listing(&out[..size]), odd.collect())
}

/// The hypervisor answers all of them with `NOT_SUPPORTED`. Of the 1,712 trees of
/// Debian's `linux-base-7.3.4+deb13-arm64`, 164 have OP-TEE by SMC, 157 SCMI by SMC, 408
/// `qcom,scm` and 100 `amlogic,meson-gxbb-sm`.
#[test]
fn services_that_are_called_are_not_the_hosts() {
    let called = [
        Tree::new("optee")
            .text("compatible", "linaro,optee-tz")
            .text("method", "smc"),
        Tree::new("sdei")
            .text("compatible", "arm,sdei-1.0")
            .text("method", "hvc"),
        Tree::new("zynqmp-firmware")
            .with(
                "compatible",
                strings(&["xlnx,versal-net-firmware", "xlnx,versal-firmware"]),
            )
            .text("method", "smc")
            .child(Tree::new("clocks")),
        Tree::new("scmi")
            .text("compatible", "arm,scmi-smc")
            .with("arm,smc-id", cells(&[0xc300_0001])),
        Tree::new("scm").with("compatible", strings(&["qcom,scm-sa8775p", "qcom,scm"])),
        Tree::new("sm").text("compatible", "amlogic,meson-gxbb-sm"),
        Tree::new("watchdog").text("compatible", "arm,smc-wdt"),
    ];
    let stays = [
        Tree::new("mailbox-scmi").text("compatible", "arm,scmi"),
        Tree::new("lock").text("method", "spin"),
        Tree::new("off")
            .text("compatible", "linaro,optee-tz")
            .text("method", "smc")
            .text("status", "disabled"),
    ];
    let mut firmware = Tree::new("firmware");
    firmware.children = [&called[..], &stays[..]].concat();
    let (lines, odd) = host_tree(&machine().child(firmware));
    for node in &called {
        let path = format!("/firmware/{}", node.name);
        assert!(!lines.iter().any(|line| line.starts_with(&path)), "{path}");
        assert!(odd.contains(&(path.clone(), Odd::FirmwareCalls)), "{path}");
    }
    for path in [
        "/psci",
        "/firmware/mailbox-scmi",
        "/firmware/lock",
        "/firmware/off",
    ] {
        assert!(lines.iter().any(|line| line == path), "{path}");
    }
    assert_eq!(odd.len(), called.len());
}

fn reserved(child: Tree) -> Tree {
    Tree::new("reserved-memory")
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[2]))
        .with("ranges", [])
        .child(child)
}

/// What is firmware's of RAM.
fn firmwares(tree: &Tree) -> usize {
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    let loaded = Loaded {
        image: range(0x4020_0000, 0x8_0000),
        tree: range(0x4400_0000, 0x1800),
        kernel: KernelHeader {
            text_offset: 0,
            image_size: 0x20_0000,
            pages: KernelPages::Size4K,
            anywhere: true,
        },
    };
    let firmware = FirmwareMemory::find(&machine, &loaded).unwrap();
    firmware.ranges().count()
}

const PICTURE: (u64, u64) = (0x6000_0000, 0x80_0000);

fn splash() -> Tree {
    Tree::new("splash@60000000")
        .with("phandle", cells(&[70]))
        .with("reg", reg(&[PICTURE]))
        .with("no-map", [])
}

/// Linux' `simplefb` maps it, whatever the node says of `no-map`: 79 of the 1,712 trees
/// have one.
#[test]
fn a_picture_is_the_hosts() {
    assert_eq!(firmwares(&machine().child(reserved(splash()))), 1);
    let framebuffer = Tree::new("framebuffer").text("compatible", "simple-framebuffer");
    let by_region = framebuffer.clone().with("memory-region", cells(&[70]));
    let by_reg = framebuffer
        .clone()
        .with("reg", reg(&[(0x6010_0000, 0x1000)]));
    // Where the framebuffer is by its own `reg`, what is around it stays firmware's.
    for (framebuffer, around) in [(by_region, 0), (by_reg, 2)] {
        let tree = machine().child(reserved(splash())).child(framebuffer);
        assert_eq!(firmwares(&tree), around);
        assert!(host_tree(&tree).0.contains(&"/framebuffer".into()));
    }
    // exynos7870-on7xelte and two more.
    let used = splash().with("iommu-addresses", [cells(&[71]), reg(&[PICTURE])].concat());
    assert_eq!(firmwares(&machine().child(reserved(used))), 0);
}

/// Nothing else may be put there.
#[test]
fn a_picture_that_is_not_reserved_is_left_alone() {
    let framebuffer = Tree::new("framebuffer")
        .text("compatible", "simple-framebuffer")
        .with("reg", reg(&[(0x7f80_0000, 0x80_0000)]));
    let machine = Machine::from_fdt(&machine().child(framebuffer).flatten()).unwrap();
    let found: Vec<_> = machine.reserved.iter().map(|r| r.range).collect();
    assert_eq!(found, [range(0x7f80_0000, 0x80_0000)]);
}

/// In paravirt mode no device reaches memory before its driver asks, so that a
/// picture would not be shown.
#[test]
fn a_picture_that_is_not_shown_is_withheld() {
    let paravirt = |dma: bool| {
        let framebuffer = Tree::new("framebuffer").text("compatible", "simple-framebuffer");
        let mut tree = machine().child(framebuffer.with("memory-region", cells(&[70])));
        tree.at("chosen").set("bootargs", *b"host-iommu=paravirt\0");
        let smmu = tree.at("smmu@9050000");
        smmu.set("interrupts", cells(&[0, 74, 1, 0, 75, 1, 0, 77, 1]));
        smmu.set("interrupt-names", *b"eventq\0priq\0gerror\0");
        if !dma {
            tree.remove_child("dma@c000000");
        }
        let (lines, odd) = host_tree(&tree);
        let stays = lines.contains(&"/framebuffer".into());
        assert_eq!(
            odd.iter().any(|(_, odd)| *odd == Odd::FramebufferStopped),
            !stays
        );
        stays
    };
    assert!(!paravirt(true));
    // No display is a PCIe function.
    assert!(paravirt(false));
}

/// What the SMMU would have to translate such an address to, only a host knows that
/// drives it.
#[test]
fn a_device_with_addresses_of_its_own_is_not_the_hosts() {
    let tree = |address: u64| {
        let used = [cells(&[71]), reg(&[(address, PICTURE.1)])].concat();
        let mut tree = machine().child(reserved(splash().with("iommu-addresses", used)));
        let dma = tree.at("dma@c000000");
        dma.set("phandle", cells(&[71]));
        dma.set("reg", reg(&[(0xc00_0000, 0x1000)]));
        tree
    };
    let (lines, odd) = host_tree(&tree(PICTURE.0));
    assert!(lines.contains(&"/dma@c000000".into()) && odd.is_empty());
    let tree = tree(0x1000_0000);
    let (lines, odd) = host_tree(&tree);
    // It has a phandle, so it stays as a disabled one.
    let disabled = r"/dma@c000000 status = disabled\x00";
    assert!(lines.contains(&disabled.into()));
    assert_eq!(odd, [("/dma@c000000".to_owned(), Odd::BootDmaElsewhere)]);
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    assert!(machine.streams.iter().all(|stream| stream.pcie));
}
