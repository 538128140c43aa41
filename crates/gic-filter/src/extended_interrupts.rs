//! Extended SPIs and PPIs (IHI 0069, GICv3.1): registers of their own, behind those of
//! the others. All of them are the host's.

use crate::{Verdict, clamp_priorities};

/// The first INTID of an extended SPI.
pub const EXTENDED_SPI: u32 = 4096;

/// One more than the INTID of the last extended SPI that a distributor with this
/// `GICD_TYPER` has (`ESPI`, bit 8, and `ESPI_range`, bits 31:27, in steps of 32);
/// [`EXTENDED_SPI`] where it has none.
#[must_use]
pub fn extended_spi_end(typer: u32) -> u32 {
    match typer >> 8 & 1 {
        0 => EXTENDED_SPI,
        _ => EXTENDED_SPI + 32 * ((typer >> 27) + 1),
    }
}

/// How many extended PPIs a redistributor with this `GICR_TYPER` has, in words of 32
/// (`PPInum`, bits 31:27: 0, 32 or 64 of them; other values are reserved).
#[must_use]
pub fn extended_ppi_words(typer: u64) -> u64 {
    match typer >> 27 & 0x1f {
        words @ 1..=2 => words,
        _ => 0,
    }
}

/// Whether `offset` is in the priority bytes of a distributor whose extended
/// SPIs end at `end`.
pub(crate) fn has_priorities(end: u32, offset: u64) -> bool {
    at(offset, 0x2000, 8).is_some_and(|intid| intid < end)
}

/// Whether `offset` is in its 64-bit registers, `GICD_IROUTER<n>E`.
pub(crate) fn has_routes(end: u32, offset: u64) -> bool {
    at(offset, 0x8000, 64).is_some_and(|intid| intid < end)
}

/// The first INTID that the register at `offset` is about, where there is a block at
/// `block` with `bits` bits for each of 1,024 interrupts.
fn at(offset: u64, block: u64, bits: u64) -> Option<u32> {
    let index = offset.checked_sub(block)? * 8 / bits;
    // Truncation: below 1,024.
    (index < 1024).then_some(EXTENDED_SPI + index as u32)
}

/// A write to a distributor whose extended SPIs end at `end`. What it does not have is
/// reserved, and may be anything.
pub(crate) fn distributor_write(end: u32, offset: u64, bytes: u32, value: u64) -> Verdict {
    let aligned = offset.is_multiple_of(u64::from(bytes.max(1)));
    let is = |block, bits| aligned && at(offset, block, bits).is_some_and(|intid| intid < end);
    // GICD_ISENABLER<n>E, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER.
    let set_or_clear = || {
        let mut blocks = (0x1200..=0x1c00).step_by(0x200);
        blocks.any(|block| is(block, 1))
    };
    match bytes {
        // GICD_IGROUPR<n>E: 1 is Group 1.
        4 if is(0x1000, 1) => Verdict::Write(0xffff_ffff),
        4 if set_or_clear() => Verdict::Write(value),
        // GICD_IPRIORITYR<n>E.
        1 | 4 if is(0x2000, 8) => Verdict::Write(clamp_priorities(value, bytes)),
        // GICD_ICFGR<n>E.
        4 if is(0x3000, 2) => Verdict::Write(value),
        4 | 8 if is(0x8000, 64) => Verdict::Write(value),
        _ => Verdict::Ignore,
    }
}

/// A write to the SGI frame of a redistributor with `words` words of extended PPIs.
pub(crate) fn sgi_write(words: u64, offset: u64, bytes: u32, value: u64) -> Verdict {
    let aligned = offset.is_multiple_of(u64::from(bytes.max(1)));
    // Behind the registers of the first 32 interrupts, `each` bytes for a word's.
    let is = |block: u64, each: u64| {
        let first = block + each;
        aligned && (first..first + words * each).contains(&offset)
    };
    let set_or_clear = || {
        let mut blocks = (0x0100..=0x0380).step_by(0x80);
        blocks.any(|block| is(block, 4))
    };
    match bytes {
        // GICR_IGROUPR<n>E.
        4 if is(0x0080, 4) => Verdict::Write(0xffff_ffff),
        // GICR_ISENABLER<n>E, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER.
        4 if set_or_clear() => Verdict::Write(value),
        // GICR_IPRIORITYR<n>E.
        1 | 4 if is(0x0400, 32) => Verdict::Write(clamp_priorities(value, bytes)),
        // GICR_ICFGR<n>E.
        4 if is(0x0c00, 8) => Verdict::Write(value),
        _ => Verdict::Ignore,
    }
}

/// Whether `offset` is in the priority bytes of the SGI frame of such a
/// redistributor.
pub(crate) fn has_ppi_priorities(words: u64, rest: u64) -> bool {
    (0x0420..0x0420 + 32 * words).contains(&rest)
}

#[cfg(test)]
mod tests {
    use crate::Verdict::{Ignore, Write};
    use crate::{Owned, distributor_read, distributor_write, redistributor_read, sgi_write};

