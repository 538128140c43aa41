//! A stage 1 as a host writes it: context descriptors and tables of 4 KiB, for
//! 32 bits of input (IHI 0070, 5.3 and 5.4; DDI 0487, D8.3).

use crate::map::{OTHER, PAGES, POOL, RAM};
use portcullis_addr::PAGE_SIZE;
use smmuv3_model::Profile;

/// CD: EPD1, V, 40 bits of output, AA64, R, A; T0SZ 32, TG0 4 KiB.
const CD: u64 = 32 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46;
/// CD: HD, HA, S.
const HD: u64 = 1 << 42;
const HA: u64 = 1 << 43;
const S: u64 = 1 << 44;
/// Leaf: AF, and the bit that lets the unprivileged in.
const LEAF: u64 = 1 << 10 | 1 << 6;
const GIB: u64 = 1 << 30;
const BLOCK: u64 = 1 << 21;

/// Addresses and the words to store there, in order. `shape` decides what is
/// drawn; with 0 the tables map RAM to itself.
pub(crate) fn stage1(page: u64, shape: u64, profiles: &[Profile]) -> Vec<(u64, u64)> {
    let bit = |n: u32| shape >> n & 1 != 0;
    let page = |n: u64| RAM.start + (page + n) % PAGES * PAGE_SIZE;
    let (first, level1, level2, level3) = (page(0), page(1), page(2), page(3));

    // Tables first, then what leads to them.
    let flag = if bit(0) { LEAF & !(1 << 10) } else { LEAF };
    let leaf = flag
        | u64::from(bit(1)) << 7
        | u64::from(bit(2)) << 11
        | u64::from(bit(3)) << 51
        | u64::from(bit(4)) << 52;
    let leaf = if bit(5) { leaf & !(1 << 6) } else { leaf };
    let mut words = Vec::new();
    for n in 0..8 {
        // Some pages in another order.
        let to = if bit(6) { n ^ 1 } else { n };
        words.push((level3 + n * 8, page(0) & !0x7fff | to << 12 | leaf | 0b11));
    }
    let low = if bit(7) {
        level3 | 0b11
    } else {
        RAM.start | leaf | 0b01
    };
    words.push((level2, low));
    words.push((level2 + 8, (RAM.start + BLOCK) | leaf | 0b01));
    if bit(8) {
        // A circle.
        words.push((level2 + 16, level2 | 0b11));
    }
    // What stage 2 does not let through.
    let outside = if bit(9) { POOL.start } else { OTHER.start };
    words.push((level2 + 24, outside | leaf | 0b01));
    let root = RAM.start / GIB * 8;
    words.push((level1 + root, level2 | 0b11));
    let other = match shape >> 10 & 3 {
        0 => 0,
        1 => level1 | 0b11,
        2 => RAM.start | leaf | 0b01,
        _ => 0x7f << 30 | leaf | 0b01,
    };
    words.push((level1, other));

    let updates = profiles.iter().map(|profile| profile.idr0.httu()).min();
    let stalls = profiles.iter().all(|p| p.idr0.stall_model() == 0);
    let mut cd = CD;
    if bit(12) && updates >= Some(1) {
        cd |= HA;
        if bit(13) && updates >= Some(2) {
            cd |= HD;
        }
    }
    if bit(14) && stalls {
        cd |= S;
    }
    // AFFD, WXN, PAN.
    cd |= (shape >> 16 & 0b100011) << 35;
    let two_levels = bit(22) && bit(23);
    let descriptors = if two_levels { page(4) } else { first };
    for n in 0..4 {
        let at = descriptors + n * 64;
        // Attributes: normal memory. TTB0.
        words.push((at + 24, u64::MAX));
        words.push((at + 8, level1));
        words.push((at, cd | (n + (shape >> 24 & 3)) << 48));
    }
    if two_levels {
        words.push((first, descriptors | 1));
    }
    words
}
