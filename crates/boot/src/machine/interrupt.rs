//! Interrupts of devices (Devicetree Specification v0.4, section 2.4; Linux
//! binding `arm,gic-v3.yaml` for the cells).

use crate::fdt::{Fdt, Node, NodeId, take_cells};

/// Most interrupts of one node that are looked at; an SMMU has five.
pub const INTERRUPT_LIMIT: usize = 64;

/// How an interrupt is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a rising edge.
    Edge,
    /// By a high level.
    Level,
}

/// An interrupt of the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The INTID: 16-31 for a PPI, 32-1019 for an SPI, 1056-1119 and
    /// 4096-5119 for the extended ranges of GICv3.1.
    pub intid: u32,
    /// How it is signalled.
    pub trigger: Trigger,
}

/// Finds the interrupts of nodes, given which node is the GIC.
pub(super) struct Resolver<'a> {
    fdt: Fdt<'a>,
    gic: NodeId,
}

impl<'a> Resolver<'a> {
    pub fn new(fdt: &Fdt<'a>, gic: NodeId) -> Self {
        Self { fdt: *fdt, gic }
    }

    /// Calls `each` for every interrupt of `node`, with `None` for one that is not
    /// the GIC's own: it goes through another controller, such as one that turns it
    /// into a message, or says nothing that a GIC knows. Where the rest cannot be
    /// told apart, one `None` stands for it.
    pub fn for_each(&self, node: Node<'a>, mut each: impl FnMut(Option<Interrupt>)) {
        if let Some(mut rest) = node.property(b"interrupts-extended") {
            // Each entry may cost a walk of the tree.
            for _ in 0..INTERRUPT_LIMIT {
                if rest.is_empty() {
                    return;
                }
                let phandle = take_cells(&mut rest, 1);
                let phandle = phandle.and_then(|phandle| u32::try_from(phandle).ok());
                let parent = phandle.and_then(|phandle| self.fdt.by_phandle(phandle));
                let Some(entry) = parent.and_then(|parent| self.take(parent, &mut rest)) else {
                    break;
                };
                each(entry);
            }
            each(None);
        } else if let Some(mut rest) = node.property(b"interrupts") {
            let parent = self.parent(node);
            for _ in 0..INTERRUPT_LIMIT {
                if rest.is_empty() {
                    return;
                }
                let Some(entry) = parent.and_then(|parent| self.take(parent, &mut rest)) else {
                    break;
                };
                each(entry);
            }
            each(None);
        }
    }

    /// The interrupt parent: the node's own or that of the nearest node
    /// around it. Without any it is the GIC, the only controller here.
    fn parent(&self, node: Node<'a>) -> Option<Node<'a>> {
        for around in self.fdt.ancestry(node.id()).upward() {
            if let Some(phandle) = around.property(b"interrupt-parent") {
                let phandle = u32::from_be_bytes(phandle.try_into().ok()?);
                return self.fdt.by_phandle(phandle);
            }
        }
        self.fdt.node(self.gic)
    }

    /// Takes the interrupt specifier of one interrupt off `rest`. `None` when there
    /// is no whole one.
    fn take(&self, parent: Node<'a>, rest: &mut &'a [u8]) -> Option<Option<Interrupt>> {
        let cells = parent.u32("#interrupt-cells").ok().flatten()?;
        let bytes = usize::try_from(cells).ok()?.checked_mul(4)?;
        let (entry, after) = rest.split_at_checked(bytes).filter(|_| bytes > 0)?;
        *rest = after;
        let own = parent.id() == self.gic && matches!(cells, 3 | 4);
        Some(own.then(|| decode(entry)).flatten())
    }
}

/// What three or four cells say to a GIC.
fn decode(mut cells: &[u8]) -> Option<Interrupt> {
    let mut cell = || take_cells(&mut cells, 1);
    let (kind, number, flags) = (cell()?, cell()?, cell()?);
    // The specifier's number counts within its kind.
    let (base, count) = match kind {
        0 => (32, 988),
        1 => (16, 16),
        2 => (4096, 1024),
        3 => (1056, 64),
        _ => return None,
    };
    let trigger = match (flags & 0xf, kind) {
        (1, _) => Trigger::Edge,
        (4, _) => Trigger::Level,
        // A PPI's polarity is fixed in hardware; trees of old boards say
        // low here.
        (2, 1) => Trigger::Edge,
        (8, 1) => Trigger::Level,
        _ => return None,
    };
    let intid = u32::try_from(base + number).ok()?;
    (number < count).then_some(Interrupt { intid, trigger })
}
