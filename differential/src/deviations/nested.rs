//! Stage 1 below which there is a stage 2.

use super::Deviation;
use crate::case::Step;
use crate::tables::Stage;

/// In the order in which they are tried.
pub(super) const KNOWN: &[Deviation] = &[
    Deviation {
        name: "table-beyond-page",
        section: "3.4.3",
        qemu: "translates the first byte of a stage 1 table alone by stage 2, and takes what lies \
               behind it in physical memory for the rest",
        explains: |context| {
            context.holds(|facts| {
                let (first, second) = (facts.first()?, facts.second()?);
                Some(first.shape.granule > second.shape.granule)
            })
        },
    },
    Deviation {
        name: "base-cached",
        section: "4.4.3.1",
        qemu: "keeps where stage 2 led to the tables' base with the CD, past invalidations of \
               stage 2",
        explains: |context| {
            let changed = |at: u64| {
                let steps = &context.case.steps[..context.step];
                let last = steps.iter().rposition(|step| match step {
                    Step::Store(words) => words.iter().any(|word| word.0 == at),
                    _ => false,
                });
                let flushed = |step: &Step| match step {
                    Step::Commands(commands) => commands.iter().any(|command| command[0] == 4),
                    _ => false,
                };
                last.is_some_and(|last| !steps[last..].iter().any(flushed))
            };
            context.holds(|facts| {
                let root = facts.first()?.root;
                facts.second()?;
                Some(facts.visits().iter().any(|visit| {
                    let base = visit.input >> 16 == root >> 16;
                    visit.stage == Stage::Two && base && changed(visit.at)
                }))
            })
        },
    },
    Deviation {
        name: "bases-early",
        section: "3.4, 7.3.13",
        qemu: "translates both table bases by stage 2 when it reads the CD, before it knows \
               whether the input needs them",
        explains: |context| {
            let theirs = context
                .qemu
                .events
                .first()
                .map_or(1, |event| event[1] >> 40 & 0b11);
            context.ours_or_silent(0x10)
                && theirs == 1
                && context.holds(|facts| {
                    let upper = facts.access.address >> 55 & 1 != 0;
                    let off = facts.cd()[0] >> if upper { 30 } else { 14 } & 1 != 0;
                    let bits = facts.first().map_or(64, |first| first.shape.bits);
                    let outside = bits < 64 && facts.access.address >> bits != 0;
                    Some(facts.config() == 0b111 && (off || outside))
                })
        },
    },
    Deviation {
        name: "base-truncated",
        section: "3.4, 5.4 CD.IPS",
        qemu: "cuts the physical address of the first table to the bits of IPS",
        explains: |context| {
            context.holds(|facts| {
                let first = facts.first()?;
                Some(facts.second().is_some() && facts.base()? >> first.output != 0)
            })
        },
    },
];
