//! Which devices use which streams (Linux bindings `pci/pci-iommu.yaml` for
//! `iommu-map` and `iommu/iommu.txt` for `iommus`).

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

struct Reader<'a, 'm> {
    fdt: Fdt<'a>,
    smmus: &'m List<Smmu, SMMU_LIMIT>,
    streams: List<StreamRange, STREAM_RANGE_LIMIT>,
    foreign: usize,
}

/// Every stream that an enabled node of the tree names.
pub(super) fn read(
    fdt: &Fdt<'_>,
    smmus: &List<Smmu, SMMU_LIMIT>,
) -> Result<List<StreamRange, STREAM_RANGE_LIMIT>, BootError> {
    let mut reader = Reader {
        fdt: *fdt,
        smmus,
        streams: List::new(),
        foreign: 0,
    };
    for (_, node) in fdt.nodes().filter(|(_, node)| node.is_enabled()) {
        reader.direct(node)?;
        reader.map(node)?;
    }
    Ok(reader.streams)
}

impl<'a> Reader<'a, '_> {
    /// `iommus`: a phandle and as many cells as that IOMMU wants, repeated.
    fn direct(&mut self, node: Node<'a>) -> Result<(), BootError> {
        let name = "iommus";
        let Some(mut rest) = node.property(b"iommus") else {
            return Ok(());
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
        self.only_one_kind(node, name, mentions)
    }

    /// `iommu-map`: first requester ID, phandle, first StreamID, length,
    /// repeated; requester IDs are masked by `iommu-map-mask` first.
    fn map(&mut self, node: Node<'a>) -> Result<(), BootError> {
        let name = "iommu-map";
        let Some(mut rest) = node.property(b"iommu-map") else {
            return Ok(());
        };
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
                let right = "at least one requester ID and none above 0xffff";
                return Err(node.bad_value(name, length, right));
            }
            // What is above the mask is never looked up.
            let reachable = (u64::from(mask) + 1).saturating_sub(requester);
            let length = length.min(reachable);
            if length > 0 {
                self.add(node, name, smmu, stream, length)?;
            }
        }
        self.only_one_kind(node, name, mentions)
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
        let twice =
            |other: &&StreamRange| other.smmu == smmu && other.first <= last && first <= other.last;
        if let Some(other) = self.streams.iter().find(twice) {
            return Err(BootError::DuplicateStream {
                stream: first.max(other.first),
                first: self.fdt.path(other.node),
                second: self.fdt.path(node.id()),
            });
        }
        let range = StreamRange {
            smmu,
            first,
            last,
            pcie: property == "iommu-map",
            node: node.id(),
        };
        self.streams.push(range).map_err(|_| BootError::TooMany {
            what: "ranges of streams",
            limit: STREAM_RANGE_LIMIT,
        })
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
