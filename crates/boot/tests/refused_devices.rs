//! More broken trees, with the line a person gets: SMMUs and streams, the command
//! line, console and modules. The others are in `refusals.rs`.

mod support;

use portcullis_boot::{Console, Machine, SMMU_LIMIT, STREAM_RANGE_LIMIT};
use support::{Tree, cells, changed, range, refusal, reg, strings};

fn reason(change: impl FnOnce(&mut Tree)) -> String {
    refusal(change).0
}

// The SMMUs and their streams.

#[test]
fn no_smmu() {
    let tree = changed(|t| {
        t.remove_child("smmu@9050000");
        t.remove_child("dma@c000000");
        t.remove_child("pcie@10000000");
    });
    let machine = Machine::from_fdt(&tree).unwrap();
    let error = machine.require_smmu().unwrap_err();
    assert_eq!(error.reason().to_string(), "the device tree has no SMMU");
}

#[test]
fn smmu_properties() {
    let smmu = "smmu@9050000";
    assert_eq!(
        reason(|t| t.at(smmu).remove("reg")),
        "/smmu@9050000 has no property reg"
    );
    assert_eq!(
        refusal(|t| t.at(smmu).set("#iommu-cells", cells(&[2]))),
        ("#iommu-cells of /smmu@9050000 holds 0x2".into(), "1".into())
    );
    assert_eq!(
        reason(|t| t.at("psci").set("phandle", cells(&[2]))),
        "/smmu@9050000 and /psci both have phandle 0x2"
    );
    let many = |t: &mut Tree| {
        for _ in 0..SMMU_LIMIT {
            let mut smmu = t.at(smmu).clone();
            smmu.remove("phandle");
            t.children.push(smmu);
        }
    };
    assert_eq!(reason(many), "the device tree has more than 16 SMMUs");
}

#[test]
fn stream_properties() {
    let map = |value: &[u32]| {
        let value = cells(value);
        reason(|t| t.at("pcie@10000000").set("iommu-map", value))
    };
    assert_eq!(
        map(&[0, 2, 0xffff_ffff, 2]),
        "iommu-map of /pcie@10000000 holds 0xffffffff"
    );
    let many: Vec<u32> = (0..=STREAM_RANGE_LIMIT as u32)
        .flat_map(|i| [2, 0x2000 + i])
        .collect();
    assert_eq!(
        reason(|t| t.at("dma@c000000").set("iommus", cells(&many))),
        "the device tree has more than 128 ranges of streams"
    );
}

#[test]
fn what_the_mask_hides_is_no_stream() {
    let blob = changed(|t| {
        let bridge = t.at("pcie@10000000");
        bridge.set(
            "iommu-map",
            cells(&[0, 2, 0x100, 0x800, 0x1000, 2, 0x5000, 8]),
        );
        bridge.set("iommu-map-mask", cells(&[0xf0]));
    });
    let machine = Machine::from_fdt(&blob).unwrap();
    let found: Vec<_> = machine.streams.iter().map(|s| (s.first, s.last)).collect();
    assert_eq!(found, [(0x100, 0x1f0), (0x2000, 0x2000)]);
}

// Command line, console and modules.

#[test]
fn command_line_and_console() {
    let line = |line: &'static str| refusal(|t| t.at("chosen").set("bootargs", strings(&[line])));
    assert_eq!(
        line("verbose=1").0,
        "the command line has the unknown key verbose"
    );
    assert_eq!(
        line("console=serial7"),
        (
            "console=serial7 names no PL011 of the device tree".into(),
            "name an alias such as serial1, the path of an arm,pl011 node, or stdout".into()
        )
    );
    assert_eq!(
        line("console=/psci").0,
        "console=/psci names no PL011 of the device tree"
    );
    assert_eq!(
        reason(|t| t.at("chosen").set("bootargs", [0x80, 0])),
        "the command line of the hypervisor is not printable ASCII"
    );
}

#[test]
fn the_reason_can_be_shown_although_the_rest_is_broken() {
    let registers = |change: fn(&mut Tree)| Console::for_errors(&changed(change));
    let (first, second) = (range(0x900_0000, 0x1000), range(0x904_0000, 0x1000));
    assert_eq!(registers(|t| t.remove_child("cpus")), Some(first));
    assert_eq!(
        registers(|t| t.at("chosen").set("bootargs", *b"console=serial1\0")),
        Some(second)
    );
    assert_eq!(
        registers(|t| t
            .at("chosen")
            .set("bootargs", *b"console=nowhere nonsense\0")),
        Some(first)
    );
    assert_eq!(registers(|t| t.remove_child("chosen")), Some(first));
    assert_eq!(Console::for_errors(&[0; 64]), None);
}

#[test]
fn modules() {
    let kernel = "chosen/module@48000000";
    let ramdisk = "chosen/module@50000000";
    assert_eq!(
        reason(|t| t.remove_child("chosen")),
        "/chosen has no kernel module"
    );
    assert_eq!(
        refusal(|t| t.at("chosen").remove_child("module@48000000")),
        (
            "/chosen has no kernel module".into(),
            "load the host's kernel as a module: compatible multiboot,module and multiboot,kernel"
                .into()
        )
    );
    let kind = |name: &str| strings(&["multiboot,module", name]);
    assert_eq!(
        refusal(|t| t.at(ramdisk).set("compatible", kind("multiboot,kernel"))),
        (
            "/chosen/module@48000000 and /chosen/module@50000000 are both kernel modules".into(),
            "pass one module of each kind".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(kernel).set("compatible", kind("xen,linux-initrd"))),
        "/chosen/module@48000000 and /chosen/module@50000000 are both ramdisk modules"
    );
    assert_eq!(
        refusal(|t| t.at(ramdisk).set("compatible", kind("xen,xsm-policy"))),
        (
            "/chosen/module@50000000 is a boot module of an unknown kind".into(),
            "use multiboot,kernel or multiboot,ramdisk".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(kernel).remove("reg")),
        "/chosen/module@48000000 has no property reg"
    );
    let two = reg(&[(0x4800_0000, 0x1000), (0x4900_0000, 0x1000)]);
    assert_eq!(
        refusal(|t| t.at(kernel).set("reg", two)),
        (
            "reg of /chosen/module@48000000 has 32 bytes".into(),
            "one address and one size".into()
        )
    );
    assert_eq!(
        reason(|t| t.at(kernel).set("reg", reg(&[(0x4800_0000, 0)]))),
        "reg of /chosen/module@48000000 holds 0x48000000"
    );
}

#[test]
fn older_names_of_modules() {
    for (first, second) in [
        ("multiboot,kernel", "multiboot,ramdisk"),
        ("xen,linux-zimage", "xen,linux-initrd"),
        ("multiboot,module", "multiboot,module"),
        ("boot,module", "boot,module"),
    ] {
        let blob = changed(|t| {
            t.at("chosen/module@48000000")
                .set("compatible", strings(&[first]));
            t.at("chosen/module@50000000")
                .set("compatible", strings(&[second]));
        });
        let modules = Machine::from_fdt(&blob).unwrap().modules;
        assert_eq!(
            modules.kernel.range,
            range(0x4800_0000, 0x10_0000),
            "{first}"
        );
        let ramdisk = modules.ramdisk.unwrap();
        assert_eq!(ramdisk.range, range(0x5000_0000, 0x10_0000), "{second}");
    }
}
