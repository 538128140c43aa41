//! Stage 2: from a stream table entry to a descriptor's meaning (IHI 0070, 5.2;
//! DDI 0487, D8). Everything is worked out here from the raw values, without
//! the code that writes tables.

use crate::Profile;
use smmuv3_spec::ste::{Ste, TG_4K, TG_16K, TG_64K};

/// A stage 2 as an STE describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Regime {
    /// Tag of its translations.
    pub vmid: u16,
    /// log2 of the granule.
    pub granule: u32,
    /// Level at which walks start.
    pub start: u32,
    /// Bits of an input address.
    pub input_bits: u32,
    /// Bits of an output address that do not fault.
    pub output_bits: u32,
    /// Access flag faults are off.
    pub affd: bool,
    /// The SMMU sets access flags.
    pub ha: bool,
    /// The SMMU makes writable-clean descriptors writable.
    pub hd: bool,
    /// Fetches of CDs and stage 1 descriptors from Device memory fault.
    pub ptw: bool,
    /// Descriptors of 64 KiB tables hold 52-bit addresses.
    pub wide: bool,
    /// Descriptors are big-endian.
    pub big_endian: bool,
    /// Execute-never has two bits (`IDR3.XNX`).
    pub xnx: bool,
    /// Address of the root.
    pub root: u64,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches instructions.
    Execute,
}

/// A block or page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafEntry {
    /// First output address.
    pub output: u64,
    /// How many bytes it translates.
    pub size: u64,
    /// The access flag is set or does not count.
    pub accessed: bool,
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Becomes writable with the first write, where the SMMU does that (DBM).
    pub clean: bool,
    /// Any Device memory type.
    pub device: bool,
    /// Privileged accesses may execute.
    pub execute_privileged: bool,
    /// Unprivileged accesses may execute.
    pub execute: bool,
    /// Neighbours that the contiguous hint promises to be alike; 1 without.
    pub group: u64,
}

/// What a descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// No translation.
    Invalid,
    /// The address in it is too large.
    AddressSize,
    /// A table of the next level.
    Table(u64),
    /// A block or page.
    Leaf(LeafEntry),
}

impl Regime {
    /// The stage 2 of an entry with stage 2 enabled, or `None` when the entry
    /// is ILLEGAL in what concerns stage 2 (5.2, 5.2.2).
    pub(crate) fn of(ste: &Ste, profile: &Profile) -> Option<Self> {
        let (idr0, idr3, idr5) = (profile.idr0, profile.idr3, profile.idr5);
        if !ste.s2aa64() || idr0.ttf() & 0b10 == 0 {
            return None;
        }
        if idr0.ttendian() == 0b10 && ste.s2endi() || idr0.ttendian() == 0b11 && !ste.s2endi() {
            return None;
        }
        if (ste.s2ha() || ste.s2hd()) && idr0.httu() == 0 || ste.s2hd() && idr0.httu() < 2 {
            return None;
        }
        match idr0.stall_model() {
            0b01 if ste.s2s() => return None,
            0b10 if !ste.s2s() => return None,
            _ => {}
        }
        if u32::from(ste.s2vmid()) >> profile.vmid_bits() != 0 {
            return None;
        }
        let granule = match ste.s2tg() {
            TG_4K if idr5.gran4k() => 12,
            TG_16K if idr5.gran16k() => 14,
            TG_64K if idr5.gran64k() => 16,
            _ => return None,
        };
        let wide = granule == 16;
        // 52 bits with small granules need S2DS, which no profile has.
        let most = if wide { 52 } else { 48 };
        let output_bits = profile.size_bits(ste.s2ps()).min(most);

        let t0sz = u32::from(ste.s2t0sz());
        let largest = match (idr3.stt(), wide) {
            (false, _) => 39,
            (true, false) => 48,
            (true, true) => 47,
        };
        let limit = if wide && profile.aidr.minor() > 0 {
            52
        } else {
            48
        };
        let smallest = 64 - profile.input_bits().min(limit);
        if t0sz < smallest || t0sz > largest {
            return None;
        }
        let input_bits = 64 - t0sz;
        let oas = profile.output_bits();
        let start = match (granule, ste.s2sl0()) {
            (12, 0) => 2,
            (12, 1) => 1,
            (12, 2) if oas >= 44 => 0,
            (12, 3) if idr3.stt() => 3,
            (14 | 16, 0) => 3,
            (14 | 16, 1) => 2,
            (14, 2) if oas >= 42 => 1,
            (16, 2) if oas >= 44 => 1,
            _ => return None,
        };
        // The root resolves at least one bit, and is at most 16 tables.
        let per_table = granule - 3;
        let shift = granule + per_table * (3 - start);
        if input_bits <= shift || input_bits > shift + per_table + 4 {
            return None;
        }
        let base = ste.s2ttb();
        if base >> output_bits != 0 {
            return None;
        }
        // The root is aligned to its size by ignoring bits, and to 64 bytes
        // where its address may have 52 bits (5.2, S2TTB).
        let least = if output_bits > 48 { 64 } else { 8 };
        let bytes = (8u64 << (input_bits - shift)).max(least);
        Some(Self {
            vmid: ste.s2vmid(),
            granule,
            start,
            input_bits,
            output_bits,
            affd: ste.s2affd(),
            ha: ste.s2ha(),
            // S2HD without S2HA is reserved and behaves as neither.
            hd: ste.s2ha() && ste.s2hd(),
            ptw: ste.s2ptw(),
            wide: oas > 48,
            big_endian: ste.s2endi(),
            xnx: idr3.xnx(),
            root: base & !(bytes - 1),
        })
    }

