//! One sub-tree in two tables, so that a mapping for both a CPU and an SMMU is
//! written once.
//!
//! One table owns the sub-tree and changes it; the other borrows it. First the
//! owner makes every entry of the range at one level a table
//! ([`Table::share`]). From then on these entries never change: shared tables
//! stay when they become empty. So the borrower has nothing to update when the
//! owner maps, protects or unmaps inside the range.
//!
//! The owner's plans are then for both tables. Each [`Invalidation`] inside the
//! range has to be carried out for every borrower too, before it is completed.
//! A borrower may not change the range. It has to be destroyed, or to
//! [return](Table::return_borrowed) the range, before the owner is destroyed.

use crate::descriptor::{BORROWED, SHARED, TABLE, VALID, is_table};
use crate::error::Error;
use crate::format::{Format, Stage2};
use crate::geometry::LAST;
use crate::map::tables_below;
use crate::plan::Invalidation;
use crate::table::{ReservedTables, Table};
use portcullis_addr::{Address, Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};

impl<M: Memory + Allocator> Table<Stage2, M> {
    /// Makes every entry at `level` that `range` covers a table that can be
    /// borrowed. Holes get empty tables and blocks are split. Without
    /// [`Bbm::Level2`](crate::Bbm::Level2) the range faults until
    /// [`complete`](Table::complete).
    ///
    /// # Errors
    /// [`Error::Level`] when that level holds no table descriptors,
    /// [`Error::Misaligned`] unless both ends are multiples of what an entry of
    /// that level maps, [`Error::InputTooLarge`], [`Error::Borrowed`],
    /// [`Error::Unfinished`], [`Error::OutOfMemory`],
    /// [`Error::TableOutOfReach`]. Nothing has changed then.
    pub fn share(&mut self, range: Range<Ipa>, level: u8) -> Result<Invalidation<Ipa>, Error<Ipa>> {
        let (lo, hi) = self.whole_entries(&range, level)?;
        // All that can fail comes before the first store.
        if self.has_shared_entries {
            self.find_borrowed(self.root, self.geometry.start_level(), lo, hi)?;
        }
        let holes = self.holes(self.root, self.geometry.start_level(), lo, hi, level);
        let mut pool = self.reserve(holes)?;
        let plan = match self.split(range, level + 1) {
            Ok(plan) => plan,
            Err(error) => {
                self.free_reserved(pool);
                return Err(error);
            }
        };
        self.walk_cache.forget();
        self.mark_shared(
            self.root,
            self.geometry.start_level(),
            lo,
            hi,
            level,
            &mut pool,
        );
        self.free_reserved(pool);
        self.has_shared_entries = true;
        Ok(plan)
    }

    /// Makes the entries at `level` that `range` covers point to the tables
    /// that `owner` shares there. Nothing may be mapped in the range of this
    /// table.
    ///
    /// # Errors
    /// [`Error::DifferentGeometry`], [`Error::NotShared`],
    /// [`Error::AlreadyMapped`], [`Error::Borrowed`] (also when the owner has
    /// borrowed it itself), and as for [`share`](Self::share). Nothing has changed
    /// then.
    pub fn borrow<N: Memory + Allocator>(
        &mut self,
        owner: &Table<Stage2, N>,
        range: Range<Ipa>,
        level: u8,
    ) -> Result<(), Error<Ipa>> {
        if self.geometry != owner.geometry {
            return Err(Error::DifferentGeometry);
        }
        let (lo, hi) = self.whole_entries(&range, level)?;
        if owner.change_limit == 0 {
            return Err(Error::Unfinished);
        }
        let size = self.geometry.level_bytes(level);
        let mut at = lo;
        while at < hi {
            let entry = owner.entry_at(at, level);
            if entry.is_none_or(|(_, descriptor)| {
                descriptor & (SHARED | BORROWED | TABLE | VALID) != SHARED | TABLE | VALID
            }) {
                return Err(Error::NotShared {
                    address: Ipa::new(at),
                });
            }
            at += size;
        }
        let needed = self.upper_tables(self.root, self.geometry.start_level(), lo, hi, level)?;
        let mut pool = self.reserve(needed)?;
        self.walk_cache.forget();
        let mut at = lo;
        while at < hi {
            if let Some((_, descriptor)) = owner.entry_at(at, level) {
                let descriptor = descriptor & !SHARED | BORROWED;
                self.borrow_entry(at, level, descriptor, &mut pool);
            }
            at += size;
        }
        self.free_reserved(pool);
        self.has_shared_entries = true;
        Ok(())
    }

    /// Removes borrowed entries from `range`. When the plan is completed, this
    /// table does not refer to the owner's tables any more.
    ///
    /// # Errors
    /// As for [`share`](Self::share), and [`Error::NotShared`] where the entry is
    /// not a borrowed one. Nothing has changed then.
    pub fn return_borrowed(
        &mut self,
        range: Range<Ipa>,
        level: u8,
    ) -> Result<Invalidation<Ipa>, Error<Ipa>> {
        let (lo, hi) = self.whole_entries(&range, level)?;
        let size = self.geometry.level_bytes(level);
        for at in (lo..hi).step_by(size as usize) {
            if self
                .entry_at(at, level)
                .is_none_or(|(_, descriptor)| descriptor & BORROWED == 0)
            {
                return Err(Error::NotShared {
                    address: Ipa::new(at),
                });
            }
        }
        self.walk_cache.forget();
        let mut plan = self.plan();
        for at in (lo..hi).step_by(size as usize) {
            if let Some((entry, _)) = self.entry_at(at, level) {
                self.memory.store(entry, 0);
                self.memory.publish(entry, 8);
            }
        }
        plan.add_change(lo, hi, LAST);
        plan.set_table_replaced();
        Ok(plan)
    }

