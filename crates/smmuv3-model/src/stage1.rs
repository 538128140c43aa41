//! Stage 1 tables: what a descriptor says and allows (IHI 0070, 13.4; DDI 0487,
//! D8). Worked out from the raw values, like stage 2.
//!
//! A [`Half`] comes from a [`Context`](crate::Context) and has everything that a
//! walk of its tables needs: root, start level, [`Half::shift`],
//! [`Half::entries`] and [`Half::meaning`] of a descriptor. What table
//! descriptors take away from below adds up in [`Limits`]; what remains of a
//! leaf is its [`Rights`].

use crate::Access;
use crate::cd::World;

/// Half of a virtual address space: one table base and what its walks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Half {
    /// Whose tables they are.
    pub world: World,
    /// Tag of its translations; 0 where the world has none.
    pub vmid: u16,
    /// Tag of its translations that are not global; 0 where the world has none.
    pub asid: u16,
    /// TTB1, for addresses whose bit 55 is set.
    pub upper: bool,
    /// log2 of the granule.
    pub granule: u32,
    /// Level at which walks start.
    pub start: u32,
    /// Bits of an input address.
    pub input_bits: u32,
    /// Bits of an output address that do not fault.
    pub output_bits: u32,
    /// Address of the root: an IPA where stage 2 translates.
    pub root: u64,
    /// Bits 63 to 56 of an input address are ignored.
    pub tbi: bool,
    /// What table descriptors take away does not count.
    pub had: bool,
    /// Unprivileged accesses fault.
    pub e0pd: bool,
    /// Access flag faults are off.
    pub affd: bool,
    /// The SMMU sets access flags.
    pub ha: bool,
    /// The SMMU makes writable-clean descriptors writable.
    pub hd: bool,
    /// What is writable is not executable.
    pub wxn: bool,
    /// Privileged data accesses fault where unprivileged ones are allowed.
    pub pan: bool,
    /// Descriptors of 64 KiB tables hold 52-bit addresses.
    pub wide: bool,
    /// Descriptors are big-endian.
    pub big_endian: bool,
}

/// What the table descriptors on the way took away (DDI 0487, D8.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limits {
    /// `APTable[1]`: no writes.
    pub read_only: bool,
    /// `APTable[0]`: nothing for unprivileged accesses.
    pub no_unprivileged: bool,
    /// UXNTable, XNTable: no unprivileged instruction fetches, or none at all.
    pub uxn: bool,
    /// PXNTable: no privileged instruction fetches.
    pub pxn: bool,
}

/// A block or page of stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stage1Leaf {
    /// First output address.
    pub output: u64,
    /// How many bytes it translates.
    pub size: u64,
    /// The access flag is set, or does not count.
    pub accessed: bool,
    /// `AP[2]`: no writes.
    pub read_only: bool,
    /// `AP[1]`: unprivileged accesses too.
    pub unprivileged: bool,
    /// UXN, XN: no unprivileged instruction fetches, or none at all.
    pub uxn: bool,
    /// PXN: no privileged instruction fetches.
    pub pxn: bool,
    /// Read-only only until the first write (DBM).
    pub dbm: bool,
    /// For every ASID (not nG).
    pub global: bool,
    /// Index into MAIR.
    pub attr: u32,
    /// Neighbours that the contiguous hint promises to be alike; 1 without.
    pub group: u64,
}

/// What a stage 1 descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage1Meaning {
    /// No translation.
    Invalid,
    /// The address in it is too large.
    AddressSize,
    /// A table of the next level.
    Table {
        /// Its address.
        address: u64,
        /// What it takes away from everything below.
        limits: Limits,
    },
    /// A block or page.
    Leaf(Stage1Leaf),
}

/// Who may do what with a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rights {
    /// Privileged accesses may read.
    pub read_privileged: bool,
    /// Privileged accesses may write.
    pub write_privileged: bool,
    /// Privileged accesses may execute.
    pub execute_privileged: bool,
    /// Unprivileged accesses may read.
    pub read: bool,
    /// Unprivileged accesses may write.
    pub write: bool,
    /// Unprivileged accesses may execute.
    pub execute: bool,
}

