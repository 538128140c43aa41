//! Joining a whole table of pages into a block, and keeping the table.
//!
//! When the last group of a table with 4 KiB pages is complete and all 512
//! pages continue each other, one store replaces the table by a block
//! (D8.17.2). The table becomes the block's *spare table* and does not change.
//! It says where each mapping begins, and it can replace the block again
//! without any memory, so that unmapping a part of the block cannot fail.
//!
//! Walkers may still use the spare table from their caches, and TLBs may hold
//! its pages beside the block. Both translate like the block, since the table
//! does not change before it replaces the block. From then on, the plan names
//! the whole block, each of its pages and the tables that lead to them.
//!
//! Tables of blocks are not joined into larger blocks, nor blocks with a spare
//! table into contiguous groups. Either would save only a few TLB entries for
//! gigabytes that were mapped page by page.

use crate::descent::{down_4k, shift_4k};
use crate::descriptor::{CONTIGUOUS, TABLE, VALID};
use crate::format::Format;
use crate::geometry::{Granule, LAST};
use crate::mapping_starts::CONTINUES;
use crate::table::Table;
use core::cell::Cell;
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};

/// Bit 58 of a block, ignored by hardware (Tables D8-51 and D8-52): the block
/// has a spare table with the same pages. [`CONTINUES`] in the block is that of
/// its first page.
pub(crate) const HAS_SPARE: u64 = 1 << 58;

/// log2 of a block.
const SHIFT: u32 = shift_4k(LAST - 1);
const PAGE: u64 = Granule::Size4K.bytes();
const GROUP: u64 = Granule::Size4K.contiguous_entries(LAST);

/// Finds the spare table of a block. Each word holds the number of a block and
/// of its table. The first words are in this struct, the others in pages that
/// are hash tables with linear probing.
///
/// A page exists only while it has a word, and all pages before it exist too.
/// The first page comes when this struct is full, with more than twenty tables,
/// and each other page when those before it are full. So while the number of
/// blocks grows, the pages take less than a twentieth of the memory of the
/// spare tables.
#[derive(Debug)]
pub(crate) struct SpareTables {
    /// Number of words.
    count: Cell<u64>,
    /// The first words; 0 means no word.
    first_words: [Cell<u64>; FIRST_WORDS],
    /// The address of each page, with its number of words in the low bits; 0
    /// means no page. Neither hardware nor views read these pages.
    pages: [Cell<u64>; PAGES],
}

/// Number of words in this struct.
const FIRST_WORDS: usize = 24;
/// Most pages: enough for 6 GiB of blocks that were mapped page by page.
const PAGES: usize = 8;
/// Number of words in a page.
const WORDS: u64 = PAGE / 8;
/// Most words of a page in use, so that a search ends soon.
const MAX_USED: u64 = WORDS / 4 * 3;
/// Bits of a word that hold the number of a table: addresses have 48 bits.
const TABLE_BITS: u32 = 48 - 12;

/// Where the search for a block begins. Multiplying by the golden ratio spreads
/// neighbours evenly and leaves no long runs to search through. A caller that
/// chooses addresses can make all searches meet; a search then costs as many
/// loads as there are words, and not more.
fn first_slot(block: u64) -> u64 {
    block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - WORDS.trailing_zeros())
}

fn block_of(word: u64) -> u64 {
    word >> TABLE_BITS
}

fn table_of(word: u64) -> PhysAddr {
    PhysAddr::new((word & ((1 << TABLE_BITS) - 1)) << 12)
}

fn page_of(page: u64) -> PhysAddr {
    PhysAddr::new(page & !(PAGE - 1))
}

fn used(page: u64) -> u64 {
    page & (PAGE - 1)
}

fn slot(page: u64, index: u64) -> PhysAddr {
    PhysAddr::new(page_of(page).raw() + (index & (WORDS - 1)) * 8)
}

