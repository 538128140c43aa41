//! Writes to a redistributor (GICR). The hypervisor owns no SGI or PPI. So the
//! host only has to be kept from Group 0, from the hypervisor's priority, and
//! from putting a redistributor to sleep that may have to deliver the
//! hypervisor's interrupts. Registers about LPIs are not this filter's: no
//! table address of the host passes.

use crate::extended_interrupts;
use crate::{Verdict, clamp_priorities};

/// GICR_WAKER.ProcessorSleep (IHI 0069, 12.11.42).
const PROCESSOR_SLEEP: u64 = 1 << 1;

/// Whether a host's read of `bytes` at `offset` from the RD frame's start, the
/// SGI frame included, is one that the architecture defines for a redistributor with
/// `extended` words of extended PPIs.
#[must_use]
pub fn redistributor_read(extended: u64, offset: u64, bytes: u32) -> bool {
    let aligned = offset.is_multiple_of(u64::from(bytes.max(1)));
    match bytes {
        1 => {
            let rest = offset.wrapping_sub(0x1_0000);
            (0x0400..0x0420).contains(&rest)
                || extended_interrupts::has_ppi_priorities(extended, rest)
        }
        4 => aligned,
        // GICR_TYPER, PROPBASER, PENDBASER.
        8 => matches!(offset, 0x0008 | 0x0070 | 0x0078),
        _ => false,
    }
}

/// A host's write of `bytes` at `offset` of the RD frame, to a register that is
/// not about LPIs. `GICR_CTLR` is: it has `EnableLPIs`.
#[must_use]
pub fn rd_write(offset: u64, bytes: u32, value: u64) -> Verdict {
    match (offset, bytes) {
        // GICR_STATUSR.
        (0x0010, 4) => Verdict::Write(value),
        (0x0014, 4) => Verdict::Write(value & !PROCESSOR_SLEEP),
        _ => Verdict::Ignore,
    }
}

/// A host's write of `bytes` at `offset` of the SGI frame, which configures
/// INTIDs 0 to 31 and `extended` words of extended PPIs.
#[must_use]
pub fn sgi_write(extended: u64, offset: u64, bytes: u32, value: u64) -> Verdict {
    let word = bytes == 4 && offset.is_multiple_of(4);
    match offset {
        // GICR_IGROUPR0: 1 is Group 1.
        0x0080 if word => Verdict::Write(0xffff_ffff),
        // Enable, pending and active bits, set and clear.
        0x0100 | 0x0180 | 0x0200 | 0x0280 | 0x0300 | 0x0380 if word => Verdict::Write(value),
        0x0400..=0x041f if word || bytes == 1 => Verdict::Write(clamp_priorities(value, bytes)),
        0x0c00 | 0x0c04 if word => Verdict::Write(value),
        _ => extended_interrupts::sgi_write(extended, offset, bytes, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redistributor_stays_awake() {
        assert_eq!(rd_write(0x14, 4, 2), Verdict::Write(0));
        assert_eq!(rd_write(0x14, 4, 0), Verdict::Write(0));
        assert_eq!(rd_write(0x14, 8, 2), Verdict::Ignore);
    }

    #[test]
    fn reads_have_the_sizes_of_the_architecture() {
        assert!(redistributor_read(0, 0x8, 8) && redistributor_read(0, 0x14, 4));
        assert!(redistributor_read(0, 0x1_0401, 1));
        assert!(!redistributor_read(0, 0x14, 8) && !redistributor_read(0, 0x16, 4));
        assert!(!redistributor_read(0, 0x401, 1));
    }

    #[test]
    fn no_register_of_lpis_passes_in_any_size() {
        for offset in (0..0x1_0000).filter(|o| !matches!(o, 0x10 | 0x14)) {
            for bytes in [1, 2, 4, 8] {
                let verdict = rd_write(offset, bytes, u64::MAX);
                assert_eq!(verdict, Verdict::Ignore, "{offset:#x}, {bytes}");
            }
        }
    }

    #[test]
    fn sgis_and_ppis_are_always_group_1() {
        assert_eq!(sgi_write(0, 0x80, 4, 0), Verdict::Write(0xffff_ffff));
        assert_eq!(sgi_write(0, 0x400, 4, 0), Verdict::Write(0x1010_1010));
        assert_eq!(sgi_write(0, 0x41f, 1, 0xf0), Verdict::Write(0xf0));
        assert_eq!(sgi_write(0, 0xd00, 4, 0xffff_ffff), Verdict::Ignore);
        assert_eq!(sgi_write(0, 0x100, 4, 0x1234), Verdict::Write(0x1234));
    }
}
