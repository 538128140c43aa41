//! The nodes of the virtio-iommus that come in the place of the SMMUs, and what
//! devices that referred to these refer to now (Linux bindings
//! `virtio/mmio.yaml` and `iommu/iommu.txt`).

use super::emulated;
use super::writer::{Cellular, Name, Writer, unit_name};
use crate::error::BootError;
use crate::fdt::{Fdt, NodeId, take_cells};
use crate::list::List;
use crate::machine::stream::first_iommu;
use crate::machine::{Machine, SMMU_LIMIT, VIOMMU_LIMIT, Viommu, endpoint};
use crate::text::NodePath;
use crate::viommu_streams::ViommuStreams;

/// The virtio-iommus in the host's tree.
#[derive(Clone, Copy, Debug)]
pub struct ViommuNodes<'a> {
    /// What they are: one at least.
    pub viommus: List<Viommu, VIOMMU_LIMIT>,
    /// Which of them has what; the first has all of it where this is not said.
    pub instances: Option<&'a ViommuStreams>,
    /// The node of the GIC, their interrupts' parent.
    pub gic: NodeId,
    /// The phandles of the SMMUs whose streams they have, in the order of
    /// [`Machine::smmus`].
    pub smmus: List<Option<u32>, SMMU_LIMIT>,
}

impl<'a> ViommuNodes<'a> {
    /// Those of `machine`, in paravirt mode: one for all streams, or as `instances` says.
    pub(super) fn of(machine: &Machine, instances: Option<&'a ViommuStreams>) -> Option<Self> {
        let count = instances.map_or(1, ViommuStreams::count);
        let mut viommus = List::new();
        for viommu in machine.viommus.iter().take(count) {
            // As many slots as the machine has for them.
            let _ = viommus.push(*viommu);
        }
        let mut smmus = List::new();
        for smmu in machine.smmus.iter() {
            // As many slots as SMMUs.
            let _ = smmus.push(smmu.phandle);
        }
        (!viommus.is_empty()).then_some(Self {
            viommus,
            instances,
            gic: machine.gic.node(),
            smmus,
        })
    }

    /// Writes the nodes, as children of the root.
    pub(super) fn write(
        &self,
        writer: &mut Writer<'_, '_>,
        source: &Fdt<'_>,
    ) -> Result<(), BootError> {
        let mut viommus = self.viommus.iter();
        viommus.try_for_each(|viommu| self.write_one(viommu, writer, source))
    }

    fn write_one(
        &self,
        viommu: &Viommu,
        writer: &mut Writer<'_, '_>,
        source: &Fdt<'_>,
    ) -> Result<(), BootError> {
        let registers = viommu.registers;
        let cells = source.root().cells()?;
        let mut reg = Cellular::default();
        let fits = reg.push(registers.start().raw(), cells.address)
            && reg.push(registers.size(), cells.size);
        let value = reg.bytes().filter(|_| fits);
        let value = value.ok_or_else(|| BootError::CellsTooSmall {
            range: registers,
            node: NodePath::start_of(b"/"),
        })?;
        writer.begin(unit_name("viommu", registers.start().raw()).as_bytes())?;
        writer.property(Name::New("compatible"), b"virtio,mmio\0")?;
        writer.property(Name::New("reg"), value)?;
        emulated::interrupts(writer, source, self.gic, &[viommu.line])?;
        // It is the hypervisor that reads the rings, by way of the caches.
        writer.property(Name::New("dma-coherent"), &[])?;
        writer.property(Name::New("#iommu-cells"), &1u32.to_be_bytes())?;
        if let Some(phandle) = viommu.phandle {
            writer.property(Name::New("phandle"), &phandle.to_be_bytes())?;
        }
        writer.end()
    }

    /// Whether the property `name` names streams that the virtio-iommus have.
    ///
    /// The property is to be one that the machine's streams were read from: then
    /// it has whole entries, all of them of these SMMUs.
    pub(super) fn translates(&self, name: &[u8], value: &[u8]) -> bool {
        let index = first_iommu(name, value).and_then(|phandle| self.smmu(phandle.into()));
        index.is_some()
            && self
                .viommus
                .get(0)
                .is_some_and(|first| first.phandle.is_some())
    }

