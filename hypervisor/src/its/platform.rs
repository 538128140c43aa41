//! The host's machine, as an ITS that EL2 emulates for it finds it.

use super::ShowError;
use crate::memory;
use crate::mmio::Device;
use crate::mmu;
use crate::owner_memory::{MappedMemory, OwnerMemory};
use gicv3_its::{ITS_LIMIT, Outside, Platform};
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_pagetable::{Access, MemoryType};
use spin::Once;

/// Offsets of the pages of the control frame that the host reads without EL2:
/// the registers, and their identification. The rest reads as zero by a trap.
pub const SHOWN_OFFSETS: [u32; 2] = [0, 0xf000];

/// Bytes of the pages of one ITS.
pub const SHOWN_BYTES: u64 = 2 * PAGE_SIZE;

/// The ITS' registers say that it is coherent, since the CPU that reads and
/// writes the host's tables is.
const MEMORY: MemoryType = MemoryType::Normal;

/// The pages of each ITS, by index.
static SHOWN: [Once<Device>; ITS_LIMIT] = [const { Once::new() }; ITS_LIMIT];

/// The host.
#[derive(Clone, Copy, Debug)]
pub struct HostMachine;

impl HostMachine {
    /// Makes the pages of the ITS at index `its`, all zero. `None` when there is
    /// no memory.
    ///
    /// To be called while one CPU runs, and before EL2's own map takes tables
    /// from the pool: what surrounds the pages is unmapped for a moment.
    ///
    /// # Errors
    /// As [`mmu::map`]; the pages are lost then.
    pub fn make_shown(its: usize) -> Result<Option<()>, ShowError> {
        let Some(slot) = SHOWN.get(its) else {
            return Ok(None);
        };
        let Some(pages) = memory::take_pages(SHOWN_OFFSETS.len(), 0) else {
            return Ok(None);
        };
        // Nothing of them may be left in a cache when they are no memory any
        // more for EL2, nor be written back later.
        mmu::discard_lines(pages.start().raw(), pages.size());
        mmu::unmap(pages)?;
        mmu::map(pages, MemoryType::Device, Access::ReadWrite)?;
        mmu::discard_lines(pages.start().raw(), pages.size());
        slot.call_once(|| Device::from_mapped(pages));
        Ok(Some(()))
    }

    /// The pages of the ITS at index `its`, in the order of [`SHOWN_OFFSETS`].
    pub fn shown(its: usize) -> Option<[PhysAddr; 2]> {
        let start = SHOWN.get(its)?.get()?.range().start().raw();
        Some([PhysAddr::new(start), PhysAddr::new(start + PAGE_SIZE)])
    }
}

impl Platform for HostMachine {
    type Window = MappedMemory;

    #[inline]
    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        OwnerMemory::HOST
            .read_as(MEMORY, at, words)
            .then_some(())
            .ok_or(Outside)
    }

    #[inline]
    fn store(&self, at: Ipa, value: u64) -> Result<(), Outside> {
        OwnerMemory::HOST
            .store64_as(MEMORY, at, value)
            .then_some(())
            .ok_or(Outside)
    }

    fn open(&self, range: Range<Ipa>) -> Result<MappedMemory, Outside> {
        OwnerMemory::HOST.map_as(MEMORY, range).ok_or(Outside)
    }

    fn close(&self, window: MappedMemory) {
        window.close();
    }

    #[inline]
    fn show(&self, its: usize, offset: u32, value: u64) {
        if let Some(pages) = SHOWN.get(its).and_then(Once::get) {
            pages.write64(place(offset), value);
        }
    }

    #[inline]
    fn show_pair(&self, its: usize, offset: u32, [first, second]: [u64; 2]) {
        if let Some(pages) = SHOWN.get(its).and_then(Once::get) {
            // A copy: what it holds is loaded once.
            let pages = *pages;
            pages.write64(place(offset), first);
            pages.write64(place(offset.wrapping_add(8)), second);
        }
    }
}

/// Where the shown pages have the register at `offset`.
#[inline]
fn place(offset: u32) -> u64 {
    let page = u64::from(offset >= SHOWN_OFFSETS[1]) * PAGE_SIZE;
    page + u64::from(offset) % PAGE_SIZE
}
