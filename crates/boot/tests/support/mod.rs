//! Builds device trees to be wrong on purpose.
#![allow(dead_code, reason = "each test file uses its own part")]

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{Fdt, Hardware, Machine};

/// `start..start + size`.
pub fn range(start: u64, size: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), size).unwrap()
}

/// What a machine says of itself.
pub struct Board {
    /// Where RAM ends that all reach.
    pub end: u64,
    /// One more than the INTID of its last SPI.
    pub spis: u32,
    /// One more than the INTID of its last extended SPI.
    pub extended: u32,
}

impl Hardware for Board {
    fn memory_end(&self) -> PhysAddr {
        PhysAddr::new(self.end)
    }

    fn spi_ends(&self, registers: Range<PhysAddr>) -> [u32; 2] {
        assert_eq!(registers.start(), PhysAddr::new(0x800_0000));
        [self.spis, self.extended]
    }
}

/// Big-endian cells.
pub fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_be_bytes()).collect()
}

/// A `reg` of two address and two size cells each.
pub fn reg(entries: &[(u64, u64)]) -> Vec<u8> {
    let numbers = entries.iter().flat_map(|(a, s)| [*a, *s]);
    numbers.flat_map(u64::to_be_bytes).collect()
}

/// A string list.
pub fn strings(values: &[&str]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|v| [v.as_bytes(), b"\0"].concat())
        .collect()
}

/// A node to be flattened.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Tree>,
}

impl Tree {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// With a property; one that is there already is replaced.
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.set(name, value);
        self
    }

    pub fn text(self, name: &str, value: &str) -> Self {
        self.with(name, strings(&[value]))
    }

    pub fn child(mut self, child: Tree) -> Self {
        self.children.push(child);
        self
    }

    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.remove(name);
        self.properties.push((name.into(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.properties.retain(|(found, _)| found != name);
    }

    /// The node at `path`, which must exist.
    pub fn at(&mut self, path: &str) -> &mut Tree {
        let mut node = self;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            node = node
                .children
                .iter_mut()
                .find(|child| child.name == part)
                .unwrap_or_else(|| panic!("no {part} of {path}"));
        }
        node
    }

    pub fn remove_child(&mut self, name: &str) {
        self.children.retain(|child| child.name != name);
    }

    /// The flattened tree, version 17.
    pub fn flatten(&self) -> Vec<u8> {
        self.flatten_with(&[])
    }

    /// The flattened tree with a memory reservation block.
    pub fn flatten_with(&self, reservations: &[(u64, u64)]) -> Vec<u8> {
        let (mut structure, mut names) = (Vec::new(), Vec::new());
        self.tokens(&mut structure, &mut names);
        structure.extend(cells(&[9]));
        let reserved = [reg(reservations), reg(&[(0, 0)])].concat();
        let at = 40 + reserved.len();
        let fields = [
            0xd00d_feed,
            at + structure.len() + names.len(),
            at,
            at + structure.len(),
            40,
            17,
            16,
            0,
            names.len(),
            structure.len(),
        ];
        let header: Vec<u32> = fields.iter().map(|f| u32::try_from(*f).unwrap()).collect();
        [cells(&header), reserved, structure, names].concat()
    }

    fn tokens(&self, out: &mut Vec<u8>, names: &mut Vec<u8>) {
        let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
        out.extend(cells(&[1]));
        out.extend(strings(&[&self.name]));
        pad(out);
        for (name, value) in &self.properties {
            let (len, at) = (value.len() as u32, names.len() as u32);
            out.extend(cells(&[3, len, at]));
            out.extend(value);
            pad(out);
            names.extend(strings(&[name]));
        }
        for child in &self.children {
            child.tokens(out, names);
        }
        out.extend(cells(&[2]));
    }
}

