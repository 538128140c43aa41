//! Stage 2 of the host, from the hypervisor's own code.

use super::memory::Port;
use super::zone::ZoneRef;
use super::{Machine, MachineError, Shape};
use crate::platform::HostMemory;
use portcullis_addr::{Ipa, PAGE_SIZE, Range};
use portcullis_isolation::{Ledger, OwnerSpace, TableShapes};
use portcullis_ownership::Owner;
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2 as Stage2Format, Stage2Attributes, Table,
};
use smmuv3_driver::{self as driver, Config, Stage2};
use smmuv3_spec::Vmid;

/// The driver of the physical SMMU.
pub(super) type Driver<'m> = driver::Smmu<Port<'m>, ZoneRef<'m>, &'m Machine>;

/// Tags the host's translations.
pub(super) const HOST_VMID: Vmid = Vmid(1);

/// Takes the SMMU over.
pub(super) fn take_over(machine: &Machine) -> Result<Driver<'_>, MachineError> {
    let config = Config {
        interrupts: false,
        ..Config::default()
    };
    Ok(driver::Smmu::new(
        Port(machine),
        machine.hypervisor(),
        machine,
        config,
    )?)
}

/// The shape of stage 2 tables, and what may be done to them.
pub(super) fn geometry(
    shape: &Shape<'_>,
    driver: &Driver<'_>,
) -> Result<(Geometry, Bbm), MachineError> {
    let memory = &shape.platform.memory;
    // 36 to 48, 32 to 52, and 0 to 2.
    let input = memory.ipa_bits.get().get() as u8;
    let level = memory.stage2_start_level.get().get() as u8;
    let output = driver.features().output_bits().min(48);
    let geometry = Geometry::stage2_from_level(Granule::Size4K, input, output, level)?;
    let bbm = if driver.features().idr3.bbml() >= 2 {
        Bbm::Level2
    } else {
        Bbm::Level0
    };
    Ok((geometry, bbm))
}

/// Stage 2 of the host: all of its RAM where it is.
pub(super) fn host(
    machine: &Machine,
    shape: &Shape<'_>,
    driver: &Driver<'_>,
) -> Result<Stage2, MachineError> {
    let (geometry, bbm) = geometry(shape, driver)?;
    let root = match shape.platform.memory.host_memory.get() {
        HostMemory::Blocks => {
            let banks = [machine.bank()?];
            let ledger = Ledger::new(&banks)?;
            let tables = TableShapes {
                dma_geometry: geometry,
                cpu_geometry: geometry,
                cpu_bbm: Bbm::Level0,
                dma_bbm: bbm,
            };
            let (cpu, dma) = (machine.hypervisor(), machine.hypervisor());
            let none = std::iter::empty;
            OwnerSpace::identity(
                ledger,
                Owner::HOST,
                HOST_VMID,
                tables,
                cpu,
                dma,
                none(),
                none(),
            )?
            .dma()
            .root()
        }
        HostMemory::Pages => {
            let attributes = Stage2Attributes {
                memory: MemoryType::Normal,
                read: true,
                write: true,
                execute: Execute::Never,
            };
            let mut table = Table::<Stage2Format, _>::new(geometry, bbm, machine.hypervisor())?;
            let ram = machine.host_ram();
            let pages = (ram.start().raw()..ram.end().raw()).step_by(PAGE_SIZE as usize);
            for page in pages {
                let page = Range::from_size(Ipa::new(page), PAGE_SIZE)
                    .map_err(|_| MachineError::Stuck("have such a page"))?;
                table.map(
                    page,
                    portcullis_addr::PhysAddr::new(page.start().raw()),
                    attributes,
                )?;
            }
            table.root()
        }
    };
    Ok(Stage2 {
        vmid: HOST_VMID,
        root,
        granule: driver::Granule::Size4K,
        // All below 64, 4 and 8.
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        ps: geometry.ps() as u8,
    })
}
