//! The host's view of memory in identity mode.

use core::fmt;
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_ownership::{Ledger, Owner, TransferError};
use portcullis_pagetable::{
    Bbm, Error as TableError, Execute, Geometry, Granule, Invalidation, MemoryType, Stage2,
    Stage2Attributes, Table,
};
use thiserror::Error;

/// Drops cached translations, and returns only when none is in use any more.
pub trait Invalidate {
    /// Why it did not work.
    type Error: fmt::Debug;

    /// Invalidates `plan` on every CPU.
    ///
    /// # Errors
    /// Whatever keeps the implementation from knowing that it completed.
    fn cpus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Self::Error>;

    /// Invalidates `plan` on every SMMU.
    ///
    /// # Errors
    /// Whatever keeps the implementation from knowing that it completed. A
    /// failure on one SMMU is a failure of the whole.
    fn smmus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Self::Error>;
}

/// RAM is cacheable and executable as far as the host's own stage 1 says so.
const RAM: Stage2Attributes = Stage2Attributes {
    memory: MemoryType::Normal,
    read: true,
    write: true,
    execute: Execute::Always,
};

/// Registers. Normal non-cacheable in stage 2 lets the host's stage 1 choose
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

/// What the two kinds of walker need.
#[derive(Clone, Copy, Debug)]
pub struct HostTables {
    /// Shape of the devices' tables: what every SMMU reaches, and no less than RAM.
    pub geometry: Geometry,
    /// Shape of the CPUs' tables: no less than that, and more where registers lie
    /// higher than the SMMUs reach.
    pub cpu_geometry: Geometry,
    /// What the CPUs promise on changing block sizes.
    pub cpu_bbm: Bbm,
    /// What every SMMU promises.
    pub dma_bbm: Bbm,
}

impl HostTables {
    /// Whether one set of tables can serve both.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        let level_1 = self.geometry.start_level() <= SHARED_LEVEL
            && self.geometry.granule() == Granule::Size4K;
        let same = self.geometry == self.cpu_geometry;
        if same && level_1 && self.cpu_bbm == Bbm::Level2 && self.dma_bbm == Bbm::Level2 {
            Sharing::Shared
        } else {
            Sharing::Separate
        }
    }
}

/// The level whose tables are shared: with 4 KiB pages, an entry is 1 GiB.
const SHARED_LEVEL: u8 = 1;

/// Which entries of [`SHARED_LEVEL`] are shared: one bit for each of the first
/// 4,096, which is 4 TiB. What lies above is never shared.
#[derive(Clone, Copy, Debug)]
struct SharedEntries([u64; 64]);

impl SharedEntries {
    fn place(entry: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(entry / 64).ok()?;
        (word < 64).then_some((word, 1 << (entry % 64)))
    }

    /// `false` when there is no room to note it.
    fn note(&mut self, entry: u64) -> bool {
        let slot = Self::place(entry).and_then(|(word, bit)| Some((self.0.get_mut(word)?, bit)));
        match slot {
            Some((word, bit)) => {
                *word |= bit;
                true
            }
            None => false,
        }
    }

    fn contains(&self, entry: u64) -> bool {
        Self::place(entry)
            .and_then(|(word, bit)| Some(self.0.get(word)? & bit != 0))
            .unwrap_or(false)
    }
}

/// Why an operation on the host's view failed.
#[derive(Debug, Error)]
pub enum HostError<E: fmt::Debug> {
    /// The translation tables refused. For a change of ownership, nothing has
    /// changed.
    #[error("translation tables: {0}")]
    Table(TableError<Ipa>),
    /// The ledger refused. Nothing has changed.
    #[error("ledger: {0}")]
    Ledger(TransferError),
    /// An invalidation did not complete. The pages belong to nobody from now on:
    /// they are out of the tables, but somebody may still hold a translation.
    #[error("invalidation: {0:?}")]
    Invalidation(E),
    /// An earlier invalidation did not complete, so nobody knows what is still
    /// cached, also of pages around those that were asked for: a block that was
    /// being split reached all of them. Nothing has changed.
    #[error("an earlier invalidation did not complete")]
    InDoubt,
}

