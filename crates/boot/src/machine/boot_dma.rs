//! DMA that was under way before the hypervisor was: what a display shows.
//!
//! Firmware leaves a display on, and says where its picture is: in a
//! `simple-framebuffer` (Linux binding `display/simple-framebuffer.yaml`), by `reg` or
//! by `memory-region`, and in a child of `/reserved-memory` with `iommu-addresses`
//! (`reserved-memory/reserved-memory.yaml`), which names the device and the address
//! that it uses. That memory is the host's, however it is marked: its drivers map
//! it, and so do the SMMUs.

use super::odd::{Odd, Oddities};
use super::reg::for_each_register;
use super::stream::{STREAM_RANGE_LIMIT, StreamRange};
use crate::fdt::{Ancestry, Fdt, Node, NodeId, take_cells, word};
use crate::list::List;
use portcullis_addr::{PhysAddr, Range};

/// Most framebuffers that firmware has set up.
const FRAMEBUFFER_LIMIT: usize = 16;

/// The framebuffers that firmware has set up.
#[derive(Default)]
pub(super) struct Framebuffers {
    /// Their nodes. More than there is room for are as good as none: no display has
    /// that many.
    pub nodes: List<NodeId, FRAMEBUFFER_LIMIT>,
    /// Where they are, by `reg`.
    pub ranges: List<Range<PhysAddr>, FRAMEBUFFER_LIMIT>,
    /// The phandles of the reserved memory that they are in.
    regions: List<u32, FRAMEBUFFER_LIMIT>,
}

impl Framebuffers {
    pub fn of(fdt: &Fdt<'_>) -> Self {
        let mut found = Self::default();
        let mut ancestry = Ancestry::empty(fdt);
        for (depth, node) in fdt.nodes() {
            ancestry.enter(depth, node);
            if !node.is_compatible(b"simple-framebuffer") || !node.is_enabled() {
                continue;
            }
            let _ = found.nodes.push(node.id());
            for_each_register(&ancestry, &mut |range| {
                let _ = found.ranges.push(range);
            });
            let region = node.property(b"memory-region");
            if let Some(phandle) = region.and_then(|region| word(region, 0)) {
                let _ = found.regions.push(phandle);
            }
        }
        found
    }

    /// Whether one of them names this reserved memory as its own.
    pub fn name(&self, node: &Node<'_>) -> bool {
        let phandle = node.phandle();
        self.regions.iter().any(|region| Some(*region) == phandle)
    }
}

/// Takes the streams from each device that was told to use reserved memory by an
/// address that is not its own: what the SMMU is to translate that to, only a host
/// knows that drives it, and until then the device would reach other memory.
pub(super) fn take_streams(
    fdt: &Fdt<'_>,
    parent: &Node<'_>,
    streams: &mut List<StreamRange, STREAM_RANGE_LIMIT>,
    nodes: &mut List<NodeId, STREAM_RANGE_LIMIT>,
    odd: &mut Oddities,
) {
    let Some(cells) = fdt.root().quiet_cells() else {
        return;
    };
    for node in parent.children().filter(Node::is_enabled) {
        let Some(mut rest) = node.property(b"iommu-addresses") else {
            continue;
        };
        let mut reg = node.property(b"reg").unwrap_or_default();
        let own = super::reserved::cells_of(fdt, parent, reg.len());
        let own = own.and_then(|cells| take_cells(&mut reg, cells.address));
        while let Some(phandle) = take_cells(&mut rest, 1) {
            let address = take_cells(&mut rest, cells.address);
            let size = take_cells(&mut rest, cells.size);
            if address.is_some() && size.is_some() && address == own {
                continue;
            }
            let phandle = u32::try_from(phandle).ok();
            let Some(device) = phandle.and_then(|phandle| fdt.by_phandle(phandle)) else {
                break;
            };
            let id = device.id();
            let named = nodes.iter().position(|node| *node == id);
            if let Some(index) = named {
                odd.add(id, Odd::BootDmaElsewhere);
                nodes.swap_remove(index);
            }
            loop {
                let stream = streams.iter().position(|stream| stream.node == id);
                let Some(index) = stream else { break };
                streams.swap_remove(index);
            }
        }
    }
}
