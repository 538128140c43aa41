//! A device that is withheld and that others point to stays in the host's tree,
//! disabled: a phandle to it leads somewhere, and no driver is bound to it.

mod support;

use portcullis_addr::PhysAddr;
use portcullis_boot::{Fdt, HostRegisters, HostTreePlan, Machine};
use support::{Tree, cells, listing, machine, reg, strings};

const AT: u64 = 0xd00_0000;

/// A clock controller that is not known to do no DMA.
fn controller() -> Tree {
    Tree::new("clock@d000000")
        .text("compatible", "vendor,clock")
        .with("reg", reg(&[(AT, 0x1000)]))
        .with("#clock-cells", cells(&[1]))
}

/// The machine with `node`, in one of the modes.
fn tree(mode: &str, node: Tree) -> Vec<u8> {
    let mut tree = machine();
    let smmu = tree.at("smmu@9050000");
    smmu.set("interrupts", cells(&[0, 74, 1, 0, 75, 1, 0, 77, 1]));
    smmu.set("interrupt-names", strings(&["eventq", "priq", "gerror"]));
    let line = format!("host-iommu={mode}");
    tree.at("chosen").set("bootargs", strings(&[&line]));
    tree.at("aliases").set("clock0", *b"/clock@d000000\0");
    tree.child(node).flatten()
}

/// The host's tree, in exactly as many bytes as are asked for.
fn host(blob: &[u8]) -> Vec<u8> {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    out.truncate(size);
    out
}

fn reaches(blob: &[u8], at: u64) -> bool {
    let fdt = Fdt::new(blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let mut registers = HostRegisters::new();
    registers.find(&fdt, &machine).unwrap();
    let mut pages = registers.pages();
    pages.any(|range| range.contains(PhysAddr::new(at)))
}

#[test]
fn it_stays_disabled_with_all_else_that_it_says() {
    for mode in ["identity", "nested", "paravirt"] {
        for status in [None, Some("okay"), Some("disabled")] {
            let mut node = controller().with("phandle", cells(&[0x77]));
            if let Some(status) = status {
                node = node.text("status", status);
            }
            let blob = tree(mode, node);
            let host = host(&blob);
            let lines = listing(&host);
            let own = |line: &&String| line.starts_with("/clock@d000000");
            let own: Vec<&str> = lines.iter().filter(own).map(String::as_str).collect();
            let expected = [
                "/clock@d000000",
                r"/clock@d000000 status = disabled\x00",
                r"/clock@d000000 compatible = vendor,clock\x00",
                r"/clock@d000000 reg = \x00\x00\x00\x00\r\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00",
                r"/clock@d000000 #clock-cells = \x00\x00\x00\x01",
                r"/clock@d000000 phandle = \x00\x00\x00w",
            ];
            assert_eq!(own, expected, "{mode} {status:?}");
            assert!(lines.iter().any(|line| line.starts_with("/aliases clock0")));
            let fdt = Fdt::new(&host).unwrap();
            assert!(!fdt.by_phandle(0x77).unwrap().is_enabled());
            assert!(!reaches(&blob, AT));
        }
    }
}

#[test]
fn one_that_nobody_can_point_to_goes() {
    let blob = tree("identity", controller());
    let lines = listing(&host(&blob));
    assert!(!lines.iter().any(|line| line.contains("clock")));
}

/// What is in it goes with it or stays with it.
#[test]
fn a_node_inside_may_be_what_others_point_to() {
    let inner = |phandle: bool| {
        let node = Tree::new("output@1").with("reg", cells(&[1]));
        match phandle {
            true => node.with("phandle", cells(&[0x78])),
            false => node,
        }
    };
    let with = |phandle| {
        let blob = tree("identity", controller().child(inner(phandle)));
        let lines = listing(&host(&blob));
        let has = |path: &str| lines.iter().any(|line| line == path);
        (has("/clock@d000000"), has("/clock@d000000/output@1"))
    };
    assert_eq!(with(true), (true, true));
    assert_eq!(with(false), (false, false));
}

/// An SMMU in it goes all the same, and so does what names its streams.
#[test]
fn what_is_the_hypervisors_goes_in_it_too() {
    let monitor = Tree::new("pmu@d010000")
        .text("compatible", "arm,smmu-v3-pmcg")
        .with("phandle", cells(&[0x79]))
        .with("reg", reg(&[(AT + 0x1_0000, 0x1000)]));
    let bus = controller()
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[2]))
        .with("ranges", [])
        .with("phandle", cells(&[0x77]))
        .child(monitor);
    let lines = listing(&host(&tree("identity", bus)));
    assert!(lines.iter().any(|line| line == "/clock@d000000"));
    assert!(!lines.iter().any(|line| line.contains("pmu")));
}
