//! Random commands, most of which some SMMU has (IHI 0070, chapter 4).

use crate::random::Random;

/// Opcodes of all commands, and some that none has.
const OPCODES: [u64; 34] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x18, 0x1a, 0x20, 0x21, 0x22,
    0x23, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46, 0x46, 0x46, 0x47, 0x50, 0x5f, 0x70, 0x80,
    0x00, 0xff,
];

/// A command that may be legal or not.
pub fn stray(random: &mut Random) -> [u64; 2] {
    let opcode = if random.chance(93) {
        random.pick(&[0x01, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x28, 0x30, 0x46])
    } else {
        random.pick(&OPCODES)
    };
    match opcode {
        // CMD_SYNC: CS, and what belongs to an interrupt.
        0x46 => {
            let cs = random.pick(&[0u64, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3]);
            [opcode | cs << 12 | random.bits(6) << 22, 0]
        }
        // A page, or a range of some.
        0x12 | 0x13 | 0x2a | 0x20 | 0x22 => {
            let tags = random.word() & !0xffff_ffff;
            let address = random.bits(40) & !0xfff;
            if random.chance(70) {
                return [opcode | tags, address | random.bits(1)];
            }
            let range = (1 + random.below(31)) << 12 | random.below(4) << 20;
            [
                opcode | tags | range,
                address & !0xf_ffff | (1 + random.below(3)) << 10,
            ]
        }
        // A stream, a range of streams; SSec seldom.
        0x01..=0x06 => {
            let secure = u64::from(random.chance(4)) << 10;
            let stream = random.pick(&[0x8u64, 0x10, 0x13, 0x100, 0x900, 0x4321]);
            [opcode | secure | stream << 32, random.bits(5)]
        }
        _ => [opcode | random.bits(32) << 32, random.bits(8) << 12],
    }
}
