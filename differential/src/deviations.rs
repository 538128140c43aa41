//! What QEMU does otherwise than the architecture says.
//!
//! Each entry is as narrow as it can be made: it looks at the case and at what
//! both sides did, and explains nothing else.

use crate::case::{Case, Seen, Step};
use crate::facts::{Facts, address};
use crate::model::Outcome;
use crate::tables::Stage;

/// TTRnW in word 1 of a record.
const TTRNW: u64 = 1 << 44;

/// One known difference.
#[derive(Debug)]
pub struct Deviation {
    /// A short name.
    pub name: &'static str,
    /// Where the architecture (IHI 0070) says what the model does.
    pub section: &'static str,
    /// What QEMU does.
    pub qemu: &'static str,
    /// Whether it explains a difference.
    pub explains: fn(&Context<'_>) -> bool,
}

/// What there is to look at.
pub struct Context<'a> {
    /// The case.
    pub case: &'a Case,
    /// The number of the step.
    pub step: usize,
    /// What the model did.
    pub model: &'a Outcome,
    /// What QEMU did.
    pub qemu: &'a Seen,
    /// What the case says there, if the step is an access.
    pub facts: Option<Facts>,
}

impl Context<'_> {
    /// The number of the one event that the model recorded in this step; 0
    /// without.
    fn ours(&self) -> u64 {
        self.model.seen.events.first().map_or(0, |event| event[0] & 0xff)
    }

    /// The same of QEMU.
    fn theirs(&self) -> u64 {
        self.qemu.events.first().map_or(0, |event| event[0] & 0xff)
    }

    /// Whether the model's answer is this event, or would be if stage 2 were
    /// configured to record faults.
    fn ours_or_silent(&self, kind: u64) -> bool {
        let silent = self.model.refusal.is_some() && self.model.seen.events.is_empty();
        // S2R and R, where there is such a stage.
        let quiet = |facts: &Facts| {
            let second = facts.second().is_some() && facts.ste[2] >> 58 & 1 == 0;
            Some(second || facts.first().is_some() && facts.cd()[0] >> 45 & 1 == 0)
        };
        self.ours() == kind || silent && self.holds(quiet)
    }

    /// Whether the model may have left out a C_BAD_STREAMID.
    fn unrecorded_stream(&self) -> bool {
        self.case.cr2 & 0b10 == 0 && self.model.refusal.is_some() && self.ours() == 0
    }

    /// Both recorded one event, of the same kind, and all that differs is in
    /// these bits of words 1 and 3.
    fn same_but(&self, word1: u64, word3: u64) -> Option<(u64, u64)> {
        match (&self.model.seen.events[..], &self.qemu.events[..]) {
            ([ours], [theirs])
                if ours[0] == theirs[0]
                    && ours[2] == theirs[2]
                    && (ours[1] ^ theirs[1]) & !word1 == 0
                    && (ours[3] ^ theirs[3]) & !word3 == 0 =>
            {
                Some((ours[1] ^ theirs[1], theirs[3]))
            }
            _ => None,
        }
    }

    /// Whether the device had an access before this one, so that something of
    /// it may be in QEMU's TLB.
    fn may_hit(&self) -> bool {
        let Some(facts) = &self.facts else {
            return false;
        };
        self.case.steps[..self.step].iter().any(|step| match step {
            Step::Access(access) => access.device == facts.access.device,
            _ => false,
        })
    }

    /// Whether something holds for the access.
    fn holds(&self, check: impl FnOnce(&Facts) -> Option<bool>) -> bool {
        self.facts.as_ref().and_then(check).unwrap_or(false)
    }
}

