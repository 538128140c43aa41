//! Random stage 2 configurations (IHI 0070, 5.2).

use crate::random::Random;
use crate::tables::Shape;

/// Bits of the sizes that S2PS and IPS encode.
pub const SIZES: [u32; 6] = [32, 36, 40, 42, 44, 48];
/// What QEMU's SMMU has.
pub const OUTPUT_BITS: u32 = 44;

/// The part of an STE that is about stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Second {
    /// How tables are divided.
    pub shape: Shape,
    /// Bits of an output address.
    pub output: u32,
    /// Word 2, without S2TTB being anywhere.
    pub word: u64,
}

/// A configuration that is legal.
pub fn choose(random: &mut Random) -> Second {
    let granule = random.pick(&[12u32, 12, 14, 16]);
    let stride = granule - 3;
    let (start, bits) = loop {
        let bits = 25 + random.below(u64::from(OUTPUT_BITS) - 24) as u32;
        let start = random.below(4) as u32;
        let shift = granule + stride * (3 - start);
        // Start levels without small tables (FEAT_TTST): 4 KiB from 2 up.
        if granule == 12 && start == 3 || granule != 12 && start == 0 {
            continue;
        }
        // One entry at least resolved, 16 tables side by side at most. More
        // than one seldom: QEMU has it wrong.
        let tables = if random.chance(2) { 4 } else { 0 };
        if bits > shift && bits <= shift + stride + tables {
            break (start, bits);
        }
    };
    let sl0 = match granule {
        12 => 2 - start,
        _ => 3 - start,
    };
    // QEMU refuses inputs larger than the output size; see the deviations.
    let fitting: Vec<usize> = (0..SIZES.len())
        .filter(|index| SIZES[*index] >= bits || random.chance(1))
        .collect();
    let ps = random.pick(&fitting);
    let tg = match granule {
        12 => 0u64,
        16 => 1,
        _ => 2,
    };
    let mut word = random.bits(16) // S2VMID
        | u64::from(64 - bits) << 32
        | u64::from(sl0) << 38
        | random.bits(6) << 40 // S2IR0, S2OR0, S2SH0
        | tg << 46
        | (ps as u64) << 48
        | 1 << 51; // S2AA64
    if random.chance(20) {
        word |= 1 << 53; // S2AFFD
    }
    if random.chance(90) {
        word |= 1 << 58; // S2R
    }
    if random.chance(20) {
        word |= 1 << 54; // S2PTW
    }
    Second {
        shape: Shape {
            granule,
            bits,
            start,
        },
        output: SIZES[ps].min(OUTPUT_BITS),
        word,
    }
}

/// Makes an entry's stage 2 illegal, or at least odd.
pub fn spoil(random: &mut Random, ste: &mut [u64; 8]) {
    match random.below(8) {
        0 => ste[2] |= 3 << 46,                                      // S2TG
        1 => ste[2] = ste[2] & !(0x3f << 32) | random.bits(6) << 32, // S2T0SZ
        2 => ste[2] = ste[2] & !(3 << 38) | random.bits(2) << 38,    // S2SL0
        // S2TTB; not where QEMU has devices, above 256 GiB.
        3 => ste[3] |= 1 << random.pick(&[32u32, 33, 35, 36, 37, 41, 43, 44, 46, 47, 49, 51]),
        4 => ste[2] |= 1 << 52,                                   // S2ENDI
        5 => ste[2] |= (1 + random.below(3)) << 55,               // S2HD, S2HA
        6 => ste[2] |= 1 << 57,                                   // S2S
        _ => ste[2] = ste[2] & !(7 << 48) | random.bits(3) << 48, // S2PS
    }
}

/// A leaf of stage 2 for `output`, an address aligned to its size.
pub fn leaf(random: &mut Random, output: u64, page: bool) -> u64 {
    let mut word = output | 1 | u64::from(page) << 1;
    // MemAttr, SH; ignored bits.
    word |= random.bits(4) << 2 | random.bits(2) << 8 | random.bits(4) << 55;
    word |= if random.chance(70) {
        0b11
    } else {
        random.bits(2)
    } << 6; // S2AP
    if random.chance(92) {
        word |= 1 << 10; // AF
    }
    if random.chance(15) {
        word |= 1 << 52; // Contiguous
    }
    if random.chance(30) {
        word |= random.bits(2) << 53; // XN
    }
    word
}