    fn whole_entries(&self, range: &Range<Ipa>, level: u8) -> Result<(u64, u64), Error<Ipa>> {
        if level >= LAST
            || level < self.geometry.start_level()
            || level + 1 < self.geometry.first_leaf_level()
        {
            return Err(Error::Level { level });
        }
        let (lo, hi) = self.checked(range)?;
        if (lo | hi) & (self.geometry.level_bytes(level) - 1) != 0 {
            return Err(Error::Misaligned);
        }
        Ok((lo, hi))
    }

    /// The entry for `address` at `level`, if tables lead to it.
    fn entry_at(&self, address: u64, level: u8) -> Option<(PhysAddr, u64)> {
        let mut table = self.root;
        let mut here = self.geometry.start_level();
        loop {
            let entry = self.entry(table, here, address);
            let descriptor = self.memory.load(entry);
            if here == level {
                return Some((entry, descriptor));
            }
            if !is_table(descriptor, here) {
                return None;
            }
            table = self.child(descriptor);
            here += 1;
        }
    }

    /// How many tables `share` needs for entries at `level` that are 0, with
    /// the tables that lead to them.
    fn holes(&self, table: PhysAddr, here: u8, lo: u64, hi: u64, level: u8) -> u64 {
        let size = self.geometry.level_bytes(here);
        let mut needed = 0;
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let descriptor = self.memory.load(self.entry(table, here, at));
            if descriptor == 0 {
                let divide = |below| below <= level;
                needed += 1;
                if here < level {
                    needed += tables_below(&self.geometry, here + 1, at, end, &divide);
                }
            } else if here < level && is_table(descriptor, here) {
                needed += self.holes(self.child(descriptor), here + 1, at, end, level);
            }
            at = end;
        }
        needed
    }

    /// Marks the entries at `level` as shared, and adds tables where there are
    /// none.
    fn mark_shared(
        &self,
        table: PhysAddr,
        here: u8,
        lo: u64,
        hi: u64,
        level: u8,
        pool: &mut ReservedTables,
    ) {
        let size = self.geometry.level_bytes(here);
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let entry = self.entry(table, here, at);
            let mut descriptor = self.memory.load(entry);
            if descriptor == 0 {
                let Some(child) = self.take_table(pool) else {
                    return;
                };
                self.memory.publish(child, self.geometry.granule().bytes());
                descriptor = self.layout.table(child);
            }
            if here == level {
                descriptor |= SHARED;
            }
            self.memory.store(entry, descriptor);
            self.memory.publish(entry, 8);
            if here < level {
                self.mark_shared(self.child(descriptor), here + 1, at, end, level, pool);
            }
            at = end;
        }
    }

    /// How many tables `borrow` needs above `level`; an error if something is
    /// mapped there.
    fn upper_tables(
        &self,
        table: PhysAddr,
        here: u8,
        lo: u64,
        hi: u64,
        level: u8,
    ) -> Result<u64, Error<Ipa>> {
        let size = self.geometry.level_bytes(here);
        let mut needed = 0;
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let descriptor = self.memory.load(self.entry(table, here, at));
            let address = Ipa::new(at);
            if descriptor == 0 {
                if here < level {
                    let divide = |below| below < level;
                    needed += 1;
                    if here + 1 < level {
                        needed += tables_below(&self.geometry, here + 1, at, end, &divide);
                    }
                }
            } else if descriptor & BORROWED != 0 && is_table(descriptor, here) {
                return Err(Error::Borrowed { address });
            } else if here == level || !is_table(descriptor, here) {
                return Err(Error::AlreadyMapped { address });
            } else {
                needed += self.upper_tables(self.child(descriptor), here + 1, at, end, level)?;
            }
            at = end;
        }
        Ok(needed)
    }

    /// Writes one borrowed entry, and adds the tables that lead to it.
    fn borrow_entry(&self, address: u64, level: u8, descriptor: u64, pool: &mut ReservedTables) {
        let mut table = self.root;
        let mut here = self.geometry.start_level();
        loop {
            let entry = self.entry(table, here, address);
            if here == level {
                self.memory.store(entry, descriptor);
                self.memory.publish(entry, 8);
                return;
            }
            let found = self.memory.load(entry);
            table = if found != 0 {
                self.child(found)
            } else {
                let Some(child) = self.take_table(pool) else {
                    return;
                };
                self.memory.publish(child, self.geometry.granule().bytes());
                self.memory.store(entry, self.layout.table(child));
                self.memory.publish(entry, 8);
                child
            };
            here += 1;
        }
    }
}

impl<F: Format, M: Memory + Allocator> Table<F, M> {
    /// Returns an error if the range reaches into borrowed tables.
    pub(crate) fn find_borrowed(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
    ) -> Result<(), Error<F::Input>> {
        let size = self.geometry.level_bytes(level);
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let descriptor = self.memory.load(self.entry(table, level, at));
            if is_table(descriptor, level) {
                if descriptor & BORROWED != 0 {
                    let address = F::Input::new(at);
                    return Err(Error::Borrowed { address });
                }
                self.find_borrowed(self.child(descriptor), level + 1, at, end)?;
            }
            at = end;
        }
        Ok(())
    }
}