impl SpareTables {
    pub(crate) const fn new() -> Self {
        Self {
            count: Cell::new(0),
            first_words: [const { Cell::new(0) }; FIRST_WORDS],
            pages: [const { Cell::new(0) }; PAGES],
        }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Records `table` as the spare table of the block at `address`. Returns
    /// whether there was room.
    fn insert<M: Memory + Allocator>(&self, memory: &M, address: u64, table: PhysAddr) -> bool {
        let block = address >> SHIFT;
        let word = block << TABLE_BITS | table.raw() >> 12;
        if word == 0 || table_of(word) != table || block_of(word) != block {
            return false;
        }
        if let Some(free) = self.first_words.iter().find(|word| word.get() == 0) {
            free.set(word);
            self.count.update(|count| count + 1);
            return true;
        }
        let Some(cell) = self.pages.iter().find(|page| used(page.get()) < MAX_USED) else {
            return false;
        };
        if cell.get() == 0 {
            let Some(at) = memory.allocate(PAGE) else {
                return false;
            };
            cell.set(at.raw());
        }
        let page = cell.get();
        let mut index = first_slot(block);
        while memory.load(slot(page, index)) != 0 {
            index += 1;
        }
        memory.store(slot(page, index), word);
        cell.set(page + 1);
        self.count.update(|count| count + 1);
        true
    }

    /// The word of the block at `address`, if it is in this struct.
    fn first_word_of(&self, address: u64) -> Option<&Cell<u64>> {
        let has = |word: u64| word != 0 && block_of(word) == address >> SHIFT;
        self.first_words.iter().find(|word| has(word.get()))
    }

    /// The page that has the word of the block at `address` with all pages
    /// after it, the index of the word, and the word.
    fn search<M: Memory>(&self, memory: &M, address: u64) -> Option<(&[Cell<u64>], u64, u64)> {
        let block = address >> SHIFT;
        let mut pages = &self.pages[..];
        while let Some((first, rest)) = pages.split_first().filter(|(page, _)| page.get() != 0) {
            let mut index = first_slot(block);
            loop {
                let word = memory.load(slot(first.get(), index));
                if word == 0 {
                    break;
                }
                if block_of(word) == block {
                    return Some((pages, index, word));
                }
                index += 1;
            }
            pages = rest;
        }
        None
    }

    fn find<M: Memory>(&self, memory: &M, address: u64) -> Option<PhysAddr> {
        if let Some(word) = self.first_word_of(address) {
            return Some(table_of(word.get()));
        }
        let (_, _, word) = self.search(memory, address)?;
        Some(table_of(word))
    }

    /// Removes and returns the spare table of the block at `address`.
    fn remove<M: Memory + Allocator>(&self, memory: &M, address: u64) -> Option<PhysAddr> {
        if let Some(word) = self.first_word_of(address) {
            self.count.update(|count| count - 1);
            return Some(table_of(word.replace(0)));
        }
        let (pages, mut hole, found) = self.search(memory, address)?;
        let (cell, after) = pages.split_first()?;
        let page = cell.get();
        // A word after the hole moves into it if a search for the word would
        // stop at the hole.
        let mut next = hole;
        loop {
            next += 1;
            let word = memory.load(slot(page, next));
            if word == 0 {
                break;
            }
            let distance = |from| next.wrapping_sub(from) & (WORDS - 1);
            if distance(first_slot(block_of(word))) >= distance(hole) {
                memory.store(slot(page, hole), word);
                hole = next;
            }
        }
        memory.store(slot(page, hole), 0);
        self.count.update(|count| count - 1);
        cell.set(page - 1);
        if used(page) == 1 {
            memory.free(page_of(page), PAGE);
            // The last page takes its place.
            let last = after.iter().rfind(|page| page.get() != 0);
            cell.set(last.map_or(0, |last| last.replace(0)));
        }
        Some(table_of(found))
    }

    /// Frees all pages and all spare tables.
    pub(crate) fn destroy<M: Memory + Allocator>(&self, memory: &M) {
        self.count.set(0);
        for word in &self.first_words {
            let word = word.replace(0);
            if word != 0 {
                memory.free(table_of(word), PAGE);
            }
        }
        for cell in &self.pages {
            let page = cell.replace(0);
            if page == 0 {
                continue;
            }
            for index in 0..WORDS {
                let word = memory.load(slot(page, index));
                if word != 0 {
                    memory.free(table_of(word), PAGE);
                }
            }
            memory.free(page_of(page), PAGE);
        }
    }
}

impl<F: Format, M: Memory + Allocator> Table<F, M> {
    /// Replaces the table that has the page `entry` for `address` by a block,
    /// if all of its pages are mapped and continue each other.
    /// [`Bbm::Level2`](crate::Bbm::Level2) only.
    ///
    /// If the spare table cannot be recorded, the pages stay; this is no error.
    #[cold]
    #[inline(never)]
    pub(crate) fn join_block(&mut self, address: u64, entry: u64) {
        let start = self.geometry.start_level();
        // Shared tables must not be replaced, and the tables below them are
        // read by borrowers too.
        if self.has_shared_entries
            || start >= LAST
            || !matches!(self.geometry.granule(), Granule::Size4K)
        {
            return;
        }
        let table = entry & !(PAGE - 1);
        // Either all members of a group have the contiguous hint or none, and
        // they continue each other.
        let group = |index: u64| self.memory.load(PhysAddr::new(table + index * GROUP * 8));
        let head = group(0);
        let is_group = VALID | TABLE | CONTIGUOUS;
        if head & is_group != is_group || self.layout.decode(head) & ((1 << SHIFT) - 1) != 0 {
            return;
        }
        let groups = WORDS / GROUP;
        let alike = |index: u64| {
            // The bits that this adds to are 0 in the first.
            (group(index) ^ (head + index * GROUP * PAGE)) & !CONTINUES == 0
        };
        // Mappings grow upwards or downwards, so the other end is missing most
        // often.
        if !alike(groups - 1) || !(1..groups - 1).all(alike) {
            return;
        }
        let place = down_4k::<{ LAST - 1 }, M>(&self.memory, start, self.root, address);
        let Some(at) = place.map(|place| PhysAddr::new(place.entry)) else {
            return;
        };
        let table = PhysAddr::new(table);
        if self.memory.load(at) != self.layout.table(table)
            || !self.spare_tables.insert(&self.memory, address, table)
        {
            return;
        }
        self.walk_cache.forget();
        let block = head & !(TABLE | CONTIGUOUS) | HAS_SPARE;
        self.memory.store(at, block);
        self.memory.publish(at, 8);
    }

