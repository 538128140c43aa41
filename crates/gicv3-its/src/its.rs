//! One emulated ITS: the registers that the owner sees, and the physical ITS
//! below it.

use crate::devices::Devices;
use crate::ids::{CollectionId, DeviceId, EventId, Lpi, RedistributorId};
use crate::owner_table::OwnerTable;
use crate::physical::Physical;
use crate::platform::{Platform, Registers};
use crate::reg;
use portcullis_addr::{Ipa, Range};
use portcullis_owner_memory::Window;

/// How many collections an owner gets: more than one for each CPU, as a table
/// in memory must have (IHI 0069, `GITS_TYPER.HCC`).
pub const COLLECTIONS: usize = 256;

/// How many ranges of DeviceIDs an owner may have on one ITS.
pub const DEVICE_RANGE_LIMIT: usize = 32;

/// The most EventID bits that an owner gets.
const EVENT_BITS: u8 = 16;

/// `GITS_IIDR`: Arm, no product. EL2 applies a vendor's workarounds to the
/// physical ITS. The exception is
/// [`Emulator::show_product`](crate::Emulator::show_product).
const IIDR: u32 = 0x43b;

/// A range of DeviceIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRange {
    /// The first.
    pub first: DeviceId,
    /// The last.
    pub last: DeviceId,
}

/// Work that has to be done before the next command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Unmaps the events of `device` from `from` on, and then the device.
    Release {
        device: DeviceId,
        from: EventId,
        after_release: AfterRelease,
    },
    /// Reads the configuration of every LPI of the collection again.
    Configure { collection: CollectionId, from: Lpi },
    /// Moves the LPIs of the collection to its redistributor.
    Route { collection: CollectionId, from: Lpi },
    /// Reads the owner's collection table from this collection on.
    RestoreCollections(CollectionId),
    /// Reads the owner's device table from this device on.
    RestoreDevices(DeviceId),
    /// Reads the events of one device, then the devices after it.
    RestoreEvents { device: DeviceId, from: EventId },
    /// The ITS is disabled: releases every device from this one on.
    ReleaseAll(DeviceId),
}

/// What happens after a device was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRelease {
    /// Nothing.
    End,
    /// Maps the device again, with another table.
    Map { itt: Ipa, event_bits: u8 },
    /// Releases the devices from this one on.
    Clear(Option<DeviceId>),
}

/// Counters of an emulated ITS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that ran.
    pub commands: u64,
    /// Commands that were refused: an opcode, device, event, interrupt,
    /// collection or target that the owner does not have, or no memory.
    pub refused: u64,
    /// Writes that were ignored.
    pub ignored: u64,
}

#[derive(Debug)]
pub(crate) struct EmulatedIts<R, W> {
    pub(crate) physical: Physical<R>,
    pub(crate) devices: Devices,
    ranges: [DeviceRange; DEVICE_RANGE_LIMIT],
    range_count: usize,
    /// The number of EventID bits that the owner gets.
    pub(crate) event_bits: u8,
    typer: u64,
    /// `GITS_IIDR` as the owner sees it.
    pub(crate) iidr: u32,
    pub(crate) enabled: bool,
    pub(crate) cbaser: u64,
    /// Offsets of the next command to write and to read.
    pub(crate) cwriter: u64,
    pub(crate) creadr: u64,
    /// The queue's memory is not the owner's: nothing more is read from it.
    pub(crate) stalled: bool,
    pub(crate) device_table: OwnerTable,
    pub(crate) collection_table: OwnerTable,
    /// The redistributor of each collection of the owner, as
    /// [`RedistributorId::byte`].
    collections: [u8; COLLECTIONS],
    /// The command queue, while it is held.
    pub(crate) queue: Option<W>,
    pub(crate) job: Option<Job>,
    /// The job belongs to the command at `creadr`.
    pub(crate) in_command: bool,
    pub(crate) counts: Counts,
    /// The failure of the physical ITS was reported.
    pub(crate) failure_reported: bool,
}

