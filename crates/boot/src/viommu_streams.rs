//! Which of several virtio-iommus each stream of the host's belongs to.
//!
//! A driver of virtio-iommus holds a lock for as long as one of them takes to answer, and
//! the hypervisor has a lock for each. So devices that are behind different ones do not
//! wait for each other.
//!
//! # What stays together
//!
//! Linux puts devices that are not isolated from each other into a group, which has one
//! domain, and a domain is behind one virtio-iommu. So what may be given to one is
//! never less than a group:
//! - a node with `iommus`, with every node that names a StreamID of its;
//! - a PCI host bridge, as far as it is not one of the next two: no group has devices of
//!   two of them;
//! - a device number of its root bus, with all its functions, where none leads to another
//!   bus. Linux looks for what a device is not isolated from up to a device of the root
//!   bus, and among the functions of that one (`pci_device_group`);
//! - where the host keeps the bus numbers that firmware gave (`linux,pci-probe-only`), a
//!   device number of its root bus with everything behind it, also what has the requester
//!   ID of a bridge in between.
//!
//! Where the host may number the buses anew, it is not known which requester IDs are behind
//! which bridge: Linux does so on a `pci-host-ecam-generic` up to version 6.10, and later
//! versions do where a number is none to their liking. Then everything behind bridges
//! stays together, and so does what comes later, or cannot be found out.
//!
//! A few parts do their DMA with the requester ID of another slot, which Linux knows by
//! name (`pci_add_dma_alias`). Where such a one is on a root bus, the host wants one
//! device behind two virtio-iommus, and refuses: `viommus=1` is for that machine.

use crate::fdt::{Fdt, Node, NodeId, take_cells};
use crate::list::List;
use crate::machine::{Machine, PciHost, SMMU_LIMIT, STREAM_RANGE_LIMIT, StreamRange, VIOMMU_LIMIT};
use portcullis_pci_survey::{SLOTS, Slot};

/// Most ranges of requester IDs that are not with the rest of their host bridge, and of
/// streams of theirs.
const PART_LIMIT: usize = 32;

/// Most ranges of streams when those of the parts are taken out: each of these adds itself
/// and one behind it.
pub const VIOMMU_RANGE_LIMIT: usize = STREAM_RANGE_LIMIT + 2 * PART_LIMIT;

/// Most units.
const UNIT_LIMIT: usize = STREAM_RANGE_LIMIT + PART_LIMIT;

/// Most entries of an `iommu-map` whose requester IDs are told apart.
const MAP_LIMIT: usize = 64;

/// Streams of one SMMU that are behind one virtio-iommu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViommuRange {
    /// Index into [`Machine::viommus`].
    pub instance: u8,
    /// Index into [`Machine::smmus`].
    pub smmu: usize,
    /// First StreamID.
    pub first: u32,
    /// Last StreamID.
    pub last: u32,
}

/// Requester IDs of a host bridge that are a unit of their own, or a part of one.
#[derive(Clone, Copy, Debug)]
struct Part {
    node: NodeId,
    first: u32,
    last: u32,
    /// A unit, and when these are dealt out, a virtio-iommu.
    of: u8,
}

/// What may be given to one virtio-iommu and not to two.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// The first SMMU that has streams of it; `SMMU_LIMIT` for one that has become a part of
    /// another.
    smmu: usize,
    instance: u8,
}

/// Which virtio-iommu has what. A few KiB: keep it in a static, not on a stack.
#[derive(Clone, Debug)]
pub struct ViommuStreams {
    count: usize,
    /// Of each node that names streams, the virtio-iommu of what is in no part.
    nodes: List<(NodeId, u8), STREAM_RANGE_LIMIT>,
    parts: List<Part, PART_LIMIT>,
    shares: List<ViommuRange, VIOMMU_RANGE_LIMIT>,
}

