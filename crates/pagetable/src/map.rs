//! Mapping what was not mapped: survey first, then stores that cannot fail.

use crate::descriptor::{BORROWED, CONTIGUOUS, TABLE, VALID, is_table, leaf_type};
use crate::error::Error;
use crate::format::Format;
use crate::geometry::{Geometry, LAST};
use crate::table::{Pool, Table};
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};

/// One request, as numbers: leaf bits without type and address.
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
    #[inline]
    pub fn map(
        &mut self,
        range: Range<F::Input>,
        output: F::Output,
        attributes: F::Attributes,
    ) -> Result<(), Error<F::Input>> {
        let (lo, hi) = self.checked(&range)?;
        let out = output.raw();
        if out & (self.geometry.granule().bytes() - 1) != 0 {
            return Err(Error::Misaligned);
        }
        if out
            .checked_add(hi - lo)
            .is_none_or(|end| end > self.geometry.output_end())
        {
            return Err(Error::OutputTooLarge);
        }
        let bits = F::encode(attributes);

        // Down to the table in which the range has more than one entry, or one
        // that is not a table: most requests end there, in one run of entries.
        let mut table = self.root;
        let mut level = self.geometry.start_level();
        let size = loop {
            let shift = self.geometry.level_shift(level);
            if (lo ^ (hi - 1)) >> shift == 0 && level < LAST {
                let descriptor = self.memory.load(self.entry(table, level, lo));
                if descriptor & (VALID | TABLE) == VALID | TABLE {
                    if descriptor & BORROWED != 0 {
                        return Err(Error::Borrowed {
                            address: F::Input::new(lo),
                        });
                    }
                    table = self.child(descriptor);
                    level += 1;
                    continue;
                }
            }
            break 1u64 << shift;
        };
        if level >= self.geometry.first_leaf_level()
            && (lo | hi | out) & (size - 1) == 0
            && self.is_clear(table, level, lo, hi)
        {
            self.fill(table, level, lo, hi, out, bits, true);
            return Ok(());
        }
        self.map_below(table, level, lo, hi, out, bits)
    }

    /// The general case, from `table` down.
    #[cold]
    fn map_below(
        &mut self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        out: u64,
        bits: u64,
    ) -> Result<(), Error<F::Input>> {
        let mut leaf_level = self.geometry.first_leaf_level();
        while leaf_level < LAST && (lo ^ out) & (self.geometry.level_bytes(leaf_level) - 1) != 0 {
            leaf_level += 1;
        }
        let request = Request { bits, leaf_level };
        let needed = self.survey_map(table, level, lo, hi, request)?;
        let mut pool = self.reserve(needed)?;
        self.populate(table, level, lo, hi, out, request, &mut pool, true);
        self.release(pool);
        Ok(())
    }

    /// Whether no entry of the run is in use.
    #[inline(always)]
    fn is_clear(&self, table: PhysAddr, level: u8, lo: u64, hi: u64) -> bool {
        let mut at = self.entry(table, level, lo).raw();
        let end = at + ((hi - lo) >> self.geometry.level_shift(level)) * 8;
        while at < end {
            if self.memory.load(PhysAddr::new(at)) != 0 {
                return false;
            }
            at += 8;
        }
        true
    }

    /// Writes one run of blocks or pages, with the hint where a whole group is
    /// inside the run, and publishes it if walkers can see it.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a run has that many numbers")]
    pub(crate) fn fill(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        out: u64,
        bits: u64,
        online: bool,
    ) {
        let geometry = &self.geometry;
        let shift = geometry.level_shift(level);
        let size = 1u64 << shift;
        let bits = bits | leaf_type(level);
        let group = size * geometry.granule().contiguous_entries(level);
        let first = self.entry(table, level, lo);
        // The middle part, if any, is of whole groups.
        let mut middle = (hi, hi);
        if hi - lo >= group && group > size && (lo ^ out) & (group - 1) == 0 {
            let start = (lo + group - 1) & !(group - 1);
            let end = hi & !(group - 1);
            if start < end {
                middle = (start, end);
            }
        }
        let mut at = first.raw();
        let mut input = lo;
        let mut out = out;
        for (end, bits) in [(middle.0, bits), (middle.1, bits | CONTIGUOUS), (hi, bits)] {
            while input < end {
                self.memory
                    .store(PhysAddr::new(at), self.layout.encode(out) | bits);
                at += 8;
                input += size;
                out += size;
            }
        }
        if online {
            self.memory.publish(first, at - first.raw());
        }
    }

    /// How many tables the request needs, or why it cannot be.
    fn survey_map(
        &self,
        table: PhysAddr,
        level: u8,
        lo: u64,
        hi: u64,
        request: Request,
    ) -> Result<u64, Error<F::Input>> {
        let size = self.geometry.level_bytes(level);
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
                needed += self.survey_map(self.child(descriptor), level + 1, at, end, request)?;
            }
            at = end;
        }
        Ok(needed)
    }

    /// Writes what the survey found possible. Tables that are not linked yet
    /// (`online` false) are filled without publishing; the one store that links
    /// them comes after the whole table was published.
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
        pool: &mut Pool,
        online: bool,
    ) {
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
                self.fill(
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
            } else if let Some(child) = self.take(pool) {
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
            self.fill(
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
