//! The SMMUs (Linux bindings `iommu/arm,smmu-v3.yaml` and
//! `perf/arm,smmu-v3-pmcg.yaml`).

use super::interrupt::{Interrupt, Resolver};
use super::memory::in_memory;
use super::odd::{Odd, Oddities};
use super::reg::{first, registers};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId};
use crate::list::List;
use crate::text::NodePath;
use portcullis_addr::{PhysAddr, Range};

/// Most SMMUs.
pub const SMMU_LIMIT: usize = 16;

/// Most register ranges that are only hidden.
pub const HIDDEN_LIMIT: usize = 64;

/// The wired interrupts of an SMMU, by their names in `interrupt-names`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmmuInterrupts {
    /// `eventq`: the event queue is no longer empty.
    pub event: Option<Interrupt>,
    /// `priq`: the PRI queue is no longer empty.
    pub pri: Option<Interrupt>,
    /// `cmdq-sync`: a CMD_SYNC completed.
    pub sync: Option<Interrupt>,
    /// `gerror`: a global error became active.
    pub gerror: Option<Interrupt>,
    /// `combined`: one line for all of them.
    pub combined: Option<Interrupt>,
}

/// An SMMUv3.
#[derive(Clone, Copy, Debug)]
pub struct Smmu {
    /// Its registers, page 0 and page 1.
    pub registers: Range<PhysAddr>,
    /// Whether what belongs in page 1 is in page 0:
    /// `cavium,cn9900-broken-page1-regspace`.
    pub page_0_only: bool,
    /// Its interrupts.
    pub interrupts: SmmuInterrupts,
    /// Whether its walks and queue accesses are coherent with the CPUs'
    /// caches: `dma-coherent` here or around it, and no `dma-noncoherent`
    /// nearer.
    pub coherent: bool,
    /// Its phandle; without one no device refers to it.
    pub phandle: Option<u32>,
    /// Its node.
    pub node: NodeId,
    /// The path of its node, for messages.
    pub path: NodePath,
}

pub(super) struct Found {
    pub smmus: List<Smmu, SMMU_LIMIT>,
    pub hidden: List<Range<PhysAddr>, HIDDEN_LIMIT>,
}

/// Whether a node is an SMMUv3.
pub(crate) fn is_smmu(node: &Node<'_>) -> bool {
    node.is_compatible(b"arm,smmu-v3")
}

/// Whether a node is a performance monitor of an SMMUv3.
pub(crate) fn is_monitor(node: &Node<'_>) -> bool {
    node.is_compatible(b"arm,smmu-v3-pmcg") || node.is_compatible(b"hisilicon,smmu-v3-pmcg-hip08")
}

/// Every SMMU of the tree.
pub(super) fn read<'a>(
    fdt: &Fdt<'a>,
    interrupts: &Resolver<'a>,
    odd: &mut Oddities,
) -> Result<Found, BootError> {
    let mut found = Found {
        smmus: List::new(),
        hidden: List::new(),
    };
    for (_, node) in fdt.nodes() {
        if is_smmu(&node) && node.is_enabled() {
            let smmu = one(fdt, node, interrupts, odd)?;
            found.smmus.push(smmu).map_err(|_| BootError::TooMany {
                what: "SMMUs",
                limit: SMMU_LIMIT,
            })?;
        } else if is_smmu(&node) || is_monitor(&node) {
            let mut index = 0;
            while let Some(range) = registers(fdt, node, index)? {
                found.hidden.push(range).map_err(|_| BootError::TooMany {
                    what: "register ranges of disabled SMMUs and their monitors",
                    limit: HIDDEN_LIMIT,
                })?;
                index += 1;
            }
        }
    }
    for smmu in found.smmus.iter() {
        let Some(phandle) = smmu.phandle else {
            continue;
        };
        let same = |node: &Node<'_>| node.phandle() == Some(phandle) && node.id() != smmu.node;
        if let Some((_, other)) = fdt.nodes().find(|(_, node)| same(node)) {
            return Err(BootError::DuplicatePhandle {
                first: smmu.path,
                second: fdt.path(other.id()),
                phandle,
            });
        }
    }
    Ok(found)
}

