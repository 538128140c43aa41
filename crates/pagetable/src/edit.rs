//! Changing what is mapped: unmap, protect and split are one walk over the
//! range, with a different change to each leaf.

use crate::descent::{down_4k, run_level_4k};
use crate::descriptor::{BORROWED, CONTIGUOUS, SHARED, TABLE, VALID, is_table};
use crate::error::Error;
use crate::format::Format;
use crate::geometry::{Granule, LAST};
use crate::map::tables_below;
use crate::plan::Invalidation;
use crate::spare_tables::HAS_SPARE;
use crate::table::{Bbm, ReservedTables, Table};
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};

/// The change that is made to each leaf.
#[derive(Clone, Copy)]
enum Edit {
    /// Unmaps the leaf.
    Unmap,
    /// Gives the leaf these attribute bits.
    Protect(u64),
    /// Splits the leaf until it is at this level.
    Split(u8),
}

/// A change under way.
struct Job<A> {
    edit: Edit,
    lo: u64,
    hi: u64,
    plan: Invalidation<A>,
    pool: ReservedTables,
}

impl<F: Format, M: Memory + Allocator> Table<F, M> {
    /// Unmaps all mappings in `range`. Addresses where nothing is mapped are no
    /// error. Blocks that reach out of the range are split, and tables that
    /// become empty are retired.
    ///
    /// Returns the invalidation that must follow; see [`Invalidation`].
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::InputTooLarge`], [`Error::Borrowed`],
    /// [`Error::Unfinished`], and when a block has to be split
    /// [`Error::OutOfMemory`] or [`Error::TableOutOfReach`]. Nothing has
    /// changed then.
    #[inline(always)]
    pub fn unmap(
        &mut self,
        range: Range<F::Input>,
    ) -> Result<Invalidation<F::Input>, Error<F::Input>> {
        let (lo, hi) = (range.start().raw(), range.end().raw());
        // Most requests are for one block or page, or for a run of them in one
        // table.
        if let Some(entry) = self.exact_entry(lo, hi)
            && self.clear_entry_fast(entry)
        {
            return Ok(Invalidation::for_one_leaf(
                self.root,
                lo,
                hi,
                self.walk_cache.notes(),
            ));
        }
        self.unmap_slow(range)
    }

    /// Clears `entry` if it is a block or page that may change alone, and if an
    /// entry next to it shows that the table is not empty. Returns whether it
    /// did.
    #[inline(always)]
    fn clear_entry_fast(&self, entry: u64) -> bool {
        let load = |at| self.memory.load(PhysAddr::new(at));
        if load(entry) & (TABLE | VALID | CONTIGUOUS | HAS_SPARE) != self.walk_cache.leaf() {
            return false;
        }
        let in_table = entry & (Granule::Size4K.bytes() - 1);
        let last = Granule::Size4K.bytes() - 8;
        if !(in_table != 0 && load(entry - 8) != 0 || in_table != last && load(entry + 8) != 0) {
            return false;
        }
        self.memory.store(PhysAddr::new(entry), 0);
        self.memory.publish(PhysAddr::new(entry), 8);
        true
    }

    /// Unmaps more than one entry, or an entry that the fast path does not
    /// take.
    #[inline(never)]
    fn unmap_slow(
        &mut self,
        range: Range<F::Input>,
    ) -> Result<Invalidation<F::Input>, Error<F::Input>> {
        let (lo, hi) = (range.start().raw(), range.end().raw());
        let mut plan = self.plan();
        // A run of blocks or pages in one table that stays in use. Every other
        // case goes to the general code.
        if hi <= self.change_limit
            && !self.has_shared_entries
            && matches!(self.geometry.granule(), Granule::Size4K)
        {
            let done = match run_level_4k(lo | hi, lo ^ (hi - 1)) {
                Some(3) => self.clear_run::<3>(lo, hi, &mut plan),
                Some(2) => self.clear_run::<2>(lo, hi, &mut plan),
                Some(1) => self.clear_run::<1>(lo, hi, &mut plan),
                _ => false,
            };
            if done {
                return Ok(plan);
            }
        }
        self.apply_edit(range, Edit::Unmap, plan)
    }

    /// Clears a run of entries at `LEVEL` that are all blocks or pages which
    /// may change alone. Returns whether this completed the request: no other
    /// entry was found, and the table is not empty now.
    #[inline(always)]
    fn clear_run<const LEVEL: u8>(
        &self,
        lo: u64,
        hi: u64,
        plan: &mut Invalidation<F::Input>,
    ) -> bool {
        let start = self.geometry.start_level();
        let Some(place) = down_4k::<LEVEL, M>(&self.memory, start, self.root, lo) else {
            return false;
        };
        let group = Granule::Size4K.contiguous_entries(LEVEL) << place.shift;
        let mut stop = if LEVEL == LAST { 0 } else { TABLE | HAS_SPARE };
        if (lo | hi) & (group - 1) != 0 {
            // A part of a group would be left.
            stop |= CONTIGUOUS;
        }
        let end = place.entry + ((hi - lo) >> place.shift) * 8;
        let mut entry = place.entry;
        let mut seen = 0;
        while entry < end {
            let descriptor = self.memory.load(PhysAddr::new(entry));
            if descriptor & stop != 0 {
                break;
            }
            seen |= descriptor;
            self.memory.store(PhysAddr::new(entry), 0);
            entry += 8;
        }
        let bytes = entry - place.entry;
        self.memory.publish(PhysAddr::new(place.entry), bytes);
        if seen != 0 {
            plan.add_change(lo, lo + (bytes >> 3 << place.shift), LEVEL);
        }
        if entry < end {
            return false;
        }
        // An entry next to the run shows that the table is not empty.
        let used = |at| self.memory.load(PhysAddr::new(at)) != 0;
        let table_end = place.table + Granule::Size4K.bytes();
        LEVEL == start
            || place.entry > place.table && used(place.entry - 8)
            || end < table_end && used(end)
    }

    /// Gives everything in `range` other attributes. Blocks that reach out of
    /// the range are split.
    ///
    /// Allowed accesses change in one store for each entry. A change of memory
    /// type, or of `nG`, goes through an invalid entry (D8.17.1, R WHZWS):
    /// the range faults until [`Table::complete`].
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), and [`Error::NotMapped`] when there is a hole
    /// in the range. Nothing has changed then.
    pub fn protect(
        &mut self,
        range: Range<F::Input>,
        attributes: F::Attributes,
    ) -> Result<Invalidation<F::Input>, Error<F::Input>> {
        let plan = self.plan();
        self.apply_edit(range, Edit::Protect(F::encode(attributes)), plan)
    }

    /// Divides every block that overlaps `range`, inside the range, until it is
    /// at `level`; 3 is pages. Contiguous hints in the range are cleared too, so
    /// that a later change of an entry of that level touches nothing else.
    ///
    /// What the addresses translate to does not change, but without
    /// [`Bbm::Level2`] they fault until [`Table::complete`].
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), and [`Error::Level`] when no leaf can be at
    /// that level. Nothing has changed then.
    pub fn split(
        &mut self,
        range: Range<F::Input>,
        level: u8,
    ) -> Result<Invalidation<F::Input>, Error<F::Input>> {
        if level > LAST || level < self.geometry.first_leaf_level() {
            return Err(Error::Level { level });
        }
        let plan = self.plan();
        self.apply_edit(range, Edit::Split(level), plan)
    }

    /// Retires the tables around `range` that are empty, now that nothing is
    /// mapped in it. `plan` has the changes so far.
    #[cold]
    pub(crate) fn retire_empty(
        &mut self,
        range: Range<F::Input>,
        plan: Invalidation<F::Input>,
    ) -> Result<Invalidation<F::Input>, Error<F::Input>> {
        self.apply_edit(range, Edit::Unmap, plan)
    }

    /// The general case. `plan` has the changes so far; there are some only if
    /// nothing here can fail.
    #[cold]
    fn apply_edit(
        &mut self,
        range: Range<F::Input>,
        edit: Edit,
        plan: Invalidation<F::Input>,
    ) -> Result<Invalidation<F::Input>, Error<F::Input>> {
        self.walk_cache.forget();
        let (lo, hi) = self.checked(&range)?;

        // Goes down to the table in which the range has more than one entry, or
        // one that is not a table. The path is remembered for tables that
        // become empty.
        let mut path = [(PhysAddr::new(0), 0u64); LAST as usize];
        let mut depth = 0;
        let mut table = self.root;
        let mut level = self.geometry.start_level();
        let size = loop {
            let shift = self.geometry.level_shift(level);
            if (lo ^ (hi - 1)) >> shift == 0 && level < LAST {
                let entry = self.entry(table, level, lo);
                let descriptor = self.memory.load(entry);
                if descriptor & (VALID | TABLE) == VALID | TABLE && descriptor & BORROWED == 0 {
                    path[depth] = (entry, descriptor);
                    depth += 1;
                    table = self.child(descriptor);
                    level += 1;
                    continue;
                }
            }
            break 1u64 << shift;
        };
        let no_tables_needed =
            matches!(edit, Edit::Unmap) && (lo | hi) & (size - 1) == 0 && !self.has_shared_entries;
        let pool = if no_tables_needed {
            ReservedTables::EMPTY
        } else {
            self.reserve(self.count_tables(table, level, lo, hi, edit)?)?
        };
        let mut job = Job {
            edit,
            lo,
            hi,
            plan,
            pool,
        };
        self.edit_table(&mut job, table, level, lo, hi, true);
        if matches!(edit, Edit::Unmap) {
            while depth > 0 {
                depth -= 1;
                let (entry, descriptor) = path[depth];
                if descriptor & SHARED != 0 || !self.is_empty(table, level, lo, hi) {
                    break;
                }
                self.memory.store(entry, 0);
                self.memory.publish(entry, 8);
                self.retire(&mut job.plan, table, level);
                job.plan.add_change(lo, hi, level);
                level -= 1;
                table = PhysAddr::new(entry.raw() - self.index(level, lo) * 8);
            }
        }
        let Job { plan, pool, .. } = job;
        self.free_reserved(pool);
        if plan.is_broken() {
            self.change_limit = 0;
        }
        Ok(plan)
    }

    /// How many tables the change needs, or why it is refused.
    fn count_tables(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        edit: Edit,
    ) -> Result<u64, Error<F::Input>> {
        let size = self.geometry.level_bytes(level);
        let mut needed = 0;
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let whole = end - at == size;
            let descriptor = self.memory.load(self.entry(table, level, at));
            let address = F::Input::new(at);
            if descriptor == 0 {
                if matches!(edit, Edit::Protect(_)) {
                    return Err(Error::NotMapped { address });
                }
            } else if is_table(descriptor, level) {
                if descriptor & BORROWED != 0 {
                    return Err(Error::Borrowed { address });
                }
                if !(whole && matches!(edit, Edit::Unmap) && !self.has_shared_entries) {
                    needed +=
                        self.count_tables(self.child(descriptor), level + 1, at, end, edit)?;
                }
            } else if descriptor & HAS_SPARE == 0 {
                // Blocks with a spare table need no other.
                let divide = |level| matches!(edit, Edit::Split(target) if level < target);
                if !whole || divide(level) {
                    needed += 1 + tables_below(&self.geometry, level + 1, at, end, &divide);
                }
            }
            at = end;
        }
        Ok(needed)
    }

    /// Applies the change to `lo..hi`, which lies in `table`.
    fn edit_table(
        &self,
        job: &mut Job<F::Input>,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        online: bool,
    ) {
        let size = self.geometry.level_bytes(level);
        let first = self.entry(table, level, lo);
        let mut entry = first.raw();
        let mut at = lo;
        while at < hi {
            let start = at & !(size - 1);
            let end = hi.min(start + size);
            let here = PhysAddr::new(entry);
            let descriptor = self.memory.load(here);
            if descriptor != 0 {
                if is_table(descriptor, level) {
                    self.edit_child(job, here, descriptor, level, (at, end), online);
                } else {
                    self.edit_leaf(job, table, here, descriptor, level, (at, end), online);
                }
            }
            entry += 8;
            at = end;
        }
        if online {
            self.memory.publish(first, entry - first.raw());
        }
    }

    /// Applies the change to the table in `entry`.
    fn edit_child(
        &self,
        job: &mut Job<F::Input>,
        entry: PhysAddr,
        descriptor: u64,
        level: u8,
        (at, end): (u64, u64),
        online: bool,
    ) {
        let size = self.geometry.level_bytes(level);
        let child = self.child(descriptor);
        let unmap = matches!(job.edit, Edit::Unmap);
        // Below a last-level table, nothing is shared and there is no spare
        // table.
        let drop_whole = unmap
            && end - at == size
            && descriptor & SHARED == 0
            && (!self.has_shared_entries && self.spare_tables.is_empty() || level + 1 == LAST);
        if !drop_whole {
            self.edit_table(job, child, level + 1, at, end, online);
            if !unmap || descriptor & SHARED != 0 || !self.is_empty(child, level + 1, at, end) {
                return;
            }
        }
        self.memory.store(entry, 0);
        if online {
            self.retire(&mut job.plan, child, level + 1);
            // Pages from anywhere below may be cached. In the other case each
            // leaf was noted already.
            let level = if drop_whole { LAST } else { level + 1 };
            job.plan.add_change(at, end, level);
        }
    }

    /// Applies the change to the block or page in `entry`.
    #[inline]
    #[expect(
        clippy::too_many_arguments,
        reason = "the position has that many numbers"
    )]
    fn edit_leaf(
        &self,
        job: &mut Job<F::Input>,
        table: PhysAddr,
        entry: PhysAddr,
        descriptor: u64,
        level: u8,
        (at, end): (u64, u64),
        online: bool,
    ) {
        let size = self.geometry.level_bytes(level);
        let start = at & !(size - 1);
        if descriptor & HAS_SPARE != 0
            && !matches!(job.edit, Edit::Split(target) if level >= target)
        {
            self.edit_spare_table(job, entry, level, (at, end));
            return;
        }
        let mut descriptor = descriptor;
        if descriptor & CONTIGUOUS != 0 {
            let group = size * self.geometry.granule().contiguous_entries(level);
            let group_start = start & !(group - 1);
            let inside = job.lo <= group_start && group_start + group <= job.hi;
            if !inside || matches!(job.edit, Edit::Split(_)) {
                self.clear_contiguous_group(job, table, level, group_start, group, online);
                descriptor = self.memory.load(entry);
            }
        }
        let whole = end - at == size;
        match job.edit {
            Edit::Unmap if whole => self.memory.store(entry, 0),
            Edit::Protect(bits) if whole => {
                let mut new = descriptor & !F::MASK | bits;
                if new == descriptor {
                    return;
                }
                if online && (new ^ descriptor) & F::BREAK != 0 {
                    new &= !VALID;
                    job.plan.set_broken();
                }
                self.memory.store(entry, new);
            }
            Edit::Split(target) if level >= target => return,
            _ => {
                let Some(child) = self.take_table(&mut job.pool) else {
                    // `count_tables` counted every split.
                    return;
                };
                let bits = descriptor & !self.layout.field() & !CONTIGUOUS & !(TABLE | VALID);
                let output = self.layout.decode(descriptor);
                self.fill_table(child, level + 1, start, start + size, output, bits, false);
                self.edit_table(job, child, level + 1, at, end, false);
                let mut new = self.layout.table(child);
                // A table below one that is not linked yet is published too,
                // because no later step would do it.
                self.memory.publish(child, self.geometry.granule().bytes());
                if online && self.bbm < Bbm::Level2 {
                    new &= !VALID;
                    job.plan.set_broken();
                }
                self.memory.store(entry, new);
            }
        }
        if online {
            job.plan.add_change(start, start + size, level);
        }
    }

    /// Applies the change to the spare table of the block in `entry`. The table
    /// replaces the block first, unless both are unmapped.
    #[cold]
    fn edit_spare_table(
        &self,
        job: &mut Job<F::Input>,
        entry: PhysAddr,
        level: u8,
        (at, end): (u64, u64),
    ) {
        let size = self.geometry.level_bytes(level);
        let start = at & !(size - 1);
        let Some(table) = self.take_spare_table(start) else {
            // If this ever happens, it is safer to unmap too much.
            debug_assert!(false, "a kept table that is in no index");
            self.memory.store(entry, 0);
            job.plan.add_change(start, start + size, LAST);
            job.plan.set_table_replaced();
            return;
        };
        let descriptor = self.layout.table(table);
        if !(matches!(job.edit, Edit::Unmap) && end - at == size) {
            // One store is enough at level 2 (D8.17.2), because both translate
            // alike.
            self.memory.store(entry, descriptor);
            self.memory.publish(entry, 8);
        }
        // The block, older pages, and the descriptors that lead to them may all
        // be in a TLB. Changes in the table add the level of pages.
        job.plan.add_change(start, start + size, level);
        job.plan.set_table_replaced();
        self.edit_child(job, entry, descriptor, level, (at, end), true);
    }

    /// Clears the contiguous hint in a whole group before one of its entries
    /// changes alone. A TLB may hold the group as one entry (D8.7.1), and would
    /// fill it again from any member that still has the hint.
    #[cold]
    fn clear_contiguous_group(
        &self,
        job: &mut Job<F::Input>,
        table: PhysAddr,
        level: u8,
        start: u64,
        group: u64,
        online: bool,
    ) {
        let first = self.entry(table, level, start);
        let count = self.geometry.granule().contiguous_entries(level);
        for index in 0..count {
            let entry = PhysAddr::new(first.raw() + index * 8);
            let descriptor = self.memory.load(entry);
            if descriptor == 0 || is_table(descriptor, level) {
                continue;
            }
            let mut new = descriptor & !CONTIGUOUS;
            if online && self.bbm < Bbm::Level2 {
                new &= !VALID;
            }
            self.memory.store(entry, new);
        }
        if online {
            self.memory.publish(first, count * 8);
            job.plan.add_change(start, start + group, level);
            if self.bbm < Bbm::Level2 {
                job.plan.set_broken();
            }
        }
    }

    /// Whether a table at `level` is empty after `lo..hi` was unmapped. Looks
    /// next to the hole first, where a table in use most likely has an entry.
    fn is_empty(&self, table: PhysAddr, level: u8, lo: u64, hi: u64) -> bool {
        let used = |index: u64| self.memory.load(PhysAddr::new(table.raw() + index * 8)) != 0;
        let entries = self.entries(level);
        let (first, last) = (self.index(level, lo), self.index(level, hi - 1));
        if first > 0 && used(first - 1) || last + 1 < entries && used(last + 1) {
            return false;
        }
        self.memory.is_clear(table, entries)
    }

    /// Makes pending entries in `lo..hi` valid, now that the entries that they
    /// replace are in no TLB.
    pub(crate) fn validate_pending(&self, table: PhysAddr, level: u8, lo: u64, hi: u64) {
        let size = self.geometry.level_bytes(level);
        let first = self.entry(table, level, lo);
        let mut entry = first.raw();
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let here = PhysAddr::new(entry);
            let descriptor = self.memory.load(here);
            if descriptor & VALID == 0 {
                if descriptor != 0 {
                    self.memory.store(here, descriptor | VALID);
                }
            } else if is_table(descriptor, level) && descriptor & BORROWED == 0 {
                self.validate_pending(self.child(descriptor), level + 1, at, end);
            }
            entry += 8;
            at = end;
        }
        self.memory.publish(first, entry - first.raw());
    }
}
