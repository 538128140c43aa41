//! Maps addresses where nothing is mapped: first counts the tables that are
//! needed, then makes stores that cannot fail.

use crate::descent::{Place, down_4k, run_level_4k};
use crate::descriptor::{ADDRESS, BORROWED, CONTIGUOUS, is_table, leaf_type};
use crate::error::Error;
use crate::format::Format;
use crate::geometry::{Geometry, Granule, LAST};
use crate::table::{ReservedTables, Table};
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};

/// One request: the leaf bits without type and address, and the first level for
/// leaves.
#[derive(Clone, Copy)]
struct Request {
    bits: u64,
    /// First level at which input and output agree in the offset within a
    /// block; no block above it can be used.
    leaf_level: u8,
}

impl<F: Format, M: Memory + Allocator> Table<F, M> {
    /// Maps `range` to the output addresses from `output` on.
    ///
    /// Uses the largest blocks that alignment and existing tables allow, and
    /// the contiguous hint (D8.7.1) wherever a whole aligned group is part of
    /// the request. Nothing needs to be invalidated, because an invalid entry is
    /// never cached (D8.16); what an earlier [`Invalidation`] covers must have
    /// been [completed](Table::complete) before it is mapped anew.
    ///
    /// [`Invalidation`]: crate::Invalidation
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::InputTooLarge`],
    /// [`Error::OutputTooLarge`], [`Error::AlreadyMapped`],
    /// [`Error::Borrowed`], [`Error::Unfinished`], [`Error::OutOfMemory`],
    /// [`Error::TableOutOfReach`]. Nothing has changed then.
    #[inline(always)]
    pub fn map(
        &mut self,
        range: Range<F::Input>,
        output: F::Output,
        attributes: F::Attributes,
    ) -> Result<(), Error<F::Input>> {
        let (lo, hi, out) = (range.start().raw(), range.end().raw(), output.raw());
        let bits = F::encode(attributes);
        // Most requests are for one block or page, or for a run of them in one
        // table. Addresses are checked in the order that costs least. A request
        // that fails a check goes to the slow path, which finds out why.
        let size = hi - lo;
        if out & ((size - 1) | self.invalid_output_bits) == 0
            && let Some(entry) = self.exact_entry(lo, hi)
            && self.memory.load(PhysAddr::new(entry)) == 0
        {
            let at = PhysAddr::new(entry);
            self.walk_cache.forget_empty_entries();
            self.memory.store(at, out | bits | self.walk_cache.leaf());
            self.memory.publish(at, 8);
            return Ok(());
        }
        self.map_slow(range, out, bits)
    }

    /// Maps more than one entry, or an entry that the fast path does not take.
    #[inline(never)]
    pub(crate) fn map_slow(
        &mut self,
        range: Range<F::Input>,
        out: u64,
        bits: u64,
    ) -> Result<(), Error<F::Input>> {
        let (lo, hi) = (range.start().raw(), range.end().raw());
        self.walk_cache.note_mapping(lo, hi);
        self.walk_cache.forget_empty_entries();
        let most = self.geometry.output_end();
        if hi <= self.change_limit
            && out <= most
            && hi - lo <= most - out
            && matches!(self.geometry.granule(), Granule::Size4K)
        {
            let done = match run_level_4k(lo | hi | out, lo ^ (hi - 1)) {
                Some(3) => self.map_run::<3>(lo, hi, out, bits),
                Some(2) => self.map_run::<2>(lo, hi, out, bits),
                Some(1) => self.map_run::<1>(lo, hi, out, bits),
                _ => false,
            };
            if done {
                return Ok(());
            }
        }
        self.map_tree(range, out, bits)
    }

    /// The general case.
    #[cold]
    fn map_tree(
        &mut self,
        range: Range<F::Input>,
        out: u64,
        bits: u64,
    ) -> Result<(), Error<F::Input>> {
        let (lo, hi) = self.checked(&range)?;
        if out & (self.geometry.granule().bytes() - 1) != 0 {
            return Err(Error::Misaligned);
        }
        if out
            .checked_add(hi - lo)
            .is_none_or(|end| end > self.geometry.output_end())
        {
            return Err(Error::OutputTooLarge);
        }
        let (table, level) = (self.root, self.geometry.start_level());
        let mut leaf_level = self.geometry.first_leaf_level();
        while leaf_level < LAST && (lo ^ out) & (self.geometry.level_bytes(leaf_level) - 1) != 0 {
            leaf_level += 1;
        }
        let request = Request { bits, leaf_level };
        let needed = self.count_map_tables(table, level, lo, hi, request)?;
        let mut pool = self.reserve(needed)?;
        self.populate(table, level, lo, hi, out, request, &mut pool, true);
        self.free_reserved(pool);
        Ok(())
    }

    /// Maps a run of whole entries at `LEVEL`, if its table exists and nothing
    /// is mapped there. Returns whether it did.
    #[inline(always)]
    fn map_run<const LEVEL: u8>(&self, lo: u64, hi: u64, out: u64, bits: u64) -> bool {
        let start = self.geometry.start_level();
        let Some(place) = down_4k::<LEVEL, M>(&self.memory, start, self.root, lo) else {
            return false;
        };
        let count = (hi - lo) >> place.shift;
        // One whole group has a constant number of entries.
        const GROUP: u64 = Granule::Size4K.contiguous_entries(LAST);
        if count == GROUP && (lo | out) & ((GROUP << place.shift) - 1) == 0 {
            let at = |index| PhysAddr::new(place.entry + index * 8);
            let used = (0..GROUP).fold(0, |used, index| used | self.memory.load(at(index)));
            if used != 0 {
                return false;
            }
            let descriptor = out & ADDRESS | bits | leaf_type(LEVEL) | CONTIGUOUS;
            for index in 0..GROUP {
                let descriptor = descriptor + (index << place.shift);
                self.memory.store(at(index), descriptor);
            }
            self.memory.publish(at(0), GROUP * 8);
            return true;
        }
        let used = |index| self.memory.load(PhysAddr::new(place.entry + index * 8)) != 0;
        if (0..count).any(used) {
            return false;
        }
        if count >= Granule::Size4K.contiguous_entries(LEVEL) {
            self.fill(place, lo, hi, out, bits, true);
            return true;
        }
        let mut descriptor = out & ADDRESS | bits | leaf_type(LEVEL);
        for index in 0..count {
            self.memory
                .store(PhysAddr::new(place.entry + index * 8), descriptor);
            descriptor += 1 << place.shift;
        }
        self.memory.publish(PhysAddr::new(place.entry), count * 8);
        true
    }

    /// Writes one run of blocks or pages, with the hint where a whole group is
    /// inside the run, and publishes it if walkers can see it.
    #[inline]
    pub(crate) fn fill(&self, place: Place, lo: u64, hi: u64, out: u64, bits: u64, online: bool) {
        let size = 1u64 << place.shift;
        let bits = bits | leaf_type(place.level);
        let first = PhysAddr::new(place.entry);
        let count = (hi - lo) >> place.shift;
        let members = self.geometry.granule().contiguous_entries(place.level);
        let group = members << place.shift;
        // Entries before, in and after the part that is of whole groups.
        let (mut before, mut inside) = (count, 0);
        if count >= members && members > 1 && (lo ^ out) & (group - 1) == 0 {
            let start = (lo + group - 1) & !(group - 1);
            let end = hi & !(group - 1);
            if start < end {
                before = (start - lo) >> place.shift;
                inside = (end - start) >> place.shift;
            }
        }
        let mut at = place.entry;
        let mut out = out;
        let mut run = |count: u64, bits: u64| {
            // Addresses never carry out of the address field, except in the one
            // format that splits the field.
            let step = self.layout.encode(size);
            let first = self.layout.encode(out);
            let bytes = count << place.shift;
            if self.layout.encode(out + bytes) == first + count * step {
                self.memory
                    .store_run(PhysAddr::new(at), count, first | bits, step);
                at += count * 8;
                out += bytes;
                return;
            }
            for _ in 0..count {
                self.memory
                    .store(PhysAddr::new(at), self.layout.encode(out) | bits);
                at += 8;
                out += size;
            }
        };
        run(before, bits);
        if inside > 0 {
            run(inside, bits | CONTIGUOUS);
            run(count - before - inside, bits);
        }
        if online {
            self.memory.publish(first, count * 8);
        }
    }

    /// [`fill`](Self::fill) for a run anywhere in `table`.
    #[expect(clippy::too_many_arguments, reason = "a run has that many numbers")]
    pub(crate) fn fill_table(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        out: u64,
        bits: u64,
        online: bool,
    ) {
        let place = Place {
            table: table.raw(),
            level,
            shift: self.geometry.level_shift(level),
            entry: self.entry(table, level, lo).raw(),
        };
        self.fill(place, lo, hi, out, bits, online);
    }

    /// How many tables the request needs, or why it is refused.
    fn count_map_tables(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        request: Request,
    ) -> Result<u64, Error<F::Input>> {
        let size = self.geometry.level_bytes(level);
        let count = (hi - lo) >> self.geometry.level_shift(level);
        if level == LAST && self.memory.is_clear(self.entry(table, level, lo), count) {
            return Ok(0);
        }
        let mut needed = 0;
        let mut at = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let descriptor = self.memory.load(self.entry(table, level, at));
            if descriptor == 0 {
                if end - at != size || level < request.leaf_level {
                    needed += 1 + tables_below(&self.geometry, level + 1, at, end, &|level| {
                        level < request.leaf_level
                    });
                }
            } else {
                let address = F::Input::new(at);
                if !is_table(descriptor, level) {
                    return Err(Error::AlreadyMapped { address });
                }
                if descriptor & BORROWED != 0 {
                    return Err(Error::Borrowed { address });
                }
                needed +=
                    self.count_map_tables(self.child(descriptor), level + 1, at, end, request)?;
            }
            at = end;
        }
        Ok(needed)
    }

    /// Writes the entries after `count_map_tables` succeeded. Tables that are
    /// not linked yet (`online` false) are filled without publishing; the one
    /// store that links them comes after the whole table was published.
    #[expect(
        clippy::too_many_arguments,
        reason = "the position has that many numbers"
    )]
    fn populate(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        out: u64,
        request: Request,
        pool: &mut ReservedTables,
        online: bool,
    ) {
        if level == LAST {
            // Only pages are written here, and their entries are free.
            self.fill_table(table, level, lo, hi, out, request.bits, online);
            return;
        }
        let size = self.geometry.level_bytes(level);
        let bytes = self.geometry.granule().bytes();
        let mut at = lo;
        // Start of the run of whole entries that is still to be written.
        let mut run = lo;
        while at < hi {
            let end = hi.min((at & !(size - 1)) + size);
            let entry = self.entry(table, level, at);
            let descriptor = self.memory.load(entry);
            if descriptor == 0 && end - at == size && level >= request.leaf_level {
                at = end;
                continue;
            }
            if run < at {
                self.fill_table(
                    table,
                    level,
                    run,
                    at,
                    out + (run - lo),
                    request.bits,
                    online,
                );
            }
            let below = out + (at - lo);
            if descriptor != 0 {
                let child = self.child(descriptor);
                self.populate(child, level + 1, at, end, below, request, pool, online);
            } else if let Some(child) = self.take_table(pool) {
                self.populate(child, level + 1, at, end, below, request, pool, false);
                self.memory.publish(child, bytes);
                self.memory.store(entry, self.layout.table(child));
                if online {
                    self.memory.publish(entry, 8);
                }
            }
            at = end;
            run = end;
        }
        if run < hi {
            self.fill_table(
                table,
                level,
                run,
                hi,
                out + (run - lo),
                request.bits,
                online,
            );
        }
    }
}

/// How many tables lie below a table at `level` that has to describe `lo..hi`
/// in full: one for each entry that is covered in part, and for each entry
/// covered in full at a level where `divide` says so.
pub(crate) fn tables_below(
    geometry: &Geometry,
    level: u8,
    lo: u64,
    hi: u64,
    divide: &impl Fn(u8) -> bool,
) -> u64 {
    if level >= LAST || lo >= hi {
        return 0;
    }
    let size = geometry.level_bytes(level);
    let below = |lo, hi| 1 + tables_below(geometry, level + 1, lo, hi, divide);
    let (first, last) = (lo & !(size - 1), (hi - 1) & !(size - 1));
    let whole = |lo: u64, hi: u64| hi - lo == size && !divide(level);
    if first == last {
        return if whole(lo, hi) { 0 } else { below(lo, hi) };
    }
    let mut needed = 0;
    if !whole(lo, first + size) {
        needed += below(lo, first + size);
    }
    if !whole(last, hi) {
        needed += below(last, hi);
    }
    let middle = (last - first - size) >> geometry.level_shift(level);
    if divide(level) && middle > 0 {
        needed += middle * below(0, size);
    }
    needed
}
