//! Which devices use which streams (Linux bindings `pci/pci-iommu.yaml` for
//! `iommu-map` and `iommu/iommu.txt` for `iommus`).

use super::odd::{Odd, Oddities};
use super::smmu::{SMMU_LIMIT, Smmu};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId, take_cells};
use crate::list::List;

/// Most ranges of streams.
pub const STREAM_RANGE_LIMIT: usize = 128;

/// Most references to IOMMUs that are not SMMUv3s. Each is looked up by
/// walking the tree.
const FOREIGN_LIMIT: usize = 256;

/// Streams of one SMMU that one device, or the devices behind one bridge, use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRange {
    /// Index into [`Machine::smmus`](super::Machine::smmus).
    pub smmu: usize,
    /// First StreamID.
    pub first: u32,
    /// Last StreamID.
    pub last: u32,
    /// Whether `iommu-map` names it: PCIe devices, whose transactions must
    /// never stall.
    pub pcie: bool,
    /// The node that has the `iommus` or `iommu-map` property.
    pub node: NodeId,
    /// Whether some of them are named more than once, by this node or another.
    pub shared: bool,
}

/// Two nodes that name a stream both, first the one that has it.
pub type Joined = List<(NodeId, NodeId), STREAM_RANGE_LIMIT>;

/// What a node says of where its streams go.
#[derive(Clone, Copy, Debug, Default)]
struct Mentions {
    /// It names an SMMU that is enabled.
    smmu: bool,
    /// It names something else, or cannot be read: some of what it does may pass
    /// no SMMU that the hypervisor drives.
    other: bool,
    /// It names streams.
    streams: bool,
}

/// Every stream, none twice, and the nodes that name some. Of streams that several
/// nodes name, the first has them.
pub(super) type Found = (
    List<StreamRange, STREAM_RANGE_LIMIT>,
    List<NodeId, STREAM_RANGE_LIMIT>,
    Joined,
);

struct Reader<'a, 'm> {
    fdt: Fdt<'a>,
    smmus: &'m List<Smmu, SMMU_LIMIT>,
    streams: List<StreamRange, STREAM_RANGE_LIMIT>,
    foreign: usize,
    joined: Joined,
    /// What was odd in the node that is read.
    odd: List<Odd, 4>,
}

/// Every stream that an enabled node of the tree names, unless the node also names
/// another IOMMU, such as an SMMU that is disabled: what it does is not confined
/// then, and none of its streams is one of the host's.
pub(super) fn read(
    fdt: &Fdt<'_>,
    smmus: &List<Smmu, SMMU_LIMIT>,
    odd: &mut Oddities,
) -> Result<Found, BootError> {
    let mut nodes = List::new();
    let mut reader = Reader {
        fdt: *fdt,
        smmus,
        streams: List::new(),
        foreign: 0,
        joined: List::new(),
        odd: List::new(),
    };
    for (_, node) in fdt.nodes().filter(|(_, node)| node.is_enabled()) {
        let before = reader.streams.len();
        let mut mentions = Mentions::default();
        reader.direct(node, &mut mentions)?;
        reader.map(node, &mut mentions)?;
        for found in core::mem::take(&mut reader.odd).iter() {
            odd.add(node.id(), *found);
        }
        if mentions.other && mentions.smmu {
            odd.add(node.id(), Odd::StreamsUnclear);
        }
        while mentions.other && reader.streams.len() > before {
            reader.streams.pop();
        }
        if mentions.streams && !mentions.other {
            nodes.push(node.id()).map_err(|_| BootError::TooMany {
                what: "nodes with streams",
                limit: STREAM_RANGE_LIMIT,
            })?;
        }
    }
    Ok((reader.streams, nodes, reader.joined))
}

