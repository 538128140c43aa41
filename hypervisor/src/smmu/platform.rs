//! The host's machine, as an SMMU that EL2 emulates for it finds it.

use crate::fixup;
use crate::gic;
use crate::its;
use crate::memory;
use crate::mmio::Device;
use crate::mmu::{self, MapError};
use crate::owner_memory::{self, MappedMemory, OwnerMemory};
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::HostLines;
use portcullis_pagetable::{Access, MemoryType};
use smmuv3_emulator::{Line, Outside, Platform, Window};

/// The memory of the owner: a constant, since the host is the only one so far.
const MEMORY: OwnerMemory = OwnerMemory::HOST;

/// Offset of register page 1 (IHI 0070, 6.2).
pub const PAGE_1: u32 = 0x1_0000;

/// What the host has of one emulated SMMU.
#[derive(Clone, Copy, Debug)]
pub struct HostPlatform {
    /// Two pages of ours, one for the first 4 KiB of each register page. The
    /// host maps them read-only, so that reads are its own.
    shown: Device,
    lines: HostLines,
    coherent: bool,
}

impl HostPlatform {
    /// With register pages from the pool, all zero. `None` when it has none.
    /// `coherent` is what the SMMUs are with the CPUs' caches.
    ///
    /// To be called while one CPU runs: what surrounds the pages is unmapped
    /// for a moment.
    ///
    /// # Errors
    /// As [`mmu::map`]; the pages are lost then.
    pub fn new(lines: HostLines, coherent: bool) -> Result<Option<Self>, MapError> {
        let Some(pages) = memory::take_pages(2, 0) else {
            return Ok(None);
        };
        // Nothing of them may be left in a cache when they are no memory any
        // more for us, nor be written back later.
        mmu::discard_lines(pages.start().raw(), pages.size());
        mmu::unmap(pages)?;
        mmu::map(pages, MemoryType::Device, Access::ReadWrite)?;
        // Until just now they could be fetched into a cache again.
        mmu::discard_lines(pages.start().raw(), pages.size());
        Ok(Some(Self {
            shown: Device::from_mapped(pages),
            lines,
            coherent,
        }))
    }

    /// Whether the SMMUs see the CPUs' caches.
    pub fn coherent(&self) -> bool {
        self.coherent
    }

    /// Where the two register pages lie.
    pub fn range(&self) -> Range<PhysAddr> {
        self.shown.range()
    }

    /// The pages that the host reads, with the offsets at which it finds them.
    pub fn pages(&self) -> [(u32, PhysAddr); 2] {
        let first = self.shown.range().start().raw();
        [
            (0, PhysAddr::new(first)),
            (PAGE_1, PhysAddr::new(first + PAGE_SIZE)),
        ]
    }

    /// Where the register at `offset` lies in the two pages. `None` where the
    /// host reads zero by other means.
    fn place(offset: u32) -> Option<u64> {
        let (page, rest) = (offset / PAGE_1, u64::from(offset % PAGE_1));
        (page < 2 && rest < PAGE_SIZE).then_some(u64::from(page) * PAGE_SIZE + rest)
    }
}

impl Platform for HostPlatform {
    type Window = MappedMemory;

    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside> {
        MEMORY.read(at, words).then_some(()).ok_or(Outside)
    }

    fn store32(&self, at: Ipa, value: u32) -> Result<(), Outside> {
        if let HostLines::Message { its, device } = self.lines
            && its::send(its, device, at, value).is_some()
        {
            return Ok(());
        }
        MEMORY.store32(at, value).then_some(()).ok_or(Outside)
    }

    fn open(&self, range: Range<Ipa>) -> Result<MappedMemory, Outside> {
        MEMORY.map(range).ok_or(Outside)
    }

    fn close(&self, window: MappedMemory) {
        window.close();
    }

    #[inline]
    fn show(&self, offset: u32, value: u32) {
        if let Some(at) = Self::place(offset) {
            self.shown.write32(at, value);
        }
    }

    fn shown_at(&self, offset: u32) -> Option<PhysAddr> {
        let at = Self::place(offset)?;
        Some(PhysAddr::new(self.shown.range().start().raw() + at))
    }

    fn raise(&self, line: Line) {
        let intid = match line {
            Line::Event => self.lines.event(),
            Line::Error => self.lines.error(),
            // The host's tree has no interrupt for them.
            Line::Pri | Line::Sync => None,
        };
        if let Some(intid) = intid {
            gic::raise(intid);
        }
    }
}

impl Window for MappedMemory {
    fn range(&self) -> Range<Ipa> {
        self.range()
    }

    fn physical(&self, offset: u64) -> Option<PhysAddr> {
        self.physical(offset)
    }

    #[inline]
    fn load(&self, offset: u64) -> u64 {
        self.load(offset)
    }

    #[inline]
    fn load_words<const N: usize>(&self, offset: u64) -> [u64; N] {
        self.load_words(offset)
    }

    #[inline]
    fn store(&self, offset: u64, value: u64) {
        self.store(offset, value);
    }

    #[inline]
    fn store32(&self, offset: u64, value: u32) {
        self.store32(offset, value);
    }

    #[inline]
    fn publish(&self, _offset: u64, _bytes: u64) {
        owner_memory::publish();
    }

    #[inline]
    fn refresh(&self, _offset: u64, _bytes: u64) {
        owner_memory::refresh();
    }

    #[inline(always)]
    fn aborted(&self) -> bool {
        fixup::take_abort()
    }
}
