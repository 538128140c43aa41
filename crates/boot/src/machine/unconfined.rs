//! Devices that reach memory past every SMMU.
//!
//! An SMMU confines the devices behind it and nobody else. A device that does
//! DMA and names no stream can be told to write anywhere; the only fence there
//! is is not to let the host reach its registers. On QEMU's virt machine these
//! are the virtio-mmio transports and fw_cfg.

use super::reg::{for_each_pci_window, for_each_register};
use super::smmu::{is_monitor, is_smmu};
use super::stream::{STREAM_RANGE_LIMIT, StreamRange};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId};
use crate::list::List;
use portcullis_addr::{PhysAddr, Range};

/// Most register ranges of such devices.
pub const UNCONFINED_LIMIT: usize = 128;

/// Registers of a device that does DMA which no SMMU translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfined {
    /// Its registers.
    pub range: Range<PhysAddr>,
    /// Its node.
    pub node: NodeId,
}

/// Bindings of devices that do DMA, whether or not their node says how their
/// DMA relates to the caches.
const MASTERS: [&[u8]; 5] = [
    b"virtio,mmio",
    b"qemu,fw-cfg-mmio",
    b"arm,pl330",
    b"arm,pl080",
    b"arm,pl081",
];

/// Whether a device says that it does DMA: a coherency property only means
/// something for one that does (Devicetree Specification v0.4, section 2.3.10;
/// Linux binding `dma-noncoherent`).
///
/// A node that does DMA and says nothing cannot be told from one that does
/// none.
fn does_dma(node: &Node<'_>) -> bool {
    let says = node.property(b"dma-coherent").is_some()
        || node.property(b"dma-noncoherent").is_some()
        || is_pci(node);
    let known = MASTERS.iter().any(|model| node.is_compatible(model));
    // The interrupt controller is the hypervisor's to look after; an SMMU and
    // its monitors are hidden anyway.
    let gic = node.is_compatible(b"arm,gic-v3") || node.is_compatible(b"arm,gic-v3-its");
    (says || known) && !gic && !is_smmu(node) && !is_monitor(node)
}

fn is_pci(node: &Node<'_>) -> bool {
    node.property(b"device_type") == Some(b"pci\0")
}

/// Every device that does DMA and uses none of `streams`. Those that are not
/// enabled are listed too: a host need not believe its tree.
pub(super) fn read(
    fdt: &Fdt<'_>,
    streams: &List<StreamRange, STREAM_RANGE_LIMIT>,
) -> Result<List<Unconfined, UNCONFINED_LIMIT>, BootError> {
    let mut found = List::new();
    // What is below a PCI host bridge does its DMA through it, whatever its
    // own node says: the bridge's `iommu-map` speaks for all.
    let mut bridge: Option<usize> = None;
    for (depth, node) in fdt.nodes() {
        if bridge.is_some_and(|at| depth > at) {
            continue;
        }
        bridge = is_pci(&node).then_some(depth);
        let covered = streams.iter().any(|s| s.node == node.id());
        if !does_dma(&node) || covered || node.property(b"reg").is_none() {
            continue;
        }
        let mut add = |range| {
            let device = Unconfined {
                range,
                node: node.id(),
            };
            found.push(device).map_err(|_| BootError::TooMany {
                what: "register ranges of devices without an SMMU",
                limit: UNCONFINED_LIMIT,
            })
        };
        for_each_register(fdt, node, &mut add)?;
        if is_pci(&node) {
            // Functions that firmware has set up can be driven through their
            // windows alone.
            for_each_pci_window(fdt, node, &mut add)?;
        }
    }
    Ok(found)
}