/// All known differences.
pub const KNOWN: &[Deviation] = &[
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
            Seen { events, ..qemu.clone() } == *model
        },
    },
    Deviation {
        name: "stream-table-alignment",
        section: "5.1 L1STD.L2Ptr, 6.3.24",
        qemu: "does not ignore all address bits below the size of a stream table",
        explains: |context| context.holds(|facts| Some(facts.place?.unaligned)),
    },
    Deviation {
        name: "span-beyond-split",
        section: "5.1 L1STD.Span",
        qemu: "takes a Span that is reserved or larger than SPLIT + 1",
        explains: |context| {
            (context.ours() == 0x02 || context.unrecorded_stream())
                && context.holds(|facts| {
                    Some(context.case.two_level() && facts.place?.span > (facts.split + 1).min(11))
                })
        },
    },
    Deviation {
        name: "outside-span",
        section: "5.1 L1STD.Span, 7.3.3",
        qemu: "counts 2^Span entries instead of 2^(Span - 1), and reports C_BAD_STE beyond",
        explains: |context| {
            (context.ours() == 0x02 || context.unrecorded_stream())
                && context.holds(|facts| {
                    let span = facts.place?.span;
                    Some(context.case.two_level() && span > 0 && facts.index() >> (span - 1) != 0)
                })
        },
    },
    Deviation {
        name: "recinvsid",
        section: "6.3.12 CR2.RECINVSID",
        qemu: "records C_BAD_STREAMID with RECINVSID clear",
        explains: |context| {
            context.case.cr2 & 0b10 == 0
                && context.model.seen.events.is_empty()
                && context.theirs() == 0x02
        },
    },
    Deviation {
        name: "bypass-address-size",
        section: "3.4",
        qemu: "records no event for an input beyond the IAS of a bypassed stage 1, and lets one \
               beyond the OAS pass where both stages are bypassed",
        explains: |context| {
            context.ours() == 0x11
                && context.qemu.events.is_empty()
                && context.holds(|facts| {
                    Some(facts.config() & 1 == 0 && facts.access.address >> 44 != 0)
                })
        },
    },
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
                && context.holds(|facts| Some(facts.second().is_some() && facts.ste[2] >> 55 & 3 != 0))
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
                        let first = if visit.regime.shape.granule == 12 { 1 } else { 2 };
                        visit.word & 0b11 == 0b01 && visit.level < first
                    }))
                })
        },
    },
    Deviation {
        name: "start-level",
        section: "5.2 STE.S2SL0; DDI 0487, D8.2.4",
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
                0x04 => context
                    .holds(|facts| Some(facts.second().is_some() && high(facts.ste[3]))),
                0x0a => context.holds(|facts| {
                    let cd = facts.cd();
                    Some(high(cd[1]) || high(cd[2]))
                }),
                _ => false,
            }
        },
    },
    Deviation {
        name: "address-size-last",
        section: "3.4; DDI 0487, D8.15.1",
        qemu: "checks the size of a block's or page's address after its access flag and permissions",
        explains: |context| {
            context.ours() == 0x11
                && matches!(context.theirs(), 0x12 | 0x13)
                && context.model.seen.events[0][0] >> 8 == context.qemu.events[0][0] >> 8
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
                    || context.same_but(0, u64::MAX).is_some_and(|(_, ipa)| ipa == 0))
                && context.holds(|facts| Some(facts.second().is_some()))
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
        name: "aptable",
        section: "DDI 0487, D8.4.2, D8.15.1",
        qemu: "takes what APTable forbids for a fault before it reads the next level, and \
               forgets about it in its TLB",
        explains: |context| {
            let before = context.theirs() == 0x13;
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
        name: "table-beyond-page",
        section: "3.4.3, 13.4; DDI 0487, D8.1.1",
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
        name: "structure-rnw",
        section: "7.3.12 to 7.3.16, RnW",
        qemu: "records its own read of a CD or of the first table, not the write that led to it, \
               and no TTRnW",
        explains: |context| {
            const RNW: u64 = 1 << 35;
            let class = context.model.seen.events.first().map_or(2, |event| event[1] >> 40 & 0b11);
            context
                .same_but(RNW | TTRNW, 0xffff)
                .is_some_and(|(word1, _)| word1 & !TTRNW == RNW || word1 == TTRNW)
                && class < 2
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
    Deviation {
        name: "bases-early",
        section: "3.4, 7.3.13",
        qemu: "translates both table bases by stage 2 when it reads the CD, before it knows \
               whether the input needs them",
        explains: |context| {
            let theirs = context.qemu.events.first().map_or(1, |event| event[1] >> 40 & 0b11);
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
        name: "base-cached",
        section: "4.4 CMD_TLBI_S2_IPA, 3.21.3",
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

/// The first that explains what was seen.
#[must_use]
pub fn find(context: &Context<'_>) -> Option<&'static Deviation> {
    KNOWN.iter().find(|deviation| (deviation.explains)(context))
}
