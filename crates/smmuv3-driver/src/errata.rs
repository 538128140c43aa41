//! Known errata of implementations, keyed by IIDR.

use smmuv3_spec::id::Iidr;

bitflags::bitflags! {
    /// Workarounds in force.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Quirks: u8 {
        /// Wake-up events are not reliable: wait by polling.
        const NO_SEV = 1 << 0;
        /// Stage 1 on top of stage 2 is not reliable.
        const NO_NESTING = 1 << 1;
        /// Broadcast TLB maintenance must not be relied upon.
        const NO_BTM = 1 << 2;
        /// A CMD_SYNC must follow after a bounded number of commands.
        const BOUNDED_BATCH = 1 << 3;
        /// Configuration caches survive a stage 2 invalidation with stale
        /// physical addresses in them: invalidate them as well.
        const CFGI_AFTER_STAGE2 = 1 << 4;
    }
}

struct Erratum {
    /// The bits of IIDR that decide.
    mask: u32,
    value: u32,
    /// Revisions below this `variant << 4 | revision` are affected.
    below: u8,
    quirks: Quirks,
    why: &'static str,
}

const PRODUCT: u32 = 0xfff0_0fff;
const MMU_600: u32 = 0x4830_043b;
const MMU_700: u32 = 0x4870_043b;

/// The Arm entries are the errata for which the Linux driver carries
/// workarounds, by their public numbers.
const ERRATA: &[Erratum] = &[
    Erratum {
        mask: PRODUCT,
        value: MMU_600,
        below: 0x03,
        quirks: Quirks::NO_SEV,
        why: "MMU-600 1076982, r0p0 to r0p2: wake-up events may be lost",
    },
    Erratum {
        mask: PRODUCT,
        value: MMU_600,
        below: 0x20,
        quirks: Quirks::NO_NESTING,
        why: "MMU-600 1209401, before r2p0: nested translation",
    },
    Erratum {
        mask: PRODUCT,
        value: MMU_700,
        below: 0xff,
        quirks: Quirks::NO_BTM.union(Quirks::BOUNDED_BATCH),
        why: "MMU-700 2812531: broadcast and long runs of invalidations without CMD_SYNC",
    },
    Erratum {
        mask: PRODUCT,
        value: MMU_700,
        below: 0x11,
        quirks: Quirks::NO_NESTING,
        why: "MMU-700 2268618 and 2812531, before r1p1: nested translation",
    },
    Erratum {
        mask: u32::MAX,
        value: 0,
        below: 0xff,
        quirks: Quirks::CFGI_AFTER_STAGE2,
        why: "IIDR 0 is QEMU's emulation: it keeps the physical address of the stage 1 root with the CD",
    },
];

fn affected(iidr: Iidr) -> impl Iterator<Item = &'static Erratum> {
    let raw = u32::from(iidr);
    let revision = iidr.variant() << 4 | iidr.revision();
    ERRATA
        .iter()
        .filter(move |e| raw & e.mask == e.value && revision < e.below)
}

impl Quirks {
    /// The workarounds for the implementation that `iidr` names (IHI 0070,
    /// 6.3.7).
    #[must_use]
    pub fn of(iidr: Iidr) -> Self {
        affected(iidr).fold(Self::empty(), |all, e| all | e.quirks)
    }

    /// One line for each erratum that applies, for the log.
    pub fn reasons(iidr: Iidr) -> impl Iterator<Item = &'static str> {
        affected(iidr).map(|e| e.why)
    }
}
