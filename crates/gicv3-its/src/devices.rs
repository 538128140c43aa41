//! The devices that an owner has mapped: the interrupt translation table that
//! the physical ITS uses for each, and the mapping of each event.
//!
//! They are a tree of two levels by DeviceID. The first level is one table for
//! all. A page of the second level is taken from the share for its first
//! device, and freed with its last.

use crate::ids::{CollectionId, DeviceId, EventId, Lpi};
use crate::platform::{Share, TableMemory};
use crate::reg::VALID;
use portcullis_addr::{Ipa, PhysAddr};
use portcullis_memory::Memory;

/// Bytes of a page of the second level.
const PAGE: u64 = 4096;
/// Bytes of a record.
const RECORD: u64 = 32;
/// Records of a page.
const RECORDS: u32 = (PAGE / RECORD) as u32;
/// Events that are looked at in one step.
const RUN: u32 = 64;
/// Alignment of an interrupt translation table.
const ITT_ALIGNMENT: u64 = 256;

/// A device that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// The physical ITS' table, of the share's.
    pub(crate) itt: PhysAddr,
    /// Our own record of its events, a word for each.
    pub(crate) events: PhysAddr,
    /// Bits of its EventIDs.
    pub(crate) event_bits: u8,
    /// The owner's table.
    pub(crate) owner_itt: Ipa,
}

/// The mapping of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The interrupt.
    pub lpi: Lpi,
    /// The collection, as the owner numbers it.
    pub collection: CollectionId,
}

impl Mapping {
    /// The word that holds it: also the entry in the owner's table.
    pub(crate) fn word(self) -> u64 {
        VALID | u64::from(self.collection.0) << 32 | u64::from(self.lpi.0)
    }

    pub(crate) fn from_word(word: u64) -> Option<Self> {
        (word & VALID != 0).then_some(Self {
            // Truncation: bits 31:0 and 47:32.
            lpi: Lpi(word as u32),
            collection: CollectionId((word >> 32) as u16),
        })
    }
}

/// Bytes of the two tables of a device: the physical ITS' and ours.
struct Sizes {
    itt: u64,
    events: u64,
}

impl Sizes {
    fn new(event_bits: u8, itt_entry: u64) -> Option<Self> {
        let count = 1u64.checked_shl(event_bits.into())?;
        let itt = count.checked_mul(itt_entry)?.max(ITT_ALIGNMENT);
        let itt = itt.checked_next_multiple_of(ITT_ALIGNMENT)?;
        let events = count.checked_mul(8)?;
        Some(Self { itt, events })
    }

    /// Whether both fit into one page of the share's.
    fn fits_one_page(&self) -> bool {
        self.itt.saturating_add(self.events) <= PAGE
    }
}

impl Device {
    /// Makes a device without events, with tables from the share. `None` if the
    /// share has no room; nothing is taken then.
    pub(crate) fn allocate(
        share: &impl Share,
        owner_itt: Ipa,
        event_bits: u8,
        itt_entry: u64,
    ) -> Option<Self> {
        let sizes = Sizes::new(event_bits, itt_entry)?;
        let (itt, events) = if sizes.fits_one_page() {
            let page = share.allocate(PAGE)?;
            (page, PhysAddr::new(page.raw() + sizes.itt))
        } else {
            let bytes = sizes.itt.checked_next_power_of_two()?;
            let itt = share.allocate(bytes)?;
            match share.allocate(sizes.events.next_power_of_two()) {
                Some(events) => (itt, events),
                None => {
                    share.free(itt, bytes);
                    return None;
                }
            }
        };
        Some(Self {
            itt,
            events,
            event_bits,
            owner_itt,
        })
    }

