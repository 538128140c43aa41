//! RAM of the host's tree: what the tree of firmware says, up to where all reach it.

use super::Copier;
use super::writer::{Cellular, Name};
use crate::error::BootError;
use crate::fdt::{Cells, Node, NodeId, take_cells};
use portcullis_addr::PhysAddr;

/// The entries of a value below `end`, as far as they are: address and size.
fn below(mut rest: &[u8], cells: Cells, end: PhysAddr) -> impl Iterator<Item = (u64, u64)> {
    core::iter::from_fn(move || {
        loop {
            if rest.is_empty() || cells.address + cells.size == 0 {
                return None;
            }
            let address = take_cells(&mut rest, cells.address)?;
            let size = take_cells(&mut rest, cells.size)?;
            match end.raw().checked_sub(address) {
                Some(room) if room > 0 => return Some((address, size.min(room))),
                _ => {}
            }
        }
    })
}

/// Properties that say where RAM is. Linux takes the second for the first, where
/// there is one (`drivers/of/fdt.c`, `early_init_dt_scan_memory`).
const SAYS_WHERE: [&[u8]; 2] = [b"reg", b"linux,usable-memory"];

impl Copier<'_, '_, '_> {
    /// Whether a node is RAM of which some may be left out.
    fn is_cut(&self, around: Option<NodeId>, node: &Node<'_>) -> bool {
        self.plan.memory_end.raw() < u64::MAX
            && around == Some(self.source.root().id())
            && node.property(b"device_type") == Some(b"memory\0")
    }

    /// Whether a node is RAM that is left out as a whole.
    pub(super) fn is_left_out(&self, around: Option<NodeId>, node: &Node<'_>) -> bool {
        let Some(cells) = self.source.root().quiet_cells() else {
            return false;
        };
        let reg = node.property(b"reg").unwrap_or_default();
        let end = self.plan.memory_end;
        self.is_cut(around, node) && !reg.is_empty() && below(reg, cells, end).next().is_none()
    }

    /// Whether a property is of RAM of which some may be left out; then it is
    /// written without that.
    pub(super) fn memory_property(
        &mut self,
        (around, node): (Option<NodeId>, Option<NodeId>),
        (name, name_offset): (&[u8], u32),
        value: &[u8],
    ) -> Result<bool, BootError> {
        let node = node.filter(|_| SAYS_WHERE.contains(&name));
        let node = node.and_then(|node| self.source.node(node));
        if !node.is_some_and(|node| self.is_cut(around, &node)) {
            return Ok(false);
        }
        let cells = self.source.root().cells()?;
        let entries = || below(value, cells, self.plan.memory_end);
        let entry = (cells.address + cells.size) * 4;
        let length = entries().count().saturating_mul(entry);
        self.writer
            .property_header(Name::Source(name_offset), length)?;
        for (address, size) in entries() {
            let mut entry = Cellular::default();
            // They were in as many cells.
            let _ = entry.push(address, cells.address) && entry.push(size, cells.size);
            self.writer.bytes(entry.bytes().unwrap_or_default())?;
        }
        Ok(true)
    }
}
