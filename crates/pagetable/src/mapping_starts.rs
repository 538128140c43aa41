//! Mappings whose first address is recorded, so that they can only be unmapped
//! as a whole; and joining neighbouring mappings into larger entries.
//!
//! Hardware ignores bits 58:55 of a block or page (Tables D8-51 and D8-52), and
//! bit 57 is [`CONTINUES`]: the entry continues the mapping of the entry before
//! it. So the first entry of each mapping is known without any memory outside
//! of the tables. This stays true when entries get the contiguous hint, since
//! each keeps its bit. When a block replaces a whole table, the table is kept
//! for these bits: see `spare_tables`.

use crate::descent::{leaf, run_level_4k};
use crate::descriptor::{CONTIGUOUS, TABLE, VALID, is_table, leaf_type};
use crate::error::Error;
use crate::format::Format;
use crate::geometry::{Granule, LAST};
use crate::plan::Invalidation;
use crate::spare_tables::HAS_SPARE;
use crate::table::{Bbm, Table};
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};

/// Bit 57 of a block or page: the entry is not the first of its mapping.
pub(crate) const CONTINUES: u64 = 1 << 57;

/// The page size of every [walk cache](crate::walk_cache).
const PAGE_4K: u64 = Granule::Size4K.bytes();

/// Entries of a contiguous group with 4 KiB pages.
const GROUP_4K: u64 = Granule::Size4K.contiguous_entries(LAST);

/// Neighbouring entries of one table, some of which are unmapped.
#[derive(Clone, Copy)]
struct Run {
    entry: u64,
    size: u64,
    most: u64,
    /// Entries of a contiguous group.
    members: u64,
}

/// A mapping, or a part of one, that was unmapped.
#[derive(Debug)]
pub struct UnmappedRun<F: Format> {
    /// The input addresses.
    pub range: Range<F::Input>,
    /// The output address of the first input address.
    pub output: F::Output,
    /// The attributes that it had.
    pub attributes: F::Attributes,
    /// The invalidation that must follow, as after [`Table::unmap`].
    pub plan: Invalidation<F::Input>,
}

impl<F: Format, M: Memory + Allocator> Table<F, M> {
    /// As [`map`](Self::map), and records where the mapping begins: at the
    /// first address of `range`, or where the mapping before it begins if this
    /// one `continues` it.
    ///
    /// With [`Bbm::Level2`], neighbours that fill an aligned group get the
    /// contiguous hint, with one store each. At that level no invalidation is
    /// needed (D8.17.2), since both kinds of entry translate alike. With 4 KiB
    /// pages, a block replaces a table that is full of groups which continue
    /// each other, if there is memory to record the table.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    #[inline(always)]
    pub fn map_recorded(
        &mut self,
        range: Range<F::Input>,
        output: F::Output,
        attributes: F::Attributes,
        continues: bool,
    ) -> Result<(), Error<F::Input>> {
        let (lo, hi, out) = (range.start().raw(), range.end().raw(), output.raw());
        let size = hi - lo;
        // As in `map`, most requests are for one block or page.
        let entry = if size == PAGE_4K {
            self.exact_entry(lo, hi)
        } else {
            self.walk_cache.entry(lo, size)
        };
        if out & ((size - 1) | self.invalid_output_bits) == 0
            && let Some(entry) = entry
            && self.memory.load(PhysAddr::new(entry)) == 0
        {
            let at = PhysAddr::new(entry);
            let joined = if continues {
                self.walk_cache.note_mapping(lo, lo + size);
                CONTINUES
            } else {
                0
            };
            self.walk_cache.forget_empty_entries();
            let bits = F::encode(attributes) | joined | self.walk_cache.leaf();
            self.memory.store(at, out | bits);
            self.memory.publish(at, 8);
            // This is `could_join`: with 4 KiB pages a group has as many
            // entries at every level.
            if (lo ^ out) & (size * GROUP_4K - 1) == 0 && self.bbm == Bbm::Level2 {
                self.join_group(lo, entry, self.walk_cache.level());
            }
            return Ok(());
        }
        self.map_recorded_slow(range, out, F::encode(attributes), continues)
    }

    #[inline(never)]
    fn map_recorded_slow(
        &mut self,
        range: Range<F::Input>,
        out: u64,
        bits: u64,
        continues: bool,
    ) -> Result<(), Error<F::Input>> {
        if self.map_run_recorded(range, out, bits, continues) {
            return Ok(());
        }
        self.map_slow(range, out, bits | CONTINUES)?;
        let (lo, last) = (range.start().raw(), range.end().raw() - 1);
        if !continues && let Ok((entry, _)) = self.leaf_entry(lo) {
            let at = PhysAddr::new(entry);
            // Hardware ignores the bit, so no walker needs to see this store.
            self.memory.store(at, self.memory.load(at) & !CONTINUES);
        }
        for at in [lo, last] {
            if let Ok((entry, level)) = self.leaf_entry(at)
                && self.could_join(level, lo, out)
            {
                self.join_group(at, entry, level);
                if level == LAST {
                    // This also joins groups that were mapped complete.
                    self.join_block(at, entry);
                }
            }
        }
        Ok(())
    }

