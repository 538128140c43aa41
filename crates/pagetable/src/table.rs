//! The table itself: its root, its memory, and functions that all operations
//! use.

use crate::descent::{down_4k, run_level_4k, shift_4k};
use crate::descriptor::{ADDRESS, BORROWED, CONTIGUOUS, Layout, TABLE, VALID, is_table};
use crate::error::Error;
use crate::format::Format;
use crate::geometry::{Geometry, Granule, LAST};
use crate::plan::Invalidation;
use crate::spare_tables::SpareTables;
use crate::walk::{Fault, Mapping, Mappings, View, visit_range, walk};
use crate::walk_cache::WalkCache;
use core::marker::PhantomData;
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};

/// What the hardware guarantees when a block is replaced by a table or the
/// contiguous bit changes (DDI 0487, D8.17.2; `ID_AA64MMFR2_EL1.BBM`,
/// `SMMU_IDR3.BBML`).
///
/// A table that several CPUs or SMMUs walk has the lowest of their levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bbm {
    /// No guarantee: the old entry is made invalid, invalidated, and then
    /// replaced.
    Level0,
    /// As level 0. The `nT` bit that level 1 offers is not used, and the
    /// contiguous bit is changed through an invalid entry as well, because a
    /// level-1 implementation may report a TLB conflict abort (R FCPSG).
    Level1,
    /// Block and table sizes and the contiguous bit change in one store. Choose
    /// this only where TLB conflict aborts are handled or known not to occur
    /// (I HYQMB).
    Level2,
}

/// Translation tables in the format `F`, with their memory.
///
/// See the [crate documentation](crate) for the promises. Dropping a value
/// leaves its tables in memory, as hardware may still walk them; use
/// [`destroy`](Self::destroy).
///
/// `Send` if `M` is, never `Sync`, because `visit` changes the walk cache:
/// threads that share it put a lock around it, or walk through a [`View`].
#[derive(Debug)]
pub struct Table<F, M> {
    pub(crate) memory: M,
    pub(crate) geometry: Geometry,
    pub(crate) layout: Layout,
    pub(crate) bbm: Bbm,
    pub(crate) root: PhysAddr,
    /// Changes must lie below this address. It is the end of the input
    /// addresses, or 0 (no changes) while a broken entry waits for `complete`.
    pub(crate) change_limit: u64,
    /// Mask of the bits that no output address has.
    pub(crate) invalid_output_bits: u64,
    /// Some entry is shared or borrowed, so the tables below an entry must be
    /// read before the entry is dropped.
    pub(crate) has_shared_entries: bool,
    /// The last table that was reached. Empty while `change_limit` is 0.
    pub(crate) walk_cache: WalkCache,
    /// An address in a table that may be empty, see `unmap_first`.
    pub(crate) empty_table: Option<u64>,
    /// Tables that a block replaces, see `join_block`.
    pub(crate) spare_tables: SpareTables,
    pub(crate) format: PhantomData<F>,
}

impl<F: Format, M: Memory + Allocator> Table<F, M> {
    /// Allocates a root in which nothing is mapped.
    ///
    /// # Errors
    /// [`Error::WrongStage`], [`Error::OutOfMemory`],
    /// [`Error::TableOutOfReach`].
    pub fn new(geometry: Geometry, bbm: Bbm, memory: M) -> Result<Self, Error<F::Input>> {
        if geometry.is_stage2() != F::STAGE2 {
            return Err(Error::WrongStage);
        }
        let bytes = geometry.root_bytes();
        let root = memory.allocate(bytes).ok_or(Error::OutOfMemory)?;
        let table = Self {
            memory,
            geometry,
            layout: Layout::of(&geometry),
            bbm,
            root,
            change_limit: geometry.input_end(),
            invalid_output_bits: !(geometry.output_end() - 1),
            has_shared_entries: false,
            walk_cache: WalkCache::none(),
            empty_table: None,
            spare_tables: SpareTables::new(),
            format: PhantomData,
        };
        if !table.reachable(root, bytes) {
            table.memory.free(root, bytes);
            return Err(Error::TableOutOfReach { at: root });
        }
        Ok(table)
    }

    /// Physical address of the root, aligned to [`Geometry::root_bytes`]: the
    /// value for `TTBR0_EL2`, `VTTBR_EL2`, a CD's `TTB0` or `STE.S2TTB`.
    #[must_use]
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The shape of the tables.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The memory of the tables.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Translates `address`.
    ///
    /// # Errors
    /// See [`View::walk`].
    #[inline]
    pub fn walk(&self, address: F::Input) -> Result<Mapping<F>, Fault> {
        walk(&self.memory, &self.geometry, self.root, address)
    }