    /// log2 of the bytes that an entry of `level` translates.
    #[must_use]
    pub fn shift(&self, level: u32) -> u32 {
        self.granule + (self.granule - 3) * (3 - level.min(3))
    }

    /// Entries of a table of `level`; the root may have more or fewer than the
    /// others.
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
    pub fn meaning(&self, word: u64, level: u32) -> Meaning {
        let descriptor = self.order(word);
        if descriptor & 1 == 0 {
            return Meaning::Invalid;
        }
        let shift = self.shift(level);
        let table_bit = descriptor & 2 != 0;
        let leaf = match (table_bit, level) {
            (true, 3) => true,
            (true, _) => false,
            (false, 2) => true,
            (false, 1) => self.granule == 12 || self.granule == 16 && self.wide,
            (false, _) => return Meaning::Invalid,
        };
        if !table_bit && !leaf {
            return Meaning::Invalid;
        }
        let low = if leaf { shift } else { self.granule };
        let mut address = descriptor & (u64::MAX << low) & ((1 << 48) - 1);
        if self.granule == 16 && self.wide {
            // Bits 15 to 12 hold bits 51 to 48 (D8.3.1).
            address |= (descriptor >> 12 & 0xf) << 48;
        }
        if address >> self.output_bits != 0 {
            return Meaning::AddressSize;
        }
        if !leaf {
            return Meaning::Table(address);
        }
        let (execute_privileged, execute) = match (descriptor >> 53 & 0b11, self.xnx) {
            (0b00, _) => (true, true),
            (0b01, true) => (false, true),
            (0b11, true) => (true, false),
            (0b01, false) => (true, true),
            _ => (false, false),
        };
        let group = if descriptor >> 52 & 1 == 0 {
            1
        } else {
            match (self.granule, level) {
                (12, _) => 16,
                (14, 3) => 128,
                _ => 32,
            }
        };
        Meaning::Leaf(LeafEntry {
            output: address,
            size: 1 << shift,
            // S2AFFD is ignored where the SMMU sets the flag itself.
            accessed: descriptor >> 10 & 1 != 0 || self.affd && !self.ha,
            read: descriptor >> 6 & 1 != 0,
            write: descriptor >> 7 & 1 != 0,
            clean: self.hd && descriptor >> 51 & 1 != 0,
            // With S2FWB, too, where bit 5 is reserved.
            device: descriptor >> 4 & 3 == 0,
            execute_privileged,
            execute,
            group,
        })
    }
}

impl LeafEntry {
    /// Whether the permissions allow an access; a writable-clean page counts
    /// as writable. Execution does not need the permission to read (DDI 0487,
    /// D8.4.3; IHI 0070, 13.7).
    #[must_use]
    pub fn allows(&self, access: Access, privileged: bool) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write || self.clean,
            Access::Execute if privileged => self.execute_privileged,
            Access::Execute => self.execute,
        }
    }
}
