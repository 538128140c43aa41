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

/// Where the distributor has bytes: priorities.
pub(crate) fn has_priorities(offset: u64) -> bool {
    (0x2000..0x2400).contains(&offset)
}

/// Where the distributor has 64 bits: `GICD_IROUTER<n>E`.
pub(crate) fn has_routes(offset: u64) -> bool {
    (0x8000..0xa000).contains(&offset)
}

/// A write to the distributor.
pub(crate) fn distributor_write(offset: u64, bytes: u32, value: u64) -> Verdict {
    let aligned = offset.is_multiple_of(u64::from(bytes.max(1)));
    match (offset, bytes) {
        // GICD_IGROUPR<n>E: 1 is Group 1.
        (0x1000..=0x107f, 4) if aligned => Verdict::Write(0xffff_ffff),
        // GICD_ISENABLER<n>E, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER.
        (0x1200..=0x1dff, 4) if aligned && offset & 0x1ff < 0x80 => Verdict::Write(value),
        // GICD_IPRIORITYR<n>E.
        (0x2000..=0x23ff, 1 | 4) if aligned => Verdict::Write(clamp_priorities(value, bytes)),
        // GICD_ICFGR<n>E.
        (0x3000..=0x30ff, 4) if aligned => Verdict::Write(value),
        (0x8000..=0x9fff, 4 | 8) if aligned => Verdict::Write(value),
        _ => Verdict::Ignore,
    }
}

/// A write to the SGI frame of a redistributor, which has at most 64 extended PPIs.
pub(crate) fn sgi_write(offset: u64, bytes: u32, value: u64) -> Verdict {
    let aligned = offset.is_multiple_of(u64::from(bytes.max(1)));
    match (offset, bytes) {
        // GICR_IGROUPR<n>E.
        (0x0084 | 0x0088, 4) => Verdict::Write(0xffff_ffff),
        // GICR_ISENABLER<n>E, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER.
        (0x0104..=0x0388, 4) if matches!(offset & 0x7f, 4 | 8) => Verdict::Write(value),
        // GICR_IPRIORITYR<n>E.
        (0x0420..=0x045f, 1 | 4) if aligned => Verdict::Write(clamp_priorities(value, bytes)),
        // GICR_ICFGR<n>E.
        (0x0c08..=0x0c17, 4) if aligned => Verdict::Write(value),
        _ => Verdict::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use crate::Verdict::{Ignore, Write};
    use crate::{Owned, distributor_read, distributor_write, sgi_write};

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
        let write = |offset, bytes, value| distributor_write(&Owned::new(), offset, bytes, value);
        for block in [0x1000, 0x107c] {
            assert_eq!(write(block, 4, 0), Write(0xffff_ffff), "{block:#x}");
        }
        for block in [0x1200, 0x1400, 0x1600, 0x1800, 0x1a00, 0x1c00] {
            assert_eq!(write(block, 4, 5), Write(5), "{block:#x}");
            assert_eq!(write(block + 0x7c, 4, 5), Write(5), "{block:#x}");
            assert_eq!(write(block + 0x80, 4, 5), Ignore, "{block:#x}");
            assert_eq!(write(block + 2, 4, 5), Ignore, "{block:#x}");
            assert_eq!(write(block, 1, 5), Ignore, "{block:#x}");
        }
        assert_eq!(write(0x2000, 4, 0xa0a0_00a0), Write(0xa0a0_10a0));
        assert_eq!(write(0x23ff, 1, 0), Write(0x10));
        assert_eq!(write(0x2400, 1, 0), Ignore);
        assert_eq!(write(0x3000, 4, 2), Write(2));
        assert_eq!(write(0x3100, 4, 2), Ignore);
        // Group modifiers and access from Non-secure state.
        assert_eq!(write(0x3400, 4, 2), Ignore);
        assert_eq!(write(0x3600, 4, 2), Ignore);
        assert_eq!(write(0x8000, 8, 1), Write(1));
        assert_eq!(write(0x9ffc, 4, 1), Write(1));
        assert_eq!(write(0x9ffc, 8, 1), Ignore);
        assert_eq!(write(0xa000, 8, 1), Ignore);
        assert!(distributor_read(0x8008, 8) && distributor_read(0x2001, 1));
        assert!(!distributor_read(0xa000, 8) && !distributor_read(0x1001, 1));
    }

    #[test]
    fn every_register_of_extended_ppis() {
        for (offset, value) in [
            (0x84, 0xffff_ffff),
            (0x88, 0xffff_ffff),
            (0x104, 3),
            (0x388, 3),
        ] {
            assert_eq!(sgi_write(offset, 4, 3), Write(value), "{offset:#x}");
        }
        for offset in [0x8c, 0x10c, 0x38c, 0x460, 0xc18] {
            assert_eq!(sgi_write(offset, 4, 3), Ignore, "{offset:#x}");
        }
        assert_eq!(sgi_write(0x420, 4, 0), Write(0x1010_1010));
        assert_eq!(sgi_write(0x45f, 1, 0), Write(0x10));
        assert_eq!(sgi_write(0xc08, 4, 2), Write(2));
        assert_eq!(sgi_write(0xc14, 4, 2), Write(2));
        assert!(crate::redistributor_read(0x1_045f, 1));
    }
}