impl ViommuStreams {
    /// Gives the streams of `machine` to as many of its virtio-iommus as there are units
    /// for, the units of different SMMUs to different ones where there are enough.
    /// `root` is what the root bus of a host bridge has, if that can be known.
    ///
    /// `fdt` is the tree that `machine` was read from.
    // Called once, by code that is built for speed: inlined there, it would be large.
    #[inline(never)]
    pub fn divide(
        machine: &Machine,
        fdt: &Fdt<'_>,
        root: &mut dyn FnMut(&PciHost) -> Option<[Slot; SLOTS]>,
    ) -> Self {
        let mut division = Division::of_nodes(machine);
        // What is not known of nodes that share streams may be about any.
        let known = machine.joined.len() < machine.joined.capacity();
        let most = if known { machine.viommus.len() } else { 1 };
        if most > 1 {
            division.split_hosts(fdt, root);
        }
        division.deal(most);
        division.instances()
    }

    /// How many virtio-iommus there are to be: one at least.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// All streams of the host's, each once.
    pub fn shares(&self) -> impl Iterator<Item = &ViommuRange> + Clone {
        self.shares.iter()
    }

    /// The virtio-iommu of what the `iommus` of a node names.
    pub(crate) fn of_node(&self, node: NodeId) -> u8 {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(known, _)| *known == node)
            .map_or(0, |(_, instance)| *instance)
    }

    /// The virtio-iommu of a requester ID of a node with an `iommu-map`, and the next ID
    /// from which on it may be another.
    pub(crate) fn of_requester(&self, node: NodeId, requester: u64) -> (u8, Option<u64>) {
        let parts = self.parts.iter().filter(|part| part.node == node);
        let ends = |part: &Part| [u64::from(part.first), u64::from(part.last) + 1];
        let next = parts.clone().flat_map(ends).filter(|end| *end > requester);
        let inside = |part: &&Part| (part.first.into()..=part.last.into()).contains(&requester);
        let part = parts.clone().find(inside);
        let instance = part.map_or_else(|| self.of_node(node), |part| part.of);
        (instance, next.min())
    }
}

/// The streams of the host's while they are divided.
struct Division<'m> {
    machine: &'m Machine,
    units: List<Unit, UNIT_LIMIT>,
    /// With units in the place of virtio-iommus.
    nodes: List<(NodeId, u8), STREAM_RANGE_LIMIT>,
    parts: List<Part, PART_LIMIT>,
    /// The streams of the parts, likewise.
    pieces: List<ViommuRange, PART_LIMIT>,
    count: usize,
}

impl<'m> Division<'m> {
    /// Each node is a unit, with those that it shares streams with.
    fn of_nodes(machine: &'m Machine) -> Self {
        let mut this = Self {
            machine,
            units: List::new(),
            nodes: List::new(),
            parts: List::new(),
            pieces: List::new(),
            count: 1,
        };
        for node in machine.stream_nodes.iter() {
            let ranges = machine.streams.iter().filter(|range| range.node == *node);
            let smmu = ranges.map(|range| range.smmu).min().unwrap_or(0);
            // There are more units than nodes, and fewer than 256.
            let unit = this.units.len() as u8;
            let _ = this.units.push(Unit { smmu, instance: 0 });
            let _ = this.nodes.push((*node, unit));
        }
        for (first, second) in machine.joined.iter() {
            if let (Some(kept), Some(gone)) = (this.unit_of(*first), this.unit_of(*second)) {
                this.join(kept, gone);
            }
        }
        this
    }

    fn unit_of(&self, node: NodeId) -> Option<u8> {
        let mut nodes = self.nodes.iter();
        Some(nodes.find(|(known, _)| *known == node)?.1)
    }

    /// Makes two units one.
    fn join(&mut self, kept: u8, gone: u8) {
        if kept == gone {
            return;
        }
        for (_, unit) in self.nodes.iter_mut().filter(|(_, unit)| *unit == gone) {
            *unit = kept;
        }
        let gone = self.units.iter_mut().nth(gone.into());
        let smmu = gone.map_or(SMMU_LIMIT, |gone| {
            core::mem::replace(&mut gone.smmu, SMMU_LIMIT)
        });
        if let Some(kept) = self.units.iter_mut().nth(kept.into()) {
            kept.smmu = kept.smmu.min(smmu);
        }
    }

