//! Which devices do DMA, by what all trees say.
//!
//! A tree does not have to say that a device is a bus master, but many do in passing:
//! by an IOMMU, by how its DMA relates to caches, by the channels that it offers to
//! others, by memory that is set aside for it. A binding with which any board's tree
//! says so is one of devices that do DMA, and cannot be in the table of those that do
//! none (`crates/boot/src/machine/binding.rs`).

use crate::nodes::{self, Nodes, strings, value};
use std::collections::BTreeMap;

/// Properties that only mean something for a device that reads or writes memory.
const SIGNS: [&str; 8] = [
    "iommus",
    "iommu-map",
    "dma-coherent",
    "dma-noncoherent",
    "#dma-cells",
    "dma-channels",
    "memory-region",
    "interconnects",
];

/// Where a tree says that a device does DMA.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sign {
    /// The tree.
    pub tree: String,
    /// The node.
    pub node: String,
    /// The property.
    pub property: &'static str,
}

/// The bindings of devices that do DMA, each with the first place that says so.
#[derive(Clone, Debug, Default)]
pub struct Masters {
    known: BTreeMap<String, Sign>,
}

impl Masters {
    /// Adds what the tree in `blob`, called `tree`, says.
    ///
    /// # Errors
    /// [`Problem`](crate::Problem) when it cannot be read.
    pub fn look(&mut self, tree: &str, blob: &[u8]) -> crate::Result<()> {
        let read = nodes::read(blob)?;
        for place in Nodes::of(&read.root).iter() {
            // On a bus such a property is for the devices on it.
            if value(place.node, "reg").is_none() {
                continue;
            }
            let has = |sign: &&&str| value(place.node, sign).is_some();
            let Some(property) = SIGNS.iter().find(has) else {
                continue;
            };
            for model in strings(place.node, "compatible") {
                self.known.entry(model).or_insert_with(|| Sign {
                    tree: tree.to_owned(),
                    node: place.path.clone(),
                    property,
                });
            }
        }
        Ok(())
    }

    /// Where a tree says that devices with this binding do DMA.
    #[must_use]
    pub fn sign(&self, model: &str) -> Option<&Sign> {
        self.known.get(model)
    }

    /// Every binding of devices that do DMA.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }
}