    /// Maps a run of pages in one table with 4 KiB pages, if nothing is mapped
    /// there and the table exists. Returns whether it did.
    fn map_run_recorded(
        &mut self,
        range: Range<F::Input>,
        out: u64,
        bits: u64,
        continues: bool,
    ) -> bool {
        let (lo, hi) = (range.start().raw(), range.end().raw());
        let page = PAGE_4K;
        let one_table = run_level_4k(lo | hi | out, lo ^ (hi - 1)).is_some_and(|level| {
            // The slow path knows where a block can be used.
            level == LAST
        });
        let most = self.geometry.output_end();
        if !one_table || out > most || hi - lo > most - out {
            return false;
        }
        let Some(entry) = self.exact_entry(lo, lo + page) else {
            return false;
        };
        let count = (hi - lo) / page;
        let at = |index: u64| PhysAddr::new(entry + index * 8);
        let load = |index| self.memory.load(at(index));
        if !self.walk_cache.are_empty(entry, count) && !self.memory.is_clear(at(0), count) {
            return false;
        }
        self.walk_cache.note_mapping(lo, hi);
        self.walk_cache.forget_empty_entries();
        let descriptor = out | bits | CONTINUES | self.walk_cache.leaf();
        let group = GROUP_4K * page;
        // The numbers of entries before, in and after the whole groups.
        let (mut before, mut inside) = (count, 0);
        let start = lo.next_multiple_of(group);
        let end = hi & !(group - 1);
        if (lo ^ out) & (group - 1) == 0 && start < end {
            (before, inside) = ((start - lo) / page, (end - start) / page);
        }
        let run = |from: u64, count: u64, hint: u64| {
            let first = (descriptor | hint) + from * page;
            self.memory.store_run(at(from), count, first, page);
        };
        run(0, before, 0);
        run(before, inside, CONTIGUOUS);
        run(before + inside, count - before - inside, 0);
        if !continues {
            // Hardware ignores the bit.
            self.memory.store(at(0), load(0) & !CONTINUES);
        }
        self.memory.publish(at(0), count * 8);
        if self.could_join(LAST, lo, out) {
            for (index, at) in [(0, lo), (count - 1, hi - page)] {
                if self.memory.load(PhysAddr::new(entry + index * 8)) & CONTIGUOUS == 0 {
                    self.join_group(at, entry + index * 8, LAST);
                }
            }
            if inside > 0 {
                self.join_block(lo, entry);
            }
        }
        true
    }

    /// Whether a mapping made by [`map_recorded`](Self::map_recorded) contains
    /// both `address` and the address before it, so that the part before
    /// `address` cannot be unmapped alone.
    #[inline(always)]
    pub fn reaches_across(&self, address: F::Input) -> bool {
        let at = address.raw();
        match self.walk_cache.entry(at, PAGE_4K) {
            Some(entry) => {
                let descriptor = self.memory.load(PhysAddr::new(entry));
                descriptor & (VALID | CONTINUES) == VALID | CONTINUES
            }
            None => !self.walk_cache.is_boundary(at) && self.reaches_across_slow(at),
        }
    }

    #[inline(never)]
    fn reaches_across_slow(&self, at: u64) -> bool {
        let across = at < self.geometry.input_end()
            && leaf(&self.memory, &self.geometry, self.root, at).is_ok_and(|leaf| {
                let inside = at & ((1 << leaf.shift) - 1) != 0;
                if inside && leaf.descriptor & HAS_SPARE != 0 {
                    return self.spare_table_reaches_across(at);
                }
                inside || leaf.descriptor & CONTINUES != 0
            });
        if !across && !self.has_shared_entries {
            self.walk_cache.set_boundary(at);
        }
        across
    }

    /// Unmaps the first run of entries in `range` that continue each other in
    /// input, output and attributes, all in one table. `None` if nothing is
    /// mapped there. The caller has made sure that no mapping [reaches
    /// across](Self::reaches_across) the ends of `range`.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    #[inline(always)]
    pub fn unmap_first(
        &mut self,
        range: Range<F::Input>,
    ) -> Result<Option<UnmappedRun<F>>, Error<F::Input>> {
        let (lo, hi) = (range.start().raw(), range.end().raw());
        if let Some(entry) = self.exact_entry(lo, hi) {
            let at = PhysAddr::new(entry);
            let descriptor = self.memory.load(at);
            if descriptor & (TABLE | VALID | CONTIGUOUS | HAS_SPARE) == self.walk_cache.leaf()
                && let Ok(attributes) = F::decode(descriptor)
                && (self.is_used_beside(entry, entry + 8, PAGE_4K) || self.may_leave_empty(lo))
            {
                self.memory.store(at, 0);
                self.memory.publish(at, 8);
                return Ok(Some(UnmappedRun {
                    range,
                    output: F::Output::new(self.layout.decode(descriptor)),
                    attributes,
                    plan: Invalidation::for_one_leaf(self.root, lo, hi, self.walk_cache.notes()),
                }));
            }
        }
        self.unmap_first_slow(lo, hi)
    }

