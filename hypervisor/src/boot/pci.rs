//! A look at the functions behind the PCI host bridges, before the host has them.

use crate::log::{info, warning};
use crate::mmio::Device;
use crate::mmu::{self, MapError};
use crate::refusal::Refusal;
use core::cell::Cell;
use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{Fdt, Machine, PciHost, ViommuStreams};
use portcullis_pagetable::{Access, MemoryType};
use portcullis_pci_survey::{ConfigSpace, Finding, Function, SLOTS, Slot, root_slots, survey};

/// Refuses a machine with a function that does its DMA past the SMMU that the
/// tree names for it.
pub(super) fn look(machine: &Machine) -> Result<(), Refusal> {
    for host in machine.pci_hosts.iter() {
        look_behind(machine, host)?;
    }
    Ok(())
}

fn look_behind(machine: &Machine, host: &PciHost) -> Result<(), Refusal> {
    let Some(ecam) = host.ecam else {
        warning!(
            "event=pci_unseen host={} reason=\"its configuration space is no pci-host-ecam-generic: \
             a function that goes past its SMMU would not be found\"",
            host.path
        );
        return Ok(());
    };
    machine.outside_memory(ecam)?;
    let space = Ecam {
        host,
        bus: Cell::new(None),
        failed: Cell::new(None),
    };
    let mut refused = None;
    let seen = survey(
        &space,
        host.buses(),
        &mut |function, finding| match finding {
            Finding::Unreadable(kind) => warning!(
                "event=pci_unseen host={} function={function} device=\"{kind}\" reason=\"it does not \
             say whether its DMA passes the SMMU\"",
                host.path
            ),
            Finding::BringsMemory(kind, address, size) if is_allowed(machine, address, size) => {
                info!(
                    "event=pci_memory host={} function={function} device=\"{kind}\" base={address:#x} \
             size={size:#x}",
                    host.path
                )
            }
            Finding::PastSmmu(_) | Finding::BringsMemory(..) => {
                refused = refused.or(Some((function, finding)));
            }
        },
    );
    space.leave();
    if let Some(error) = space.failed.get() {
        return Err(Refusal::OwnMap(error));
    }
    if let Some((function, finding)) = refused {
        return Err(Refusal::PciFunction {
            host: host.path,
            function,
            finding,
        });
    }
    if seen.unseen > 0 {
        warning!(
            "event=pci_unseen host={} bridges={} reason=\"they are too many or too deep to look \
             behind\"",
            host.path,
            seen.unseen
        );
    }
    info!(
        "event=pci_seen host={} functions={}",
        host.path, seen.functions
    );
    Ok(())
}

/// Divides the host's streams among its virtio-iommus, by what is on the root buses.
pub(super) fn divide(machine: &Machine, fdt: &Fdt<'_>) -> ViommuStreams {
    let instances = ViommuStreams::divide(machine, fdt, &mut root_bus);
    let (have, most) = (instances.count(), machine.viommus.len());
    if have > 1 || most > 1 {
        info!("event=viommus count={have} most={most}");
    }
    instances
}

/// What is on the root bus of a host bridge, if that can be known.
fn root_bus(host: &PciHost) -> Option<[Slot; SLOTS]> {
    host.ecam?;
    let space = Ecam {
        host,
        bus: Cell::new(None),
        failed: Cell::new(None),
    };
    let slots = root_slots(&space, host.first_bus);
    space.leave();
    space.failed.get().is_none().then_some(slots)
}

/// Whether the command line says that there may be memory. The device alone does not
/// decide that: it could name addresses that no node names.
fn is_allowed(machine: &Machine, address: u64, size: u64) -> bool {
    let pages = Range::from_size(PhysAddr::new(address), size).ok();
    let pages = pages.and_then(|memory| memory.page_outward());
    pages.is_some_and(|pages| machine.added.iter().any(|range| range.covers(&pages)))
}

/// The configuration space of a host bridge. One bus of it is mapped at a time.
struct Ecam<'a> {
    host: &'a PciHost,
    bus: Cell<Option<(u8, Device)>>,
    failed: Cell<Option<MapError>>,
}

impl Ecam<'_> {
    /// The registers of a bus. With none, functions are not there.
    fn bus(&self, number: u8) -> Option<Device> {
        if let Some((_, device)) = self.bus.get().filter(|(at, _)| *at == number) {
            return Some(device);
        }
        self.leave();
        let range = self.host.bus(number)?;
        match mmu::map(range, MemoryType::Device, Access::ReadWrite) {
            Ok(()) => {
                let device = Device::from_mapped(range);
                self.bus.set(Some((number, device)));
                Some(device)
            }
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }

    fn leave(&self) {
        if let Some((_, device)) = self.bus.take()
            && let Err(error) = mmu::unmap(device.range())
        {
            self.failed.set(Some(error));
        }
    }

    /// Where a register is in its bus' 1 MiB (PCI Express 5.0, 7.2.2).
    fn offset(function: Function, offset: u8) -> u64 {
        u64::from(function.devfn) << 12 | u64::from(offset)
    }
}

impl ConfigSpace for Ecam<'_> {
    fn read(&self, function: Function, offset: u8) -> u32 {
        match self.bus(function.bus) {
            Some(device) => device.read32(Self::offset(function, offset)),
            None => u32::MAX,
        }
    }

    fn write(&self, function: Function, offset: u8, value: u32) {
        if let Some(device) = self.bus(function.bus) {
            device.write32(Self::offset(function, offset), value);
        }
    }
}
