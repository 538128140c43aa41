//! Which devices the host gets.
//!
//! An SMMU confines the devices behind it and no others. A device that does
//! DMA and names no stream of an SMMU can be told to write anywhere; the only
//! fence there is is to keep its registers from the host. On QEMU's virt machine
//! these are the virtio-mmio transports and fw_cfg; on a board they are most of
//! the devices, so that the rule is the other way round: the host gets what is
//! known to be confined or to do no DMA.

use super::binding::{does_dma, does_no_dma, is_pci};
use super::pci::{self, PCI_HOST_LIMIT, PciHost};
use super::reg::{for_each_pci_window, for_each_register};
use super::reserved::is_parent;
use super::smmu::{is_monitor, is_smmu};
use super::stream::STREAM_RANGE_LIMIT;
use crate::args::ALLOW_LIMIT;
use crate::error::BootError;
use crate::fdt::{Ancestry, DEPTH_LIMIT, Fdt, Node, NodeId};
use crate::list::List;
use crate::module::is_module;
use crate::text::NodePath;
use core::fmt;
use portcullis_addr::{PhysAddr, Range};

/// Most devices that are withheld.
pub const WITHHELD_LIMIT: usize = 512;

/// Why the host does not get a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// It is known to do DMA and names no stream.
    DoesDma,
    /// Its binding is not one that is known to do no DMA, and it names no stream.
    Unknown,
    /// It is part of something that the host does not get.
    Inside,
    /// It is the hypervisor's: an SMMU or a part of one, or its console.
    Kept,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DoesDma => "it does DMA that no SMMU translates",
            Self::Unknown => {
                "no SMMU translates what it does, and its binding is not known to do no DMA"
            }
            Self::Inside => "what it is part of is withheld",
            Self::Kept => "it is the hypervisor's",
        })
    }
}

/// What becomes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every access of it passes an SMMU that the hypervisor drives.
    Confined,
    /// It does no DMA.
    Harmless,
    /// The command line says that the host is to have it all the same.
    Allowed,
    /// The host does not get it.
    Withheld(Withheld),
}

/// A node with registers at physical addresses.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    pub node: Node<'a>,
    pub verdict: Verdict,
    /// Whether it and all nodes around it are enabled.
    pub enabled: bool,
    ancestry: Ancestry<'a>,
}

impl<'a> Device<'a> {
    /// The node and those around it.
    pub fn ancestry(&self) -> &Ancestry<'a> {
        &self.ancestry
    }

    /// Hands every range of registers to `each`, those in the windows of a PCI
    /// host bridge included: functions that firmware has set up can be driven
    /// through these alone. An entry that does not translate is no address.
    pub fn for_each_range(&self, each: &mut dyn FnMut(Range<PhysAddr>)) {
        for_each_register(&self.ancestry, each);
        if is_pci(&self.node) {
            for_each_pci_window(&self.ancestry, each);
        }
    }
}

/// What decides on devices, beside the tree.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'m> {
    /// Nodes that name streams.
    pub streams: &'m List<NodeId, STREAM_RANGE_LIMIT>,
    /// Nodes that the command line allows.
    pub allowed: &'m List<NodeId, ALLOW_LIMIT>,
    /// The UART that is the hypervisor's alone.
    pub console: Option<NodeId>,
}

/// A node around the one that is looked at.
#[derive(Clone, Copy, Debug)]
struct Around {
    enabled: bool,
    /// The verdict on it, if it has registers.
    verdict: Option<Verdict>,
}

/// Hands every device of the tree to `each`, disabled ones included: a host
/// need not believe its tree.
pub(crate) fn for_each_device<'a>(
    fdt: &Fdt<'a>,
    rules: Rules<'_>,
    each: &mut dyn FnMut(Device<'a>) -> Result<(), BootError>,
) -> Result<(), BootError> {
    let chosen = fdt.find(b"/chosen").map(|node| node.id());
    let mut ancestry = Ancestry::empty(fdt);
    let mut around = [Around {
        enabled: true,
        verdict: None,
    }; DEPTH_LIMIT + 1];
    // Nodes that are deeper than this are no devices of ours to judge.
    let mut skip: Option<usize> = None;
    for (depth, node) in fdt.nodes() {
        ancestry.enter(depth, node);
        if skip.is_some_and(|at| depth > at) {
            continue;
        }
        skip = None;
        let parent = ancestry.parent().map(|parent| parent.id());
        let outer = around.get(depth.saturating_sub(1)).copied();
        let outer = outer.unwrap_or(Around {
            enabled: false,
            verdict: None,
        });
        let enabled = outer.enabled && node.is_enabled();
        let memory = node.property(b"device_type") == Some(b"memory\0");
        let module = parent.is_some() && parent == chosen && is_module(&node);
        let reserved = depth == 2 && is_parent(&node);
        if memory || module || reserved {
            skip = Some(depth);
            continue;
        }
        let mut device = Device {
            node,
            verdict: rules.verdict(&node, outer.verdict),
            enabled,
            ancestry,
        };
        let mut registers = false;
        device.for_each_range(&mut |_| registers = true);
        let inside = matches!(outer.verdict, Some(Verdict::Withheld(_)));
        if inside {
            device.verdict = Verdict::Withheld(Withheld::Inside);
        }
        // A node of the hypervisor's goes with all that is in it, whether its
        // registers can be found or not.
        let kept = device.verdict == Verdict::Withheld(Withheld::Kept);
        let verdict = (registers || inside || kept).then_some(device.verdict);
        if let Some(slot) = around.get_mut(depth) {
            *slot = Around { enabled, verdict };
        }
        if registers {
            each(device)?;
        }
        // What is below a PCI host bridge does its DMA through it, and has its
        // registers in its windows, whatever its own node says.
        if is_pci(&node) {
            skip = Some(depth);
        }
    }
    Ok(())
}