/// The SMMUs of a tree that may be good for nothing else.
#[derive(Clone, Debug)]
pub struct ToFence {
    /// Registers of every SMMU that is enabled. Disabled ones are left out,
    /// since firmware may have taken their clock away, and so is what would lie
    /// in RAM.
    pub registers: List<Range<PhysAddr>, SMMU_LIMIT>,
    /// How many more there are that cannot be reached by what the tree says.
    pub lost: usize,
}

impl ToFence {
    /// Refuses a tree without any SMMU that is enabled, before anything else is
    /// said of it: on such a machine no other reason matters.
    ///
    /// # Errors
    /// [`BootError::MissingNode`]
    pub fn require(&self) -> Result<(), BootError> {
        match self.registers.is_empty() && self.lost == 0 {
            true => Err(NO_SMMU),
            false => Ok(()),
        }
    }
}

/// The refusal of a machine on which nothing could hold a device back.
pub(super) const NO_SMMU: BootError = BootError::MissingNode {
    what: "SMMU",
    right: "run on a machine with an SMMUv3, in QEMU with -machine virt,iommu=smmuv3",
};

/// The SMMUs whose DMA is to be stopped, whatever else is wrong with the tree.
#[must_use]
pub fn smmus_to_fence(fdt: &Fdt<'_>) -> ToFence {
    let mut found = ToFence {
        registers: List::new(),
        lost: 0,
    };
    for (_, node) in fdt.nodes() {
        if !is_smmu(&node) || !node.is_enabled() {
            continue;
        }
        let kept = first(fdt, node)
            .ok()
            .filter(|range| !in_memory(fdt, range))
            .is_some_and(|range| found.registers.push(range).is_ok());
        found.lost += usize::from(!kept);
    }
    found
}

fn one<'a>(
    fdt: &Fdt<'a>,
    node: Node<'a>,
    resolver: &Resolver<'a>,
    odd: &mut Oddities,
) -> Result<Smmu, BootError> {
    // Without it no property could name a stream.
    match node.u32("#iommu-cells")? {
        Some(1) | None => {}
        Some(cells) => return Err(node.bad_value("#iommu-cells", cells.into(), "1")),
    }
    let mut interrupts = SmmuInterrupts::default();
    let mut names = node.strings(b"interrupt-names");
    resolver.for_each(node, |interrupt| {
        let slot = match names.next() {
            Some(b"eventq") => &mut interrupts.event,
            Some(b"priq") => &mut interrupts.pri,
            Some(b"cmdq-sync") => &mut interrupts.sync,
            Some(b"gerror") => &mut interrupts.gerror,
            Some(b"combined") => &mut interrupts.combined,
            Some(_) => return,
            None => return odd.add(node.id(), Odd::InterruptUnnamed),
        };
        // Its events are looked for without it.
        if interrupt.is_none() {
            odd.add(node.id(), Odd::InterruptElsewhere);
        }
        *slot = interrupt;
    });
    Ok(Smmu {
        registers: first(fdt, node)?,
        page_0_only: node
            .property(b"cavium,cn9900-broken-page1-regspace")
            .is_some(),
        interrupts,
        coherent: is_coherent(fdt, node),
        phandle: node.phandle(),
        node: node.id(),
        path: fdt.path(node.id()),
    })
}

fn is_coherent(fdt: &Fdt<'_>, node: Node<'_>) -> bool {
    for around in fdt.ancestry(node.id()).upward() {
        if around.property(b"dma-coherent").is_some() {
            return true;
        }
        if around.property(b"dma-noncoherent").is_some() {
            return false;
        }
    }
    false
}
