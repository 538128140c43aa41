//! What the host's CPUs reach beside the host's memory.
//!
//! Addresses that the tree says nothing about are nobody's: there may be the
//! command queues of an SMMU's side interfaces, the address map of a memory
//! controller, a debug port, RAM once more. So the host gets the registers of
//! the devices that are left in its tree, and no gap between them.

use crate::error::BootError;
use crate::fdt::Fdt;
use crate::list::List;
use crate::machine::{DOORBELL_SIZE, Device, Gic, Machine, Verdict};
use crate::pieces::pieces_without;
use crate::text::NodePath;
use portcullis_addr::{Address, PhysAddr, Range};

/// Most ranges of either kind.
pub const REGISTER_RANGE_LIMIT: usize = 512;

/// Sets of pages: none twice, neighbours joined.
type Pages = List<Range<PhysAddr>, REGISTER_RANGE_LIMIT>;

/// The addresses outside of RAM that are the host's. Some KiB: keep it in a
/// static, not on a stack.
#[derive(Clone, Debug)]
pub struct HostRegisters {
    allowed: Pages,
    withheld: Pages,
}

impl Default for HostRegisters {
    fn default() -> Self {
        Self::new()
    }
}

impl HostRegisters {
    /// No addresses.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            allowed: List::new(),
            withheld: List::new(),
        }
    }

    /// Adds what the tree and the command line say: the `reg` of every enabled
    /// device that stays in the host's tree, the windows of PCI host bridges
    /// among them, and what `mmio-allow=` names. What other devices have is
    /// withheld, with the rest of the pages that it is in.
    ///
    /// `fdt` is the tree that `machine` was read from.
    ///
    /// # Errors
    /// - [`BootError::NotRegisters`] when `mmio-allow=` names RAM, or a page that
    ///   is withheld
    /// - [`BootError::NotMemory`] when `memory-allow=` names any of these
    /// - [`BootError::TooMany`] for more than [`REGISTER_RANGE_LIMIT`] ranges
    pub fn find(&mut self, fdt: &Fdt<'_>, machine: &Machine) -> Result<(), BootError> {
        let mut full = Ok(());
        machine.for_each_device(fdt, |device: Device<'_>| {
            let given = !matches!(device.verdict, Verdict::Withheld(_));
            device.for_each_range(&mut |range| {
                let added = match given {
                    true if device.enabled => self.allow(range),
                    true => Ok(()),
                    false => self.withhold(range),
                };
                full = full.and(added);
            });
            full
        })?;
        // Memory that is not the tree's RAM, such as an SRAM's.
        for reserved in machine.reserved.iter().filter(|r| !r.by_loader) {
            if reserved.for_driver {
                self.allow(reserved.range)?;
            } else if reserved.no_map {
                self.withhold(reserved.range)?;
            }
        }
        for range in machine.mmio_allow.iter() {
            let taken = |by| BootError::NotRegisters { range: *range, by };
            if machine.memory.iter().any(|bank| bank.overlaps(range)) {
                return Err(taken("RAM"));
            }
            if self.is_withheld(range) {
                return Err(taken("a device that is withheld"));
            }
            self.allow(*range)?;
        }
        for range in machine.added.iter() {
            let not = |why| BootError::NotMemory { range: *range, why };
            if machine.mmio_allow.iter().any(|other| other.overlaps(range)) {
                return Err(not("is in mmio-allow= too"));
            }
            // Also what only boot loaders list: it is somebody's.
            let mut reserved = machine.reserved.iter();
            if reserved.any(|reserved| reserved.range.overlaps(range)) {
                return Err(not("has reserved memory in it"));
            }
            machine.for_each_device(fdt, |device: Device<'_>| {
                let mut inside = false;
                device.for_each_range(&mut |registers| inside |= registers.overlaps(range));
                match inside {
                    true => Err(not("has registers of a device in it")),
                    false => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    /// Calls `each` with every enabled device that is the host's and that has a
    /// page in common with what is withheld: the host has its node, and not that
    /// page.
    ///
    /// # Errors
    /// None that reading the tree did not have.
    pub fn for_each_cut(
        &self,
        fdt: &Fdt<'_>,
        machine: &Machine,
        mut each: impl FnMut(NodePath, Range<PhysAddr>),
    ) -> Result<(), BootError> {
        machine.for_each_device(fdt, |device: Device<'_>| {
            if device.enabled && !matches!(device.verdict, Verdict::Withheld(_)) {
                device.for_each_range(&mut |range| {
                    let pages = range.page_outward().unwrap_or(range);
                    if self.is_withheld(&pages) {
                        each(fdt.path(device.node.id()), range);
                    }
                });
            }
            Ok(())
        })
    }

    /// Calls `each` with every enabled device that is the host's and that has
    /// registers at `end` or above: the host has its node, and not what is there.
    ///
    /// # Errors
    /// None that reading the tree did not have.
    pub fn for_each_above(
        &self,
        fdt: &Fdt<'_>,
        machine: &Machine,
        end: PhysAddr,
        mut each: impl FnMut(NodePath, Range<PhysAddr>),
    ) -> Result<(), BootError> {
        if self.end() <= end {
            return Ok(());
        }
        machine.for_each_device(fdt, |device: Device<'_>| {
            if device.enabled && !matches!(device.verdict, Verdict::Withheld(_)) {
                device.for_each_range(&mut |range| {
                    if range.end() > end {
                        each(fdt.path(device.node.id()), range);
                    }
                });
            }
            Ok(())
        })
    }

    fn allow(&mut self, range: Range<PhysAddr>) -> Result<(), BootError> {
        insert(&mut self.allowed, range)
    }

    /// Takes the pages of `range` away from the host, whatever says that they
    /// are its.
    ///
    /// # Errors
    /// [`BootError::TooMany`] for more than [`REGISTER_RANGE_LIMIT`] ranges.
    pub fn withhold(&mut self, range: Range<PhysAddr>) -> Result<(), BootError> {
        insert(&mut self.withheld, range)
    }

    /// Takes away what of the interrupt controller the host's CPUs do not reach by
    /// themselves, as far as the tree says: every frame of the ITSs and of the
    /// redistributors, those of CPUs that the tree does not name included. A CPU's
    /// write to a doorbell would carry a DeviceID that nothing guarantees. With
    /// `filtered`, also the memory-mapped CPU interface, which the system registers
    /// replace.
    ///
    /// # Errors
    /// - [`BootError::DoorbellWithheld`] when something that is withheld already,
    ///   such as an SMMU, is where a doorbell is
    /// - [`BootError::TooMany`] as for [`withhold`](Self::withhold)
    pub fn withhold_gic(&mut self, machine: &Machine, filtered: bool) -> Result<(), BootError> {
        for its in machine.gic.doorbells() {
            for range in [its.registers, its.doorbell] {
                if self.is_withheld(&range) {
                    return Err(BootError::DoorbellWithheld { range });
                }
            }
        }
        let Gic::V3(v3) = &machine.gic else {
            return Ok(());
        };
        let compatibility = v3.compatibility.iter().filter(|_| filtered);
        let its = v3
            .its
            .iter()
            .flat_map(|its| [&its.registers, &its.doorbell]);
        for range in compatibility.chain(its).chain(v3.redistributors.iter()) {
            self.withhold(*range)?;
        }
        // Where a window takes the place of a doorbell, the doorbell is there all the
        // same, behind the registers that the tree names (IHI 0069, 12.18).
        for its in v3.its.iter().filter(|its| its.id_in_address) {
            let at = its.registers.start().checked_add(DOORBELL_SIZE);
            if let Some(doorbell) = at.and_then(|at| Range::from_size(at, DOORBELL_SIZE).ok()) {
                self.withhold(doorbell)?;
            }
        }
        Ok(())
    }

    /// Whether something in `range` is withheld.
    #[must_use]
    pub fn is_withheld(&self, range: &Range<PhysAddr>) -> bool {
        self.withheld.iter().any(|other| other.overlaps(range))
    }

    /// The pages that are the host's, in no order, none twice. Some may lie in
    /// RAM, where the ledger says whose they are.
    pub fn pages(&self) -> impl Iterator<Item = Range<PhysAddr>> {
        let withheld = self.withheld.iter().copied();
        let allowed = self.allowed.iter().copied();
        allowed.flat_map(move |range| pieces_without(range, withheld.clone()))
    }

    /// The end of the highest of these pages, or 0.
    #[must_use]
    pub fn end(&self) -> PhysAddr {
        let ends = self.pages().map(|range| range.end());
        ends.max().unwrap_or(PhysAddr::new(0))
    }
}

/// Adds the pages of `range`, joined with what it overlaps or touches.
fn insert(set: &mut Pages, range: Range<PhysAddr>) -> Result<(), BootError> {
    // The last page of the address space is no device's.
    let Some(mut all) = range.page_outward() else {
        return Ok(());
    };
    let touches = |all: &Range<PhysAddr>, other: &Range<PhysAddr>| {
        other.start() <= all.end() && all.start() <= other.end()
    };
    loop {
        let index = set.iter().position(|other| touches(&all, other));
        let Some(other) = index.and_then(|index| set.swap_remove(index)) else {
            break;
        };
        let (start, end) = (all.start().min(other.start()), all.end().max(other.end()));
        all = Range::new(start, end).unwrap_or(all);
    }
    set.push(all).map_err(|_| BootError::TooMany {
        what: "ranges of registers",
        limit: REGISTER_RANGE_LIMIT,
    })
}
