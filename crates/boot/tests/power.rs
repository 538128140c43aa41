//! What the host could switch off under the hypervisor.

mod support;

use portcullis_boot::{Fdt, HostTreePlan, Machine};
use support::{Tree, cells, listing, machine, strings};

const FIXED: u32 = 0x20;
const GATED: u32 = 0x21;
const DOMAIN: u32 = 0x22;
const RESET: u32 = 0x23;

/// A machine with providers of each kind, after `change`.
fn tree(line: &str, change: impl FnOnce(&mut Tree)) -> Vec<u8> {
    let provider = |name: &str, model: &str, phandle: u32, count: &str, cells_each: u32| {
        Tree::new(name)
            .text("compatible", model)
            .with("phandle", cells(&[phandle]))
            .with(count, cells(&[cells_each]))
    };
    let mut tree = machine()
        .child(provider(
            "clk24mhz",
            "fixed-clock",
            FIXED,
            "#clock-cells",
            0,
        ))
        .child(provider("cru", "vendor,cru", GATED, "#clock-cells", 1))
        .child(provider(
            "pd",
            "vendor,pd",
            DOMAIN,
            "#power-domain-cells",
            1,
        ))
        .child(provider("rst", "vendor,rst", RESET, "#reset-cells", 2));
    tree.at("chosen").set("bootargs", strings(&[line]));
    change(&mut tree);
    tree.flatten()
}

fn read(line: &str, change: impl FnOnce(&mut Tree)) -> Result<Machine, (String, String)> {
    Machine::from_fdt(&tree(line, change))
        .map_err(|error| (error.reason().to_string(), error.fix().to_string()))
}

/// The host's lines on what is to be kept on.
fn kept(line: &str, change: impl FnOnce(&mut Tree)) -> Vec<String> {
    let blob = tree(line, change);
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let lines = listing(&out[..size]);
    let ours = lines.into_iter().filter_map(|line| {
        let rest = line.strip_prefix("/portcullis-power@")?;
        Some(rest.to_owned())
    });
    ours.collect()
}

#[test]
fn what_can_be_switched_is_refused() {
    for (node, property, value) in [
        ("smmu@9050000", "power-domains", vec![DOMAIN, 3]),
        ("smmu@9050000", "resets", vec![RESET, 1, 2]),
        ("smmu@9050000", "clocks", vec![FIXED, GATED, 7]),
        ("intc@8000000", "clocks", vec![GATED, 7]),
        ("intc@8000000/its@8080000", "power-domains", vec![DOMAIN, 3]),
        // Nobody has that phandle; too short for its cells.
        ("smmu@9050000", "clocks", vec![0x99]),
        ("smmu@9050000", "clocks", vec![GATED]),
    ] {
        let change = |tree: &mut Tree| tree.at(node).set(property, cells(&value));
        let path = format!("/{node}");
        assert_eq!(
            read("", change).err(),
            Some((
                format!("{property} of {path} lets the host switch off {path}"),
                "leave it out of the tree where firmware keeps it on, or trust the host with trust-power=yes".into()
            ))
        );
        assert!(read("trust-power=no", change).is_err());
        let machine = read("trust-power=yes", change).unwrap();
        assert_eq!(machine.supplies.len(), 1);
    }
    // A bus that can be switched off takes what is on it along.
    let domain = |tree: &mut Tree| tree.set("power-domains", cells(&[DOMAIN, 3]));
    assert_eq!(
        read("", domain).err().unwrap().0,
        "power-domains of / lets the host switch off /smmu@9050000"
    );
}

#[test]
fn fixed_clocks_and_devices_of_the_hosts_are_no_matter() {
    let fixed = |tree: &mut Tree| {
        let smmu = tree.at("smmu@9050000");
        smmu.set("clocks", cells(&[FIXED, FIXED]));
        tree.at("pcie@10000000").set("clocks", cells(&[GATED, 1]));
        tree.at("pl011@9000000").set("clocks", cells(&[GATED, 2]));
    };
    let machine = read("", fixed).unwrap();
    assert!(machine.supplies.is_empty());
    // The host's console stays with its clock.
    assert!(machine.console.is_some() && machine.console_unused.is_none());
    assert!(kept("trust-power=yes", fixed).is_empty());
}

