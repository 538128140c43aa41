//! A number that stands for everything that a hypervisor must keep unchanged
//! while its host runs, so that a test can ask before and after an attack whether
//! anything has changed.
//!
//! Some of it may change in part: EL2 maps pages of the host's for as long as it
//! looks at them, and pages of the pool are taken and given back. What may is
//! left out here, word by word; everything else counts.
//!
//! The number is a CRC of 64 bits. It is asked for by a test of our own, which
//! does not try to keep it the same; no stray store is likely to.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use crc::{CRC_64_XZ, Crc};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use smmuv3_spec::control::{FMT_TWO_LEVEL, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::{L1Std, Ste};

static CRC: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);

/// Entries of a translation table of one page of 4 KiB (DDI 0487, D8.2.8).
const ENTRIES: u64 = 512;
/// The level whose descriptors are of pages (D8.3).
const LAST: u8 = 3;
/// Most tables that are followed: entries that an attack has made may lead in
/// circles.
const TABLES: u32 = 1 << 14;
/// Bits 1:0 of a descriptor that leads to a table, or at the last level to a page.
const TABLE: u64 = 0b11;
/// Bits 47:12 of a descriptor.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Memory of the hypervisor's, as the digest reads it.
pub trait View {
    /// The word at `at`; `None` where there can be no table or queue of the
    /// hypervisor's, so that a forged entry is not followed.
    fn load(&self, at: PhysAddr) -> Option<u64>;

    /// Whether every word of the page at `page` is `word`: for who has a quicker
    /// way than word by word, since most pages of a pool are unused.
    fn is_full_of(&self, page: PhysAddr, word: u64) -> bool {
        let mut words = (0..PAGE_SIZE).step_by(8);
        words.all(|n| self.load(PhysAddr::new(page.raw() + n)) == Some(word))
    }
}

/// A digest in the making. What goes into it and in which order has to be the
/// same each time.
pub struct Digest<'v, V> {
    view: &'v V,
    crc: crc::Digest<'static, u64>,
    tables: u32,
}

impl<'v, V: View> Digest<'v, V> {
    /// An empty one of what `view` shows.
    #[must_use]
    pub fn new(view: &'v V) -> Self {
        Self {
            view,
            crc: CRC.digest(),
            tables: TABLES,
        }
    }

    /// The number.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.crc.finalize()
    }

    /// A number, such as a register's.
    pub fn number(&mut self, value: u64) {
        self.crc.update(&value.to_le_bytes());
    }

    /// Every word of `range`: code, constants.
    pub fn words(&mut self, range: Range<PhysAddr>) {
        for at in (range.start().raw()..range.end().raw()).step_by(8) {
            self.word(at);
        }
    }

    fn word(&mut self, at: u64) -> u64 {
        let value = self.view.load(PhysAddr::new(at));
        self.number(u64::from(value.is_some()));
        let value = value.unwrap_or(0);
        self.number(value);
        value
    }

    /// Every entry of the tables below `count` roots side by side at `root`, of
    /// which `level` is the first: the host's stage 2, which nothing changes
    /// while the test runs.
    pub fn tables(&mut self, root: PhysAddr, level: u8, count: u64) {
        for n in 0..count {
            self.table(root.raw() + n * PAGE_SIZE, level);
        }
    }

    fn table(&mut self, at: u64, level: u8) {
        if !self.may_follow() {
            return;
        }
        for n in 0..ENTRIES {
            let entry = self.word(at + n * 8);
            if level < LAST && entry & TABLE == TABLE {
                self.table(entry & ADDRESS, level + 1);
            }
        }
    }

    /// Every mapping of EL2's own tables below `root` at `level`, but for those
    /// of pages that `is_lent` says are not the hypervisor's to keep: those come
    /// and go, and with them tables. A table counts by what it maps.
    pub fn own_tables(&mut self, root: PhysAddr, level: u8, is_lent: &impl Fn(PhysAddr) -> bool) {
        self.own_table(root.raw(), level, 0, is_lent);
    }

    fn own_table(&mut self, at: u64, level: u8, input: u64, is_lent: &impl Fn(PhysAddr) -> bool) {
        if !self.may_follow() {
            return;
        }
        let shift = 12 + 9 * u32::from(LAST.saturating_sub(level));
        for n in 0..ENTRIES {
            let Some(entry) = self.view.load(PhysAddr::new(at + n * 8)) else {
                // Somebody else's memory as a table.
                self.number(at);
                return;
            };
            let input = input | n << shift;
            match (entry & TABLE, level) {
                (TABLE, level) if level < LAST => {
                    self.own_table(entry & ADDRESS, level + 1, input, is_lent);
                }
                (TABLE | 0b01, _) if !is_lent(PhysAddr::new(entry & ADDRESS)) => {
                    self.number(input);
                    self.number(entry);
                }
                _ => {}
            }
        }
    }

    /// `false`, which counts, when too many were followed.
    fn may_follow(&mut self) -> bool {
        let left = self.tables.checked_sub(1);
        self.tables = left.unwrap_or(0);
        if left.is_none() {
            self.number(u64::MAX);
        }
        left.is_some()
    }

    /// A stream table as the registers of an SMMU describe it (IHI 0070, 3.3).
    pub fn streams(&mut self, base: StrtabBase, cfg: StrtabBaseCfg) {
        self.number(base.into());
        self.number(u32::from(cfg).into());
        let bits = u32::from(cfg.log2size()).min(20);
        let at = base.addr_6() << 6;
        if cfg.fmt() != FMT_TWO_LEVEL {
            self.entries(at, 1 << bits);
            return;
        }
        let split = u32::from(cfg.split()).clamp(6, 10);
        for n in 0..1u64 << bits.saturating_sub(split) {
            let first = L1Std([self.word(at + n * L1Std::SIZE)]);
            // Of an invalid one nothing is read.
            if let 1..=11 = first.span() {
                self.entries(first.l2ptr(), 1 << (first.span() - 1));
            }
        }
    }

    fn entries(&mut self, at: u64, count: u64) {
        for n in (0..count * Ste::SIZE).step_by(8) {
            if self.view.load(PhysAddr::new(at + n)).is_none() {
                self.number(at + n);
                return;
            }
            self.word(at + n);
        }
    }

    /// Pages that nothing uses, each word of which is `pattern`. Which pages
    /// these are does not count, nor how many: they are taken and given back. A
    /// word that is another does.
    pub fn unused(&mut self, pages: impl Iterator<Item = PhysAddr>, pattern: u64) {
        for page in pages {
            if self.view.is_full_of(page, pattern) {
                continue;
            }
            for n in (0..PAGE_SIZE).step_by(8) {
                let at = page.raw() + n;
                let value = self.view.load(PhysAddr::new(at));
                if value != Some(pattern) {
                    self.number(at);
                    self.number(value.unwrap_or(0));
                }
            }
        }
    }
}
