//! Random context descriptors and stage 1 configurations (IHI 0070, 5.4).

use crate::random::Random;
use crate::second::{OUTPUT_BITS, SIZES};
use crate::tables::Shape;

/// One half of the addresses of stage 1.
#[derive(Clone, Copy, Debug)]
pub struct Half {
    /// TTB1, for addresses with all upper bits set.
    pub upper: bool,
    /// How addresses are divided.
    pub shape: Shape,
}

/// Stage 1 as a CD configures it.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// The half that has tables.
    pub half: Half,
    /// Bits of an output address.
    pub output: u32,
    /// Words 0 and 1 to 3, without the base of [`First::half`].
    pub cd: [u64; 8],
    /// Upper address bits that are ignored.
    pub top_byte: bool,
}

/// A half with this granule.
fn half(random: &mut Random, upper: bool, granule: u32) -> Half {
    let stride = granule - 3;
    let bits = 25 + random.below(24) as u32;
    // What whole tables leave over is for the root (DDI 0487, D8.2.5).
    let levels = (bits - granule).div_ceil(stride);
    Half {
        upper,
        shape: Shape {
            granule,
            bits,
            start: 4 - levels,
        },
    }
}

/// TG0 or TG1.
fn granule_code(upper: bool, granule: u32) -> u64 {
    match (upper, granule) {
        (false, 12) | (true, 64) => 0,
        (false, 16) | (true, 14) => 1,
        (_, 16) => 3,
        _ => 2,
    }
}

/// A configuration that is legal, for outputs of at least `least` bits.
pub fn choose(random: &mut Random, granule: u32, least: u32) -> First {
    let upper = random.chance(30);
    let main = half(random, upper, granule);
    let fitting: Vec<usize> = (0..SIZES.len())
        .filter(|ips| SIZES[*ips] >= least)
        .collect();
    let ips = random.pick(&fitting);
    let mut low = 1 << 31 | (ips as u64) << 32 | 1 << 41 | 1 << 46; // V, IPS, AA64, A
    low |= random.bits(16) << 48; // ASID
    if random.chance(90) {
        low |= 1 << 45; // R
    }
    if random.chance(20) {
        low |= 1 << 35; // AFFD
    }
    let top_byte = random.chance(30);
    low |= random.bits(2) << 36; // WXN, UWXN
    // The bit of the half in use, and mostly the other one, which QEMU takes.
    let tbi = if random.chance(5) {
        1 << u32::from(upper)
    } else {
        0b11
    };
    low |= if top_byte { tbi << 38 } else { 0 };
    low |= random.bits(6) << 8 | random.bits(6) << 24; // IR, OR, SH of both
    let (place, other) = if upper { (16, 0) } else { (0, 16) };
    low |= u64::from(64 - main.shape.bits) << place | granule_code(upper, granule) << (place + 6);
    // The other half is off, its fields ignored.
    low |= random.bits(8) << other | 1 << (other + 14);
    let mut cd = [low, 0, 0, random.word(), 0, 0, 0, 0];
    let ignored = if upper { 1 } else { 2 };
    cd[ignored] = random.bits(40) << 12;
    if random.chance(20) {
        cd[1 + usize::from(upper)] |= 1 << 60; // HAD
    }
    First {
        half: main,
        output: SIZES[ips].min(OUTPUT_BITS),
        cd,
        top_byte,
    }
}

/// Makes a CD illegal, or at least odd.
pub fn spoil(random: &mut Random, cd: &mut [u64; 8], upper: bool) {
    let place = if upper { 16 } else { 0 };
    match random.below(10) {
        0 => cd[0] &= !(1 << 31),                                        // V
        1 => cd[0] &= !(1 << 41),                                        // AA64
        2 => cd[0] &= !(1 << 46),                                        // A
        3 => cd[0] |= 1 << 44,                                           // S
        4 => cd[0] |= (1 + random.below(3)) << 42,                       // HD, HA
        5 => cd[0] |= 1 << 15,                                           // ENDI
        6 => cd[0] = cd[0] & !(0x3f << place) | random.bits(6) << place, // TxSZ
        7 => cd[0] = cd[0] & !(3 << (place + 6)) | random.bits(2) << (place + 6), // TGx
        8 => cd[1 + usize::from(upper)] |= 1 << (40 + random.below(12)), // TTBx
        _ => cd[0] |= 1 << (place + 14),                                 // EPDx
    }
}

/// A leaf of stage 1 for `output`, an address aligned to its size.
pub fn leaf(random: &mut Random, output: u64, page: bool) -> u64 {
    let mut word = output | 1 | u64::from(page) << 1;
    // AttrIndx, NS, SH, nG; DBM, PXN, UXN; ignored bits.
    word |= random.bits(4) << 2 | random.bits(2) << 8 | random.bits(1) << 11;
    word |= random.bits(1) << 51 | random.bits(2) << 53 | random.bits(4) << 55;
    if random.chance(99) {
        word |= 1 << 6; // AP[1]: unprivileged
    }
    if random.chance(20) {
        word |= 1 << 7; // AP[2]: read-only
    }
    if random.chance(92) {
        word |= 1 << 10; // AF
    }
    if random.chance(15) {
        word |= 1 << 52; // Contiguous
    }
    word
}