    #[inline(never)]
    fn unmap_first_slow(
        &mut self,
        lo: u64,
        hi: u64,
    ) -> Result<Option<UnmappedRun<F>>, Error<F::Input>> {
        if self.has_shared_entries {
            let hi = hi.min(self.geometry.input_end());
            self.find_borrowed(self.root, self.geometry.start_level(), lo, hi)?;
        }
        let Some((start, entry, level)) = self.next_leaf(lo, hi) else {
            return Ok(None);
        };
        let size = self.geometry.level_bytes(level);
        let first = self.memory.load(PhysAddr::new(entry));
        let Ok(attributes) = F::decode(first) else {
            return Ok(None);
        };
        // The run ends at the end of the table. Entries of one mapping differ
        // only in the address and in `CONTINUES`.
        let left = self.entries(level) - self.index(level, start);
        let most = left.min((hi - start) >> self.geometry.level_shift(level));
        let output = self.layout.decode(first);
        let run = Run {
            entry,
            size,
            most,
            members: self.geometry.granule().contiguous_entries(level),
        };
        let alone = first & HAS_SPARE != 0;
        let taken = if start & (size - 1) == 0 && self.change_limit != 0 && !alone {
            self.clear_continuing(run, first)
        } else {
            0
        };
        let (end, plan) = if taken == 0 {
            // This is a part of a group or of a block, or a block with a spare
            // table.
            let end = (start & !(size - 1)).saturating_add(size).min(hi);
            let Ok(range) = Range::new(F::Input::new(start), F::Input::new(end)) else {
                return Ok(None);
            };
            (end, self.unmap(range)?)
        } else {
            let end = start + taken * size;
            let mut plan = self.plan();
            plan.add_change(start, end, level);
            let page = self.geometry.granule().bytes();
            let stays = self.is_used_beside(entry, entry + taken * 8, page);
            match Range::new(F::Input::new(start), F::Input::new(end)) {
                Ok(range) if !stays && !self.may_leave_empty(start) => {
                    (end, self.retire_empty(range, plan)?)
                }
                _ => (end, plan),
            }
        };
        let Ok(range) = Range::new(F::Input::new(start), F::Input::new(end)) else {
            return Ok(None);
        };
        Ok(Some(UnmappedRun {
            range,
            output: F::Output::new(output | start & (size - 1)),
            attributes,
            plan,
        }))
    }

    /// Clears entries that continue `first`, and whole groups if they have the
    /// contiguous hint. Returns how many; 0 if a part of a group would be left.
    fn clear_continuing(&self, run: Run, first: u64) -> u64 {
        let at = |index: u64| PhysAddr::new(run.entry + index * 8);
        // Adding a size never carries out of the address field, since outputs
        // that continue each other are below the end of the output addresses.
        let step = self.layout.encode(run.size);
        let alike = first & !(CONTINUES | CONTIGUOUS);
        let mut done = 0;
        let mut expected = alike;
        let group_step = run.members * step;
        // Whole groups are cleared if they begin here and end within the run.
        // The other members continue the first.
        let aligned = (run.entry >> 3) & (run.members - 1);
        loop {
            while (aligned + done) & (run.members - 1) == 0
                && run.most - done >= run.members
                && self.memory.load(at(done)) & !CONTINUES == expected | CONTIGUOUS
            {
                done += run.members;
                expected = expected.wrapping_add(group_step);
            }
            if done >= run.most || self.memory.load(at(done)) & !CONTINUES != expected {
                break;
            }
            done += 1;
            expected = expected.wrapping_add(step);
        }
        self.memory.store_run(at(0), done, 0, 0);
        self.memory.publish(at(0), done * 8);
        self.walk_cache.set_empty_entries(run.entry, done);
        done
    }

    /// Whether an entry next to `first..end` shows that the table of `size`
    /// bytes is not empty.
    #[inline(always)]
    fn is_used_beside(&self, first: u64, end: u64, size: u64) -> bool {
        // Every table but a root begins and ends at a multiple of its size. At
        // its ends there is no entry to look at.
        let inside = size - 1;
        let load = |at| self.memory.load(PhysAddr::new(at));
        first & inside != 0 && load(first - 8) != 0 || end & inside != 0 && load(end) != 0
    }

