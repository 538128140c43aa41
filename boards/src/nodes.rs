//! The nodes of a tree in one list, and what their properties say.

use crate::{Problem, Result};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};
use std::collections::HashMap;

/// The tree in `blob`.
///
/// # Errors
/// [`Problem::Tree`] when there is none.
pub fn read(blob: &[u8]) -> Result<DeviceTree> {
    // dtoolkit's own check refuses names of more than 31 bytes, which real trees
    // have (`allwinner,cpu-…`). That the structure is sound is what it needs.
    portcullis_boot::Fdt::new(blob).map_err(|error| Problem::Tree(error.to_string()))?;
    Ok(DeviceTree::from_fdt(&Fdt::new_unchecked(blob)))
}

/// A node and where it is.
#[derive(Clone, Debug)]
pub struct Place<'t> {
    /// The node.
    pub node: &'t DeviceTreeNode,
    /// Its path.
    pub path: String,
    /// The index of the node around it; the root's is its own.
    pub parent: usize,
    /// Whether it and all nodes around it are enabled.
    pub enabled: bool,
}

/// All nodes, each before those in it: the root's index is 0.
#[derive(Clone, Debug)]
pub struct Nodes<'t> {
    places: Vec<Place<'t>>,
    phandles: HashMap<u32, usize>,
}

impl<'t> Nodes<'t> {
    /// The nodes of the tree with this root.
    #[must_use]
    pub fn of(root: &'t DeviceTreeNode) -> Self {
        let mut nodes = Self {
            places: Vec::new(),
            phandles: HashMap::new(),
        };
        nodes.add(root, String::new(), 0, true);
        nodes
    }

    fn add(&mut self, node: &'t DeviceTreeNode, path: String, parent: usize, enabled: bool) {
        let index = self.places.len();
        let enabled = enabled && is_enabled(node);
        let shown = if path.is_empty() { "/" } else { &path };
        self.places.push(Place {
            node,
            path: shown.to_owned(),
            parent,
            enabled,
        });
        if let Some(phandle) = word(node, "phandle") {
            self.phandles.entry(phandle).or_insert(index);
        }
        for child in node.children() {
            self.add(child, format!("{path}/{}", child.name()), index, enabled);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Place<'t>> {
        self.places.iter()
    }

    /// The node with this index.
    #[must_use]
    pub fn get(&self, index: usize) -> &Place<'t> {
        &self.places[index]
    }

    /// The index of the node with this phandle.
    #[must_use]
    pub fn by_phandle(&self, phandle: u32) -> Option<usize> {
        self.phandles.get(&phandle).copied()
    }

    /// The index of the node with this path.
    #[must_use]
    pub fn by_path(&self, path: &str) -> Option<usize> {
        self.places.iter().position(|place| place.path == path)
    }

    /// A node's own index and those of the nodes around it, up to the root's.
    pub fn upward(&self, index: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(index), |at| {
            (*at != 0).then(|| self.places[*at].parent)
        })
    }

    /// The address of the physical address space that `address` on the bus around
    /// the node with this index is, if each bus on the way has it in its `ranges`.
    #[must_use]
    pub fn translated(&self, index: usize, address: u64) -> Option<u64> {
        let mut address = address;
        let mut bus = self.places[index].parent;
        while bus != 0 {
            let node = self.places[bus].node;
            let outer = Cells::of(self.places[self.places[bus].parent].node);
            let ranges = value(node, "ranges")?;
            if !ranges.is_empty() {
                let inner = Cells::of(node);
                let sizes = [inner.address, outer.address, inner.size];
                address = entries(&ranges, sizes).find_map(|[child, parent, size]| {
                    let offset = address.checked_sub(child).filter(|offset| *offset < size)?;
                    parent.checked_add(offset)
                })?;
            }
            bus = self.places[bus].parent;
        }
        Some(address)
    }

    /// Addresses and sizes of the physical address space in a node's `reg`.
    #[must_use]
    pub fn registers(&self, index: usize) -> Vec<(u64, u64)> {
        let place = &self.places[index];
        if index == 0 {
            return Vec::new();
        }
        let cells = Cells::of(self.places[place.parent].node);
        let reg = value(place.node, "reg").unwrap_or_default();
        entries(&reg, [cells.address, cells.size])
            .filter_map(|[address, size]| Some((self.translated(index, address)?, size)))
            .filter(|(_, size)| *size > 0)
            .collect()
    }
}

/// Cells of the `reg` of a node's children.
#[derive(Clone, Copy, Debug)]
pub struct Cells {
    /// Of an address.
    pub address: usize,
    /// Of a size.
    pub size: usize,
}

impl Cells {
    /// What the node says, or the defaults (Devicetree Specification v0.4, 2.3.5).
    #[must_use]
    pub fn of(node: &DeviceTreeNode) -> Self {
        let count = |name, default| word(node, name).map_or(default, |count| count as usize);
        Self {
            address: count("#address-cells", 2),
            size: count("#size-cells", 1),
        }
    }

    /// An entry of a `reg`.
    #[must_use]
    pub fn entry(&self, address: u64, size: u64) -> Vec<u8> {
        let cells = |value: u64, count: usize| {
            let bytes = u128::from(value).to_be_bytes();
            bytes[16 - 4 * count.min(4)..].to_vec()
        };
        [cells(address, self.address), cells(size, self.size)].concat()
    }
}

/// Entries of numbers with as many cells as `sizes` says; the last 64 bits of each.
pub fn entries<const N: usize>(
    value: &[u8],
    sizes: [usize; N],
) -> impl Iterator<Item = [u64; N]> + '_ {
    let whole = sizes.iter().sum::<usize>() * 4;
    value.chunks_exact(whole.max(1)).map(move |entry| {
        let mut at = 0;
        sizes.map(|count| {
            let cells = entry.get(at..at + count * 4).unwrap_or_default();
            at += count * 4;
            cells
                .iter()
                .fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        })
    })
}

/// A property's bytes.
#[must_use]
pub fn value(node: &DeviceTreeNode, name: &str) -> Option<Vec<u8>> {
    node.property(name)
        .map(|property| property.value().to_vec())
}

/// A property of one cell.
#[must_use]
pub fn word(node: &DeviceTreeNode, name: &str) -> Option<u32> {
    let property = node.property(name)?;
    Some(u32::from_be_bytes(property.value().try_into().ok()?))
}

/// The cells of a property.
#[must_use]
pub fn words(value: &[u8]) -> Vec<u32> {
    entries(value, [1]).map(|[cell]| cell as u32).collect()
}

/// The strings of a property.
#[must_use]
pub fn strings(node: &DeviceTreeNode, name: &str) -> Vec<String> {
    let bytes = value(node, name).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|text| !text.is_empty())
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}

/// Whether `compatible` lists `model`.
#[must_use]
pub fn is_compatible(node: &DeviceTreeNode, model: &str) -> bool {
    strings(node, "compatible")
        .iter()
        .any(|found| found == model)
}

/// Whether `status` is absent or says that the node is enabled.
#[must_use]
pub fn is_enabled(node: &DeviceTreeNode) -> bool {
    matches!(
        value(node, "status").as_deref(),
        None | Some(b"okay\0" | b"ok\0")
    )
}
