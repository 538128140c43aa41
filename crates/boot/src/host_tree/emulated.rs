//! What the node of an SMMU becomes when the host is to see an emulated one.

use super::writer::{Name, Writer};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId};
use crate::machine::{HostLines, Machine};

/// An SMMU that stays in the host's tree.
#[derive(Clone, Copy, Debug)]
pub struct Emulated {
    /// Its node.
    pub node: NodeId,
    /// Its interrupts.
    pub lines: HostLines,
    /// Whether the host's stores reach its SMMU without cache maintenance: then
    /// the node has `dma-coherent`, else `dma-noncoherent`.
    pub coherent: bool,
    /// The node of the GIC, the interrupts' parent.
    pub gic: NodeId,
}

/// Properties that speak of the physical SMMU: how it signals, what model it
/// is, and what is wrong with it.
const REPLACED: [&[u8]; 10] = [
    b"compatible",
    b"interrupts",
    b"interrupts-extended",
    b"interrupt-names",
    b"interrupt-parent",
    b"msi-parent",
    b"dma-coherent",
    b"dma-noncoherent",
    b"hisilicon,broken-prefetch-cmd",
    b"cavium,cn9900-broken-page1-regspace",
];

/// Whether a property of an emulated SMMU's node is not the physical one's.
pub(super) fn replaces(name: &[u8]) -> bool {
    REPLACED.contains(&name)
}

/// The emulated SMMUs of `machine`; `coherent` is the hypervisor's own view of
/// the physical ones.
pub(super) fn list(machine: &Machine, coherent: bool) -> impl Iterator<Item = Emulated> {
    let gic = machine.gic.node();
    let lines = machine.host_lines.iter();
    machine
        .smmus
        .iter()
        .zip(lines)
        .map(move |(smmu, lines)| Emulated {
            node: smmu.node,
            lines: *lines,
            coherent,
            gic,
        })
}

/// Writes what replaces the properties of `node`.
pub(super) fn properties(
    writer: &mut Writer<'_, '_>,
    source: &Fdt<'_>,
    emulated: &Emulated,
) -> Result<(), BootError> {
    writer.property(Name::New("compatible"), b"arm,smmu-v3\0")?;
    let (names, intids): (&[u8], &[u32]) = match &emulated.lines {
        HostLines::Separate { event, error } => (b"eventq\0gerror\0", &[*event, *error]),
        HostLines::Combined(line) => (b"combined\0", core::slice::from_ref(line)),
        HostLines::Message { .. } => (b"", &[]),
    };
    if intids.is_empty() {
        // The ITS and the DeviceID as they are.
        let node = source.node(emulated.node);
        let parent = node.and_then(|node| node.property(b"msi-parent"));
        writer.property(Name::New("msi-parent"), parent.unwrap_or_default())?;
    } else {
        interrupts(writer, source, emulated.gic, intids)?;
        writer.property(Name::New("interrupt-names"), names)?;
    }
    let coherency = if emulated.coherent {
        "dma-coherent"
    } else {
        "dma-noncoherent"
    };
    writer.property(Name::New(coherency), &[])
}

/// Writes that a device interrupts through `gic` with `intids`: SPIs, two at
/// most, which software makes pending.
pub(super) fn interrupts(
    writer: &mut Writer<'_, '_>,
    source: &Fdt<'_>,
    gic: NodeId,
    intids: &[u32],
) -> Result<(), BootError> {
    let gic = source.node(gic);
    // The check of the interrupts has seen to 3 or 4.
    let cells = match gic.map(|gic| gic.u32("#interrupt-cells")) {
        Some(cells) => cells?.unwrap_or(3),
        None => 3,
    };
    if let Some(phandle) = gic.as_ref().and_then(Node::phandle) {
        writer.property(Name::New("interrupt-parent"), &phandle.to_be_bytes())?;
    }
    let mut value = [0; 2 * 16];
    let mut len = 0;
    for intid in intids {
        // An SPI, extended or not; making it pending is an edge.
        let spi = match intid.checked_sub(4096) {
            Some(extended) => [2, extended, 1, 0],
            None => [0, intid.saturating_sub(32), 1, 0],
        };
        for cell in spi.iter().take(cells as usize) {
            if let Some(slot) = value.get_mut(len..len + 4) {
                slot.copy_from_slice(&cell.to_be_bytes());
                len += 4;
            }
        }
    }
    writer.property(
        Name::New("interrupts"),
        value.get(..len).unwrap_or_default(),
    )
}
