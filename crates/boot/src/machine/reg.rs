//! `reg` and `ranges` (Devicetree Specification v0.4, sections 2.3.6 and
//! 2.3.8).

use crate::error::BootError;
use crate::fdt::{Ancestry, Cells, Fdt, Node, NodeId, take_cells};
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

/// Hands every entry of the `reg` of the node that `ancestry` ends with to
/// `each`. An entry that does not translate is no address.
pub(super) fn for_each_register(ancestry: &Ancestry<'_>, each: &mut dyn FnMut(Range<PhysAddr>)) {
    let mut around = ancestry.upward();
    let reg = around.next().and_then(|node| node.property(b"reg"));
    let cells = around.next().and_then(|parent| parent.quiet_cells());
    let (Some(mut rest), Some(cells)) = (reg, cells) else {
        return;
    };
    while !rest.is_empty() {
        let address = take_cells(&mut rest, cells.address);
        let size = take_cells(&mut rest, cells.size);
        let (Some(address), Some(size)) = (address, size) else {
            return;
        };
        if cells.address + cells.size == 0 {
            return;
        }
        if let Ok(range) = translated(ancestry, address, size) {
            each(range);
        }
    }
}

/// The same for the CPU's side of every window in the `ranges` of a PCI host
/// bridge (PCI Bus Binding to IEEE 1275, 6.1: three cells on the bus' side, two
/// of size).
pub(super) fn for_each_pci_window(ancestry: &Ancestry<'_>, each: &mut dyn FnMut(Range<PhysAddr>)) {
    let mut around = ancestry.upward();
    let ranges = around.next().and_then(|node| node.property(b"ranges"));
    let outer = around.next().and_then(|parent| parent.quiet_cells());
    let (Some(mut rest), Some(outer)) = (ranges, outer) else {
        return;
    };
    while !rest.is_empty() {
        let bus = take_cells(&mut rest, 1).and_then(|_| take_cells(&mut rest, 2));
        let address = take_cells(&mut rest, outer.address);
        let size = take_cells(&mut rest, 2);
        let (Some(_), Some(address), Some(size)) = (bus, address, size) else {
            return;
        };
        if let Ok(range) = translated(ancestry, address, size) {
            each(range);
        }
    }
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

/// As [`translated`], with an error that names the node.
fn translate(
    fdt: &Fdt<'_>,
    ancestry: &Ancestry<'_>,
    node: Node<'_>,
    address: u64,
    size: u64,
) -> Result<Range<PhysAddr>, BootError> {
    translated(ancestry, address, size).map_err(|error| match error {
        Untranslated::NoRange => out_of_space(node, address),
        Untranslated::At(address) => BootError::NotTranslatable {
            node: fdt.path(node.id()),
            address: address.raw(),
        },
        Untranslated::Malformed(bus) => {
            let bus = fdt.node(bus).unwrap_or(node);
            // The cells first, by which the rest is read.
            bus.cells().err().unwrap_or_else(|| {
                let right = "whole entries of addresses and sizes of at most 64 bits";
                bus.bad_length("ranges", right)
            })
        }
    })
}

/// Why an address is none of the physical address space. To find out costs no
/// walk of the tree.
pub(super) enum Untranslated {
    /// It is the start of nothing, or of more than there are addresses.
    NoRange,
    /// A bus on the way has no window with it; it got this far.
    At(PhysAddr),
    /// A bus on the way is not well-formed.
    Malformed(NodeId),
}

/// Follows an address from the bus around the node that `ancestry` ends with to
/// the physical address space.
pub(super) fn translated(
    ancestry: &Ancestry<'_>,
    address: u64,
    size: u64,
) -> Result<Range<PhysAddr>, Untranslated> {
    let range = |address, size| {
        Range::from_size(PhysAddr::new(address), size).map_err(|_| Untranslated::NoRange)
    };
    let mut found = range(address, size)?;
    let mut around = ancestry.upward().skip(1).peekable();
    while let Some(bus) = around.next() {
        // The root's children are on the physical bus.
        let Some(outer) = around.peek() else {
            break;
        };
        let lost = Untranslated::At(found.start());
        let Some(mut ranges) = bus.property(b"ranges") else {
            return Err(lost);
        };
        if ranges.is_empty() {
            continue;
        }
        let malformed = || Untranslated::Malformed(bus.id());
        let inner = bus.quiet_cells().ok_or_else(malformed)?;
        let outer = outer
            .quiet_cells()
            .ok_or(Untranslated::Malformed(outer.id()))?;
        found = loop {
            if ranges.is_empty() {
                return Err(lost);
            }
            let child = take_cells(&mut ranges, inner.address);
            let parent = take_cells(&mut ranges, outer.address);
            let length = take_cells(&mut ranges, inner.size);
            let (Some(child), Some(parent), Some(length)) = (child, parent, length) else {
                return Err(malformed());
            };
            let window = Range::from_size(PhysAddr::new(child), length);
            if window.is_ok_and(|window| window.covers(&found)) {
                let Some(start) = parent.checked_add(found.start().raw() - child) else {
                    return Err(lost);
                };
                break range(start, found.size())?;
            }
        };
    }
    Ok(found)
}

/// `address..address + size`, where both are from the tree.
pub(crate) fn physical(
    node: Node<'_>,
    address: u64,
    size: u64,
) -> Result<Range<PhysAddr>, BootError> {
    Range::from_size(PhysAddr::new(address), size).map_err(|_| out_of_space(node, address))
}

fn out_of_space(node: Node<'_>, address: u64) -> BootError {
    let right = "a range that is not empty and ends below 2^64";
    node.bad_value("reg", address, right)
}
