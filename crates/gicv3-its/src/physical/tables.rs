//! The device and collection tables of a physical ITS.

use super::TakeOverError;
use crate::ids::DeviceId;
use crate::platform::{Registers, Share, TableMemory};
use crate::reg::{self, Typer};
use portcullis_addr::PhysAddr;

/// Pages of a table at most: `GITS_BASER<n>.Size` has 8 bits.
const PAGE_LIMIT: u64 = 256;

/// Bytes of an entry of the first level (IHI 0069, 5.2.1).
const FIRST_LEVEL_ENTRY: u64 = 8;

/// The device table of the physical ITS.
#[derive(Clone, Copy, Debug)]
pub enum DeviceTable {
    /// One table for every DeviceID.
    Flat,
    /// Two levels; a page of the second is added when its first device comes.
    TwoLevel {
        /// The first level.
        first: PhysAddr,
        /// Entries of the first level.
        entries: u32,
        /// Bytes of a page of the second.
        page: u64,
        /// Devices of a page.
        devices: u32,
    },
}

impl DeviceTable {
    /// Makes sure that there is an entry for `device`, which is not above the
    /// highest that the table was made for. `None` when `share` has no room;
    /// nothing has changed then.
    pub(crate) fn reach(&self, share: &impl Share, device: DeviceId) -> Option<()> {
        let Self::TwoLevel {
            first,
            page,
            devices,
            ..
        } = *self
        else {
            return Some(());
        };
        let entry = u64::from(device.0 / devices) * FIRST_LEVEL_ENTRY;
        let entry = PhysAddr::new(first.raw().wrapping_add(entry));
        if share.load(entry) & reg::VALID != 0 {
            return Some(());
        }
        // Zeroed and published before the entry that leads there.
        let second = share.allocate(page)?;
        share.store(entry, reg::VALID | second.raw());
        share.publish(entry, FIRST_LEVEL_ENTRY);
        Some(())
    }

    /// Whether a page of the second level is there.
    pub(crate) fn has_second_level(&self, share: &impl Share) -> bool {
        self.pages(share).next().is_some()
    }

    /// The entries of the first level that lead somewhere, and where to.
    fn pages<'a, S: Share>(
        &self,
        share: &'a S,
    ) -> impl Iterator<Item = (PhysAddr, PhysAddr)> + use<'a, S> {
        let (first, entries) = match *self {
            Self::Flat => (PhysAddr::new(0), 0),
            Self::TwoLevel { first, entries, .. } => (first, entries),
        };
        let at = move |n: u32| PhysAddr::new(first.raw() + u64::from(n) * FIRST_LEVEL_ENTRY);
        (0..entries).map(at).filter_map(|at| {
            let entry = share.load(at);
            let page = PhysAddr::new(entry & !(reg::VALID | 0xfff));
            (entry & reg::VALID != 0).then_some((at, page))
        })
    }

    /// Gives every page of the second level back. The ITS is disabled.
    pub(crate) fn drop_second_level(&self, share: &impl Share) {
        let Self::TwoLevel { page, .. } = *self else {
            return;
        };
        for (entry, second) in self.pages(share) {
            share.store(entry, 0);
            share.publish(entry, FIRST_LEVEL_ENTRY);
            share.free(second, page);
        }
    }
}

/// A table that a base register is to get.
struct Plan {
    index: u32,
    /// Bytes of a page.
    page: u64,
    pages: u64,
    /// Entries of a page of the second level; 0 for a table of one level.
    per_page: u64,
    /// Entries of the first level.
    entries: u64,
    /// Everything of the register but the address.
    value: u64,
}