impl<E: fmt::Debug> From<TableError<Ipa>> for HostError<E> {
    fn from(error: TableError<Ipa>) -> Self {
        Self::Table(error)
    }
}

/// Stage 2 of the host's CPUs and of its devices.
pub struct HostSpace<'a, C, D> {
    ledger: Ledger<'a>,
    cpu: Table<Stage2, C>,
    dma: Table<Stage2, D>,
    sharing: Sharing,
    shared: SharedEntries,
    /// An invalidation failed.
    in_doubt: bool,
}

impl<'a, C: Memory + Allocator, D: Memory + Allocator> HostSpace<'a, C, D> {
    /// Tables in which the host has every page that the ledger says is its own,
    /// its CPUs have what of `registers` is within the input range and no RAM,
    /// and its devices have `doorbells`.
    ///
    /// `registers` are whole pages, none twice, in any order. `doorbells` are
    /// rounded outward. `cpu_memory` and `dma_memory` publish
    /// as their walkers need.
    ///
    /// # Errors
    /// [`TableError`] when the tables do not fit the memory or the address
    /// sizes; what was built so far is lost with the memory it took.
    pub fn new(
        ledger: Ledger<'a>,
        tables: HostTables,
        cpu_memory: C,
        dma_memory: D,
        registers: impl Iterator<Item = Range<PhysAddr>>,
        doorbells: impl Iterator<Item = Range<PhysAddr>>,
    ) -> Result<Self, TableError<Ipa>> {
        let mut space = Self {
            ledger,
            cpu: Table::new(tables.cpu_geometry, tables.cpu_bbm, cpu_memory)?,
            dma: Table::new(tables.geometry, tables.dma_bbm, dma_memory)?,
            sharing: tables.sharing(),
            shared: SharedEntries([0; 64]),
            in_doubt: false,
        };
        if space.sharing == Sharing::Shared {
            for run in ledger.runs(Owner::HOST) {
                space.dma.map(run.identity(), run.start(), RAM)?;
            }
            space.share()?;
        }
        space.map_rest()?;
        for range in registers {
            space.map_registers(range)?;
        }
        for doorbell in doorbells {
            let page = doorbell.page_outward().ok_or(TableError::InputTooLarge)?;
            space.dma.map(page.identity(), page.start(), DOORBELL)?;
        }
        Ok(space)
    }

    /// Stage 2 of the host's CPUs.
    pub fn cpu(&self) -> &Table<Stage2, C> {
        &self.cpu
    }

    pub(crate) fn cpu_mut(&mut self) -> &mut Table<Stage2, C> {
        &mut self.cpu
    }

    /// Stage 2 of the host's devices.
    pub fn dma(&self) -> &Table<Stage2, D> {
        &self.dma
    }