impl Rules<'_> {
    fn verdict(&self, node: &Node<'_>, around: Option<Verdict>) -> Verdict {
        let id = node.id();
        if is_smmu(node) || is_monitor(node) || self.console == Some(id) {
            return Verdict::Withheld(Withheld::Kept);
        }
        if self.streams.iter().any(|node| *node == id) {
            return Verdict::Confined;
        }
        if does_no_dma(node) {
            return Verdict::Harmless;
        }
        if self.allowed.iter().any(|allowed| *allowed == id) {
            return Verdict::Allowed;
        }
        if does_dma(node) {
            return Verdict::Withheld(Withheld::DoesDma);
        }
        match around {
            // A node without a model of its own is described by the binding of
            // the one around it: the frames of a timer, the ports of a switch.
            Some(around) if node.property(b"compatible").is_none() => around,
            _ => Verdict::Withheld(Withheld::Unknown),
        }
    }
}

/// Which of the devices that are withheld others may point to, by their index in the
/// list of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointedTo([u64; WITHHELD_LIMIT.div_ceil(64)]);

impl PointedTo {
    /// Those of `withheld` that have a phandle, or a node in them has.
    pub(super) fn of(fdt: &Fdt<'_>, withheld: &List<NodeId, WITHHELD_LIMIT>) -> Self {
        let mut found = Self::default();
        for (index, node) in withheld.iter().enumerate() {
            let node = fdt.node(*node);
            let mut within = node.iter().flat_map(Node::within);
            if within.any(|inside| inside.phandle().is_some()) {
                found.add(index);
            }
        }
        found
    }

    fn add(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Whether others may point to the device at `index`.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        let word = self.0.get(index / 64).copied().unwrap_or(0);
        word >> (index % 64) & 1 != 0
    }
}

/// What is to be known of the devices of a machine.
pub(super) struct Found {
    /// The nodes that go from the host's tree, with everything in them: all that
    /// are withheld but for what is the hypervisor's, which has other reasons to.
    pub withheld: List<NodeId, WITHHELD_LIMIT>,
    /// The PCI host bridges that stay, behind SMMUs.
    pub pci_hosts: List<PciHost, PCI_HOST_LIMIT>,
}

/// Looks at every device.
pub(super) fn read(fdt: &Fdt<'_>, rules: Rules<'_>) -> Result<Found, BootError> {
    let mut hosts = List::new();
    let mut found = List::new();
    for_each_device(fdt, rules, &mut |device| match device.verdict {
        Verdict::Withheld(Withheld::DoesDma | Withheld::Unknown) => found
            .push(device.node.id())
            .map_err(|_| BootError::TooMany {
                what: "devices without an SMMU",
                limit: WITHHELD_LIMIT,
            }),
        _ => pci::add(&mut hosts, &device, || fdt.path(device.node.id())),
    })?;
    Ok(Found {
        withheld: found,
        pci_hosts: hosts,
    })
}

/// Devices for one line of the log: some that are withheld, or one that is
/// allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNote {
    /// The first range of registers; of neighbours, all of them.
    pub range: Range<PhysAddr>,
    /// How many nodes.
    pub nodes: usize,
    /// The path of the first.
    pub path: NodePath,
    /// What became of them.
    pub verdict: Verdict,
}

impl DeviceNote {
    /// With the next one, if both are neighbours and say the same.
    fn joined(self, next: &Self) -> Option<Self> {
        let neighbours = self.range.end() == next.range.start();
        let same = self.verdict == next.verdict && matches!(self.verdict, Verdict::Withheld(_));
        let range = Range::new(self.range.start(), next.range.end()).ok()?;
        (neighbours && same).then_some(Self {
            range,
            nodes: self.nodes + next.nodes,
            ..self
        })
    }
}

/// Calls `each` for every enabled device that is withheld or allowed by the
/// command line, neighbours joined.
pub(super) fn for_each_note(
    fdt: &Fdt<'_>,
    rules: Rules<'_>,
    mut each: impl FnMut(&DeviceNote),
) -> Result<(), BootError> {
    let mut run: Option<DeviceNote> = None;
    for_each_device(fdt, rules, &mut |device| {
        let noted = match device.verdict {
            Verdict::Confined | Verdict::Harmless => false,
            Verdict::Allowed => true,
            Verdict::Withheld(why) => matches!(why, Withheld::DoesDma | Withheld::Unknown),
        };
        if !noted || !device.enabled {
            return Ok(());
        }
        let mut range = None;
        device.for_each_range(&mut |next| range = range.or(Some(next)));
        let Some(range) = range else {
            return Ok(());
        };
        let next = DeviceNote {
            range,
            nodes: 1,
            path: fdt.path(device.node.id()),
            verdict: device.verdict,
        };
        run = match run {
            Some(run) => run.joined(&next).or_else(|| {
                each(&run);
                Some(next)
            }),
            None => Some(next),
        };
        Ok(())
    })?;
    if let Some(run) = &run {
        each(run);
    }
    Ok(())
}
