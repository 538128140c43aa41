//! Stream tables, and streams without translation.

use super::Deviation;

/// In the order in which they are tried.
pub(super) const KNOWN: &[Deviation] = &[
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
                && context
                    .holds(|facts| Some(facts.config() & 1 == 0 && facts.access.address >> 44 != 0))
        },
    },
];
