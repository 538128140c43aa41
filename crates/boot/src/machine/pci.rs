//! PCI host bridges whose functions an SMMU is to confine (PCI Bus Binding to
//! IEEE 1275; Linux binding `pci/host-generic-pci.yaml`).

use super::binding::is_pci;
use super::device::{Device, Verdict};
use super::reg::for_each_register;
use crate::error::BootError;
use crate::fdt::{NodeId, take_cells};
use crate::list::List;
use crate::text::NodePath;
use core::ops::RangeInclusive;
use portcullis_addr::{Address, PhysAddr, Range};

/// Most PCI host bridges.
pub const PCI_HOST_LIMIT: usize = 32;

/// Bytes of configuration space of a bus (PCI Express 5.0, 7.2.2).
pub const BUS_BYTES: u64 = 1 << 20;

/// A PCI host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciHost {
    /// The configuration space of its buses, one after the other; `None` when it
    /// is no `pci-host-ecam-generic`, so that there is no telling how to reach it.
    pub ecam: Option<Range<PhysAddr>>,
    /// The number of its first bus.
    pub first_bus: u8,
    /// That of the last bus that it has configuration space for.
    pub last_bus: u8,
    /// Its node.
    pub node: NodeId,
    /// The path of its node, for messages.
    pub path: NodePath,
}

impl PciHost {
    /// The numbers of its buses.
    #[must_use]
    pub fn buses(&self) -> RangeInclusive<u8> {
        self.first_bus..=self.last_bus
    }

    /// The configuration space of a bus.
    #[must_use]
    pub fn bus(&self, number: u8) -> Option<Range<PhysAddr>> {
        let index = u64::from(number.checked_sub(self.first_bus)?);
        let ecam = self.ecam.filter(|_| self.buses().contains(&number))?;
        let at = ecam.start().checked_add(index.checked_mul(BUS_BYTES)?)?;
        let bus = Range::from_size(at, BUS_BYTES).ok()?;
        ecam.covers(&bus).then_some(bus)
    }
}

/// Adds `device`, if it is an enabled PCI host bridge behind an SMMU.
pub(super) fn add(
    list: &mut List<PciHost, PCI_HOST_LIMIT>,
    device: &Device<'_>,
    path: impl FnOnce() -> NodePath,
) -> Result<(), BootError> {
    let node = device.node;
    if !is_pci(&node) || !device.enabled || device.verdict != Verdict::Confined {
        return Ok(());
    }
    let mut range = node.property(b"bus-range").unwrap_or_default();
    let number = |cells: Option<u64>, default| cells.map_or(Ok(default), u8::try_from);
    let first = number(take_cells(&mut range, 1), 0);
    let last = number(take_cells(&mut range, 1), u8::MAX);
    let (Ok(first_bus), Ok(last)) = (first, last) else {
        return Err(node.bad_length("bus-range", "two numbers below 256"));
    };
    let mut ecam = None;
    if node.is_compatible(b"pci-host-ecam-generic") {
        for_each_register(device.ancestry(), &mut |range| ecam = ecam.or(Some(range)));
    }
    // There may be less configuration space than numbers.
    let buses = ecam.map_or(0, |ecam: Range<PhysAddr>| ecam.size() / BUS_BYTES);
    let end = u64::from(first_bus) + buses;
    let last_bus = last.min(u8::try_from(end.saturating_sub(1)).unwrap_or(u8::MAX));
    let host = PciHost {
        ecam: ecam.filter(|_| buses > 0 && first_bus <= last_bus),
        first_bus,
        last_bus,
        node: node.id(),
        path: path(),
    };
    list.push(host).map_err(|_| BootError::TooMany {
        what: "PCI host bridges",
        limit: PCI_HOST_LIMIT,
    })
}
