//! Memory that is neither the host's nor the hypervisor's.
//!
//! Firmware goes on running when the host does, and some of it in memory that
//! the tree calls RAM: EL3 on many boards, an OP-TEE, a power controller. The
//! tree names such memory in two ways. A child of `/reserved-memory` with
//! `no-map` is firmware's unless its binding has a driver that maps it
//! (Devicetree Specification v0.4, 3.5.4: the operating system must not map
//! it). An entry of the memory reservation block is firmware's but for what
//! the boot loader put there for us, which it lists in the same place (5.3).

use crate::error::{BootError, Occupant};
use crate::layout::{Loaded, kernel_memory};
use crate::list::List;
use crate::machine::{Machine, Reserved};
use crate::pieces::pieces_without;
use portcullis_addr::{PhysAddr, Range};

/// Most ranges of firmware's memory.
pub const FIRMWARE_LIMIT: usize = 128;

/// Image, tree, kernel, ramdisk.
const LOADED: usize = 4;

type Ranges = List<Range<PhysAddr>, FIRMWARE_LIMIT>;

/// The RAM that is firmware's: whole pages, none twice.
#[derive(Clone, Debug)]
pub struct FirmwareMemory {
    /// What nodes with `no-map` say that the host's tree has too.
    told: Ranges,
    /// What the memory reservation block says, which to an operating system would
    /// be its own memory, set aside; and what nodes say in a way that it does not
    /// read.
    untold: Ranges,
}

impl FirmwareMemory {
    /// Finds it in what the tree reserves.
    ///
    /// # Errors
    /// - [`BootError::Overlap`] when something was loaded to a page that a node
    ///   with `no-map` names
    /// - [`BootError::TooMany`] for more than [`FIRMWARE_LIMIT`] ranges
    pub fn find(machine: &Machine, loaded: &Loaded) -> Result<Self, BootError> {
        let modules = &machine.modules;
        let ramdisk = modules.ramdisk.map(|module| module.range);
        let kernel = kernel_memory(modules.kernel.range, loaded.kernel.image_size);
        let own: [Option<(Occupant, Range<PhysAddr>)>; LOADED] = [
            Some((Occupant::Hypervisor, loaded.image)),
            Some((Occupant::DeviceTree, loaded.tree)),
            Some((Occupant::Kernel, kernel)),
            ramdisk.map(|range| (Occupant::Ramdisk, range)),
        ];
        let own = own.map(|own| own.map(|(by, range)| (by, pages(range))));
        let own = || own.iter().flatten().copied();

        let mut found = Self {
            told: List::new(),
            untold: List::new(),
        };
        let no_map = |r: &&Reserved| r.no_map && !r.for_driver && !r.by_loader;
        let no_map = || machine.reserved.iter().filter(no_map);
        for reserved in no_map() {
            let range = pages(reserved.range);
            if let Some((first, first_range)) = own().find(|(_, own)| own.overlaps(&range)) {
                return Err(BootError::Overlap {
                    first,
                    first_range,
                    second: Occupant::Reserved,
                    second_range: reserved.range,
                });
            }
            if is_told(machine, reserved) {
                found.told = add(machine, found.told, range, core::iter::empty())?;
            }
        }
        for reserved in no_map().filter(|reserved| !is_told(machine, reserved)) {
            let told = found.told;
            let taken = told.iter().copied();
            found.untold = add(machine, found.untold, pages(reserved.range), taken)?;
        }
        // A loader rounds what it lists; what is left over of the last page is
        // of no use to anybody.
        for reserved in machine.reserved.iter().filter(|r| r.by_loader) {
            let told = found.told;
            let taken = own().map(|(_, range)| range).chain(told.iter().copied());
            found.untold = add(machine, found.untold, pages(reserved.range), taken)?;
        }
        Ok(found)
    }

    /// All of it.
    pub fn ranges(&self) -> impl Iterator<Item = Range<PhysAddr>> + Clone {
        self.told.iter().chain(self.untold.iter()).copied()
    }

    /// What no node of the tree tells an operating system: the host's says it in
    /// nodes of its own with `no-map`.
    pub fn untold(&self) -> impl Iterator<Item = Range<PhysAddr>> + Clone {
        self.untold.iter().copied()
    }
}

/// Whether an operating system leaves alone what a node with `no-map` names. Linux
/// does not where another node has reserved a part of it to be mapped
/// (`drivers/of`, `early_init_dt_reserve_memory`).
fn is_told(machine: &Machine, reserved: &Reserved) -> bool {
    let mapped = |other: &Reserved| {
        !other.no_map && !other.by_loader && pages(other.range).overlaps(&reserved.range)
    };
    reserved.told && !machine.reserved.iter().any(mapped)
}

/// Whole pages around `range`. A range that ends at the last byte of the
/// address space is no RAM.
fn pages(range: Range<PhysAddr>) -> Range<PhysAddr> {
    range.page_outward().unwrap_or(range)
}

/// `list` and the RAM of `range` that is neither in it nor in `taken`.
fn add(
    machine: &Machine,
    mut list: Ranges,
    range: Range<PhysAddr>,
    taken: impl Iterator<Item = Range<PhysAddr>> + Clone,
) -> Result<Ranges, BootError> {
    let before = list;
    let taken = taken.chain(before.iter().copied());
    for bank in machine.memory.iter() {
        let Some(part) = bank.intersection(&range) else {
            continue;
        };
        for piece in pieces_without(part, taken.clone()) {
            list.push(piece).map_err(|_| BootError::TooMany {
                what: "ranges of memory of firmware's",
                limit: FIRMWARE_LIMIT,
            })?;
        }
    }
    Ok(list)
}
