//! Which devices use which streams (Linux bindings `pci/pci-iommu.yaml` for
//! `iommu-map` and `iommu/iommu.txt` for `iommus`).

use super::odd::{Odd, Oddities};
use super::smmu::{SMMU_LIMIT, Smmu, is_smmu};
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
}

/// Which IOMMUs a property refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mentions {
    pub smmu: bool,
    pub other: bool,
}

/// Every stream, none twice, and the nodes that name some. Of streams that several
/// nodes name, the first has them.
pub(super) type Found = (
    List<StreamRange, STREAM_RANGE_LIMIT>,
    List<NodeId, STREAM_RANGE_LIMIT>,
);

struct Reader<'a, 'm> {
    fdt: Fdt<'a>,
    smmus: &'m List<Smmu, SMMU_LIMIT>,
    streams: List<StreamRange, STREAM_RANGE_LIMIT>,
    foreign: usize,
    /// What was odd in the node that is read.
    odd: List<Odd, 4>,
}

/// Every stream that an enabled node of the tree names.
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
        odd: List::new(),
    };
    for (_, node) in fdt.nodes().filter(|(_, node)| node.is_enabled()) {
        let direct = reader.direct(node)?;
        let map = reader.map(node)?;
        for found in core::mem::take(&mut reader.odd).iter() {
            odd.add(node.id(), *found);
        }
        if direct || map {
            nodes.push(node.id()).map_err(|_| BootError::TooMany {
                what: "nodes with streams",
                limit: STREAM_RANGE_LIMIT,
            })?;
        }
    }
    Ok((reader.streams, nodes))
}

impl<'a> Reader<'a, '_> {
    /// `iommus`: a phandle and as many cells as that IOMMU wants, repeated. Whether
    /// it names streams.
    fn direct(&mut self, node: Node<'a>) -> Result<bool, BootError> {
        let name = "iommus";
        let Some(mut rest) = node.property(b"iommus") else {
            return Ok(false);
        };
        let right = "a phandle and #iommu-cells cells, repeated";
        let short = || node.bad_length(name, right);
        let mut mentions = Mentions::default();
        while !rest.is_empty() {
            let phandle = take_cells(&mut rest, 1).ok_or_else(short)?;
            let phandle = u32::try_from(phandle).unwrap_or_default();
            match self.smmu(node, name, phandle)? {
                Some(smmu) => {
                    mentions.smmu = true;
                    let stream = take_cells(&mut rest, 1).ok_or_else(short)?;
                    self.add(node, name, smmu, stream, 1)?;
                }
                None => {
                    mentions.other = true;
                    let iommu = self.fdt.by_phandle(phandle);
                    let cells = match iommu.map(|iommu| iommu.u32("#iommu-cells")) {
                        Some(cells) => cells?.unwrap_or(0),
                        None => 0,
                    };
                    let bytes = usize::try_from(cells).ok().and_then(|n| n.checked_mul(4));
                    let after = bytes.and_then(|bytes| rest.get(bytes..));
                    rest = after.ok_or_else(short)?;
                }
            }
        }
        self.only_one_kind(node, name, mentions)?;
        Ok(mentions.smmu)
    }

    /// `iommu-map`: first requester ID, phandle, first StreamID, length,
    /// repeated; requester IDs are masked by `iommu-map-mask` first.
    /// Whether it names streams.
    fn map(&mut self, node: Node<'a>) -> Result<bool, BootError> {
        let name = "iommu-map";
        let Some(mut rest) = node.property(b"iommu-map") else {
            return Ok(false);
        };
        let mut named = false;
        let short = || node.bad_length(name, "entries of four cells");
        let mask = node.u32("iommu-map-mask")?.unwrap_or(0xffff) & 0xffff;
        let mut mentions = Mentions::default();
        while !rest.is_empty() {
            let mut cell = || take_cells(&mut rest, 1).ok_or_else(short);
            let (requester, phandle, stream, length) = (cell()?, cell()?, cell()?, cell()?);
            let phandle = u32::try_from(phandle).unwrap_or_default();
            let Some(smmu) = self.smmu(node, name, phandle)? else {
                mentions.other = true;
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
                named = true;
                self.add(node, name, smmu, stream, length)?;
            }
        }
        self.only_one_kind(node, name, mentions)?;
        Ok(named)
    }

    /// The SMMU with that phandle; `None` for an IOMMU of another kind.
    fn smmu(
        &mut self,
        node: Node<'a>,
        property: &'static str,
        phandle: u32,
    ) -> Result<Option<usize>, BootError> {
        let known = |smmu: &Smmu| smmu.phandle == Some(phandle);
        if let Some(index) = self.smmus.iter().position(known) {
            return Ok(Some(index));
        }
        self.foreign += 1;
        if self.foreign > FOREIGN_LIMIT {
            return Err(BootError::TooMany {
                what: "references to IOMMUs other than SMMUv3",
                limit: FOREIGN_LIMIT,
            });
        }
        match self.fdt.by_phandle(phandle) {
            None => Err(BootError::DanglingPhandle {
                node: self.fdt.path(node.id()),
                property,
                phandle,
            }),
            Some(iommu) if is_smmu(&iommu) => Err(BootError::DisabledSmmu {
                node: self.fdt.path(node.id()),
                property,
                smmu: self.fdt.path(iommu.id()),
            }),
            Some(_) => Ok(None),
        }
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
                // Of a PCIe device's, whoever else has it.
                other.pcie |= pcie;
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
            };
            self.streams.push(range).map_err(|_| BootError::TooMany {
                what: "ranges of streams",
                limit: STREAM_RANGE_LIMIT,
            })?;
            next = end.checked_add(1);
        }
        Ok(())
    }

    fn only_one_kind(
        &self,
        node: Node<'a>,
        property: &'static str,
        mentions: Mentions,
    ) -> Result<(), BootError> {
        if mentions.smmu && mentions.other {
            return Err(BootError::MixedIommus {
                node: self.fdt.path(node.id()),
                property,
            });
        }
        Ok(())
    }
}

/// The phandle of the first IOMMU that the property `name` refers to, when it
/// is `iommus` or `iommu-map`. In a tree that [`read`] accepted it speaks for
/// all of them: no property of an enabled node mixes SMMUs and others.
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
