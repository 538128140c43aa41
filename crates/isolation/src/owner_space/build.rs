//! The tables of an owner when it starts.

use super::shared_entries::{SHARED_LEVEL, SharedEntries};
use super::{OwnerSpace, Placement, RAM, cut, finish};
use portcullis_addr::{Identity, Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_ownership::{Ledger, Owner};
use portcullis_pagetable::{
    Bbm, Error as TableError, Execute, Geometry, Granule, MemoryType, Stage2Attributes, Table,
};
use smmuv3_spec::Vmid;

/// Registers. Normal non-cacheable in stage 2 lets the owner's stage 1 choose
/// any of the device types and write-combining, as it could without us, but
/// nothing cacheable.
const REGISTERS: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::NormalNonCacheable,
    read: true,
    write: true,
    execute: Execute::Never,
};

/// The doorbell: devices only write it.
const DOORBELL: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Device,
    read: false,
    write: true,
    execute: Execute::Never,
};

/// Whether CPUs and SMMUs walk the same tables for RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Where an entry of level 1 lies in RAM as a whole and is not one block,
    /// the table below it is the devices' and the CPUs' entry points to it too.
    /// Needs the same format and BBM level 2 on both sides. (A whole block is
    /// the same entry in both; what is partly no RAM differs.)
    Shared,
    /// Each has its own.
    Separate,
}

/// The shapes of an owner's two tables, and what their walkers promise.
#[derive(Clone, Copy, Debug)]
pub struct TableShapes {
    /// Shape of the devices' table: what every SMMU reaches, and no less than RAM.
    pub dma_geometry: Geometry,
    /// Shape of the CPUs' table: no less than that, and more where registers lie
    /// higher than the SMMUs reach.
    pub cpu_geometry: Geometry,
    /// What every SMMU promises on changing block sizes.
    pub dma_bbm: Bbm,
    /// What the CPUs promise.
    pub cpu_bbm: Bbm,
}

impl TableShapes {
    /// Whether one set of tables can serve both.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        let level_1 = self.dma_geometry.start_level() <= SHARED_LEVEL
            && self.dma_geometry.granule() == Granule::Size4K;
        let same = self.dma_geometry == self.cpu_geometry;
        if same && level_1 && self.cpu_bbm == Bbm::Level2 && self.dma_bbm == Bbm::Level2 {
            Sharing::Shared
        } else {
            Sharing::Separate
        }
    }
}

impl<'a, C: Memory + Allocator, D: Memory + Allocator> OwnerSpace<'a, C, D> {
    /// The space of an owner that has nothing yet, and gets each page at an address of
    /// its own.
    ///
    /// # Errors
    /// [`TableError`] when the roots do not fit the memory.
    pub fn mapped(
        ledger: Ledger<'a>,
        owner: Owner,
        vmid: Vmid,
        shapes: TableShapes,
        cpu_memory: C,
        dma_memory: D,
    ) -> Result<Self, TableError<Ipa>> {
        Ok(Self {
            ledger,
            owner,
            vmid,
            placement: Placement::Mapped,
            cpu: Table::new(shapes.cpu_geometry, shapes.cpu_bbm, cpu_memory)?,
            dma: Table::new(shapes.dma_geometry, shapes.dma_bbm, dma_memory)?,
            sharing: Sharing::Separate,
            shared: SharedEntries::NONE,
            unfinished: None,
        })
    }

