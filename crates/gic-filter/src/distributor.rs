//! Writes to the distributor (GICD).

use crate::extended_interrupts;
use crate::{Owned, Verdict, clamp_priorities};

/// GICD_CTLR.EnableGrp0 and .ARE, which stay on (IHI 0069, 12.9.4, the layout
/// for a single security state).
const CTLR_KEEP_ON: u64 = 1 << 0 | 1 << 4;

/// GICD_CTLR.ARE_NS as the host and EL2 see it where there are two security states.
const CTLR_ARE_NS: u64 = 1 << 4;

/// Whether a host's read of `bytes` at `offset` is one that the architecture
/// defines for a distributor whose extended SPIs end at `extended`. What another size
/// does to the GIC is its implementation's choice, and the access would be EL2's.
#[must_use]
pub fn distributor_read(extended: u32, offset: u64, bytes: u32) -> bool {
    let aligned = offset.is_multiple_of(u64::from(bytes.max(1)));
    match bytes {
        1 => {
            (0x0400..0x0800).contains(&offset)
                || extended_interrupts::has_priorities(extended, offset)
        }
        4 => aligned,
        8 => {
            let routes = (0x6100..0x7fe0).contains(&offset);
            aligned && (routes || extended_interrupts::has_routes(extended, offset))
        }
        _ => false,
    }
}

/// Decides about a host's write of `bytes` (1, 2, 4 or 8) at `offset` from the
/// base of a distributor whose extended SPIs end at `extended`.
///
/// Offsets where an access of that size is not defined by the architecture are
/// ignored, as hardware may do.
#[must_use]
pub fn distributor_write(
    owned: &Owned,
    extended: u32,
    offset: u64,
    bytes: u32,
    value: u64,
) -> Verdict {
    let width = bytes.saturating_mul(8);
    // First INTID of a register block with `bits` bits for each interrupt.
    let first = |block: u64, bits: u64| ((offset - block) * 8 / bits) as u32;
    let word = bytes == 4 && offset.is_multiple_of(4);
    match offset {
        0x0000 if word => Verdict::Write(value | CTLR_KEEP_ON),
        // GICD_SETSPI_NSR, CLRSPI_NSR, SETSPI_SR, CLRSPI_SR: the value names
        // the INTID.
        0x0040 | 0x0048 | 0x0050 | 0x0058 if bytes == 4 || bytes == 2 => {
            if owned.contains((value & 0x3ff) as u32) {
                Verdict::Ignore
            } else {
                Verdict::Write(value)
            }
        }
        // GICD_IGROUPR: 1 is Group 1.
        0x0080..=0x00ff if word => {
            let own = owned.mask(first(0x0080, 1), 1, width);
            Verdict::Write(0xffff_ffff & !own)
        }
        // Enable, pending and active bits, set and clear: writing 0 does
        // nothing.
        0x0100..=0x03ff if word => {
            let block = offset & !0x7f;
            Verdict::Write(value & !owned.mask(first(block, 1), 1, width))
        }
        0x0400..=0x07ff if word || bytes == 1 => {
            let own = owned.mask(first(0x0400, 8), 8, width);
            Verdict::Write(clamp_priorities(value, bytes) & !own)
        }
        // GICD_ICFGR: the bits of one interrupt cannot be left out of a write.
        0x0c00..=0x0cff if word => {
            let keep = owned.mask(first(0x0c00, 2), 2, width);
            if keep == 0 {
                Verdict::Write(value)
            } else {
                Verdict::Merge { value, keep }
            }
        }
        // GICD_IROUTER<n>, n from 32: 64 bits each, writable in halves.
        0x6100..=0x7fdf
            if (bytes == 4 || bytes == 8) && offset.is_multiple_of(u64::from(bytes)) =>
        {
            if owned.contains(((offset - 0x6000) / 8) as u32) {
                Verdict::Ignore
            } else {
                Verdict::Write(value)
            }
        }
        0x1000..=0x3fff | 0x8000..=0x9fff => {
            extended_interrupts::distributor_write(extended, offset, bytes, value)
        }
        // GICD_ITARGETSR, IGRPMODR, NSACR, SGIR: without effect when affinity
        // routing is on with one security state; nothing to pass on. The rest
        // is read-only, reserved or implementation defined.
        _ => Verdict::Ignore,
    }
}

