//! The device tree for the host.
//!
//! The tree of firmware is copied token by token, with edits. Nothing is
//! decoded that is not edited, so that the host sees every other byte as
//! firmware wrote it, phandles included.

mod emulated;
mod interrupts;
mod memory;
mod power;
mod reserved;
mod viommu;
mod writer;

pub use emulated::Emulated;
pub use interrupts::Interrupts;
pub use viommu::ViommuNodes;

use crate::args::HostIommu;
use crate::error::BootError;
use crate::fdt::{DEPTH_LIMIT, Fdt, Node, NodeId, Token};
use crate::firmware::{FIRMWARE_LIMIT, FirmwareMemory};
use crate::list::List;
use crate::machine::smmu::{is_monitor, is_smmu};
use crate::machine::stream::first_iommu;
use crate::machine::{HIDDEN_LIMIT, ITS_LIMIT, Machine, SMMU_LIMIT, STREAM_RANGE_LIMIT, Supplies};
use crate::machine::{PointedTo, WITHHELD_LIMIT};
use crate::module::is_module;
use crate::viommu_streams::ViommuStreams;
use portcullis_addr::{PhysAddr, Range};
use reserved::Places;
use writer::{Name, Writer};

/// Most aliases and symbols that may stand for a node that goes. Each is
/// looked up by walking the tree.
pub const PATH_LIMIT: usize = 1024;

/// Most nodes that go.
const DROP_LIMIT: usize = SMMU_LIMIT + HIDDEN_LIMIT + WITHHELD_LIMIT + 16;

/// A node to add directly below the root.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Its name with its unit address.
    pub name: &'a str,
    /// Names and values of its properties; values as the tree holds them,
    /// numbers big-endian and strings with their NUL. A name must be one that
    /// the source tree has already or that [`HostTreePlan`] knows.
    pub properties: &'a [(&'a str, &'a [u8])],
}

/// How the host's tree differs from firmware's.
///
/// A mode of the hypervisor is a choice of these fields; the writing is the
/// same for all.
#[derive(Clone, Debug)]
pub struct HostTreePlan<'a> {
    /// The SMMUs that stay, as the host is to see them. Every other one goes,
    /// all monitors go, and so does every `iommus`, `iommu-map` and
    /// `iommu-map-mask` that refers to an SMMU that goes.
    pub emulated: List<Emulated, SMMU_LIMIT>,
    /// The virtio-iommus that come in their place: the host's enabled devices
    /// refer to one where they referred to an SMMU.
    pub viommus: Option<ViommuNodes<'a>>,
    /// A node that goes with everything in it and every alias for it: the
    /// UART that the hypervisor keeps.
    pub hide_node: Option<NodeId>,
    /// The nodes that name streams of the host's.
    pub streams: List<NodeId, STREAM_RANGE_LIMIT>,
    /// More nodes that go, with everything in them and every alias for them:
    /// devices that may do DMA and that no SMMU confines.
    pub hide_nodes: List<NodeId, WITHHELD_LIMIT>,
    /// Which of these stay all the same, disabled, with everything in them: what
    /// points to one points to something that the host does not have, and not to
    /// nothing.
    pub disabled: PointedTo,
    /// The node of the host's kernel, whose `bootargs` become those of
    /// `/chosen`.
    pub kernel: NodeId,
    /// The host's ramdisk.
    pub ramdisk: Option<Range<PhysAddr>>,
    /// Memory that the host must leave alone: each range becomes a node
    /// `portcullis@…` with `no-map` in `/reserved-memory`.
    pub protected: &'a [Range<PhysAddr>],
    /// What changes of the interrupt controller.
    pub interrupts: Interrupts,
    /// Memory of firmware's that no node of the source says in a way that an
    /// operating system reads: each range becomes a node `firmware@…` with
    /// `no-map`.
    pub firmware: List<Range<PhysAddr>, FIRMWARE_LIMIT>,
    /// Whether the memory reservation block goes. For Linux, what is in it is
    /// memory like any other that it does not give out: it maps it, and refuses
    /// `no-map` for it. All of it is firmware's, which nodes say, the
    /// hypervisor's, or what was loaded for the host, which the host knows of.
    pub without_reservations: bool,
    /// Where RAM ends: what the source names above is left out.
    pub memory_end: PhysAddr,
    /// Nodes whose clocks, power domains and resets the host is to leave on.
    pub supplies: Supplies,
    /// Nodes to add below the root.
    pub add: &'a [NewNode<'a>],
}