impl Half {
    /// Whether `address` is one of this half's (3.4.1): its upper bits are all
    /// as bit 55, up to bit 63 or, with TBI, bit 55.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        let address = if self.upper { !address } else { address };
        let top = if self.tbi { 8 } else { 0 };
        (address << top >> top) >> self.input_bits == 0
    }

    /// The bits of `address` that the walk resolves and the page keeps.
    #[must_use]
    pub fn offset(&self, address: u64) -> u64 {
        address & ((1 << self.input_bits) - 1)
    }

    /// log2 of the bytes that an entry of `level` translates.
    #[must_use]
    pub fn shift(&self, level: u32) -> u32 {
        self.granule + (self.granule - 3) * (3 - level.min(3))
    }

    /// Entries of a table of `level`; the root may have fewer than the others.
    #[must_use]
    pub fn entries(&self, level: u32) -> u64 {
        if level == self.start {
            1 << (self.input_bits - self.shift(level))
        } else {
            1 << (self.granule - 3)
        }
    }

    /// A descriptor as it lies in memory, or back: the same where tables are
    /// little-endian.
    #[must_use]
    pub fn order(&self, word: u64) -> u64 {
        if self.big_endian {
            word.swap_bytes()
        } else {
            word
        }
    }

    /// What a descriptor, as it lies in memory, says at `level` (DDI 0487,
    /// D8.3).
    #[must_use]
    pub fn meaning(&self, word: u64, level: u32) -> Stage1Meaning {
        let descriptor = self.order(word);
        let bit = |n: u32| descriptor >> n & 1 != 0;
        let large = self.granule == 12 || self.granule == 16 && self.wide;
        let leaf = match (descriptor & 3, level) {
            (0b11, 3) => true,
            (0b11, _) => false,
            (0b01, 2) => true,
            (0b01, 1) if large => true,
            _ => return Stage1Meaning::Invalid,
        };
        let shift = self.shift(level);
        let low = if leaf { shift } else { self.granule };
        let mut address = descriptor & (u64::MAX << low) & ((1 << 48) - 1);
        if self.granule == 16 && self.wide {
            // Bits 15 to 12 hold bits 51 to 48 (D8.3.1).
            address |= (descriptor >> 12 & 0xf) << 48;
        }
        if address >> self.output_bits != 0 {
            return Stage1Meaning::AddressSize;
        }
        let single = self.world == World::El2;
        if !leaf {
            let counts = !self.had;
            let limits = Limits {
                read_only: counts && bit(62),
                no_unprivileged: counts && !single && bit(61),
                uxn: counts && bit(60),
                pxn: counts && !single && bit(59),
            };
            return Stage1Meaning::Table { address, limits };
        }
        let group = match (bit(52), self.granule, level) {
            (false, ..) => 1,
            (true, 12, _) => 16,
            (true, 14, 3) => 128,
            (true, ..) => 32,
        };
        Stage1Meaning::Leaf(Stage1Leaf {
            output: address,
            size: 1 << shift,
            // AFFD is ignored where the SMMU sets the flag itself.
            accessed: bit(10) || self.affd && !self.ha,
            read_only: bit(7),
            unprivileged: !single && bit(6),
            uxn: bit(54),
            pxn: !single && bit(53),
            dbm: bit(51),
            global: single || !bit(11),
            attr: (descriptor >> 2 & 7) as u32,
            group,
        })
    }

    /// What `limits` leave of a leaf's permissions (DDI 0487, D8.4). A
    /// writable-clean page counts as writable where the SMMU makes it so.
    #[must_use]
    pub fn rights(&self, leaf: &Stage1Leaf, limits: Limits) -> Rights {
        let clean = self.hd && leaf.dbm;
        let writable = !(leaf.read_only && !clean || limits.read_only);
        let unprivileged = leaf.unprivileged && !limits.no_unprivileged;
        let uxn = leaf.uxn || limits.uxn;
        if self.world == World::El2 {
            // Bit 54 is XN; there is nothing but privileged accesses.
            return Rights {
                read_privileged: true,
                write_privileged: writable,
                execute_privileged: !(uxn || self.wxn && writable),
                ..Rights::default()
            };
        }
        let write = writable && unprivileged;
        Rights {
            read_privileged: !(self.pan && unprivileged),
            write_privileged: writable && !(self.pan && unprivileged),
            // What EL0 may write is never executable at EL1.
            execute_privileged: !(leaf.pxn || limits.pxn || write || self.wxn && writable),
            read: unprivileged,
            write,
            execute: !(uxn || self.wxn && write),
        }
    }
}

impl Limits {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            read_only: self.read_only || other.read_only,
            no_unprivileged: self.no_unprivileged || other.no_unprivileged,
            uxn: self.uxn || other.uxn,
            pxn: self.pxn || other.pxn,
        }
    }
}

impl Rights {
    /// Whether they allow an access. In the EL2 world everything is privileged
    /// (13.4.1); the caller says so.
    #[must_use]
    pub fn allow(&self, access: Access, privileged: bool) -> bool {
        use Access::{Execute, Read, Write};
        match (access, privileged) {
            (Read, true) => self.read_privileged,
            (Write, true) => self.write_privileged,
            (Execute, true) => self.execute_privileged,
            (Read, false) => self.read,
            (Write, false) => self.write,
            (Execute, false) => self.execute,
        }
    }
}