/// What to do with a host's write where there are two security states: hardware
/// itself keeps the host from what is not its own. Affinity routing stays on, since
/// EL2 has enabled LPIs, which need it; to clear it is UNPREDICTABLE (IHI 0069,
/// GICD_CTLR), and the access would be EL2's.
#[must_use]
pub fn shared_distributor_write(extended: u32, offset: u64, bytes: u32, value: u64) -> Verdict {
    match (offset, bytes) {
        (0x0000, 4) => Verdict::Write(value | CTLR_ARE_NS),
        _ if distributor_read(extended, offset, bytes) => Verdict::Write(value),
        _ => Verdict::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned() -> Owned {
        let mut owned = Owned::new();
        assert!(owned.add(106));
        owned
    }

    fn write(offset: u64, bytes: u32, value: u64) -> Verdict {
        distributor_write(&owned(), 4096, offset, bytes, value)
    }

    #[test]
    fn group_0_stays_enabled() {
        assert_eq!(write(0, 4, 0), Verdict::Write(0x11));
        assert_eq!(write(0, 4, 0x12), Verdict::Write(0x13));
    }

    #[test]
    fn affinity_routing_stays_with_two_security_states() {
        let write = |offset, bytes, value| shared_distributor_write(4096, offset, bytes, value);
        assert_eq!(write(0, 4, 0), Verdict::Write(0x10));
        assert_eq!(write(0, 4, 0x3), Verdict::Write(0x13));
        assert_eq!(write(0x100, 4, 0), Verdict::Write(0));
        assert_eq!(write(0, 8, 0), Verdict::Ignore);
        assert_eq!(write(0, 1, 0), Verdict::Ignore);
    }

    #[test]
    fn the_host_is_always_in_group_1_and_we_never() {
        // GICD_IGROUPR3 holds 96..127; 106 is bit 10.
        assert_eq!(write(0x8c, 4, 0), Verdict::Write(0xffff_fbff));
        assert_eq!(write(0x88, 4, 0), Verdict::Write(0xffff_ffff));
    }

    #[test]
    fn enable_pending_and_active_bits_of_ours_are_dropped() {
        for block in [0x100, 0x180, 0x200, 0x280, 0x300, 0x380] {
            assert_eq!(
                write(block + 12, 4, 0xffff_ffff),
                Verdict::Write(0xffff_fbff)
            );
            assert_eq!(
                write(block + 8, 4, 0xffff_ffff),
                Verdict::Write(0xffff_ffff)
            );
        }
    }

    #[test]
    fn priorities_by_byte_and_by_word() {
        assert_eq!(
            write(0x400 + 104, 4, 0xa0a0_a0a0),
            Verdict::Write(0xa000_a0a0)
        );
        assert_eq!(write(0x400 + 106, 1, 0xa0), Verdict::Write(0));
        assert_eq!(write(0x400 + 107, 1, 0), Verdict::Write(0x10));
        assert_eq!(write(0x400 + 104, 2, 0xa0a0), Verdict::Ignore);
    }

    #[test]
    fn our_trigger_kind_is_kept() {
        // GICD_ICFGR6 holds 96..111; 106 has bits 21:20.
        assert_eq!(
            write(0xc18, 4, 0),
            Verdict::Merge {
                value: 0,
                keep: 0x0030_0000
            }
        );
        assert_eq!(write(0xc1c, 4, 7), Verdict::Write(7));
    }

    #[test]
    fn our_route_cannot_be_changed_in_any_size() {
        let irouter = 0x6000 + 106 * 8;
        assert_eq!(write(irouter, 8, 1), Verdict::Ignore);
        assert_eq!(write(irouter, 4, 1), Verdict::Ignore);
        assert_eq!(write(irouter + 4, 4, 1), Verdict::Ignore);
        assert_eq!(write(irouter + 8, 8, 1), Verdict::Write(1));
        assert_eq!(write(irouter + 1, 8, 1), Verdict::Ignore);
    }

    #[test]
    fn message_based_spis_cannot_fire_ours() {
        assert_eq!(write(0x40, 4, 106), Verdict::Ignore);
        assert_eq!(write(0x40, 4, 0x400 | 106), Verdict::Ignore);
        assert_eq!(write(0x48, 4, 107), Verdict::Write(107));
    }

    #[test]
    fn reads_have_the_sizes_of_the_architecture() {
        assert!(distributor_read(4096, 0x0004, 4) && distributor_read(4096, 0x0401, 1));
        assert!(distributor_read(4096, 0x6350, 8));
        assert!(!distributor_read(4096, 0x0004, 8) && !distributor_read(4096, 0x0004, 1));
        assert!(!distributor_read(4096, 0x0402, 2) && !distributor_read(4096, 0x0006, 4));
    }

    #[test]
    fn what_is_not_understood_is_ignored() {
        assert_eq!(write(0x0e00, 4, 0), Verdict::Ignore);
        assert_eq!(write(0x0d00, 4, 0), Verdict::Ignore);
        assert_eq!(write(0x0f00, 4, 0), Verdict::Ignore);
        assert_eq!(write(0x0081, 4, 0), Verdict::Ignore);
        assert_eq!(write(0x0100, 1, 0), Verdict::Ignore);
        assert_eq!(write(0x4000, 4, 0), Verdict::Ignore);
    }
}