impl<'a> Reader<'a, '_> {
    /// `iommus`: a phandle and as many cells as that IOMMU wants, repeated.
    fn direct(&mut self, node: Node<'a>, mentions: &mut Mentions) -> Result<(), BootError> {
        let mut rest = node.property(b"iommus").unwrap_or_default();
        while !rest.is_empty() {
            let Some(phandle) = take_cells(&mut rest, 1) else {
                mentions.other = true;
                break;
            };
            let Some(smmu) = self.smmu(phandle) else {
                mentions.other = true;
                // Where the next one starts is the other IOMMU's to say.
                match self.cells_of(phandle).and_then(|bytes| rest.get(bytes..)) {
                    Some(after) => rest = after,
                    None => break,
                }
                continue;
            };
            mentions.smmu = true;
            match take_cells(&mut rest, 1) {
                Some(stream) => {
                    mentions.streams = true;
                    self.add(node, "iommus", smmu, stream, 1)?;
                }
                None => {
                    mentions.other = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// `iommu-map`: first requester ID, phandle, first StreamID, length,
    /// repeated; requester IDs are masked by `iommu-map-mask` first.
    fn map(&mut self, node: Node<'a>, mentions: &mut Mentions) -> Result<(), BootError> {
        let name = "iommu-map";
        let Some(mut rest) = node.property(b"iommu-map") else {
            return Ok(());
        };
        let Ok(mask) = node.u32("iommu-map-mask") else {
            mentions.other = true;
            return Ok(());
        };
        let mask = mask.unwrap_or(0xffff) & 0xffff;
        while !rest.is_empty() {
            let mut cell = || take_cells(&mut rest, 1);
            let (Some(requester), Some(phandle), Some(stream), Some(length)) =
                (cell(), cell(), cell(), cell())
            else {
                mentions.other = true;
                break;
            };
            let Some(smmu) = self.smmu(phandle) else {
                mentions.other = true;
                // An entry of another IOMMU may have more cells.
                if self.cells_of(phandle) != Some(4) {
                    break;
                }
                continue;
            };
            mentions.smmu = true;
            if length == 0 || requester + length > 0x1_0000 {
                let _ = self.odd.push(Odd::MapEntry);
            }
            // What is above the mask is never looked up.
            let reachable = (u64::from(mask) + 1).saturating_sub(requester);
            let length = length.min(reachable);
            if length > 0 {
                mentions.streams = true;
                self.add(node, name, smmu, stream, length)?;
            }
        }
        Ok(())
    }

    /// The SMMU that is enabled and has that phandle.
    fn smmu(&self, phandle: u64) -> Option<usize> {
        let known = |smmu: &Smmu| smmu.phandle.map(u64::from) == Some(phandle);
        self.smmus.iter().position(known)
    }

    /// Bytes behind the phandle of another IOMMU. `None` where that cannot be
    /// found, or only by walking the tree too often.
    fn cells_of(&mut self, phandle: u64) -> Option<usize> {
        self.foreign += 1;
        if self.foreign > FOREIGN_LIMIT {
            return None;
        }
        let iommu = self.fdt.by_phandle(u32::try_from(phandle).ok()?)?;
        let cells = iommu.u32("#iommu-cells").ok().flatten()?;
        usize::try_from(cells).ok()?.checked_mul(4)
    }

    fn add(
        &mut self,
        node: Node<'a>,
        property: &'static str,
        smmu: usize,
        first: u64,
        count: u64,
    ) -> Result<(), BootError> {
        let ids = u32::try_from(first).ok().and_then(|first| {
            let last = count.checked_sub(1)?.checked_add(first.into())?;
            Some((first, u32::try_from(last).ok()?))
        });
        let (first, last) =
            ids.ok_or_else(|| node.bad_value(property, first, "StreamIDs of 32 bits"))?;
        let pcie = property == "iommu-map";
        let mut next = Some(first);
        while let Some(at) = next.filter(|at| *at <= last) {
            let has = |other: &&mut StreamRange| {
                other.smmu == smmu && (other.first..=other.last).contains(&at)
            };
            if let Some(other) = self.streams.iter_mut().find(has) {
                let _ = self.odd.push(match other.node == node.id() {
                    true => Odd::StreamTwice,
                    false => Odd::StreamShared,
                });
                // Of a PCIe device's, also where another device has it.
                other.pcie |= pcie;
                other.shared = true;
                let both = (other.node, node.id());
                if both.0 != both.1 && !self.joined.iter().any(|known| *known == both) {
                    // A full list says that not all are in it.
                    let _ = self.joined.push(both);
                }
                next = other.last.checked_add(1);
                continue;
            }
            let above = self.streams.iter().filter(|other| other.smmu == smmu);
            let above = above.map(|other| other.first).filter(|other| *other > at);
            let end = above.min().map_or(last, |above| last.min(above - 1));
            let range = StreamRange {
                smmu,
                first: at,
                last: end,
                pcie,
                node: node.id(),
                shared: false,
            };
            self.streams.push(range).map_err(|_| BootError::TooMany {
                what: "ranges of streams",
                limit: STREAM_RANGE_LIMIT,
            })?;
            next = end.checked_add(1);
        }
        Ok(())
    }
}

/// The phandle of the first IOMMU that the property `name` refers to, when it
/// is `iommus` or `iommu-map`. In a tree that [`read`] accepted it speaks for
/// all of them: a node that has streams there names nothing else.
pub(crate) fn first_iommu(name: &[u8], mut value: &[u8]) -> Option<u32> {
    match name {
        b"iommus" => {}
        b"iommu-map" => {
            take_cells(&mut value, 1)?;
        }
        _ => return None,
    }
    u32::try_from(take_cells(&mut value, 1)?).ok()
}
