//! Interrupts of devices (Devicetree Specification v0.4, section 2.4; Linux
//! binding `arm,gic-v3.yaml` for the cells).

use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId, take_cells};

/// Most interrupts of one node; the SMMU, the device with the most of those
/// read here, has five.
pub const INTERRUPT_LIMIT: usize = 64;

/// How an interrupt is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a rising edge.
    Edge,
    /// By a high level.
    Level,
}

/// An interrupt of the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The INTID: 16-31 for a PPI, 32-1019 for an SPI, 1056-1119 and
    /// 4096-5119 for the extended ranges of GICv3.1.
    pub intid: u32,
    /// How it is signalled.
    pub trigger: Trigger,
}

/// The index after `index`. The limit is there because each entry may cost a
/// walk of the tree.
fn counted(index: usize) -> Result<usize, BootError> {
    if index >= INTERRUPT_LIMIT {
        return Err(BootError::TooMany {
            what: "interrupts of one node",
            limit: INTERRUPT_LIMIT,
        });
    }
    Ok(index + 1)
}

/// Finds the interrupts of nodes, given which node is the GIC.
pub(super) struct Resolver<'a> {
    fdt: Fdt<'a>,
    gic: NodeId,
}

impl<'a> Resolver<'a> {
    pub fn new(fdt: &Fdt<'a>, gic: NodeId) -> Self {
        Self { fdt: *fdt, gic }
    }

    /// Calls `each` with every interrupt of `node`.
    pub fn for_each(
        &self,
        node: Node<'a>,
        mut each: impl FnMut(Interrupt) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        let mut index = 0;
        if let Some(mut rest) = node.property(b"interrupts-extended") {
            let name = "interrupts-extended";
            while !rest.is_empty() {
                let phandle = take_cells(&mut rest, 1)
                    .and_then(|phandle| u32::try_from(phandle).ok())
                    .ok_or_else(|| node.bad_length(name, "a phandle and its cells, repeated"))?;
                let parent = self.by_phandle(node, name, phandle)?;
                each(self.one(node, name, parent, &mut rest)?)?;
                index = counted(index)?;
            }
        } else if let Some(mut rest) = node.property(b"interrupts") {
            let parent = self.parent(node)?;
            while !rest.is_empty() {
                each(self.one(node, "interrupts", parent, &mut rest)?)?;
                index = counted(index)?;
            }
        }
        Ok(())
    }

    /// The first interrupt of `node`, if it has one.
    pub fn first(&self, node: Node<'a>) -> Result<Option<Interrupt>, BootError> {
        let mut first = None;
        self.for_each(node, |interrupt| {
            first = first.or(Some(interrupt));
            Ok(())
        })?;
        Ok(first)
    }

    /// The interrupt parent: the node's own or that of the nearest node
    /// around it. Without any it is the GIC, the only controller here.
    fn parent(&self, node: Node<'a>) -> Result<Node<'a>, BootError> {
        for around in self.fdt.ancestry(node.id()).upward() {
            if let Some(phandle) = around.u32("interrupt-parent")? {
                return self.by_phandle(around, "interrupt-parent", phandle);
            }
        }
        Ok(self.fdt.node(self.gic).unwrap_or(node))
    }

    fn by_phandle(
        &self,
        node: Node<'a>,
        property: &'static str,
        phandle: u32,
    ) -> Result<Node<'a>, BootError> {
        self.fdt
            .by_phandle(phandle)
            .ok_or_else(|| BootError::DanglingPhandle {
                node: self.fdt.path(node.id()),
                property,
                phandle,
            })
    }

    /// Takes one interrupt specifier off `rest`.
    fn one(
        &self,
        node: Node<'a>,
        property: &'static str,
        parent: Node<'a>,
        rest: &mut &[u8],
    ) -> Result<Interrupt, BootError> {
        if parent.id() != self.gic {
            return Err(BootError::InterruptParent {
                node: self.fdt.path(node.id()),
                parent: self.fdt.path(parent.id()),
            });
        }
        let cells = match parent.u32("#interrupt-cells")? {
            Some(cells @ 3..=4) => cells,
            Some(cells) => {
                return Err(parent.bad_value("#interrupt-cells", cells.into(), "3 or 4"));
            }
            None => return Err(parent.missing("#interrupt-cells")),
        };
        let short = || node.bad_length(property, "whole entries of #interrupt-cells");
        let mut cell = || take_cells(rest, 1).ok_or_else(short);
        let (kind, number, flags) = (cell()?, cell()?, cell()?);
        if cells == 4 {
            cell()?;
        }
        // The specifier's number counts within its kind.
        let (base, count) = match kind {
            0 => (32, 988),
            1 => (16, 16),
            2 => (4096, 1024),
            3 => (1056, 64),
            _ => {
                return Err(node.bad_value(property, kind, "a GIC interrupt of type 0, 1, 2 or 3"));
            }
        };
        if number >= count {
            return Err(node.bad_value(property, number, "an SPI below 988 or a PPI below 16"));
        }
        let trigger = match (flags & 0xf, kind) {
            (1, _) => Trigger::Edge,
            (4, _) => Trigger::Level,
            // A PPI's polarity is fixed in hardware; trees of old boards say
            // low here.
            (2, 1) => Trigger::Edge,
            (8, 1) => Trigger::Level,
            _ => {
                return Err(node.bad_value(property, flags, "1 (rising edge) or 4 (high level)"));
            }
        };
        Ok(Interrupt {
            // Below 5120 by the check above.
            intid: u32::try_from(base + number).unwrap_or(u32::MAX),
            trigger,
        })
    }
}