    fn split_hosts(
        &mut self,
        fdt: &Fdt<'_>,
        root: &mut dyn FnMut(&PciHost) -> Option<[Slot; SLOTS]>,
    ) {
        let keeps = |node: Node<'_>| node.u32("linux,pci-probe-only").ok().flatten();
        let kept = fdt.find(b"/chosen").and_then(keeps).unwrap_or(0) != 0;
        for host in self.machine.pci_hosts.iter() {
            let Some(node) = fdt.node(host.node).filter(|node| self.can_split(node)) else {
                continue;
            };
            if let Some(slots) = root(host) {
                self.split(host, node, &slots, kept);
            }
        }
    }

    /// Whether requester IDs of a host bridge can be told apart, and their streams are
    /// no other instance's.
    fn can_split(&self, node: &Node<'_>) -> bool {
        const SLOT_BITS: u32 = 0xfff8;
        let mask = node.u32("iommu-map-mask");
        let map = node.property(b"iommu-map").unwrap_or_default();
        matches!(mask, Ok(mask) if mask.unwrap_or(SLOT_BITS) & SLOT_BITS == SLOT_BITS)
            && map.len() <= MAP_LIMIT * 16
            && self.unit_of(node.id()).is_some()
    }

    fn split(&mut self, host: &PciHost, node: Node<'_>, slots: &[Slot; SLOTS], kept: bool) {
        let bus = u32::from(host.first_bus) << 8;
        for (number, slot) in slots.iter().enumerate() {
            let first = bus | (number as u32) << 3;
            let behind = match slot {
                Slot::Functions => None,
                Slot::Bridge(Some(buses)) if kept && alone(host, slots, number, *buses) => {
                    Some((u32::from(buses.0) << 8, u32::from(buses.1) << 8 | 0xff))
                }
                Slot::Empty | Slot::Bridge(_) => continue,
            };
            let before = (self.parts.len(), self.pieces.len());
            let ranges = [Some((first, first | 7)), behind];
            if self.add(node, ranges.into_iter().flatten()).is_none() {
                while self.parts.len() > before.0 {
                    self.parts.pop();
                }
                while self.pieces.len() > before.1 {
                    self.pieces.pop();
                }
            }
        }
    }

    /// Makes the requester IDs `ranges` a unit. `None` when there is no room, or no stream
    /// of theirs.
    fn add(&mut self, node: Node<'_>, ranges: impl Iterator<Item = (u32, u32)>) -> Option<()> {
        let of = u8::try_from(self.units.len()).ok()?;
        let mut lowest = None;
        for (first, last) in ranges {
            let part = Part {
                node: node.id(),
                first,
                last,
                of,
            };
            self.parts.push(part).ok()?;
            let mut map = node.property(b"iommu-map").unwrap_or_default();
            while let Some((entry, rest)) = map.split_first_chunk::<16>() {
                map = rest;
                let mut entry = entry.as_slice();
                let mut cell = || take_cells(&mut entry, 1).unwrap_or(0);
                let (requester, phandle, stream, length) = (cell(), cell(), cell(), cell());
                let start = requester.max(first.into());
                let end = (requester + length).min(u64::from(last) + 1);
                let known = |smmu: &crate::machine::Smmu| smmu.phandle.map(u64::from);
                let mut smmus = self.machine.smmus.iter();
                let smmu = smmus.position(|smmu| known(smmu) == Some(phandle));
                if let (Some(smmu), true) = (smmu, start < end) {
                    let at = stream + (start - requester);
                    let piece = ViommuRange {
                        instance: of,
                        smmu,
                        first: u32::try_from(at).ok()?,
                        last: u32::try_from(at + (end - start) - 1).ok()?,
                    };
                    // Streams that are named twice are not told apart.
                    let mut ranges = self.machine.streams.iter();
                    let whole = |range: &StreamRange| {
                        range.smmu == smmu
                            && range.node == node.id()
                            && !range.shared
                            && range.first <= piece.first
                            && piece.last <= range.last
                    };
                    if !ranges.any(whole) {
                        return None;
                    }
                    self.pieces.push(piece).ok()?;
                    lowest = Some(lowest.map_or(smmu, |other: usize| other.min(smmu)));
                }
            }
        }
        let unit = Unit {
            smmu: lowest?,
            instance: 0,
        };
        self.units.push(unit).ok()
    }

