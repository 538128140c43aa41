//! Which devices have which DeviceIDs at which ITS (Linux bindings
//! `pci/pci-msi.txt` for `msi-map` and `interrupt-controller/msi.txt` for
//! `msi-parent`).
//!
//! A DeviceID is what the interconnect adds to a device's write to the doorbell.
//! It is not a StreamID: the two may differ by a constant, and a device may have
//! one without the other.

use super::gic::{Gic, GicV3, ITS_LIMIT, Its};
use super::odd::{Odd, Oddities};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId, take_cells, word};
use crate::list::List;

/// Most ranges of DeviceIDs.
pub const MSI_RANGE_LIMIT: usize = 32;

/// The largest DeviceID that is understood. What is above would need device
/// tables of many megabytes.
const DEVICE_LIMIT: u64 = 1 << 24;

/// DeviceIDs of one ITS that one device, or the devices behind one bridge, have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRange {
    /// Index into [`GicV3::its`].
    pub its: usize,
    /// First DeviceID.
    pub first: u32,
    /// Last DeviceID.
    pub last: u32,
}

/// The ITS and the DeviceID that a node itself names, in an `msi-parent` of one entry.
/// Not for an ITS that takes the DeviceID from the address.
pub(super) fn device_of(fdt: &Fdt<'_>, gic: &Gic, node: NodeId) -> Option<(usize, u32)> {
    let Gic::V3(gic) = gic else { return None };
    let parent = fdt.node(node)?.property(b"msi-parent")?;
    let phandle = word(parent, 0).filter(|_| parent.len() == 8)?;
    let its = gic
        .its
        .iter()
        .position(|its| its.phandle == Some(phandle))?;
    let cells = fdt.by_phandle(phandle)?.u32("#msi-cells").ok()?;
    let usual = cells == Some(1) && !gic.its.get(its)?.id_in_address;
    word(parent, 4)
        .filter(|_| usual)
        .map(|device| (its, device))
}

struct Reader<'a, 'm> {
    fdt: Fdt<'a>,
    its: &'m List<Its, ITS_LIMIT>,
    ranges: List<MsiRange, MSI_RANGE_LIMIT>,
}

/// Every DeviceID that an enabled node names, unless the node is one of
/// `withheld` from the host.
pub(super) fn read(
    fdt: &Fdt<'_>,
    gic: &GicV3,
    withheld: impl Fn(NodeId) -> bool,
    odd: &mut Oddities,
) -> Result<List<MsiRange, MSI_RANGE_LIMIT>, BootError> {
    let mut reader = Reader {
        fdt: *fdt,
        its: &gic.its,
        ranges: List::new(),
    };
    for (_, node) in fdt.nodes() {
        if !node.is_enabled() || withheld(node.id()) {
            continue;
        }
        match node.property(b"msi-map") {
            Some(map) => reader.map(node, map, odd)?,
            None => reader.parent(node)?,
        }
    }
    Ok(reader.ranges)
}

impl<'a> Reader<'a, '_> {
    /// `msi-map`: first requester ID, phandle, first DeviceID, length, repeated;
    /// requester IDs are masked by `msi-map-mask` first.
    fn map(
        &mut self,
        node: Node<'a>,
        mut rest: &'a [u8],
        odd: &mut Oddities,
    ) -> Result<(), BootError> {
        let short = || node.bad_length("msi-map", "entries of four cells");
        let mask = node.u32("msi-map-mask")?.unwrap_or(0xffff) & 0xffff;
        while !rest.is_empty() {
            let mut cell = || take_cells(&mut rest, 1).ok_or_else(short);
            let (requester, phandle, first, length) = (cell()?, cell()?, cell()?, cell()?);
            let Some(its) = self.its(phandle) else {
                continue;
            };
            if length == 0 || requester + length > 0x1_0000 {
                odd.add(node.id(), Odd::MapEntry);
            }
            // What is above the mask is never looked up.
            let reachable = (u64::from(mask) + 1).saturating_sub(requester);
            self.add(node, "msi-map", its, first, length.min(reachable))?;
        }
        Ok(())
    }

    /// `msi-parent`: a phandle and as many cells as that controller wants,
    /// repeated. The functions behind a PCI bridge have their requester IDs then.
    fn parent(&mut self, node: Node<'a>) -> Result<(), BootError> {
        let name = "msi-parent";
        let Some(mut rest) = node.property(b"msi-parent") else {
            return Ok(());
        };
        let short = || node.bad_length(name, "a phandle and #msi-cells cells, repeated");
        let is_pci = node.property(b"device_type") == Some(b"pci\0");
        while !rest.is_empty() {
            let phandle = take_cells(&mut rest, 1).ok_or_else(short)?;
            let controller = u32::try_from(phandle)
                .ok()
                .and_then(|phandle| self.fdt.by_phandle(phandle));
            let cells = match controller.map(|node| node.u32("#msi-cells")) {
                Some(cells) => cells?.unwrap_or(0),
                None => 0,
            };
            let Some(its) = self.its(phandle) else {
                let bytes = usize::try_from(cells).ok().and_then(|n| n.checked_mul(4));
                let after = bytes.and_then(|bytes| rest.get(bytes..));
                rest = after.ok_or_else(short)?;
                continue;
            };
            // One cell, by the binding of the ITS; older trees have none.
            let id = match cells {
                0 => None,
                _ => Some(take_cells(&mut rest, 1).ok_or_else(short)?),
            };
            if is_pci {
                self.add(node, name, its, 0, 0x1_0000)?;
            } else if let Some(id) = id {
                self.add(node, name, its, id, 1)?;
            }
        }
        Ok(())
    }

    fn its(&self, phandle: u64) -> Option<usize> {
        let known = |its: &Its| its.phandle.map(u64::from) == Some(phandle);
        self.its.iter().position(known)
    }

    fn add(
        &mut self,
        node: Node<'a>,
        property: &'static str,
        its: usize,
        first: u64,
        count: u64,
    ) -> Result<(), BootError> {
        let Some(last) = count
            .checked_sub(1)
            .and_then(|more| first.checked_add(more))
        else {
            return Ok(());
        };
        if last >= DEVICE_LIMIT {
            return Err(node.bad_value(property, last, "DeviceIDs of 24 bits"));
        }
        // Truncation: below the limit.
        let range = MsiRange {
            its,
            first: first as u32,
            last: last as u32,
        };
        let covers = |other: &MsiRange| {
            other.its == its && other.first <= range.first && range.last <= other.last
        };
        if self.ranges.iter().any(covers) {
            return Ok(());
        }
        self.ranges.push(range).map_err(|_| BootError::TooMany {
            what: "ranges of DeviceIDs",
            limit: MSI_RANGE_LIMIT,
        })
    }
}
