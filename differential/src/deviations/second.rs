//! Stage 2, configuration and permissions.

use super::Deviation;
use crate::tables::Stage;

/// In the order in which they are tried.
pub(super) const KNOWN: &[Deviation] = &[
    Deviation {
        name: "s2t0sz-by-s2ps",
        section: "5.2 STE.S2T0SZ, 3.4",
        qemu: "limits the size of the input of stage 2 by S2PS instead of the IAS",
        explains: |context| {
            context.ours() != 0x04
                && context.theirs() == 0x04
                && context.holds(|facts| {
                    let second = facts.second()?;
                    Some(second.shape.bits > second.output)
                })
        },
    },
    Deviation {
        name: "s2ha-s2hd",
        section: "5.2 STE.S2HA",
        qemu: "takes S2HA and S2HD although IDR0.HTTU is 0",
        explains: |context| {
            context.ours() == 0x04
                && context.theirs() != 0x04
                && context
                    .holds(|facts| Some(facts.second().is_some() && facts.ste[2] >> 55 & 3 != 0))
        },
    },
    Deviation {
        name: "concatenated-roots",
        section: "5.2 STE.S2TTB; DDI 0487, D8.2.2",
        qemu: "reads the first of several root tables of stage 2 for every input",
        explains: |context| {
            context.holds(|facts| {
                let shape = facts.second()?.shape;
                let one = shape.shift(shape.start) + shape.granule - 3;
                Some(facts.visits().iter().any(|visit| {
                    visit.stage == Stage::Two && one < shape.bits && visit.input >> one & 0xf != 0
                }))
            })
        },
    },
    Deviation {
        name: "start-level",
        section: "5.2 STE.S2SL0; DDI 0487, D8.2.5",
        qemu: "takes a start level of stage 2 at which nothing is left to resolve",
        explains: |context| {
            context.ours() == 0x04
                && context.holds(|facts| {
                    let shape = facts.second()?.shape;
                    Some(shape.bits <= shape.shift(shape.start))
                })
        },
    },
    Deviation {
        name: "base-high-bits",
        section: "5.2 STE.S2TTB, 5.4 CD.TTB0",
        qemu: "ignores bits 51:48 of S2TTB and TTBx",
        explains: |context| {
            let high = |word: u64| word >> 48 & 0xf != 0;
            match context.ours() {
                0x04 => context.holds(|facts| Some(facts.second().is_some() && high(facts.ste[3]))),
                0x0a => context.holds(|facts| {
                    let cd = facts.cd();
                    Some(high(cd[1]) || high(cd[2]))
                }),
                _ => false,
            }
        },
    },
    Deviation {
        name: "s2ptw",
        section: "5.2 STE.S2PTW",
        qemu: "lets stage 1 structures be in what stage 2 calls Device memory",
        explains: |context| {
            context.ours_or_silent(0x13)
                && context.holds(|facts| {
                    let ptw = facts.ste[2] >> 54 & 1 != 0 && facts.config() == 0b111;
                    let device = |word: u64| word >> 4 & 0b11 == 0;
                    let visits = facts.visits();
                    Some(
                        ptw && visits.iter().any(|visit| {
                            visit.stage == Stage::Two && visit.leaf && device(visit.word)
                        }),
                    )
                })
        },
    },
    Deviation {
        name: "hit-permission",
        section: "7.3.16, 5.2 STE.S2R",
        qemu: "on a hit in its TLB, checks no read permission, and records for stage 2 what R \
               and not S2R says, without an IPA",
        explains: |context| {
            context.ours_or_silent(0x13)
                && context.may_hit()
                && (context.qemu.events.is_empty()
                    || context
                        .same_but(0, u64::MAX)
                        .is_some_and(|(_, ipa)| ipa == 0))
                && context.holds(|facts| Some(facts.second().is_some()))
        },
    },
];
