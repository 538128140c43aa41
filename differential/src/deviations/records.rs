//! What records hold.

use super::{Deviation, TTRNW};
use crate::case::Seen;
use crate::facts::Facts;

/// In the order in which they are tried.
pub(super) const KNOWN: &[Deviation] = &[
    Deviation {
        name: "ipa-offset",
        section: "7.3.12 to 7.3.16",
        qemu: "records the offset within the page in the bits below the IPA, which are RES0",
        explains: |context| {
            let (model, qemu) = (&context.model.seen, context.qemu);
            let mut events = qemu.events.clone();
            for (event, ours) in events.iter_mut().zip(&model.events) {
                if event[3] & !0xfff == ours[3] && matches!(event[0] & 0xff, 0x10..=0x13) {
                    event[3] = ours[3];
                }
            }
            Seen {
                events,
                ..qemu.clone()
            } == *model
        },
    },
    Deviation {
        name: "descriptor-stage",
        section: "7.3.12 to 7.3.16, S2 and IPA",
        qemu: "treats a stage 2 fault of a stage 1 table walk as one of stage 1: S2 is 0, CD.R \
               decides instead of S2R, IPA or FetchAddr is the IPA of the table; records no TTRnW",
        explains: |context| {
            const S2: u64 = 1 << 39;
            let walk = |word: u64| word >> 40 & 0b11 == 1;
            let nested = context.holds(|facts| Some(facts.config() == 0b111));
            nested
                && match (&context.model.seen.events[..], &context.qemu.events[..]) {
                    ([ours], [theirs]) => {
                        let table = |facts: &Facts| {
                            let ipa = theirs[3] >> 16;
                            Some(facts.visits().iter().any(|visit| visit.input >> 16 == ipa))
                        };
                        walk(ours[1])
                            && ours[0] == theirs[0]
                            && ours[1] & !TTRNW == theirs[1] | S2
                            && ours[2] == theirs[2]
                            && (ours[3] >> 16 == theirs[3] >> 16
                                || context.ours() == 0x0b && context.holds(table))
                    }
                    ([ours], []) => walk(ours[1]) && ours[1] & S2 != 0,
                    ([], [theirs]) => {
                        context.ours_or_silent(0) && walk(theirs[1]) && theirs[1] & S2 == 0
                    }
                    _ => false,
                }
        },
    },
    Deviation {
        name: "structure-rnw",
        section: "7.3.12 to 7.3.16, RnW",
        qemu: "records its own read of a CD or of the first table, not the write that led to it, \
               and no TTRnW",
        explains: |context| {
            const RNW: u64 = 1 << 35;
            let class = context
                .model
                .seen
                .events
                .first()
                .map_or(2, |event| event[1] >> 40 & 0b11);
            context
                .same_but(RNW | TTRNW, 0xffff)
                .is_some_and(|(word1, _)| word1 & !TTRNW == RNW || word1 == TTRNW)
                && class < 2
        },
    },
    Deviation {
        name: "cd-fetch-address",
        section: "7.3.10",
        qemu: "records the FetchAddr of F_CD_FETCH where InputAddr is in other events",
        explains: |context| match (&context.model.seen.events[..], &context.qemu.events[..]) {
            ([ours], [theirs]) => {
                ours[0] & 0xff == 0x09
                    && ours[0] == theirs[0]
                    && theirs[2] & !0x3f == ours[3] & !0x3f
                    && theirs[3] == 0
            }
            _ => false,
        },
    },
];