impl<'a> HostTreePlan<'a> {
    /// The edits of the machine's mode. In identity mode the host sees a machine
    /// without SMMU, in nested mode one with emulated SMMUs, which are
    /// `coherent` or not, in paravirt mode one with a virtio-iommu for all streams; in all
    /// without the devices that none confines.
    #[must_use]
    pub fn new(machine: &Machine, protected: &'a [Range<PhysAddr>], coherent: bool) -> Self {
        let mut plan = Self::identity(machine, protected);
        if machine.host_iommu == HostIommu::Nested {
            for emulated in emulated::list(machine, coherent) {
                // As many slots as SMMUs.
                let _ = plan.emulated.push(emulated);
            }
        }
        plan.viommus = ViommuNodes::of(machine, None);
        plan
    }

    /// The edits of the identity mode, whatever the machine's is.
    #[must_use]
    pub fn identity(machine: &Machine, protected: &'a [Range<PhysAddr>]) -> Self {
        Self {
            streams: machine.stream_nodes,
            emulated: List::new(),
            viommus: None,
            hide_nodes: machine.withheld,
            disabled: machine.pointed_to,
            hide_node: machine
                .console
                .filter(|console| console.dedicated)
                .map(|console| console.node),
            kernel: machine.modules.kernel.node,
            ramdisk: machine.modules.ramdisk.map(|module| module.range),
            protected,
            interrupts: Interrupts::of(machine, false),
            firmware: List::new(),
            without_reservations: false,
            memory_end: machine.memory_end,
            supplies: machine.supplies,
            add: &[],
        }
    }

    /// The same plan, with as many virtio-iommus as `instances` says, if there are to be any.
    #[must_use]
    pub fn with_instances(mut self, machine: &Machine, instances: &'a ViommuStreams) -> Self {
        self.viommus = ViommuNodes::of(machine, Some(instances));
        self
    }

    /// The same plan, with what the host is to know of firmware's memory.
    #[must_use]
    pub fn with_firmware(mut self, firmware: &FirmwareMemory) -> Self {
        self.without_reservations = true;
        for range in firmware.untold() {
            // As many slots as there can be such ranges.
            let _ = self.firmware.push(range);
        }
        self
    }

    /// Whether there is anything to add to `/reserved-memory`.
    fn reserves(&self) -> bool {
        !self.protected.is_empty() || !self.firmware.is_empty()
    }

    /// Writes the host's tree to the start of `out` and returns how many
    /// bytes it has. `source` is the tree that the plan's machine was read
    /// from.
    ///
    /// The result has version 17, no free space, and the blocks in the order
    /// of the specification. [`HostTreePlan::bytes_needed`] is always enough.
    ///
    /// # Errors
    /// - [`BootError::OutputTooSmall`] when `out` is not large enough
    /// - [`BootError::CellsTooSmall`] when a protected range cannot be written
    ///   with the cells of the root
    /// - [`BootError::TooMany`] for too many SMMUs or modules, or more
    ///   than [`PATH_LIMIT`] aliases and symbols for them
    /// - [`BootError::UnknownName`] for an added property whose name is not
    ///   known
    #[inline(never)]
    pub fn write(&self, source: &Fdt<'_>, out: &mut [u8]) -> Result<usize, BootError> {
        let id = |path: &[u8]| source.find(path).map(|node| node.id());
        let mut smmus = List::new();
        let goes = |node: &Node<'_>| is_smmu(node) && self.emulated(node.id()).is_none();
        for (_, node) in source.nodes().filter(|(_, node)| goes(node)) {
            if let Some(phandle) = node.phandle() {
                smmus.push(phandle).map_err(|_| BootError::TooMany {
                    what: "SMMUs and disabled SMMUs",
                    limit: SMMU_LIMIT + HIDDEN_LIMIT,
                })?;
            }
        }
        let mut copy = Copier {
            plan: self,
            source: *source,
            writer: Writer::new(source, out, !self.without_reservations)?,
            chosen: id(b"/chosen"),
            aliases: id(b"/aliases"),
            symbols: id(b"/__symbols__"),
            reserved: Places::of(source)?,
            smmus,
            its: self.interrupts.dropped(source),
            dropped: self.dropped(source)?,
            paths: 0,
        };
        copy.walk(source.root().id(), None)?;
        copy.writer.finish()
    }

