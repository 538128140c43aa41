//! What tables say, of either stage.

use super::Deviation;
use crate::case::Step;
use crate::facts::{Facts, address};
use crate::tables::Stage;

/// In the order in which they are tried.
pub(super) const KNOWN: &[Deviation] = &[
    Deviation {
        name: "table-address-size",
        section: "3.4, 7.3.14",
        qemu: "does not check the size of the address in a table descriptor",
        explains: |context| {
            context.ours_or_silent(0x11)
                && context.holds(|facts| {
                    Some(facts.visits().iter().any(|visit| {
                        let large = address(visit.word, &visit.regime.shape) >> visit.regime.output;
                        !visit.leaf && large != 0
                    }))
                })
        },
    },
    Deviation {
        name: "reserved-blocks",
        section: "DDI 0487, D8.3.1",
        qemu: "takes blocks at levels that have none",
        explains: |context| {
            context.ours_or_silent(0x10)
                && context.holds(|facts| {
                    Some(facts.visits().iter().any(|visit| {
                        let first = if visit.regime.shape.granule == 12 {
                            1
                        } else {
                            2
                        };
                        visit.word & 0b11 == 0b01 && visit.level < first
                    }))
                })
        },
    },
    Deviation {
        name: "address-size-last",
        section: "3.4; DDI 0487, D8.15",
        qemu: "checks the size of a block's or page's address after its access flag and permissions",
        explains: |context| {
            context.ours() == 0x11
                && matches!(context.theirs(), 0x12 | 0x13)
                && context.model.seen.events[0][0] >> 8 == context.qemu.events[0][0] >> 8
        },
    },
    Deviation {
        name: "aptable",
        section: "DDI 0487, D8.4.2, D8.15",
        qemu: "takes what APTable forbids for a fault before it reads the next level, and \
               forgets about it in its TLB",
        explains: |context| {
            let quiet = |facts: &Facts| Some(facts.cd()[0] >> 45 & 1 == 0);
            let before = match context.theirs() {
                0 => context.holds(quiet),
                kind => kind == 0x13,
            };
            (before || context.ours_or_silent(0x13) && context.may_hit())
                && context.holds(|facts| {
                    let writes = facts.access.write.is_some();
                    Some(
                        writes
                            && facts.visits().iter().any(|visit| {
                                let table = visit.stage == Stage::One && !visit.leaf;
                                table && visit.word >> 62 & 1 != 0
                            }),
                    )
                })
        },
    },
    Deviation {
        name: "unprivileged",
        section: "13.4.1; DDI 0487, D8.4.1",
        qemu: "lets unprivileged accesses do what AP[1] and APTable[0] leave to privileged ones",
        explains: |context| {
            let first = |event: &[u64; 4]| event[1] >> 39 & 1 == 0;
            context.ours_or_silent(0x13)
                && context.model.seen.events.iter().all(first)
                && context.holds(|facts| {
                    Some(facts.visits().iter().any(|visit| {
                        let table = !visit.leaf && visit.word >> 61 & 1 != 0;
                        visit.stage == Stage::One
                            && (table || visit.leaf && visit.word >> 6 & 1 == 0)
                    }))
                })
        },
    },
    Deviation {
        name: "tbi1",
        section: "5.4 CD.TBI",
        qemu: "uses TBI0 in place of TBI1",
        explains: |context| {
            context.holds(|facts| {
                let tbi = facts.cd()[0] >> 38 & 0b11;
                let upper = facts.access.address >> 55 & 1 != 0;
                Some(facts.config() & 1 != 0 && upper && matches!(tbi, 1 | 2))
            })
        },
    },
    Deviation {
        name: "tagged-hits",
        section: "3.4.1, 4.4.2",
        qemu: "keeps the ignored top byte of an address in its TLB, and finds no such entry when \
               the address without it is invalidated",
        explains: |context| {
            let changed = context.case.steps[..context.step]
                .iter()
                .any(|step| matches!(step, Step::Store(_)));
            changed
                && context.may_hit()
                && context.holds(|facts| {
                    let address = facts.access.address;
                    let upper = address >> 55 & 1;
                    let tagged = address >> 56 != upper * 0xff;
                    let tbi = facts.cd()[0] >> (38 + upper) & 1 != 0;
                    Some(facts.first().is_some() && tagged && tbi)
                })
        },
    },
];