    /// The space of an owner that sees the machine as it is: it has every page that the
    /// ledger says is its own, its CPUs have what of `registers` is within the input
    /// range and no RAM, and its devices have `doorbells`.
    ///
    /// `registers` are whole pages, none twice, in any order. `doorbells` are
    /// rounded outward. `cpu_memory` and `dma_memory` publish
    /// as their walkers need.
    ///
    /// # Errors
    /// [`TableError`] when the tables do not fit the memory or the address
    /// sizes; what was built so far is lost with the memory it took.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one thing that a space consists of"
    )]
    pub fn identity(
        ledger: Ledger<'a>,
        owner: Owner,
        vmid: Vmid,
        shapes: TableShapes,
        cpu_memory: C,
        dma_memory: D,
        registers: impl Iterator<Item = Range<PhysAddr>>,
        doorbells: impl Iterator<Item = Range<PhysAddr>>,
    ) -> Result<Self, TableError<Ipa>> {
        let mut space = Self::mapped(ledger, owner, vmid, shapes, cpu_memory, dma_memory)?;
        space.placement = Placement::Identity;
        space.sharing = shapes.sharing();
        if space.sharing == Sharing::Shared {
            for run in ledger.runs(owner) {
                space.dma.map(Identity.ipa(run), run.start(), RAM)?;
            }
            space.share_tables()?;
        }
        space.map_separate_ram()?;
        for range in registers {
            space.map_registers(range)?;
        }
        for doorbell in doorbells {
            let page = doorbell.page_outward().ok_or(TableError::InputTooLarge)?;
            space.dma.map(Identity.ipa(page), page.start(), DOORBELL)?;
        }
        Ok(space)
    }

    /// Maps the owner's pages for its CPUs, and for its devices unless that is
    /// done. One pass over the ledger serves both, since it is long.
    fn map_separate_ram(&mut self) -> Result<(), TableError<Ipa>> {
        let size = match self.sharing {
            Sharing::Shared => self.dma.geometry().level_bytes(SHARED_LEVEL),
            Sharing::Separate => u64::MAX,
        };
        for run in self.ledger.runs(self.owner) {
            if self.sharing == Sharing::Separate {
                self.dma.map(Identity.ipa(run), run.start(), RAM)?;
            }
            for part in cut(run, size) {
                let at = Identity.ipa(part);
                if !self.is_shared(at) {
                    self.cpu.map(at, part.start(), RAM)?;
                }
            }
        }
        Ok(())
    }

    /// Points the CPUs' entries to the devices' tables, wherever an entry is
    /// RAM as a whole and has a table.
    fn share_tables(&mut self) -> Result<(), TableError<Ipa>> {
        let size = self.dma.geometry().level_bytes(SHARED_LEVEL);
        for bank in self.ledger.banks() {
            let bank = bank.range();
            let mut start = bank.start().raw().next_multiple_of(size);
            while let Ok(entry) = Range::from_size(PhysAddr::new(start), size) {
                if !bank.covers(&entry) {
                    break;
                }
                let at = Identity.ipa(entry);
                let whole = self
                    .dma
                    .walk(at.start())
                    .is_ok_and(|mapping| mapping.level <= SHARED_LEVEL);
                if !whole && self.shared.note(start / size) {
                    let plan = self.dma.share(at, SHARED_LEVEL)?;
                    // No CPU and no SMMU walks the tables yet.
                    finish(&mut self.dma, plan);
                    self.cpu.borrow(&self.dma, at, SHARED_LEVEL)?;
                }
                start += size;
            }
        }
        Ok(())
    }

    /// Maps what of `range` is no RAM, in ascending order, as far as the input
    /// range goes.
    fn map_registers(&mut self, range: Range<PhysAddr>) -> Result<(), TableError<Ipa>> {
        let banks = self.ledger.banks().iter().map(|bank| bank.range());
        let end = PhysAddr::new(self.cpu.geometry().input_end()).min(range.end());
        let mut at = range.start();
        while at < end {
            // The bank that covers `at`, else the first one above.
            if let Some(bank) = banks.clone().find(|bank| bank.contains(at)) {
                at = bank.end();
                continue;
            }
            let above = banks.clone().map(|bank| bank.start());
            let next = above.filter(|start| *start > at).min();
            let next = next.unwrap_or(end).min(end);
            if let Ok(gap) = Range::new(at, next) {
                self.cpu.map(Identity.ipa(gap), gap.start(), REGISTERS)?;
            }
            at = next;
        }
        Ok(())
    }
}

/// Bits of input address that reach every bank of RAM and every register that
/// an owner knows of: 40 where the CPUs have them, since the machines of today
/// have their registers below 1 TiB, and more where RAM goes further.
#[must_use]
pub fn input_bits(ram_end: PhysAddr, cpu_bits: u8) -> u8 {
    let ram_bits = (u64::BITS - ram_end.raw().saturating_sub(1).leading_zeros()) as u8;
    [32, 36, 40, 42, 44, 48]
        .into_iter()
        .find(|bits| *bits >= ram_bits && *bits >= 40)
        .unwrap_or(48)
        .min(cpu_bits)
}