    /// Whether the two share tables.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The ledger that the tables follow.
    pub fn ledger(&self) -> &Ledger<'a> {
        &self.ledger
    }

    /// Maps the host's pages for its CPUs, and for its devices unless that is
    /// done. One pass over the ledger serves both, since it is long.
    fn map_rest(&mut self) -> Result<(), TableError<Ipa>> {
        for run in self.ledger.runs(Owner::HOST) {
            if self.sharing == Sharing::Separate {
                self.dma.map(run.identity(), run.start(), RAM)?;
            }
            for part in self.parts(run) {
                if !self.is_shared(part.start()) {
                    self.cpu.map(part.identity(), part.start(), RAM)?;
                }
            }
        }
        Ok(())
    }

    /// Points the CPUs' entries to the devices' tables, wherever an entry is
    /// RAM as a whole and has a table.
    fn share(&mut self) -> Result<(), TableError<Ipa>> {
        let size = self.dma.geometry().level_bytes(SHARED_LEVEL);
        for bank in self.ledger.banks() {
            let bank = bank.range();
            let mut start = bank.start().raw().next_multiple_of(size);
            while let Ok(entry) = Range::from_size(PhysAddr::new(start), size) {
                if !bank.covers(&entry) {
                    break;
                }
                let whole = self
                    .dma
                    .walk(Ipa::new(start))
                    .is_ok_and(|mapping| mapping.level <= SHARED_LEVEL);
                if !whole && self.shared.note(start / size) {
                    let plan = self.dma.lend(entry.identity(), SHARED_LEVEL)?;
                    // Nobody walks the tables yet.
                    finish(&mut self.dma, plan);
                    self.cpu
                        .share_from(&self.dma, entry.identity(), SHARED_LEVEL)?;
                }
                start += size;
            }
        }
        Ok(())
    }

    fn is_shared(&self, address: PhysAddr) -> bool {
        let size = self.dma.geometry().level_bytes(SHARED_LEVEL);
        self.shared.contains(address.raw() / size)
    }

    /// The pieces of `range` that do not cross an entry of the shared level.
    /// Where nothing is shared, the range itself.
    fn parts(&self, range: Range<PhysAddr>) -> impl Iterator<Item = Range<PhysAddr>> + use<C, D> {
        let size = match self.sharing {
            Sharing::Shared => self.dma.geometry().level_bytes(SHARED_LEVEL),
            Sharing::Separate => u64::MAX,
        };
        let mut next = Some(range);
        core::iter::from_fn(move || {
            let rest = next?;
            let cut = (rest.start().raw() / size + 1)
                .checked_mul(size)
                .map_or(rest.end(), PhysAddr::new)
                .min(rest.end());
            next = Range::new(cut, rest.end()).ok();
            Range::new(rest.start(), cut).ok()
        })
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
                self.cpu.map(gap.identity(), gap.start(), REGISTERS)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Takes pages from the host and gives them to `to`: out of both tables,
    /// invalidated on every CPU and SMMU, then handed over.
    ///
    /// # Errors
    /// [`HostError`]. After [`HostError::Ledger`], nothing has changed. After
    /// [`HostError::InDoubt`] neither: once an invalidation failed, no page
    /// changes hands any more. After
    /// [`HostError::Table`] neither, unless there was no memory to map again
    /// what was already out: then, as after [`HostError::Invalidation`], the
    /// ledger keeps the pages *leaving*, and nobody gets them.
    pub fn take<I: Invalidate>(
        &mut self,
        range: Range<PhysAddr>,
        to: Owner,
        invalidate: &mut I,
    ) -> Result<(), HostError<I::Error>> {
        self.certain()?;
        let result = self.take_certain(range, to, invalidate);
        self.note_doubt(result)
    }

    /// An error once an invalidation failed: its plan was never completed, so
    /// that later plans do not cover what is cached.
    fn certain<E: fmt::Debug>(&self) -> Result<(), HostError<E>> {
        if self.in_doubt {
            Err(HostError::InDoubt)
        } else {
            Ok(())
        }
    }

    fn note_doubt<E: fmt::Debug>(
        &mut self,
        result: Result<(), HostError<E>>,
    ) -> Result<(), HostError<E>> {
        self.in_doubt |= matches!(result, Err(HostError::Invalidation(_)));
        result
    }

    fn take_certain<I: Invalidate>(
        &mut self,
        range: Range<PhysAddr>,
        to: Owner,
        invalidate: &mut I,
    ) -> Result<(), HostError<I::Error>> {
        let transfer = self
            .ledger
            .begin(range, Owner::HOST, to)
            .map_err(HostError::Ledger)?;
        for part in self.parts(range) {
            match self.unmap(part, invalidate) {
                Ok(()) => {}
                Err(HostError::Table(error)) => {
                    // What is gone already comes back; should that fail too,
                    // the pages stay with nobody.
                    for done in self.parts(range).take_while(|done| *done != part) {
                        self.map(done, invalidate)?;
                    }
                    transfer.cancel();
                    return Err(HostError::Table(error));
                }
                Err(error) => return Err(error),
            }
        }
        transfer.commit();
        Ok(())
    }

    /// Takes one [part](Self::parts) out of both views. After a table error,
    /// both have it as before.
    fn unmap<I: Invalidate>(
        &mut self,
        part: Range<PhysAddr>,
        invalidate: &mut I,
    ) -> Result<(), HostError<I::Error>> {
        // Devices first: they cannot be told to stop.
        let dma = self.dma.unmap(part.identity())?;
        invalidate.smmus(&dma).map_err(HostError::Invalidation)?;
        if self.is_shared(part.start()) {
            // The same entries, so the same plan.
            invalidate.cpus(&dma).map_err(HostError::Invalidation)?;
            finish(&mut self.dma, dma);
            return Ok(());
        }
        finish(&mut self.dma, dma);
        match self.cpu.unmap(part.identity()) {
            Ok(cpu) => {
                invalidate.cpus(&cpu).map_err(HostError::Invalidation)?;
                finish(&mut self.cpu, cpu);
                Ok(())
            }
            Err(error) => {
                self.dma.map(part.identity(), part.start(), RAM)?;
                Err(error.into())
            }
        }
    }

    /// Puts one [part](Self::parts) into both views. After an error neither
    /// has it.
    fn map<I: Invalidate>(
        &mut self,
        part: Range<PhysAddr>,
        invalidate: &mut I,
    ) -> Result<(), HostError<I::Error>> {
        self.dma.map(part.identity(), part.start(), RAM)?;
        if self.is_shared(part.start()) {
            return Ok(());
        }
        if let Err(error) = self.cpu.map(part.identity(), part.start(), RAM) {
            let plan = self.dma.unmap(part.identity())?;
            invalidate.smmus(&plan).map_err(HostError::Invalidation)?;
            finish(&mut self.dma, plan);
            return Err(error.into());
        }
        Ok(())
    }

    /// Gives pages of `from` to the host.
    ///
    /// # Errors
    /// [`HostError::Ledger`] when they are not `from`'s: nothing has changed.
    /// [`HostError::Table`] when a table is missing memory: the pages belong to
    /// nobody then, and no table has more than before.
    /// [`HostError::Invalidation`] when undoing that failed: the same, but the
    /// host may still reach them by what is cached. [`HostError::InDoubt`] as
    /// for [`take`](Self::take).
    pub fn give<I: Invalidate>(
        &mut self,
        range: Range<PhysAddr>,
        from: Owner,
        invalidate: &mut I,
    ) -> Result<(), HostError<I::Error>> {
        self.certain()?;
        let result = self.give_certain(range, from, invalidate);
        self.note_doubt(result)
    }

    fn give_certain<I: Invalidate>(
        &mut self,
        range: Range<PhysAddr>,
        from: Owner,
        invalidate: &mut I,
    ) -> Result<(), HostError<I::Error>> {
        let transfer = self
            .ledger
            .begin(range, from, Owner::HOST)
            .map_err(HostError::Ledger)?;
        for part in self.parts(range) {
            if let Err(error) = self.map(part, invalidate) {
                for done in self.parts(range).take_while(|done| *done != part) {
                    self.unmap(done, invalidate)?;
                }
                return Err(error);
            }
        }
        transfer.commit();
        Ok(())
    }

    /// Whether the host's CPUs may run at `address`: it is RAM of the host.
    pub fn is_host_ram(&self, address: PhysAddr) -> bool {
        self.ledger
            .entry(address)
            .is_some_and(|entry| entry.owner() == Owner::HOST)
    }
}

/// Completes a plan of this very table; the table knows its own plans.
fn finish<M: Memory + Allocator>(table: &mut Table<Stage2, M>, plan: Invalidation<Ipa>) {
    let own = table.complete(plan);
    debug_assert!(own.is_ok());
}

/// Bits of input address that reach every bank of RAM and every register that
/// the host knows of: 40 where the CPUs have them, since the machines of today
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