    /// Whether the table around `address` may stay although it may be empty,
    /// until [`sweep`](Self::sweep). There is one such table at a time.
    #[inline(always)]
    fn may_leave_empty(&mut self, address: u64) -> bool {
        let span = self.span_of_table();
        match self.empty_table {
            Some(empty_table) => empty_table >> span == address >> span,
            None => {
                self.empty_table = Some(address);
                true
            }
        }
    }

    /// log2 of the bytes that a table of the last level maps.
    #[inline(always)]
    fn span_of_table(&self) -> u32 {
        self.geometry.level_shift(LAST - 1)
    }

    /// Retires the table that [`unmap_first`](Self::unmap_first) left empty, if
    /// it is still empty and `range` is not in it, since the next mapping is
    /// likely to be there again. With `None` no table stays.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    #[inline(always)]
    pub fn sweep(
        &mut self,
        range: Option<Range<F::Input>>,
    ) -> Result<Option<Invalidation<F::Input>>, Error<F::Input>> {
        let Some(at) = self.empty_table else {
            return Ok(None);
        };
        // A table of a higher level may be retired a little early.
        let span = self.span_of_table();
        if range.is_some_and(|range| range.start().raw() >> span == at >> span) {
            return Ok(None);
        }
        self.sweep_slow(at)
    }

    #[cold]
    #[inline(never)]
    fn sweep_slow(&mut self, at: u64) -> Result<Option<Invalidation<F::Input>>, Error<F::Input>> {
        self.empty_table = None;
        let page = self.geometry.granule().bytes();
        let at = at & !(page - 1);
        let Ok(range) = Range::from_size(F::Input::new(at), page) else {
            return Ok(None);
        };
        if self.leaf_entry(at).is_ok() {
            return Ok(None);
        }
        self.unmap(range).map(Some)
    }

    /// The first mapped address in `lo..hi`, with the address of its entry and
    /// its level.
    fn next_leaf(&self, lo: u64, hi: u64) -> Option<(u64, u64, u8)> {
        let mut at = lo;
        while at < hi && at < self.geometry.input_end() {
            match self.leaf_entry(at) {
                Ok((entry, level)) => return Some((at, entry, level)),
                Err(level) => {
                    let size = self.geometry.level_bytes(level);
                    at = (at & !(size - 1)).checked_add(size)?;
                }
            }
        }
        None
    }

    /// The address of the block or page entry for `address`, and its level; or
    /// the level at which nothing is mapped.
    fn leaf_entry(&self, address: u64) -> Result<(u64, u8), u8> {
        let mut table = self.root;
        let mut level = self.geometry.start_level();
        loop {
            let entry = self.entry(table, level, address);
            let descriptor = self.memory.load(entry);
            if descriptor & VALID == 0 {
                return Err(level);
            }
            if !is_table(descriptor, level) {
                return Ok((entry.raw(), level));
            }
            table = self.child(descriptor);
            level += 1;
        }
    }

    /// Whether entries at `level` that map `lo` to `out` can be in a contiguous
    /// group.
    #[inline(always)]
    fn could_join(&self, level: u8, lo: u64, out: u64) -> bool {
        let members = self.geometry.granule().contiguous_entries(level);
        let group = members << self.geometry.level_shift(level);
        (lo ^ out) & (group - 1) == 0 && members > 1 && self.bbm == Bbm::Level2
    }

    /// Gives the aligned group around `entry`, the entry for `address`, the
    /// contiguous hint, if all of its entries are mapped and continue each
    /// other. Continues with the table if that completes the table.
    #[cold]
    #[inline(never)]
    fn join_group(&mut self, address: u64, entry: u64, level: u8) {
        let members = self.geometry.granule().contiguous_entries(level);
        let first = entry & !(members * 8 - 1);
        let size = self.geometry.level_bytes(level);
        let at = |index: u64| PhysAddr::new(first + index * 8);
        let head = self.memory.load(at(0));
        if head & (VALID | TABLE) != leaf_type(level)
            || self.layout.decode(head) & (members * size - 1) != 0
        {
            return;
        }
        let alike = |index: u64| {
            let expected = self.layout.encode(self.layout.decode(head) + index * size)
                | head & !self.layout.field();
            (self.memory.load(at(index)) ^ expected) & !CONTINUES == 0
        };
        if head & CONTIGUOUS != 0 || !(1..members).all(alike) {
            return;
        }
        for index in 0..members {
            let descriptor = self.memory.load(at(index));
            self.memory.store(at(index), descriptor | CONTIGUOUS);
        }
        self.memory.publish(at(0), members * 8);
        if level == LAST {
            self.join_block(address, entry);
        }
    }
}