    #[test]
    fn how_many_there_are() {
        assert_eq!(super::extended_spi_end(0x0000_04ff), 4096);
        assert_eq!(super::extended_spi_end(1 << 8), 4096 + 32);
        assert_eq!(super::extended_spi_end(0xf800_0100), 4096 + 1024);
        assert_eq!(super::extended_ppi_words(0), 0);
        assert_eq!(super::extended_ppi_words(2 << 27), 2);
        assert_eq!(super::extended_ppi_words(3 << 27), 0);
    }

    #[test]
    fn every_register_of_extended_spis() {
        const END: u32 = 4096 + 64;
        let none = Owned::new();
        let write = |offset, bytes, value| distributor_write(&none, END, offset, bytes, value);
        for block in [0x1000, 0x1004] {
            assert_eq!(write(block, 4, 0), Write(0xffff_ffff), "{block:#x}");
        }
        for block in [0x1200, 0x1400, 0x1600, 0x1800, 0x1a00, 0x1c00] {
            assert_eq!(write(block, 4, 5), Write(5), "{block:#x}");
            assert_eq!(write(block + 4, 4, 5), Write(5), "{block:#x}");
            // The distributor has no more of them.
            assert_eq!(write(block + 8, 4, 5), Ignore, "{block:#x}");
            assert_eq!(write(block + 2, 4, 5), Ignore, "{block:#x}");
            assert_eq!(write(block, 1, 5), Ignore, "{block:#x}");
        }
        assert_eq!(write(0x1e00, 4, 5), Ignore);
        assert_eq!(write(0x2000, 4, 0xa0a0_00a0), Write(0xa0a0_10a0));
        assert_eq!(write(0x203f, 1, 0), Write(0x10));
        assert_eq!(write(0x2040, 1, 0), Ignore);
        assert_eq!(write(0x3000, 4, 2), Write(2));
        assert_eq!(write(0x300c, 4, 2), Write(2));
        assert_eq!(write(0x3010, 4, 2), Ignore);
        // Group modifiers and access from Non-secure state.
        assert_eq!(write(0x3400, 4, 2), Ignore);
        assert_eq!(write(0x3600, 4, 2), Ignore);
        assert_eq!(write(0x8000, 8, 1), Write(1));
        assert_eq!(write(0x81fc, 4, 1), Write(1));
        assert_eq!(write(0x81fc, 8, 1), Ignore);
        assert_eq!(write(0x8200, 8, 1), Ignore);
        assert!(distributor_read(END, 0x8008, 8) && distributor_read(END, 0x2001, 1));
        assert!(!distributor_read(END, 0x8200, 8) && !distributor_read(END, 0x2040, 1));
        assert!(!distributor_read(END, 0x1001, 1));
        // All there can be, and none.
        let all = |offset| distributor_write(&none, 5120, offset, 4, 5);
        assert_eq!(
            [0x127c, 0x1280, 0x9ffc, 0xa000].map(all),
            [Write(5), Ignore, Write(5), Ignore]
        );
        for offset in (0x1000..0x4000).chain(0x8000..0xa000) {
            for bytes in [1, 2, 4, 8] {
                let write = distributor_write(&none, 4096, offset, bytes, 1);
                assert_eq!(write, Ignore, "{offset:#x}");
            }
            assert!(!distributor_read(4096, offset, 8) && !distributor_read(4096, offset, 1));
        }
    }

    #[test]
    fn every_register_of_extended_ppis() {
        let write = |offset, bytes, value| sgi_write(2, offset, bytes, value);
        for (offset, value) in [(0x84, !0), (0x88, !0), (0x104, 3), (0x388, 3)] {
            let value = Write(u64::from(value as u32));
            assert_eq!(write(offset, 4, 3), value, "{offset:#x}");
        }
        for offset in [0x8c, 0x10c, 0x38c, 0x460, 0xc18] {
            assert_eq!(write(offset, 4, 3), Ignore, "{offset:#x}");
        }
        assert_eq!(write(0x420, 4, 0), Write(0x1010_1010));
        assert_eq!(write(0x45f, 1, 0), Write(0x10));
        assert_eq!(write(0xc08, 4, 2), Write(2));
        assert_eq!(write(0xc14, 4, 2), Write(2));
        // One word of them, and none.
        let one = |offset| sgi_write(1, offset, 4, 3);
        assert_eq!(
            [0x104, 0x108, 0xc0c, 0xc10].map(one),
            [Write(3), Ignore, Write(3), Ignore]
        );
        for offset in [0x84, 0x104, 0x420, 0xc08] {
            assert_eq!(sgi_write(0, offset, 4, 3), Ignore, "{offset:#x}");
        }
        assert!(redistributor_read(1, 0x1_043f, 1));
        assert!(!redistributor_read(1, 0x1_0440, 1) && !redistributor_read(0, 0x1_0420, 1));
    }
}
