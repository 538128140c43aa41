//! The walk down the tables, which every operation starts with.
//!
//! With 4 KiB pages all shifts are constants here: the other granules take the
//! same steps with numbers from the geometry.

use crate::descriptor::{ADDRESS, BORROWED, Layout, TABLE, VALID};
use crate::geometry::{Geometry, Granule, LAST};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;

/// The table in which a range has more than one entry, or one entry that is
/// not an owned table.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) table: u64,
    pub(crate) level: u8,
    /// log2 of the bytes of an entry at that level.
    pub(crate) shift: u32,
    /// The address of the entry for the first address.
    pub(crate) entry: u64,
}

const SHIFT_4K: u32 = 12;
pub(crate) const STRIDE_4K: u32 = SHIFT_4K - 3;

/// log2 of the bytes of an entry at `level`, with 4 KiB pages.
#[inline(always)]
pub(crate) const fn shift_4k(level: u8) -> u32 {
    SHIFT_4K + (LAST - level) as u32 * STRIDE_4K
}

/// The level at which `lo..=last` is a run of whole entries in one table with
/// 4 KiB pages: the highest that `align`, the addresses or-ed together, allows.
/// `None` when the run is in several tables, or is no whole pages.
#[inline(always)]
pub(crate) fn run_level_4k(align: u64, differ: u64) -> Option<u8> {
    let (level, span) = if align & ((1 << shift_4k(1)) - 1) == 0 {
        (1, shift_4k(0))
    } else if align & ((1 << shift_4k(2)) - 1) == 0 {
        (2, shift_4k(1))
    } else if align & ((1 << shift_4k(3)) - 1) == 0 {
        (3, shift_4k(2))
    } else {
        return None;
    };
    (differ >> span == 0).then_some(level)
}

/// With 4 KiB pages: the table at `LEVEL` and the entry in it for `address`,
/// which was checked to be inside the input addresses. `None` when the way there
/// is not through tables of this owner alone.
///
/// All shifts are constants, which is most of what makes the common cases fast.
#[inline(always)]
pub(crate) fn down_4k<const LEVEL: u8, M: Memory>(
    memory: &M,
    start: u8,
    root: PhysAddr,
    address: u64,
) -> Option<Place> {
    if start > LEVEL {
        return None;
    }
    let mut table = root.raw();
    // What the levels above have not resolved. At the start level that is all
    // of the address, which is how concatenated tables are indexed.
    let mut rest = address;
    macro_rules! step {
        ($level:literal) => {
            if $level < LEVEL && start <= $level {
                let shift = shift_4k($level);
                let descriptor = memory.load(PhysAddr::new(table + (rest >> shift) * 8));
                if descriptor & (VALID | TABLE | BORROWED) != VALID | TABLE {
                    return None;
                }
                table = descriptor & ADDRESS;
                rest &= (1 << shift) - 1;
            }
        };
    }
    step!(0);
    step!(1);
    step!(2);
    let shift = shift_4k(LEVEL);
    Some(Place {
        table,
        level: LEVEL,
        shift,
        entry: table + (rest >> shift) * 8,
    })
}

/// Goes down from `root` while `lo` and `last`, both checked to be inside the
/// input addresses, need the same entry and that is a table of this owner.
pub(crate) fn locate<M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    lo: u64,
    last: u64,
) -> Place {
    let layout = Layout::of(geometry);
    let mut level = geometry.start_level();
    let mut shift = geometry.level_shift(level);
    let mut table = root.raw();
    let mut rest = lo;
    loop {
        let entry = table + (rest >> shift) * 8;
        if level < LAST && (lo ^ last) >> shift == 0 {
            let descriptor = memory.load(PhysAddr::new(entry));
            if descriptor & (VALID | TABLE | BORROWED) == VALID | TABLE {
                table = layout.decode(descriptor);
                rest &= (1 << shift) - 1;
                level += 1;
                shift = geometry.level_shift(level);
                continue;
            }
        }
        return Place {
            table,
            level,
            shift,
            entry,
        };
    }
}

/// A block or page descriptor, with where it was found.
#[derive(Clone, Copy)]
pub(crate) struct Leaf {
    pub(crate) descriptor: u64,
    pub(crate) level: u8,
    pub(crate) shift: u32,
}

/// The leaf for `address`, which was checked to be inside the input addresses;
/// or the level at which nothing is mapped. One load a level.
#[inline(always)]
pub(crate) fn leaf<M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    address: u64,
) -> Result<Leaf, u8> {
    if !matches!(geometry.granule(), Granule::Size4K) {
        return leaf_any(memory, geometry, root, address);
    }
    let start = geometry.start_level();
    let mut table = root.raw();
    let mut rest = address;
    macro_rules! step {
        ($level:literal) => {
            if start <= $level {
                let shift = shift_4k($level);
                let descriptor = memory.load(PhysAddr::new(table + (rest >> shift) * 8));
                if descriptor & (VALID | TABLE) != VALID | TABLE {
                    return if descriptor & VALID == 0 {
                        Err($level)
                    } else {
                        Ok(Leaf {
                            descriptor,
                            level: $level,
                            shift,
                        })
                    };
                }
                table = descriptor & ADDRESS;
                rest &= (1 << shift) - 1;
            }
        };
    }
    step!(0);
    step!(1);
    step!(2);
    let shift = shift_4k(LAST);
    let descriptor = memory.load(PhysAddr::new(table + (rest >> shift) * 8));
    if descriptor & VALID == 0 {
        return Err(LAST);
    }
    Ok(Leaf {
        descriptor,
        level: LAST,
        shift,
    })
}

#[inline(never)]
fn leaf_any<M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    address: u64,
) -> Result<Leaf, u8> {
    let layout = Layout::of(geometry);
    let mut level = geometry.start_level();
    let mut table = root.raw();
    let mut rest = address;
    loop {
        let shift = geometry.level_shift(level);
        let descriptor = memory.load(PhysAddr::new(table + (rest >> shift) * 8));
        if descriptor & VALID == 0 {
            return Err(level);
        }
        if level == LAST || descriptor & TABLE == 0 {
            return Ok(Leaf {
                descriptor,
                level,
                shift,
            });
        }
        table = layout.decode(descriptor);
        rest &= (1 << shift) - 1;
        level += 1;
    }
}