    /// Pages that [`allocate`](Self::allocate) zeroes, for the budget of a call.
    pub(crate) fn pages(event_bits: u8, itt_entry: u64) -> u32 {
        let pages = Sizes::new(event_bits, itt_entry)
            .map(|sizes| sizes.itt.saturating_add(sizes.events).div_ceil(PAGE));
        u32::try_from(pages.unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Frees its tables. The physical ITS was told that the device is unmapped,
    /// and that is complete.
    pub(crate) fn free(self, share: &impl Share, itt_entry: u64) {
        let Some(sizes) = Sizes::new(self.event_bits, itt_entry) else {
            return;
        };
        if sizes.fits_one_page() {
            share.free(self.itt, PAGE);
        } else {
            share.free(self.itt, sizes.itt.next_power_of_two());
            share.free(self.events, sizes.events.next_power_of_two());
        }
    }

    /// Whether `event` is one that the device's table has.
    #[inline]
    pub(crate) fn has(&self, event: EventId) -> bool {
        u64::from(event.0) < 1 << self.event_bits
    }

    #[inline]
    fn word(&self, event: EventId) -> PhysAddr {
        PhysAddr::new(self.events.raw().wrapping_add(u64::from(event.0) * 8))
    }

    /// What `event`, which the device [has](Self::has), is mapped to.
    #[inline]
    pub(crate) fn mapping(&self, memory: &impl Memory, event: EventId) -> Option<Mapping> {
        Mapping::from_word(memory.load(self.word(event)))
    }

    /// Sets what `event`, which the device [has](Self::has), is mapped to.
    #[inline]
    pub(crate) fn set(&self, memory: &impl Memory, event: EventId, mapping: Option<Mapping>) {
        memory.store(self.word(event), mapping.map_or(0, Mapping::word));
    }

    /// How many events from `from` on, which the device [has](Self::has), are not
    /// mapped to anything, as far as a multiple of 64; 0 when one of them is.
    pub(crate) fn unmapped(&self, memory: &impl Memory, from: EventId) -> u32 {
        let end = 1u64 << self.event_bits;
        let left = end.saturating_sub(from.0.into());
        // At most 64.
        let count = (RUN - from.0 % RUN).min(u32::try_from(left).unwrap_or(RUN));
        if memory.is_clear(self.word(from), count.into()) {
            count
        } else {
            0
        }
    }

    /// Where the owner's table has the entry of `event`.
    #[inline]
    pub(crate) fn owner_entry(&self, event: EventId) -> Option<Ipa> {
        self.owner_itt
            .raw()
            .checked_add(u64::from(event.0) * 8)
            .map(Ipa::new)
    }
}

/// The devices of one ITS.
#[derive(Debug)]
pub(crate) struct Devices {
    first: PhysAddr,
    highest: DeviceId,
}

impl Devices {
    /// For every DeviceID up to `highest`. `None` when there is no memory.
    pub(crate) fn new(memory: &impl TableMemory, highest: DeviceId) -> Option<Self> {
        let first = memory.take(Self::bytes(highest), PAGE)?;
        Some(Self { first, highest })
    }

    /// Bytes of the first level.
    pub(crate) fn bytes(highest: DeviceId) -> u64 {
        let words = u64::from(highest.0 / RECORDS) + 1;
        (words * 8).next_multiple_of(PAGE)
    }

    /// The highest DeviceID.
    pub(crate) fn highest(&self) -> DeviceId {
        self.highest
    }

    fn page_entry(&self, device: DeviceId) -> Option<PhysAddr> {
        let entry = u64::from(device.0 / RECORDS) * 8;
        (device <= self.highest).then(|| PhysAddr::new(self.first.raw() + entry))
    }

    /// Where the record of `device` is. The entry of the first level has the address
    /// of the page, and below it how many of its devices are mapped.
    #[inline]
    fn record(&self, memory: &impl Memory, device: DeviceId) -> Option<u64> {
        let page = memory.load(self.page_entry(device)?) & !(PAGE - 1);
        (page != 0).then(|| page + u64::from(device.0 % RECORDS) * RECORD)
    }

    /// The device, if it is mapped.
    #[inline]
    pub(crate) fn get(&self, memory: &impl Memory, device: DeviceId) -> Option<Device> {
        let at = self.record(memory, device)?;
        let [head, events, owner_itt] = memory.load_words(PhysAddr::new(at));
        if head & VALID == 0 {
            return None;
        }
        Some(Device {
            itt: PhysAddr::new(head & 0x000f_ffff_ffff_ff00),
            event_bits: (head & 0x3f) as u8,
            events: PhysAddr::new(events),
            owner_itt: Ipa::new(owner_itt),
        })
    }

    /// Adds `device`, which is not mapped, as `value`. `None` when the share has no
    /// room, or the number is above the highest; nothing has changed then.
    pub(crate) fn add(&self, share: &impl Share, device: DeviceId, value: Device) -> Option<()> {
        let entry = self.page_entry(device)?;
        let mut page = share.load(entry);
        if page == 0 {
            page = share.allocate(PAGE)?.raw();
        }
        share.store(entry, page + 1);
        let at = self.record(share, device)?;
        let head = VALID | value.itt.raw() | u64::from(value.event_bits);
        let (events, owner_itt) = (value.events.raw(), value.owner_itt.raw());
        let words = [head, events, owner_itt];
        share.store_words(PhysAddr::new(at), words);
        Some(())
    }

    /// Removes `device`, which is mapped.
    pub(crate) fn remove(&self, share: &impl Share, device: DeviceId) {
        let (Some(entry), Some(at)) = (self.page_entry(device), self.record(share, device)) else {
            return;
        };
        share.store(PhysAddr::new(at), 0);
        let left = share.load(entry) - 1;
        if left & (PAGE - 1) != 0 {
            share.store(entry, left);
            return;
        }
        share.store(entry, 0);
        share.free(PhysAddr::new(left), PAGE);
    }

    /// Looks at one DeviceID, or at a page of them that has no device. The
    /// second value is where to go on; `None` at the end.
    pub(crate) fn next(
        &self,
        memory: &impl Memory,
        from: DeviceId,
    ) -> (Option<(DeviceId, Device)>, Option<DeviceId>) {
        let step = |to: Option<u32>| to.map(DeviceId).filter(|to| *to <= self.highest);
        match self.record(memory, from) {
            None => (None, step((from.0 / RECORDS + 1).checked_mul(RECORDS))),
            Some(_) => {
                let found = self.get(memory, from).map(|device| (from, device));
                (found, step(from.0.checked_add(1)))
            }
        }
    }
}
