//! `reg` and `ranges` (Devicetree Specification v0.4, sections 2.3.6 and
//! 2.3.8).

use crate::error::BootError;
use crate::fdt::{Ancestry, Cells, Fdt, Node, take_cells};
use portcullis_addr::{PhysAddr, Range};

/// `reg` of a node, still as addresses of the bus around it.
pub(crate) struct Reg<'a> {
    node: Node<'a>,
    cells: Cells,
    rest: &'a [u8],
}

impl<'a> Reg<'a> {
    /// The entries of `node`'s `reg`; none when the property is absent.
    pub fn of(node: Node<'a>, cells: Cells) -> Result<Self, BootError> {
        let rest = node.property(b"reg").unwrap_or_default();
        let entry = (cells.address + cells.size) * 4;
        if entry == 0 || !rest.len().is_multiple_of(entry) {
            return Err(node.bad_length("reg", "whole entries of #address-cells and #size-cells"));
        }
        Ok(Self { node, cells, rest })
    }

    /// The next entry: address and size in bytes.
    pub fn next(&mut self) -> Result<Option<(u64, u64)>, BootError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let address = take_cells(&mut self.rest, self.cells.address);
        let size = take_cells(&mut self.rest, self.cells.size);
        match (address, size) {
            (Some(address), Some(size)) => Ok(Some((address, size))),
            _ => Err(self
                .node
                .bad_length("reg", "addresses and sizes of at most 64 bits")),
        }
    }
}

/// Hands every entry of a node's `reg` to `each`, as physical addresses. Where
/// the node is, is looked up once: that is a walk of the tree.
pub(super) fn for_each_register(
    fdt: &Fdt<'_>,
    node: Node<'_>,
    mut each: impl FnMut(Range<PhysAddr>) -> Result<(), BootError>,
) -> Result<(), BootError> {
    let ancestry = fdt.ancestry(node.id());
    let cells = ancestry.parent().unwrap_or(fdt.root()).cells()?;
    let mut reg = Reg::of(node, cells)?;
    while let Some((address, size)) = reg.next()? {
        each(translate(fdt, &ancestry, node, address, size)?)?;
    }
    Ok(())
}

/// Hands the CPU's side of every window in a PCI host bridge's `ranges` to
/// `each` (PCI Bus Binding to IEEE 1275, 6.1: three cells on the bus' side, two
/// of size).
pub(super) fn for_each_pci_window(
    fdt: &Fdt<'_>,
    node: Node<'_>,
    mut each: impl FnMut(Range<PhysAddr>) -> Result<(), BootError>,
) -> Result<(), BootError> {
    let ancestry = fdt.ancestry(node.id());
    let outer = ancestry.parent().unwrap_or(fdt.root()).cells()?;
    let mut rest = node.property(b"ranges").unwrap_or_default();
    while !rest.is_empty() {
        let bus = take_cells(&mut rest, 1).and_then(|_| take_cells(&mut rest, 2));
        let address = take_cells(&mut rest, outer.address);
        let size = take_cells(&mut rest, 2);
        let (Some(_), Some(address), Some(size)) = (bus, address, size) else {
            return Err(node.bad_length("ranges", "whole entries of a PCI bus"));
        };
        each(translate(fdt, &ancestry, node, address, size)?)?;
    }
    Ok(())
}

/// Entry `index` of a node's `reg` as physical addresses, or `None` when
/// there are fewer entries.
pub(super) fn registers(
    fdt: &Fdt<'_>,
    node: Node<'_>,
    index: usize,
) -> Result<Option<Range<PhysAddr>>, BootError> {
    let ancestry = fdt.ancestry(node.id());
    let cells = ancestry.parent().unwrap_or(fdt.root()).cells()?;
    let mut reg = Reg::of(node, cells)?;
    for _ in 0..index {
        if reg.next()?.is_none() {
            return Ok(None);
        }
    }
    match reg.next()? {
        None => Ok(None),
        Some((address, size)) => translate(fdt, &ancestry, node, address, size).map(Some),
    }
}

/// Entry 0 of a node's `reg` as physical addresses.
pub(super) fn first(fdt: &Fdt<'_>, node: Node<'_>) -> Result<Range<PhysAddr>, BootError> {
    registers(fdt, node, 0)?.ok_or_else(|| node.missing("reg"))
}

/// Follows an address from the bus around `node` to the physical address
/// space.
fn translate(
    fdt: &Fdt<'_>,
    ancestry: &Ancestry<'_>,
    node: Node<'_>,
    address: u64,
    size: u64,
) -> Result<Range<PhysAddr>, BootError> {
    let mut range = physical(node, address, size)?;
    let mut around = ancestry.upward().skip(1).peekable();
    while let Some(bus) = around.next() {
        // The root's children are on the physical bus.
        let Some(outer) = around.peek() else {
            break;
        };
        let lost = BootError::NotTranslatable {
            node: fdt.path(node.id()),
            address: range.start().raw(),
        };
        let mut ranges = bus.property(b"ranges").ok_or(lost)?;
        if ranges.is_empty() {
            continue;
        }
        let (inner, outer) = (bus.cells()?, outer.cells()?);
        range = loop {
            if ranges.is_empty() {
                return Err(lost);
            }
            let child = take_cells(&mut ranges, inner.address);
            let parent = take_cells(&mut ranges, outer.address);
            let length = take_cells(&mut ranges, inner.size);
            let (Some(child), Some(parent), Some(length)) = (child, parent, length) else {
                return Err(bus.bad_length(
                    "ranges",
                    "whole entries of addresses and sizes of at most 64 bits",
                ));
            };
            let window = Range::from_size(PhysAddr::new(child), length);
            if window.is_ok_and(|window| window.covers(&range)) {
                let start = parent
                    .checked_add(range.start().raw() - child)
                    .ok_or(lost)?;
                break physical(node, start, range.size())?;
            }
        };
    }
    Ok(range)
}

/// `address..address + size`, where both are from the tree.
pub(crate) fn physical(
    node: Node<'_>,
    address: u64,
    size: u64,
) -> Result<Range<PhysAddr>, BootError> {
    Range::from_size(PhysAddr::new(address), size).map_err(|_| {
        node.bad_value(
            "reg",
            address,
            "a range that is not empty and ends below 2^64",
        )
    })
}