/// The smallest machine that the hypervisor accepts: 1 GiB at 0x4000_0000, one
/// CPU, a GICv3 with an ITS, two PL011s, one SMMU with one PCIe bridge and one
/// platform device behind it, and a kernel and a ramdisk.
pub fn machine() -> Tree {
    let uart = |address: u64, spi: u32| {
        Tree::new(&format!("pl011@{address:x}"))
            .with("compatible", strings(&["arm,pl011", "arm,primecell"]))
            .with("reg", reg(&[(address, 0x1000)]))
            .with("interrupts", cells(&[0, spi, 4]))
    };
    let module = |address: u64, size: u64, kind: &str| {
        Tree::new(&format!("module@{address:x}"))
            .with("compatible", strings(&["multiboot,module", kind]))
            .with("reg", reg(&[(address, size)]))
    };
    Tree::new("")
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[2]))
        .with("interrupt-parent", cells(&[1]))
        .child(
            Tree::new("memory@40000000")
                .text("device_type", "memory")
                .with("reg", reg(&[(0x4000_0000, 0x4000_0000)])),
        )
        .child(
            Tree::new("cpus")
                .with("#address-cells", cells(&[1]))
                .with("#size-cells", cells(&[0]))
                .child(
                    Tree::new("cpu@0")
                        .text("device_type", "cpu")
                        .text("enable-method", "psci")
                        .with("reg", cells(&[0])),
                ),
        )
        .child(
            Tree::new("psci")
                .with("compatible", strings(&["arm,psci-1.0", "arm,psci-0.2"]))
                .text("method", "smc"),
        )
        .child(
            Tree::new("intc@8000000")
                .text("compatible", "arm,gic-v3")
                .with("phandle", cells(&[1]))
                .with("interrupt-controller", [])
                .with("#interrupt-cells", cells(&[3]))
                .with("#address-cells", cells(&[2]))
                .with("#size-cells", cells(&[2]))
                .with("ranges", [])
                .with(
                    "reg",
                    reg(&[(0x800_0000, 0x1_0000), (0x80a_0000, 0xf6_0000)]),
                )
                .child(
                    Tree::new("its@8080000")
                        .text("compatible", "arm,gic-v3-its")
                        .with("phandle", cells(&[3]))
                        .with("reg", reg(&[(0x808_0000, 0x2_0000)])),
                ),
        )
        .child(uart(0x900_0000, 1))
        .child(uart(0x904_0000, 8))
        .child(
            Tree::new("smmu@9050000")
                .text("compatible", "arm,smmu-v3")
                .with("phandle", cells(&[2]))
                .with("#iommu-cells", cells(&[1]))
                .with("reg", reg(&[(0x905_0000, 0x2_0000)]))
                .with("interrupts", cells(&[0, 74, 1, 0, 77, 1]))
                .with("interrupt-names", strings(&["eventq", "gerror"])),
        )
        .child(
            Tree::new("pcie@10000000")
                .text("device_type", "pci")
                .with("msi-map", cells(&[0, 3, 0, 0x1000]))
                .with("iommu-map", cells(&[0, 2, 0, 0x1000])),
        )
        .child(Tree::new("dma@c000000").with("iommus", cells(&[2, 0x2000])))
        .child(
            Tree::new("aliases")
                .text("serial0", "/pl011@9000000")
                .text("serial1", "/pl011@9040000")
                .text("iommu0", "/smmu@9050000"),
        )
        .child(
            Tree::new("chosen")
                .text("stdout-path", "serial0:115200n8")
                .text("bootargs", "log=debug")
                .child(
                    module(0x4800_0000, 0x10_0000, "multiboot,kernel")
                        .text("bootargs", "console=ttyAMA0"),
                )
                .child(module(0x5000_0000, 0x10_0000, "multiboot,ramdisk")),
        )
}

/// The machine after `change`.
pub fn changed(change: impl FnOnce(&mut Tree)) -> Vec<u8> {
    let mut tree = machine();
    change(&mut tree);
    tree.flatten()
}

/// Reason and fix of the error for the machine after `change`.
pub fn refusal(change: impl FnOnce(&mut Tree)) -> (String, String) {
    let error = Machine::from_fdt(&changed(change)).expect_err("must be refused");
    (error.reason().to_string(), error.fix().to_string())
}

/// The name and the properties of every node in order, as text.
pub fn listing(blob: &[u8]) -> Vec<String> {
    let fdt = Fdt::new(blob).unwrap();
    let mut lines = Vec::new();
    for (_, node) in fdt.nodes() {
        let path = fdt.path(node.id());
        lines.push(path.to_string());
        for (name, value) in node.properties() {
            let name = String::from_utf8_lossy(name);
            lines.push(format!("{path} {name} = {}", value.escape_ascii()));
        }
    }
    lines
}

impl Tree {
    /// The tree in `blob`.
    pub fn read(blob: &[u8]) -> Self {
        fn convert(node: portcullis_boot::Node<'_>) -> Tree {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Tree {
                name: text(node.name()),
                properties: node
                    .properties()
                    .map(|(name, value)| (text(name), value.to_vec()))
                    .collect(),
                children: node.children().map(convert).collect(),
            }
        }
        convert(Fdt::new(blob).unwrap().root())
    }
}