    /// Removes and returns the spare table of the block at `address`. The
    /// caller puts it in place of the block, or retires it.
    #[cold]
    pub(crate) fn take_spare_table(&self, address: u64) -> Option<PhysAddr> {
        self.spare_tables.remove(&self.memory, address)
    }

    /// [`reaches_across`](Self::reaches_across) inside a block with a spare
    /// table.
    #[cold]
    pub(crate) fn spare_table_reaches_across(&self, address: u64) -> bool {
        // Without the table it is not known, so the block must not be split.
        self.spare_tables
            .find(&self.memory, address)
            .is_none_or(|table| {
                let index = address >> shift_4k(LAST) & (WORDS - 1);
                let page = self.memory.load(PhysAddr::new(table.raw() + index * 8));
                address & (PAGE - 1) != 0 || page & CONTINUES != 0
            })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use portcullis_memory::Arena;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    #[test]
    fn an_index_is_a_map_also_when_all_meet() {
        let memory = &Arena::new(PhysAddr::new(0x1000), 16 * PAGE);
        // Blocks that are searched from the last two places on, so that they
        // wrap, and any others; more than two pages take.
        let meet = (0..1 << 27).filter(|block| first_slot(*block) >= WORDS - 2);
        let mut blocks: Vec<u64> = meet.take(500).chain(0..500).collect();
        blocks.push((1 << 27) - 1);
        blocks.sort_unstable();
        blocks.dedup();
        let index = SpareTables::new();
        let mut book = BTreeMap::new();
        let mut random = 1u64;
        for step in 0..60_000u64 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let block = blocks[(random >> 33) as usize % blocks.len()];
            let address = block << SHIFT;
            let table = PhysAddr::new((step + 1) << 12 | 0xf << 44);
            assert_eq!(index.find(memory, address), book.get(&block).copied());
            // It fills, and it empties.
            let fills = (step / 5_000).is_multiple_of(2);
            let turn = random >> 62 == 0;
            let there = book.get(&block).copied();
            if there.is_some() && (!fills || turn) {
                assert_eq!(index.remove(memory, address), there);
                book.remove(&block);
            } else if there.is_none() && (fills || turn) {
                assert!(index.insert(memory, address, table));
                book.insert(block, table);
            }
            assert_eq!(index.count.get(), book.len() as u64);
            let pages = index.pages.iter().filter(|page| page.get() != 0).count();
            assert_eq!(memory.bytes_in_use(), pages as u64 * PAGE);
            assert_eq!(index.is_empty(), book.is_empty());
        }
        for (block, table) in book {
            assert_eq!(index.remove(memory, block << SHIFT), Some(table));
            assert_eq!(index.remove(memory, block << SHIFT), None);
        }
        assert_eq!(memory.bytes_in_use(), 0);
    }

    #[test]
    fn a_page_that_becomes_empty_leaves_no_gap() {
        let memory = &Arena::new(PhysAddr::new(0x1000), 16 * PAGE);
        let index = SpareTables::new();
        let end = FIRST_WORDS as u64 + 3 * MAX_USED;
        for block in 0..end {
            assert!(index.insert(memory, block << SHIFT, PhysAddr::new((block + 1) << 12)));
        }
        // The first pages first.
        for block in 0..end {
            let table = index.remove(memory, block << SHIFT);
            assert_eq!(table, Some(PhysAddr::new((block + 1) << 12)));
            let left = (end - block - 1).div_ceil(MAX_USED).min(3);
            assert_eq!(memory.bytes_in_use(), left * PAGE);
        }
    }

    #[test]
    fn what_no_word_can_say_is_not_kept() {
        let memory = &Arena::new(PhysAddr::new(0x1000), 16 * PAGE);
        let index = SpareTables::new();
        assert!(!index.insert(memory, 0, PhysAddr::new(0)));
        assert!(!index.insert(memory, 0, PhysAddr::new(1 << 48)));
        assert!(!index.insert(memory, 1 << 49, PhysAddr::new(PAGE)));
        assert_eq!(memory.bytes_in_use(), 0);
        assert!(index.insert(memory, 1 << SHIFT, PhysAddr::new(0)));
        let table = index.remove(memory, 1 << SHIFT);
        assert_eq!(table, Some(PhysAddr::new(0)));
    }
}
