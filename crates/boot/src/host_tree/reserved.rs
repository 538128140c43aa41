//! `/reserved-memory` of the host's tree: one node, as Linux wants it
//! (`machine/reserved.rs` says how).

use super::Copier;
use super::writer::{Cellular, Name, Writer, unit_name};
use crate::error::BootError;
use crate::fdt::{Cells, Fdt, Node, NodeId, take_cells};
use crate::list::List;
use crate::machine::reserved::{cells_of, is_usable, parents};
use crate::text::NodePath;
use portcullis_addr::{PhysAddr, Range};

/// Most nodes for reserved memory after the first.
const FURTHER_LIMIT: usize = 16;

/// What becomes of the nodes for reserved memory of firmware's tree.
pub(super) struct Places {
    /// The first, which stays.
    pub first: Option<NodeId>,
    /// Whether it says what it says in other cells, under another name, or without
    /// `ranges`.
    rewritten: bool,
    /// The others, which go; their children come to the first.
    further: List<NodeId, FURTHER_LIMIT>,
    /// Whether what comes before the children of the first is written.
    begun: bool,
}

impl Places {
    pub fn of(source: &Fdt<'_>) -> Result<Self, BootError> {
        let mut all = parents(source);
        let first = all.next();
        let mut further = List::new();
        for node in all {
            further.push(node.id()).map_err(|_| BootError::TooMany {
                what: "nodes for reserved memory",
                limit: FURTHER_LIMIT + 1,
            })?;
        }
        Ok(Self {
            first: first.as_ref().map(Node::id),
            rewritten: first.is_some_and(|first| !is_usable(source, &first)),
            further,
            begun: false,
        })
    }

    /// Whether a node goes since its children come elsewhere.
    pub fn moves(&self, node: NodeId) -> bool {
        self.further.iter().any(|further| *further == node)
    }

    /// What is to be the name of a node.
    pub fn name<'n>(&self, node: &Node<'n>) -> &'n [u8] {
        if self.first == Some(node.id()) {
            return b"reserved-memory";
        }
        node.name()
    }

    /// Whether the children of `parent` have other cells in the host's tree.
    fn changes_cells(&self, parent: NodeId) -> bool {
        (self.rewritten && self.first == Some(parent)) || self.moves(parent)
    }
}

/// Bytes by which what is rewritten can grow: a cell to five at most.
pub(super) fn bytes_needed(source: &Fdt<'_>) -> usize {
    let mut bytes = 0usize;
    for node in parents(source) {
        for (name, value) in node.children().flat_map(|child| child.properties()) {
            if is_cellular(name) {
                bytes = bytes.saturating_add(value.len().saturating_mul(5));
            }
        }
    }
    bytes
}

/// Whether a property of a node for reserved memory is addresses and sizes.
fn is_cellular(name: &[u8]) -> bool {
    [b"reg".as_slice(), b"alloc-ranges", b"size", b"alignment"].contains(&name)
}

/// The entries of a value, each an address and a size, as far as they can be
/// written with `cells`; the size is `None` where a value is one number.
struct Entries<'v> {
    rest: &'v [u8],
    from: Cells,
}

impl Entries<'_> {
    fn next(&mut self, to: Cells) -> Option<Cellular> {
        while !self.rest.is_empty() {
            let first = take_cells(&mut self.rest, self.from.address)?;
            let second = take_cells(&mut self.rest, self.from.size)?;
            let mut entry = Cellular::default();
            if entry.push(first, to.address) && entry.push(second, to.size) {
                return Some(entry);
            }
        }
        None
    }
}

/// Writes a property of addresses and sizes in cells `to`. One that cannot be read
/// is left out.
fn write_cellular(
    writer: &mut Writer<'_, '_>,
    name: Name<'_>,
    value: &[u8],
    (from, to): (Cells, Cells),
) -> Result<(), BootError> {
    let entries = || Entries { rest: value, from };
    let mut count = 0usize;
    let mut all = entries();
    while all.next(to).is_some() {
        count += 1;
    }
    if count == 0 {
        return Ok(());
    }
    let entry = (to.address + to.size) * 4;
    writer.property_header(name, count.saturating_mul(entry))?;
    let mut all = entries();
    while let Some(entry) = all.next(to) {
        writer.bytes(entry.bytes().unwrap_or_default())?;
    }
    Ok(())
}

