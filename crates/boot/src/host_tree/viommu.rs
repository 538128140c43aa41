//! The node of the virtio-iommu that comes in the place of the SMMUs, and what
//! devices that referred to these refer to now (Linux bindings
//! `virtio/mmio.yaml` and `iommu/iommu.txt`).

use super::emulated;
use super::writer::{Cellular, Name, Writer, unit_name};
use crate::error::BootError;
use crate::fdt::{Fdt, NodeId};
use crate::list::List;
use crate::machine::stream::first_iommu;
use crate::machine::{Machine, SMMU_LIMIT, Viommu, endpoint};
use crate::text::NodePath;

/// A virtio-iommu in the host's tree.
#[derive(Clone, Copy, Debug)]
pub struct ViommuNode {
    /// What it is.
    pub viommu: Viommu,
    /// The node of the GIC, its interrupt's parent.
    pub gic: NodeId,
    /// The phandles of the SMMUs whose streams it has, in the order of
    /// [`Machine::smmus`].
    pub smmus: List<Option<u32>, SMMU_LIMIT>,
}

impl ViommuNode {
    /// That of `machine`, in paravirt mode.
    pub(super) fn of(machine: &Machine) -> Option<Self> {
        let viommu = machine.viommu?;
        let mut smmus = List::new();
        for smmu in machine.smmus.iter() {
            // As many slots as SMMUs.
            let _ = smmus.push(smmu.phandle);
        }
        Some(Self {
            viommu,
            gic: machine.gic.node(),
            smmus,
        })
    }

    /// Writes the node, as a child of the root.
    pub(super) fn write(
        &self,
        writer: &mut Writer<'_, '_>,
        source: &Fdt<'_>,
    ) -> Result<(), BootError> {
        let registers = self.viommu.registers;
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
        emulated::interrupts(writer, source, self.gic, &[self.viommu.line])?;
        // It is the hypervisor that reads the rings, by way of the caches.
        writer.property(Name::New("dma-coherent"), &[])?;
        writer.property(Name::New("#iommu-cells"), &1u32.to_be_bytes())?;
        if let Some(phandle) = self.viommu.phandle {
            writer.property(Name::New("phandle"), &phandle.to_be_bytes())?;
        }
        writer.end()
    }

    /// The cells of the property `name` with endpoints of the virtio-iommu for
    /// streams of its SMMUs; `None` for a property that names none.
    ///
    /// The property is to be one that the machine's streams were read from: then
    /// it has whole entries, all of them of these SMMUs.
    pub(super) fn translate<'v>(
        &self,
        name: &[u8],
        value: &'v [u8],
    ) -> Option<impl ExactSizeIterator<Item = u32> + use<'v>> {
        let index = |smmus: &List<Option<u32>, SMMU_LIMIT>, phandle: u32| {
            smmus.iter().position(|known| *known == Some(phandle))
        };
        let phandle = self.viommu.phandle?;
        index(&self.smmus, first_iommu(name, value)?)?;
        // `iommus`: SMMU, StreamID. `iommu-map`: requester, SMMU, first
        // StreamID, how many.
        let (entry, smmu_at) = if name == b"iommus" { (2, 0) } else { (4, 1) };
        let smmus = self.smmus;
        let mut smmu = None;
        let (cells, _) = value.as_chunks();
        Some(cells.iter().enumerate().map(move |(at, cell)| {
            let cell = u32::from_be_bytes(*cell);
            match (at % entry).checked_sub(smmu_at) {
                Some(0) => {
                    smmu = index(&smmus, cell);
                    phandle
                }
                Some(1) => smmu.map_or(cell, |smmu| endpoint(smmu, cell)),
                _ => cell,
            }
        }))
    }
}