    /// Bytes that are enough for [`write`](Self::write). It depends on how many
    /// ranges are protected, not on where they are.
    #[inline(never)]
    #[must_use]
    pub fn bytes_needed(&self, source: &Fdt<'_>) -> usize {
        let text = |node: &NewNode<'_>| {
            let values = node.properties.iter().map(|(_, value)| value.len() + 16);
            values.fold(node.name.len() + 16, usize::saturating_add)
        };
        // A node of a protected range takes 84 bytes and what is new of an SMMU
        // 156; the bootargs of the kernel are in the source already.
        let smmus = self.emulated.len().saturating_mul(160);
        // A `status` takes 24.
        let disabled = self.hide_nodes.len().saturating_mul(24);
        let smmus = smmus.saturating_add(disabled);
        let viommus = self.viommus.as_ref();
        let streams = self.streams.iter();
        let viommus = viommus.map_or(0, |viommus| viommus.bytes_needed(source, streams));
        let smmus = smmus.saturating_add(viommus);
        let reserved = self.protected.len().saturating_add(self.firmware.len());
        let fixed = reserved.saturating_mul(96).saturating_add(1024);
        let fixed = fixed.saturating_add(smmus);
        let fixed = fixed.saturating_add(reserved::bytes_needed(source));
        let fixed = fixed.saturating_add(power::bytes_needed(source, &self.supplies));
        let added = self.add.iter().map(text);
        added.fold(source.used().saturating_add(fixed), usize::saturating_add)
    }

    /// The names of the nodes that go. Walking the tree for every alias would
    /// take a hostile one far too long; only a path that has one of these names in
    /// it can lead to such a node.
    fn dropped<'s>(&self, source: &Fdt<'s>) -> Result<List<&'s [u8], DROP_LIMIT>, BootError> {
        let mut names = List::new();
        let mut add = |node: Node<'s>| {
            names.push(node.name()).map_err(|_| BootError::TooMany {
                what: "SMMUs, monitors, modules and devices that are withheld",
                limit: DROP_LIMIT,
            })
        };
        for (_, node) in source.nodes().filter(|(_, node)| self.drops(node, false)) {
            add(node)?;
        }
        let chosen = source.find(b"/chosen");
        for node in chosen.iter().flat_map(Node::children).filter(is_module) {
            add(node)?;
        }
        Ok(names)
    }

    /// What a node is to become, if it is that of an SMMU that stays.
    fn emulated(&self, node: NodeId) -> Option<&Emulated> {
        self.emulated.iter().find(|emulated| emulated.node == node)
    }

    /// Whether a node stays as a disabled one.
    fn disables(&self, node: NodeId) -> bool {
        let hidden = self.hidden(node);
        hidden.is_some_and(|index| self.disabled.contains(index))
    }

    /// The place of a node among those that are withheld.
    fn hidden(&self, node: NodeId) -> Option<usize> {
        self.hide_nodes.iter().position(|hidden| *hidden == node)
    }

    /// Whether a node and everything in it is left out.
    fn drops(&self, node: &Node<'_>, in_chosen: bool) -> bool {
        is_monitor(node)
            || (is_smmu(node) && self.emulated(node.id()).is_none())
            || self.interrupts.drops(node)
            || self.hide_node == Some(node.id())
            || self
                .hidden(node.id())
                .is_some_and(|index| !self.disabled.contains(index))
            || (in_chosen && is_module(node))
    }
}

struct Copier<'p, 's, 'o> {
    plan: &'p HostTreePlan<'p>,
    source: Fdt<'s>,
    writer: Writer<'s, 'o>,
    chosen: Option<NodeId>,
    aliases: Option<NodeId>,
    symbols: Option<NodeId>,
    reserved: Places,
    /// Phandles of all SMMUs that go, the disabled ones included.
    smmus: List<u32, { SMMU_LIMIT + HIDDEN_LIMIT }>,
    /// Phandles of the ITSs that go.
    its: List<u32, ITS_LIMIT>,
    /// Names of the nodes that go.
    dropped: List<&'s [u8], DROP_LIMIT>,
    paths: usize,
}