impl<'s> Copier<'_, 's, '_> {
    /// Whether a property is one of reserved memory that is written otherwise, or
    /// not at all; then that is done. `around` is the node around `node`.
    pub(super) fn reserved_property(
        &mut self,
        (around, node): (Option<NodeId>, Option<NodeId>),
        (name, name_offset): (&[u8], u32),
        value: &[u8],
    ) -> Result<bool, BootError> {
        if node.is_some() && node == self.reserved.first {
            let cells = [b"#address-cells".as_slice(), b"#size-cells", b"ranges"];
            return Ok(self.reserved.rewritten && cells.contains(&name));
        }
        let moved =
            around.filter(|around| is_cellular(name) && self.reserved.changes_cells(*around));
        let Some(parent) = moved.and_then(|around| self.source.node(around)) else {
            return Ok(false);
        };
        let root = self.source.root().cells()?;
        // One number has as many cells as it has.
        let single = |address, size| {
            let from = Cells {
                address: value.len() / 4,
                size: 0,
            };
            value
                .len()
                .is_multiple_of(4)
                .then_some((from, Cells { address, size }))
        };
        let cells = match name {
            b"size" => single(root.size, 0),
            b"alignment" => single(root.address, 0),
            _ => cells_of(&self.source, &parent, value.len()).map(|from| (from, root)),
        };
        if let Some(cells) = cells {
            write_cellular(&mut self.writer, Name::Source(name_offset), value, cells)?;
        }
        Ok(true)
    }

    /// Adds what the first node for reserved memory must have and lacks.
    pub(super) fn reserved_header(&mut self, node: Option<Node<'_>>) -> Result<(), BootError> {
        let cells = self.source.root().cells()?;
        let rewritten = node.is_none() || self.reserved.rewritten;
        if !rewritten {
            return Ok(());
        }
        for (name, count) in [
            ("#address-cells", cells.address),
            ("#size-cells", cells.size),
        ] {
            // At most 3.
            let count = u32::try_from(count).unwrap_or(0);
            self.writer
                .property(Name::New(name), &count.to_be_bytes())?;
        }
        self.writer.property(Name::New("ranges"), &[])
    }

    /// Writes what comes before the children of the first node for reserved memory:
    /// Linux takes no `no-map` for what an earlier child has reserved and may be
    /// mapped.
    pub(super) fn reserved_first(&mut self) -> Result<(), BootError> {
        if !core::mem::replace(&mut self.reserved.begun, true) {
            let firmware = self.plan.firmware;
            self.reserved_ranges("firmware", firmware.iter())?;
        }
        Ok(())
    }

    /// Writes what comes behind them. Here it takes no place of the 64 from those
    /// that drivers look up; that memory is not to be mapped Linux notes before it
    /// counts.
    pub(super) fn reserved_last(&mut self) -> Result<(), BootError> {
        self.reserved_first()?;
        let (further, source) = (self.reserved.further, self.source);
        for parent in further.iter().filter_map(|id| source.node(*id)) {
            for child in parent.children() {
                self.walk(child.id(), Some(parent.id()))?;
            }
        }
        self.reserved_ranges("portcullis", self.plan.protected.iter())
    }

    fn reserved_ranges<'r>(
        &mut self,
        what: &str,
        ranges: impl Iterator<Item = &'r Range<PhysAddr>>,
    ) -> Result<(), BootError> {
        let cells = self.source.root().cells()?;
        for range in ranges {
            let too_small = || BootError::CellsTooSmall {
                range: *range,
                node: NodePath::start_of(b"/"),
            };
            let mut reg = Cellular::default();
            let fits =
                reg.push(range.start().raw(), cells.address) && reg.push(range.size(), cells.size);
            let value = reg.bytes().filter(|_| fits).ok_or_else(too_small)?;
            self.writer
                .begin(unit_name(what, range.start().raw()).as_bytes())?;
            self.writer.property(Name::New("reg"), value)?;
            self.writer.property(Name::New("no-map"), &[])?;
            self.writer.end()?;
        }
        Ok(())
    }
}