    /// Writes a property of `node` that it [translates](Self::translates).
    pub(super) fn write_property(
        &self,
        writer: &mut Writer<'_, '_>,
        node: NodeId,
        (name, name_offset): (&[u8], u32),
        value: &[u8],
    ) -> Result<(), BootError> {
        let bytes = self.bytes(node, name, value);
        writer.property_header(Name::Source(name_offset), bytes)?;
        self.translate(node, name, value, &mut |cells, count| {
            let mut cells = cells.iter().take(count);
            cells.try_for_each(|cell| writer.word(*cell))
        })
    }

    /// Bytes that such a property takes.
    fn bytes(&self, node: NodeId, name: &[u8], value: &[u8]) -> usize {
        let mut bytes = 0;
        // Nothing refuses to be counted.
        let _ = self.translate(node, name, value, &mut |_, count| {
            bytes += count * 4;
            Ok(())
        });
        bytes
    }

    /// Bytes that are enough for the nodes, and for what the properties of `nodes` take
    /// more than in the source.
    pub(super) fn bytes_needed<'n>(
        &self,
        source: &Fdt<'_>,
        nodes: impl Iterator<Item = &'n NodeId>,
    ) -> usize {
        // Each takes 176.
        let mut bytes = self.viommus.len() * 192;
        for node in nodes.filter_map(|node| source.node(*node)) {
            let map = node.property(b"iommu-map").unwrap_or_default();
            let now = self.bytes(node.id(), b"iommu-map", map);
            bytes = bytes.saturating_add(now.saturating_sub(map.len()));
        }
        bytes
    }

    /// Hands the cells of a property of `node` that it [translates](Self::translates) to
    /// `each`, an entry at a time, with endpoints in the place of streams.
    fn translate(
        &self,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        each: &mut impl FnMut([u32; 4], usize) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        let mut rest = value;
        // `iommus`: SMMU, StreamID. `iommu-map`: requester, SMMU, first
        // StreamID, how many.
        if name == b"iommus" {
            let instance = self.instances.map_or(0, |all| all.of_node(node));
            while let (Some(smmu), Some(stream)) =
                (take_cells(&mut rest, 1), take_cells(&mut rest, 1))
            {
                let [phandle, endpoint] = self.reference(instance, smmu, stream);
                each([phandle, endpoint, 0, 0], 2)?;
            }
            return Ok(());
        }
        while let Some((entry, after)) = rest.split_first_chunk::<16>() {
            rest = after;
            let mut entry = entry.as_slice();
            let mut cell = || take_cells(&mut entry, 1).unwrap_or(0);
            let (requester, smmu, stream, length) = (cell(), cell(), cell(), cell());
            let end = requester + length;
            let mut at = requester;
            // Also one that names none, as it is.
            loop {
                let all = self.instances.map(|all| all.of_requester(node, at));
                let (instance, next) = all.unwrap_or((0, None));
                let next = next.map_or(end, |next| next.min(end));
                let [phandle, endpoint] = self.reference(instance, smmu, stream + (at - requester));
                let [first, length] = [at, next.saturating_sub(at)].map(low);
                each([first, phandle, endpoint, length], 4)?;
                at = next;
                if at >= end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A virtio-iommu and its number for a stream of the SMMU that has a phandle.
    fn reference(&self, instance: u8, smmu: u64, stream: u64) -> [u32; 2] {
        let viommu = self.viommus.get(instance.into());
        let phandle = viommu.and_then(|viommu| viommu.phandle).unwrap_or(0);
        let stream = low(stream);
        let number = self.smmu(smmu).map(|smmu| endpoint(smmu, stream));
        [phandle, number.unwrap_or(stream)]
    }

    /// The SMMU that has a phandle.
    fn smmu(&self, phandle: u64) -> Option<usize> {
        let mut smmus = self.smmus.iter();
        smmus.position(|known| known.map(u64::from) == Some(phandle))
    }
}

/// What a cell holds of a number. One that does not fit is of an entry that no device
/// can use.
fn low(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}
