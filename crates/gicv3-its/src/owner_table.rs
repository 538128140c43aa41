//! The tables that the owner gives its ITS: their entries, and where these are.
//!
//! A real ITS keeps its state in these tables, and the owner relies on that:
//! new, zeroed tables (a kernel after kexec) start with no mapping, and the
//! same tables set again (after hibernation) start with all of theirs. So the
//! emulated ITS writes each mapping there too, and reads the tables when it is
//! enabled. Their content is as untrusted as a command and passes the same
//! checks.
//!
//! As for any ITS, the formats are IMPLEMENTATION DEFINED: 8 bytes for an entry
//! of each table.

use crate::ids::{CollectionId, DeviceId, Target};
use crate::platform::Platform;
use crate::reg::{self, VALID};
use portcullis_addr::Ipa;

/// Bytes of an entry of each table.
pub(crate) const ENTRY: u64 = 8;

/// `GITS_BASER<n>` of the owner's, for one of its two tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerTable {
    fixed: u64,
    writable: u64,
    value: u64,
}

/// The fields of a base register that any table has.
const WRITABLE: u64 = reg::VALID
    | reg::ITS_CACHEABILITY
    | reg::SHAREABILITY
    | reg::PAGE_SIZE_FIELD
    | 0x0000_ffff_ffff_f000
    | 0xff;

impl OwnerTable {
    const fn new(kind: u64, writable: u64) -> Self {
        let fixed = kind << 56 | (ENTRY - 1) << 48;
        Self {
            fixed,
            writable,
            value: fixed,
        }
    }

    /// The device table, of one level or two.
    pub(crate) const fn devices() -> Self {
        Self::new(reg::TYPE_DEVICES, WRITABLE | reg::INDIRECT)
    }

    /// The collection table, of one level.
    pub(crate) const fn collections() -> Self {
        Self::new(reg::TYPE_COLLECTIONS, WRITABLE)
    }

    /// The value of the register.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// The owner's write. The reserved page size is 64 KiB (IHI 0069,
    /// `GITS_BASER<n>`).
    pub(crate) fn write(&mut self, value: u64) {
        let mut value = value & self.writable;
        if value & reg::PAGE_SIZE_FIELD == reg::PAGE_SIZE_FIELD {
            value = value & !reg::PAGE_SIZE_FIELD | 2 << 8;
        }
        self.value = value | self.fixed;
    }

    fn is_indirect(&self) -> bool {
        self.value & reg::INDIRECT != 0
    }

    /// Entries that one page of the second level has.
    fn per_page(&self) -> u64 {
        reg::baser_page(self.value) / ENTRY
    }

    /// How many entries the table can have.
    fn entries(&self) -> u64 {
        if self.value & VALID == 0 {
            return 0;
        }
        let first = reg::baser_pages(self.value) * self.per_page();
        if self.is_indirect() {
            first * self.per_page()
        } else {
            first
        }
    }

    /// The address of entry `index`.
    pub(crate) fn entry(&self, platform: &impl Platform, index: u32) -> EntryPlace {
        let index = u64::from(index);
        if index >= self.entries() {
            return EntryPlace::OutOfTable;
        }
        let base = reg::baser_address(self.value);
        let at = if self.is_indirect() {
            let mut word = [0];
            let first = base.checked_add(index / self.per_page() * ENTRY);
            let read = first.map(|at| platform.read(Ipa::new(at), &mut word));
            if read != Some(Ok(())) || word[0] & VALID == 0 {
                return EntryPlace::NoPage;
            }
            let page = reg::baser_page(self.value);
            let second = word[0] & 0x000f_ffff_ffff_f000 & !(page - 1);
            second.checked_add(index % self.per_page() * ENTRY)
        } else {
            base.checked_add(index * ENTRY)
        };
        at.map_or(EntryPlace::OutOfTable, |at| EntryPlace::At(Ipa::new(at)))
    }

    /// The first index of the next page of the second level.
    pub(crate) fn next_page(&self, index: u32) -> Option<u32> {
        // At most 8,192.
        let page = self.per_page() as u32;
        (index / page).checked_add(1)?.checked_mul(page)
    }
}

/// Where an entry of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryPlace {
    /// The address of the entry.
    At(Ipa),
    /// The second-level page of the entry is missing.
    NoPage,
    /// The table is not valid, or ends before the entry.
    OutOfTable,
}

/// An entry of the device table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceEntry {
    pub(crate) itt: Ipa,
    pub(crate) event_bits: u8,
}

impl DeviceEntry {
    const ITT: u64 = 0x000f_ffff_ffff_ff00;

    pub(crate) fn word(self) -> u64 {
        let bits = u64::from(self.event_bits.wrapping_sub(1) & 0x1f);
        VALID | self.itt.raw() & Self::ITT | bits
    }

    pub(crate) fn from_word(word: u64) -> Option<Self> {
        (word & VALID != 0).then_some(Self {
            itt: Ipa::new(word & Self::ITT),
            event_bits: (word & 0x1f) as u8 + 1,
        })
    }
}

/// An entry of the collection table.
pub(crate) fn collection_word(target: Target) -> u64 {
    VALID | target.bits()
}

/// The target of a collection, if it is mapped.
pub(crate) fn collection_from_word(word: u64) -> Option<Target> {
    (word & VALID != 0).then(|| Target::from_word(word))
}

/// The address of the entry of `collection`.
pub(crate) fn collection_place(
    table: &OwnerTable,
    platform: &impl Platform,
    collection: CollectionId,
) -> Option<Ipa> {
    match table.entry(platform, collection.0.into()) {
        EntryPlace::At(at) => Some(at),
        EntryPlace::NoPage | EntryPlace::OutOfTable => None,
    }
}

/// The address of the entry of `device`.
pub(crate) fn device_place(
    table: &OwnerTable,
    platform: &impl Platform,
    device: DeviceId,
) -> Option<Ipa> {
    match table.entry(platform, device.0) {
        EntryPlace::At(at) => Some(at),
        EntryPlace::NoPage | EntryPlace::OutOfTable => None,
    }
}