    /// Calls `each` for every block and page that overlaps `range`; see
    /// [`View::visit`].
    ///
    /// # Errors
    /// See [`View::visit`].
    #[inline(always)]
    pub fn visit(
        &self,
        range: Range<F::Input>,
        mut each: impl FnMut(F::Input, Mapping<F>),
    ) -> Result<(), Fault> {
        let (lo, hi) = (range.start().raw(), range.end().raw());
        if let Some(entry) = self.exact_entry(lo, hi)
            && let descriptor = self.memory.load(PhysAddr::new(entry))
            // The type bits become 0 for a block or page, so that they are
            // checked together with the attributes.
            && let descriptor = descriptor ^ self.walk_cache.leaf()
            && descriptor & (TABLE | VALID) == 0
            && let Ok(attributes) = F::decode(descriptor)
        {
            let mapping = Mapping {
                output: F::Output::new(descriptor & ADDRESS),
                size: hi - lo,
                attributes,
                level: self.walk_cache.level(),
                contiguous: descriptor & CONTIGUOUS != 0,
            };
            each(range.start(), mapping);
            return Ok(());
        }
        visit_range(&self.memory, &self.geometry, self.root, range, each)
    }

    /// Every mapping in order; see [`View::mappings`].
    pub fn mappings(&self) -> Mappings<'_, F, M> {
        Mappings::new(&self.memory, self.geometry, self.root)
    }

    /// A read-only view for walks while this value changes.
    pub fn view(&self) -> View<F, M>
    where
        M: Clone,
    {
        View {
            memory: self.memory.clone(),
            geometry: self.geometry,
            root: self.root,
            format: PhantomData,
        }
    }

    /// Completes a change, after the caller has invalidated `plan` everywhere
    /// and waited for that: makes broken entries valid and frees retired
    /// tables. No walk through a [`View`] may be under way.
    ///
    /// # Errors
    /// The plan, unchanged, if it belongs to another table.
    #[inline(always)]
    pub fn complete(&mut self, plan: Invalidation<F::Input>) -> Result<(), Invalidation<F::Input>> {
        if plan.owner != self.root {
            return Err(plan);
        }
        if plan.has_after_work() {
            let end = if plan.is_broken() { plan.end } else { 0 };
            self.finish_change(plan.retired(), plan.start, end);
        }
        Ok(())
    }

    /// Makes pending entries in `start..end` valid, unless that range is empty,
    /// and frees the retired tables.
    #[cold]
    fn finish_change(&mut self, retired: u64, start: u64, end: u64) {
        self.walk_cache.forget();
        if end != 0 {
            self.validate_pending(self.root, self.geometry.start_level(), start, end);
            self.change_limit = self.geometry.input_end();
        }
        let mut link = retired;
        while link != 0 {
            let (at, level) = decode_link(link);
            link = self.memory.load(at);
            // Entry 0 holds the link. The table that it pointed to is in the
            // list too.
            self.free_children(at, level, 1);
            self.memory.free(at, self.geometry.granule().bytes());
        }
    }

    /// Frees every table, also the root. No hardware may walk them: the base
    /// register was changed, the TLB was invalidated, and walks have ended.
    pub fn destroy(self) {
        self.spare_tables.destroy(&self.memory);
        self.free_children(self.root, self.geometry.start_level(), 0);
        self.memory.free(self.root, self.geometry.root_bytes());
    }

    #[inline(always)]
    pub(crate) fn plan(&self) -> Invalidation<F::Input> {
        Invalidation::new(self.root, self.geometry.granule())
    }

    /// The range as numbers, if these tables can hold it.
    pub(crate) fn checked(&self, range: &Range<F::Input>) -> Result<(u64, u64), Error<F::Input>> {
        if self.change_limit == 0 {
            return Err(Error::Unfinished);
        }
        let (lo, hi) = (range.start().raw(), range.end().raw());
        if (lo | hi) & (self.geometry.granule().bytes() - 1) != 0 {
            return Err(Error::Misaligned);
        }
        if hi > self.geometry.input_end() {
            return Err(Error::InputTooLarge);
        }
        Ok((lo, hi))
    }

    /// The entry that maps exactly `lo..hi`. The walk cache then has its table,
    /// so it knows the level. `None` only means that the slow path has to look.
    #[inline(always)]
    pub(crate) fn exact_entry(&self, lo: u64, hi: u64) -> Option<u64> {
        match self.walk_cache.entry(lo, hi - lo) {
            Some(entry) => Some(entry),
            None => self.exact_entry_slow(lo, hi),
        }
    }

    /// [`exact_entry`](Self::exact_entry) with an empty walk cache, which is
    /// filled.
    #[cold]
    fn exact_entry_slow(&self, lo: u64, hi: u64) -> Option<u64> {
        if hi > self.change_limit || !matches!(self.geometry.granule(), Granule::Size4K) {
            return None;
        }
        let (memory, start) = (&self.memory, self.geometry.start_level());
        let level = run_level_4k(lo | hi, lo ^ (hi - 1))?;
        if hi - lo != 1 << shift_4k(level) {
            return None;
        }
        // Only full tables are cached; a root can be smaller. If several tables
        // make up a root, each of them is a full table.
        if level == start && self.geometry.root_bytes() < Granule::Size4K.bytes() {
            return None;
        }
        let place = match level {
            3 => down_4k::<3, M>(memory, start, self.root, lo),
            2 => down_4k::<2, M>(memory, start, self.root, lo),
            _ => down_4k::<1, M>(memory, start, self.root, lo),
        }?;
        self.walk_cache.set_table(level, lo, place.entry);
        Some(place.entry)
    }

    /// The address of the entry for `address` in a table at `level`.
    #[inline(always)]
    pub(crate) fn entry(&self, table: PhysAddr, level: u8, address: u64) -> PhysAddr {
        PhysAddr::new(table.raw() + self.index(level, address) * 8)
    }

    /// The index of the entry for `address` in a table at `level`.
    #[inline(always)]
    pub(crate) fn index(&self, level: u8, address: u64) -> u64 {
        let index = address >> self.geometry.level_shift(level);
        if level == self.geometry.start_level() {
            index
        } else {
            index & (self.geometry.granule().entries() - 1)
        }
    }

    /// The table that a table descriptor points to.
    #[inline(always)]
    pub(crate) fn child(&self, descriptor: u64) -> PhysAddr {
        PhysAddr::new(self.layout.decode(descriptor))
    }

    /// Number of entries of a table at `level`.
    pub(crate) fn entries(&self, level: u8) -> u64 {
        if level == self.geometry.start_level() {
            self.geometry.root_entries()
        } else {
            self.geometry.granule().entries()
        }
    }

    fn reachable(&self, at: PhysAddr, bytes: u64) -> bool {
        at.is_aligned(bytes)
            && at
                .checked_add(bytes)
                .is_some_and(|end| end.raw() <= self.geometry.output_end())
    }

    /// Allocates `count` tables, linked through their entries 0. 0 is the end
    /// of the list.
    pub(crate) fn reserve(&self, count: u64) -> Result<ReservedTables, Error<F::Input>> {
        let bytes = self.geometry.granule().bytes();
        let mut pool = ReservedTables::EMPTY;
        for _ in 0..count {
            let error = match self.memory.allocate(bytes) {
                Some(at) if self.reachable(at, bytes) => {
                    self.push_table(&mut pool, at);
                    continue;
                }
                Some(at) => {
                    self.memory.free(at, bytes);
                    Error::TableOutOfReach { at }
                }
                None => Error::OutOfMemory,
            };
            self.free_reserved(pool);
            return Err(error);
        }
        Ok(pool)
    }

    fn push_table(&self, pool: &mut ReservedTables, at: PhysAddr) {
        // Bit 1 distinguishes "the table at address 0" from "no table"; bit 0
        // stays clear.
        let link = pool.head.map_or(0, |next| next.raw() | 2);
        self.memory.store(at, link);
        pool.head = Some(at);
    }

    /// Takes one zeroed table.
    pub(crate) fn take_table(&self, pool: &mut ReservedTables) -> Option<PhysAddr> {
        let at = pool.head?;
        let link = self.memory.load(at);
        pool.head = (link != 0).then(|| PhysAddr::new(link & !2));
        self.memory.store(at, 0);
        Some(at)
    }

    /// Frees reserved tables that were not needed.
    pub(crate) fn free_reserved(&self, mut pool: ReservedTables) {
        while let Some(at) = self.take_table(&mut pool) {
            self.memory.free(at, self.geometry.granule().bytes());
        }
    }

    /// Puts a table that no valid descriptor points to any more on the plan's
    /// list.
    ///
    /// The link replaces entry 0 as an invalid descriptor. A walker that is
    /// still in the table finds a fault there and old translations in the other
    /// entries. If entry 0 pointed to a table, that table joins the list
    /// itself; tables of other entries are found when the list is freed.
    pub(crate) fn retire(&self, plan: &mut Invalidation<F::Input>, at: PhysAddr, level: u8) {
        let (mut at, mut level) = (at, level);
        loop {
            let first = self.memory.load(at);
            self.memory.store(at, plan.retired());
            plan.set_retired(at.raw() | u64::from(level) << 1);
            if !is_table(first, level) || first & BORROWED != 0 {
                break;
            }
            at = self.child(first);
            level += 1;
        }
    }

    /// Frees every owned table below `table`, from entry `first` on.
    fn free_children(&self, table: PhysAddr, level: u8, first: u64) {
        if level >= LAST {
            return;
        }
        for index in first..self.entries(level) {
            let descriptor = self.memory.load(PhysAddr::new(table.raw() + index * 8));
            if is_table(descriptor, level) && descriptor & BORROWED == 0 {
                let child = self.child(descriptor);
                self.free_children(child, level + 1, 0);
                self.memory.free(child, self.geometry.granule().bytes());
            }
        }
    }
}

/// Tables that are reserved for one operation, so that memory cannot run out in
/// its middle.
pub(crate) struct ReservedTables {
    head: Option<PhysAddr>,
}

impl ReservedTables {
    pub(crate) const EMPTY: Self = Self { head: None };
}

/// Decodes a link of the list of retired tables: the address and the level. A
/// table's address is a multiple of at least 4096, and its level is not 0,
/// because roots are never retired.
fn decode_link(link: u64) -> (PhysAddr, u8) {
    (PhysAddr::new(link & !0xfff), (link >> 1 & 0b11) as u8)
}