impl<'p, 's> Copier<'p, 's, '_> {
    /// Copies a node with everything in it. `around` is the node around it in the
    /// source.
    fn walk(&mut self, node: NodeId, around: Option<NodeId>) -> Result<(), BootError> {
        let mut open = List::<NodeId, { DEPTH_LIMIT + 1 }>::new();
        if let Some(around) = around {
            let _ = open.push(around);
        }
        let outside = open.len();
        let mut cursor = node.0 as usize;
        // Depth inside a node that is left out; 0 outside of any.
        let mut skipped = 0usize;
        while let Some(placed) = self.source.token(cursor) {
            cursor = placed.next;
            match placed.token {
                Token::Begin { .. } if skipped > 0 => skipped += 1,
                Token::Begin { .. } => {
                    let Some(node) = self.source.node_at(placed.at) else {
                        break;
                    };
                    let around = open.iter().next_back().copied();
                    let in_chosen = self.chosen.is_some() && around == self.chosen;
                    if around.is_some() && around == self.reserved.first {
                        self.reserved_first()?;
                    }
                    if self.plan.drops(&node, in_chosen)
                        || self.reserved.moves(node.id())
                        || self.is_left_out(around, &node)
                    {
                        skipped = 1;
                        continue;
                    }
                    // The check of the tree kept it within the limit.
                    let _ = open.push(node.id());
                    self.writer.begin(self.reserved.name(&node))?;
                    self.new_properties(node)?;
                }
                Token::Prop { .. } if skipped > 0 => {}
                Token::Prop {
                    name,
                    name_offset,
                    value,
                } => {
                    let node = open.iter().next_back().copied();
                    let around = open.iter().rev().nth(1).copied();
                    let place = (around, node);
                    if self.reserved_property(place, (name, name_offset), value)?
                        || self.memory_property(place, (name, name_offset), value)?
                    {
                        continue;
                    }
                    if let Some((viommus, id)) = self.translated(node, name, value) {
                        viommus.write_property(&mut self.writer, id, (name, name_offset), value)?;
                    } else if !self.drops_property(node, name, value)? {
                        self.writer.property(Name::Source(name_offset), value)?;
                    }
                }
                Token::EndNode if skipped > 0 => skipped -= 1,
                Token::EndNode => {
                    if let Some(node) = open.pop() {
                        self.new_children(node)?;
                    }
                    self.writer.end()?;
                }
                Token::End => break,
            }
            if matches!(placed.token, Token::EndNode) && skipped == 0 && open.len() == outside {
                break;
            }
        }
        Ok(())
    }

    /// Who has numbers for the streams that a property names: one of a node that has
    /// streams of the host's, which were checked.
    fn translated(
        &self,
        node: Option<NodeId>,
        name: &[u8],
        value: &[u8],
    ) -> Option<(&'p ViommuNodes<'p>, NodeId)> {
        let viommus = self.plan.viommus.as_ref();
        let viommus = viommus.filter(|viommus| viommus.translates(name, value))?;
        let mut streams = self.plan.streams.iter();
        Some((viommus, *streams.find(|known| Some(**known) == node)?))
    }

    /// Whether a property of a node that stays goes.
    fn drops_property(
        &mut self,
        node: Option<NodeId>,
        name: &[u8],
        value: &[u8],
    ) -> Result<bool, BootError> {
        let replaced: [&[u8]; 3] = [b"bootargs", b"linux,initrd-start", b"linux,initrd-end"];
        if node == self.chosen && replaced.contains(&name) {
            return Ok(true);
        }
        if node.is_some() && (node == self.aliases || node == self.symbols) {
            return self.is_dropped_path(value);
        }
        if name == b"status" && node.is_some_and(|id| self.plan.disables(id)) {
            return Ok(true);
        }
        if emulated::replaces(name) && node.is_some_and(|id| self.plan.emulated(id).is_some()) {
            return Ok(true);
        }
        if name == b"iommu-map-mask" {
            let node = node.and_then(|node| self.source.node(node));
            let map = node.and_then(|node| Some((node.id(), node.property(b"iommu-map")?)));
            return Ok(map.is_some_and(|(node, map)| {
                let stays = self.translated(Some(node), b"iommu-map", map).is_some();
                !stays && self.names_stream(b"iommu-map", map)
            }));
        }
        if name == b"msi-map-mask" {
            let node = node.and_then(|node| self.source.node(node));
            let map = node.and_then(|node| node.property(b"msi-map"));
            return Ok(map.is_some_and(|map| self.names_its(b"msi-map", map)));
        }
        Ok(self.names_stream(name, value) || self.names_its(name, value))
    }

    /// Whether `value` of the property `name` names an ITS that goes.
    fn names_its(&self, name: &[u8], value: &[u8]) -> bool {
        let known = |phandle| self.its.iter().any(|its| *its == phandle);
        interrupts::first_controller(name, value).is_some_and(known)
    }

    /// Whether `value` of the property `name` names a stream of an SMMU.
    fn names_stream(&self, name: &[u8], value: &[u8]) -> bool {
        let known = |phandle| self.smmus.iter().any(|smmu| *smmu == phandle);
        first_iommu(name, value).is_some_and(known)
    }

    /// Whether a path leads to or through a node that goes.
    fn is_dropped_path(&mut self, value: &[u8]) -> Result<bool, BootError> {
        let Some(path) = value.strip_suffix(b"\0") else {
            return Ok(false);
        };
        // An alias may leave the unit address out.
        let could_be = |part: &[u8], name: &[u8]| {
            name.strip_prefix(part)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'@')))
        };
        let mut parts = path.split(|byte| *byte == b'/').filter(|p| !p.is_empty());
        if !parts.any(|part| self.dropped.iter().any(|name| could_be(part, name))) {
            return Ok(false);
        }
        self.paths += 1;
        if self.paths > PATH_LIMIT {
            return Err(BootError::TooMany {
                what: "aliases and symbols of nodes that are withheld",
                limit: PATH_LIMIT,
            });
        }
        let mut node = self.source.root();
        for part in path.split(|byte| *byte == b'/').filter(|p| !p.is_empty()) {
            let in_chosen = Some(node.id()) == self.chosen;
            let Some(child) = node.child(part) else {
                return Ok(false);
            };
            if self.plan.drops(&child, in_chosen) {
                return Ok(true);
            }
            node = child;
        }
        Ok(false)
    }

    /// What is new in a node that stays.
    fn new_properties(&mut self, node: Node<'s>) -> Result<(), BootError> {
        if Some(node.id()) == self.chosen {
            let kernel = self.source.node(self.plan.kernel);
            if let Some(line) = kernel.and_then(|kernel| kernel.property(b"bootargs")) {
                self.writer.property(Name::New("bootargs"), line)?;
            }
            if let Some(ramdisk) = self.plan.ramdisk {
                let (start, end) = (ramdisk.start().raw(), ramdisk.end().raw());
                let mut number =
                    |name, value: u64| self.writer.property(Name::New(name), &value.to_be_bytes());
                number("linux,initrd-start", start)?;
                number("linux,initrd-end", end)?;
            }
        }
        if self.plan.disables(node.id()) {
            self.writer.property(Name::New("status"), b"disabled\0")?;
        }
        if let Some(stride) = self.plan.interrupts.stride_of(node.id()) {
            let name = Name::New("redistributor-stride");
            self.writer.property(name, &stride)?;
        }
        if let Some(emulated) = self.plan.emulated(node.id()) {
            emulated::properties(&mut self.writer, &self.source, emulated)?;
        }
        if Some(node.id()) == self.reserved.first {
            self.reserved_header(Some(node))?;
        }
        if node.id() == self.source.root().id() {
            self.root_cells(node)?;
        }
        Ok(())
    }

    /// What is new behind the children of a node that stays.
    fn new_children(&mut self, node: NodeId) -> Result<(), BootError> {
        if Some(node) == self.reserved.first {
            self.reserved_last()?;
        }
        if node != self.source.root().id() {
            return Ok(());
        }
        if self.reserved.first.is_none() && self.plan.reserves() {
            self.writer.begin(b"reserved-memory")?;
            self.reserved_header(None)?;
            self.reserved_last()?;
            self.writer.end()?;
        }
        if let Some(viommus) = &self.plan.viommus {
            viommus.write(&mut self.writer, &self.source)?;
        }
        power::write(&mut self.writer, &self.source, &self.plan.supplies)?;
        for new in self.plan.add {
            self.writer.begin(new.name.as_bytes())?;
            for (name, value) in new.properties {
                self.writer.property(Name::New(name), value)?;
            }
            self.writer.end()?;
        }
        Ok(())
    }

    /// Gives the root the cells that it lacks. What they are then by the
    /// specification (2.3.5) is not what Linux takes them for.
    fn root_cells(&mut self, root: Node<'s>) -> Result<(), BootError> {
        let cells = root.cells()?;
        let (address, size) = root.given_cells()?;
        for (name, given, count) in [
            ("#address-cells", address, cells.address),
            ("#size-cells", size, cells.size),
        ] {
            if given.is_none() {
                // At most 3.
                let count = u32::try_from(count).unwrap_or(0);
                self.writer
                    .property(Name::New(name), &count.to_be_bytes())?;
            }
        }
        Ok(())
    }
}