    /// Gives each unit one of `most` virtio-iommus.
    fn deal(&mut self, most: usize) {
        let mut units = [0usize; SMMU_LIMIT];
        for unit in self.units.iter() {
            if let Some(count) = units.get_mut(unit.smmu) {
                *count += 1;
            }
        }
        let most = most.clamp(1, VIOMMU_LIMIT);
        // How many virtio-iommus the units of an SMMU have among them.
        let mut shares = units.map(|count| usize::from(count != 0));
        let smmus = shares.iter().sum::<usize>();
        for _ in smmus..most {
            let mut neediest = None;
            for (units, share) in units.iter().zip(&mut shares) {
                // What is left to each of its virtio-iommus, in 64ths of a unit.
                let need = (*units > *share).then(|| units * 64 / (*share).max(1));
                if need > neediest.as_ref().map(|(need, _)| *need) {
                    neediest = need.map(|need| (need, share));
                }
            }
            let Some((_, share)) = neediest else { break };
            *share += 1;
        }
        let mut next = 0;
        let firsts = shares.map(|share| {
            next += share;
            next - share
        });
        self.count = next.clamp(1, most);
        let mut dealt = [0usize; SMMU_LIMIT];
        for unit in self.units.iter_mut() {
            let (Some(turn), Some(share), Some(first)) = (
                dealt.get_mut(unit.smmu),
                shares.get(unit.smmu),
                firsts.get(unit.smmu),
            ) else {
                continue;
            };
            let instance = (first + *turn % (*share).max(1)) % self.count;
            // Below `VIOMMU_LIMIT`.
            unit.instance = u8::try_from(instance).unwrap_or(0);
            *turn += 1;
        }
    }

    /// What came of it.
    fn instances(self) -> ViommuStreams {
        let instance = |unit: u8| {
            let unit = self.units.get(usize::from(unit));
            unit.map_or(0, |unit| unit.instance)
        };
        let mut all = ViommuStreams {
            count: self.count,
            nodes: self.nodes,
            parts: self.parts,
            shares: List::new(),
        };
        for (_, of) in all.nodes.iter_mut() {
            *of = instance(*of);
        }
        for part in all.parts.iter_mut() {
            part.of = instance(part.of);
        }
        for range in self.machine.streams.iter() {
            let rest = all.of_node(range.node);
            let pieces = self.pieces.iter().filter(|piece| {
                piece.smmu == range.smmu && range.first <= piece.first && piece.last <= range.last
            });
            let mut next = Some(range.first);
            while let Some(at) = next.filter(|at| *at <= range.last) {
                let here = pieces.clone().find(|p| (p.first..=p.last).contains(&at));
                let after = pieces.clone().map(|p| p.first).filter(|first| *first > at);
                let end = match (here, after.min()) {
                    (Some(piece), _) => piece.last,
                    (None, Some(after)) => after - 1,
                    (None, None) => range.last,
                };
                // See `VIOMMU_RANGE_LIMIT`.
                let _ = all.shares.push(ViommuRange {
                    instance: here.map_or(rest, |piece| instance(piece.instance)),
                    smmu: range.smmu,
                    first: at,
                    last: end,
                });
                next = end.checked_add(1);
            }
        }
        all
    }
}

/// Whether the buses behind a slot are the host bridge's, and behind no other slot.
fn alone(host: &PciHost, slots: &[Slot; SLOTS], number: usize, buses: (u8, u8)) -> bool {
    let others = slots
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number);
    buses.0 > host.first_bus
        && buses.1 <= host.last_bus
        && others.into_iter().all(|(_, other)| match other {
            Slot::Bridge(Some((first, last))) => *last < buses.0 || buses.1 < *first,
            _ => true,
        })
}
