//! What of a board its host can use.

use crate::nodes::{self, Nodes, strings, value, word, words};
use crate::start::Started;
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::{Node, Property};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the host of a board can use.
#[derive(Clone, Debug, Serialize)]
pub struct Use {
    /// Enabled nodes with a binding of their own, but for what is the hypervisor's.
    pub enabled: usize,
    /// How many of these the host does not get.
    pub withheld: usize,
    /// Devices behind SMMUs.
    pub confined: usize,
    /// Those of them that lack a supplier, with the first that is missing.
    pub lacking: Vec<Lack>,
    /// The bindings of all suppliers that are missing, and how often.
    pub missing: BTreeMap<String, usize>,
}

/// A device behind an SMMU that lacks a supplier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The device.
    pub device: String,
    /// The property that names the supplier, of the device or of a supplier of its.
    pub property: String,
    /// The supplier that the host does not get.
    pub supplier: String,
}

impl Use {
    /// Why the board is of no use, if it is not.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        if self.confined == 0 {
            return Some("no device is behind an SMMU".to_owned());
        }
        let lack = self.lacking.first()?;
        Some(format!(
            "{} of {} devices behind SMMUs lack a supplier: for {}, {} of {} are withheld",
            self.lacking.len(),
            self.confined,
            lack.device,
            lack.property,
            lack.supplier
        ))
    }

    /// Compares the tree in `blob` with the host's.
    ///
    /// # Errors
    /// [`Problem`](crate::Problem) when one of them cannot be read.
    pub fn of(blob: &[u8], started: &Started) -> crate::Result<Self> {
        let (source, host) = (nodes::read(blob)?, nodes::read(&started.host_tree)?);
        let (source, host) = (Nodes::of(&source.root), Nodes::of(&host.root));
        let stays: BTreeSet<&str> = host
            .iter()
            .filter(|place| place.enabled)
            .map(|place| place.path.as_str())
            .collect();
        let mut of_use = Self {
            enabled: 0,
            withheld: 0,
            confined: started.confined.len(),
            lacking: Vec::new(),
            missing: BTreeMap::new(),
        };
        for place in source.iter() {
            if place.enabled && counts(place.node, &place.path) {
                of_use.enabled += 1;
                of_use.withheld += usize::from(!stays.contains(place.path.as_str()));
            }
        }
        let suppliers = Suppliers {
            nodes: &source,
            stays: &stays,
        };
        for path in &started.confined {
            let Some(index) = source.by_path(path) else {
                continue;
            };
            let missing = suppliers.missing(index);
            for (_, supplier) in &missing {
                let node = source.get(*supplier).node;
                let model = strings(node, "compatible").into_iter().next();
                let model = model.unwrap_or_else(|| node.name().to_owned());
                *of_use.missing.entry(model).or_default() += 1;
            }
            if let Some((property, supplier)) = missing.into_iter().next() {
                of_use.lacking.push(Lack {
                    device: path.clone(),
                    property,
                    supplier: source.get(supplier).path.clone(),
                });
            }
        }
        Ok(of_use)
    }
}

/// Whether a node is a device that the host could have: not the SMMUs and what is
/// part of them, and not what describes the boot.
fn counts(node: &DeviceTreeNode, path: &str) -> bool {
    let models = strings(node, "compatible");
    let own = [
        "arm,smmu-v3",
        "arm,smmu-v3-pmcg",
        "hisilicon,smmu-v3-pmcg-hip08",
    ];
    !models.is_empty()
        && !models.iter().any(|model| own.contains(&model.as_str()))
        && !path.starts_with("/chosen")
        && path != "/"
}

/// What is known of suppliers.
struct Suppliers<'n, 't> {
    nodes: &'n Nodes<'t>,
    stays: &'n BTreeSet<&'n str>,
}

impl Suppliers<'_, '_> {
    /// Every supplier of a node, of its suppliers and of the nodes that these are in,
    /// that does not stay, with the property that names it, those that are named first
    /// before others.
    fn missing(&self, index: usize) -> Vec<(String, usize)> {
        let mut seen = BTreeSet::from([index]);
        let mut missing = Vec::new();
        let mut open = VecDeque::from([index]);
        while let Some(next) = open.pop_front() {
            for (property, supplier) in self.direct(next) {
                let place = self.nodes.get(supplier);
                // One that firmware disables is not the hypervisor's doing.
                if !place.enabled || !seen.insert(supplier) {
                    continue;
                }
                if !self.stays.contains(place.path.as_str()) {
                    missing.push((property, supplier));
                }
                open.push_back(supplier);
                // A regulator is of no use without what it is a part of.
                let around = self.nodes.upward(supplier).skip(1);
                for outer in around.take_while(|outer| *outer != 0) {
                    if seen.insert(outer) {
                        open.push_back(outer);
                    }
                }
            }
        }
        missing
    }

    /// Every supplier that a node names: what Linux waits for before it probes.
    fn direct(&self, index: usize) -> Vec<(String, usize)> {
        let node = self.nodes.get(index).node;
        let mut found = Vec::new();
        for property in node.properties() {
            let (name, value) = (property.name(), property.value());
            let cells = match name {
                "clocks" | "assigned-clock-parents" => "#clock-cells",
                "resets" => "#reset-cells",
                "power-domains" => "#power-domain-cells",
                "interrupts-extended" => "#interrupt-cells",
                "phys" => "#phy-cells",
                _ => "",
            };
            let plain = name.ends_with("-supply") || is_pinctrl(name);
            if cells.is_empty() && !plain {
                continue;
            }
            let mut rest = words(value).into_iter();
            while let Some(phandle) = rest.next() {
                let Some(supplier) = self.nodes.by_phandle(phandle) else {
                    continue;
                };
                found.push((name.to_owned(), supplier));
                let count = word(self.nodes.get(supplier).node, cells).unwrap_or(0);
                if !plain && count > 0 {
                    rest.nth(count as usize - 1);
                }
            }
        }
        if value(node, "interrupts").is_some()
            && let Some(parent) = self.interrupt_parent(index)
        {
            found.push(("interrupts".to_owned(), parent));
        }
        found
    }

    fn interrupt_parent(&self, index: usize) -> Option<usize> {
        let mut around = self.nodes.upward(index);
        let phandle = around.find_map(|at| word(self.nodes.get(at).node, "interrupt-parent"))?;
        self.nodes.by_phandle(phandle)
    }
}

fn is_pinctrl(name: &str) -> bool {
    name.strip_prefix("pinctrl-")
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}