#[test]
fn a_uart_never_refuses_a_boot() {
    let gated = |tree: &mut Tree| tree.at("pl011@9040000").set("clocks", cells(&[GATED, 2]));
    let machine = read("console=serial1", gated).unwrap();
    assert!(machine.console.is_none() && machine.supplies.is_empty());
    let unused = machine.console_unused.unwrap();
    assert_eq!(unused.to_string(), "/pl011@9040000");
    // Then it is a UART of the host's like any other.
    let blob = tree("console=serial1", gated);
    let fdt = Fdt::new(&blob).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true);
    assert_eq!(plan.hide_node, None);
    assert!(plan.bytes_needed(&fdt) > 0);
    let machine = read("console=serial1 trust-power=yes", gated).unwrap();
    assert!(machine.console.is_some_and(|console| console.dedicated));
    assert!(machine.console_unused.is_none());
    assert_eq!(machine.supplies.len(), 1);
}

/// Each clock, domain and reset has a node with a driver that keeps it on.
#[test]
fn the_host_is_to_keep_them_on() {
    let many = |tree: &mut Tree| {
        let smmu = tree.at("smmu@9050000");
        smmu.set("clocks", cells(&[GATED, 7, FIXED, GATED, 8]));
        smmu.set("power-domains", cells(&[DOMAIN, 3]));
        tree.at("intc@8000000").set("resets", cells(&[RESET, 1, 2]));
        tree.at("pl011@9040000").set("clocks", cells(&[GATED, 9]));
    };
    for mode in ["identity", "nested", "paravirt"] {
        let lines = format!("host-iommu={mode} trust-power=yes console=serial1");
        let more = |tree: &mut Tree| {
            many(tree);
            // Interrupts for what the host sees.
            let smmu = tree.at("smmu@9050000");
            smmu.set(
                "interrupts",
                cells(&[0, 74, 1, 0, 75, 1, 0, 76, 1, 0, 77, 1]),
            );
            let names = ["eventq", "priq", "cmdq-sync", "gerror"];
            smmu.set("interrupt-names", strings(&names));
        };
        let found = kept(&lines, more);
        let entries: Vec<_> = found
            .iter()
            .filter(|line| {
                ["clocks", "power-domains", "resets"]
                    .iter()
                    .any(|p| line.contains(p))
            })
            .map(String::as_str)
            .collect();
        assert_eq!(
            entries,
            [
                r#"0 power-domains = \x00\x00\x00\"\x00\x00\x00\x03"#,
                r"1 clocks = \x00\x00\x00!\x00\x00\x00\x07",
                r"2 clocks = \x00\x00\x00!\x00\x00\x00\x08",
                r"3 resets = \x00\x00\x00#\x00\x00\x00\x01\x00\x00\x00\x02",
                r"4 clocks = \x00\x00\x00!\x00\x00\x00\t",
            ],
            "{mode}"
        );
        let fourth: Vec<_> = found.iter().filter(|line| line.starts_with('4')).collect();
        assert_eq!(
            fourth,
            [
                "4",
                r"4 compatible = regulator-fixed-clock\x00",
                r"4 regulator-name = portcullis\x00",
                "4 regulator-always-on = ",
                r"4 clocks = \x00\x00\x00!\x00\x00\x00\t",
            ]
        );
    }
}

#[test]
fn there_is_room_for_as_many_as_are_read() {
    let many = |tree: &mut Tree| {
        let value: Vec<u32> = (0..1000).flat_map(|n| [GATED, n]).collect();
        tree.at("smmu@9050000").set("clocks", cells(&value));
    };
    let found = kept("trust-power=yes", many);
    let clocks = found.iter().filter(|line| line.contains(" clocks = "));
    assert_eq!(clocks.count(), 32);
}