impl<R: Registers, W: Window> EmulatedIts<R, W> {
    pub(crate) fn new(
        physical: Physical<R>,
        devices: Devices,
        ranges: &[DeviceRange],
    ) -> Option<Self> {
        let none = DeviceRange {
            first: DeviceId(1),
            last: DeviceId(0),
        };
        let mut list = [none; DEVICE_RANGE_LIMIT];
        for (slot, range) in list.get_mut(..ranges.len())?.iter_mut().zip(ranges) {
            // The device table has no entry above this.
            let last = range.last.min(devices.highest());
            *slot = DeviceRange { last, ..*range };
        }
        let typer = physical.typer();
        let event_bits = typer.event_bits().min(EVENT_BITS);
        let device_bits = (32 - devices.highest().0.leading_zeros()).max(1);
        let pta = u64::from(typer.targets_are_addresses());
        // Physical; ITT_entry_size, ID_bits, Devbits and CIDbits one less than
        // they are; CIL. HCC is 0: collections are in the owner's table.
        let shown = 1
            | (crate::owner_table::ENTRY - 1) << 4
            | (u64::from(event_bits) - 1) << 8
            | (u64::from(device_bits) - 1) << 13
            | pta << 19
            | (u64::from(COLLECTIONS.ilog2()) - 1) << 32
            | 1 << 36;
        Some(Self {
            physical,
            devices,
            ranges: list,
            range_count: ranges.len(),
            event_bits,
            typer: shown,
            iidr: IIDR,
            enabled: false,
            cbaser: 0,
            cwriter: 0,
            creadr: 0,
            stalled: false,
            device_table: OwnerTable::devices(),
            collection_table: OwnerTable::collections(),
            collections: [RedistributorId::NONE; COLLECTIONS],
            queue: None,
            job: None,
            in_command: false,
            counts: Counts::default(),
            failure_reported: false,
        })
    }

    /// Whether the owner has `device`.
    #[inline]
    pub(crate) fn owns(&self, device: DeviceId) -> bool {
        let ranges = self.ranges.get(..self.range_count).unwrap_or_default();
        ranges
            .iter()
            .any(|range| range.first <= device && device <= range.last)
    }

    /// The redistributor of `collection`.
    #[inline]
    pub(crate) fn route(&self, collection: CollectionId) -> Option<RedistributorId> {
        RedistributorId::from_byte(*self.collections.get(usize::from(collection.0))?)
    }

    /// Sets the redistributor of `collection`. `false` if there is no such
    /// collection.
    pub(crate) fn set_route(
        &mut self,
        collection: CollectionId,
        to: Option<RedistributorId>,
    ) -> bool {
        match self.collections.get_mut(usize::from(collection.0)) {
            Some(slot) => {
                *slot = RedistributorId::byte(to);
                true
            }
            None => false,
        }
    }

    pub(crate) fn clear_routes(&mut self) {
        self.collections = [RedistributorId::NONE; COLLECTIONS];
    }

    /// The memory of the command queue, if the owner has set one.
    pub(crate) fn queue_range(&self) -> Option<Range<Ipa>> {
        let start = Ipa::new(self.cbaser & reg::CBASER_ADDRESS);
        let valid = self.cbaser & reg::VALID != 0;
        valid
            .then(|| Range::from_size(start, reg::cbaser_bytes(self.cbaser)).ok())
            .flatten()
    }

    /// Shows the value of every register.
    pub(crate) fn show_all<P: Platform>(&self, platform: &P, its: usize) {
        self.show_control(platform, its);
        platform.show(its, reg::TYPER, self.typer);
        self.show_tables(platform, its);
        self.show_queue(platform, its);
        for offset in (0xffd0..0x1_0000u32).step_by(8) {
            platform.show(its, offset, self.physical.id_registers(offset));
        }
    }

    pub(crate) fn show_control<P: Platform>(&self, platform: &P, its: usize) {
        let control = if self.enabled {
            reg::CTLR_ENABLED
        } else {
            reg::CTLR_QUIESCENT
        };
        // GITS_IIDR is the upper half.
        let value = u64::from(self.iidr) << 32 | u64::from(control);
        platform.show(its, reg::CTLR, value);
    }

    pub(crate) fn show_tables<P: Platform>(&self, platform: &P, its: usize) {
        platform.show(its, reg::CBASER, self.cbaser);
        platform.show(its, reg::BASER, self.device_table.value());
        platform.show(its, reg::BASER + 8, self.collection_table.value());
    }

    /// `GITS_CWRITER` and `GITS_CREADR`, in that order.
    #[inline]
    pub(crate) fn show_queue<P: Platform>(&self, platform: &P, its: usize) {
        let stalled = if self.stalled { reg::CREADR_STALLED } else { 0 };
        platform.show_pair(its, reg::CWRITER, [self.cwriter, self.creadr | stalled]);
    }
}
