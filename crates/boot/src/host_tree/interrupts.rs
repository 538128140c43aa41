//! What the host's tree says of the interrupt controller.

use crate::fdt::{Fdt, Node, NodeId, take_cells};
use crate::list::List;
use crate::machine::{Gic, ITS_LIMIT, Machine};

/// The model of an ITS.
const ITS: &[u8] = b"arm,gic-v3-its";

/// How the interrupt controller of the host differs from the machine's.
#[derive(Clone, Copy, Debug)]
pub struct Interrupts {
    /// The node of a GICv3.
    gic: Option<NodeId>,
    /// Whether the ITSs go, with everything that refers to them.
    without_its: bool,
    /// Bytes from one redistributor to the next, where the tree leaves that to
    /// `GICR_TYPER` and the host sees another `GICR_TYPER.VLPIS`.
    stride: Option<u64>,
}

impl Interrupts {
    /// The edits of a machine. `virtual_lpis` is whether its redistributors have
    /// `GICR_TYPER.VLPIS`, which the host does not see: it would take them to
    /// be half as far apart (IHI 0069, 12.10).
    #[must_use]
    pub fn of(machine: &Machine, virtual_lpis: bool) -> Self {
        /// Four frames of 64 KiB.
        const WITH_VIRTUAL_LPIS: u64 = 0x4_0000;
        let Gic::V3(gic) = &machine.gic else {
            return Self {
                gic: None,
                without_its: false,
                stride: None,
            };
        };
        let new = virtual_lpis && gic.stride.is_none();
        Self {
            gic: Some(gic.node),
            without_its: !machine.gic_its,
            stride: new.then_some(WITH_VIRTUAL_LPIS),
        }
    }

    /// Whether a node and everything in it is left out.
    pub(super) fn drops(&self, node: &Node<'_>) -> bool {
        self.without_its && node.is_compatible(ITS)
    }

    /// What `node` gets as `redistributor-stride`, of two cells.
    pub(super) fn stride_of(&self, node: NodeId) -> Option<[u8; 8]> {
        let stride = self.stride.filter(|_| self.gic == Some(node))?;
        Some(stride.to_be_bytes())
    }

    /// Phandles of the ITSs that go. More than there can be are not looked for.
    pub(super) fn dropped(&self, source: &Fdt<'_>) -> List<u32, ITS_LIMIT> {
        let mut list = List::new();
        for (_, node) in source.nodes().filter(|(_, node)| self.drops(node)) {
            if let Some(phandle) = node.phandle() {
                let _ = list.push(phandle);
            }
        }
        list
    }
}

/// The phandle of the first controller that the property `name` refers to, when
/// it is `msi-parent` or `msi-map`.
pub(super) fn first_controller(name: &[u8], mut value: &[u8]) -> Option<u32> {
    match name {
        b"msi-parent" => {}
        b"msi-map" => {
            take_cells(&mut value, 1)?;
        }
        _ => return None,
    }
    u32::try_from(take_cells(&mut value, 1)?).ok()
}