impl Plan {
    /// Finds out what the register of a disabled ITS takes.
    fn probe<R: Registers>(
        registers: &R,
        index: u32,
        count: u64,
        may_be_indirect: bool,
    ) -> Result<Self, TakeOverError> {
        let offset = reg::BASER + index * 8;
        let refused = TakeOverError::Table(index);
        let probe = |value: u64| {
            registers.write64(offset, value);
            registers.read64(offset)
        };
        let entry = reg::baser_entry(registers.read64(offset));
        let shared = reg::INNER_SHAREABLE | reg::ITS_WRITE_BACK;
        // Some implementations have one page size, some any: the first that
        // stays.
        let (size, kept) = (0..=2u64)
            .map(|size| (size << 8, probe(shared | size << 8)))
            .find(|(size, kept)| kept & reg::PAGE_SIZE_FIELD == *size)
            .ok_or(refused)?;
        let page = reg::baser_page(size);
        let attributes = if kept & reg::SHAREABILITY == 0 {
            reg::ITS_NON_CACHEABLE
        } else {
            shared
        };
        let flat = count.checked_mul(entry).ok_or(refused)?.div_ceil(page);
        let indirect = may_be_indirect
            && flat > 1
            && probe(attributes | size | reg::INDIRECT) & reg::INDIRECT != 0;
        let per_page = if indirect { page / entry } else { 0 };
        let entries = count.checked_div(per_page).map_or(count, |n| n + 1);
        let (pages, level) = if indirect {
            let first = entries * FIRST_LEVEL_ENTRY;
            (first.div_ceil(page), reg::INDIRECT)
        } else {
            (flat, 0)
        };
        if pages > PAGE_LIMIT {
            return Err(refused);
        }
        Ok(Self {
            index,
            page,
            pages,
            per_page,
            entries,
            value: reg::VALID | level | attributes | size | (pages - 1),
        })
    }

    fn install<R: Registers>(
        &self,
        registers: &R,
        memory: &impl TableMemory,
    ) -> Result<DeviceTable, TakeOverError> {
        const RIGHT: u64 =
            reg::VALID | reg::INDIRECT | reg::PAGE_SIZE_FIELD | 0xff | 0x0000_ffff_ffff_f000;
        let first = memory
            .take(self.pages * self.page, self.page)
            .ok_or(TakeOverError::NoMemory)?;
        let value = self.value | reg::baser_address_field(first.raw(), self.page);
        let offset = reg::BASER + self.index * 8;
        registers.write64(offset, value);
        if registers.read64(offset) & RIGHT != value & RIGHT {
            return Err(TakeOverError::Table(self.index));
        }
        Ok(if self.per_page == 0 {
            DeviceTable::Flat
        } else {
            DeviceTable::TwoLevel {
                first,
                // At most 2^24 devices.
                entries: self.entries as u32,
                page: self.page,
                // At most 64 Ki.
                devices: self.per_page as u32,
            }
        })
    }
}

/// The tables that a disabled ITS needs: of devices, and of collections where it
/// does not hold enough of them itself. Every other base register is cleared.
fn plan<R: Registers>(
    registers: &R,
    highest: DeviceId,
    redistributors: u8,
) -> Result<(Plan, Option<Plan>), TakeOverError> {
    let held = Typer(registers.read64(reg::TYPER)).held_collections();
    let (mut devices, mut collections) = (None, None);
    let mut enough = u32::from(redistributors) <= held;
    for index in 0..reg::BASERS {
        let offset = reg::BASER + index * 8;
        match reg::baser_type(registers.read64(offset)) {
            reg::TYPE_DEVICES if devices.is_none() => {
                let count = u64::from(highest.0) + 1;
                devices = Some(Plan::probe(registers, index, count, true)?);
            }
            reg::TYPE_COLLECTIONS if !enough => {
                let count = redistributors.into();
                collections = Some(Plan::probe(registers, index, count, false)?);
                enough = true;
            }
            // Nothing that EL2 does not use: no table of virtual processors.
            _ => registers.write64(offset, 0),
        }
    }
    if !enough {
        return Err(TakeOverError::NoCollections);
    }
    Ok((devices.ok_or(TakeOverError::NoDeviceTable)?, collections))
}

/// Bytes of the tables of a disabled ITS, with what their alignment may cost.
pub(super) fn bytes<R: Registers>(
    registers: &R,
    highest: DeviceId,
    redistributors: u8,
) -> Result<u64, TakeOverError> {
    let (devices, collections) = plan(registers, highest, redistributors)?;
    let bytes = |plan: Plan| (plan.pages + 1) * plan.page;
    Ok(bytes(devices) + collections.map_or(0, bytes))
}

/// Gives a disabled ITS its tables.
pub(super) fn install<R: Registers>(
    registers: &R,
    memory: &impl TableMemory,
    highest: DeviceId,
    redistributors: u8,
) -> Result<DeviceTable, TakeOverError> {
    let (devices, collections) = plan(registers, highest, redistributors)?;
    if let Some(collections) = collections {
        collections.install(registers, memory)?;
    }
    devices.install(registers, memory)
}
