//! Where the two may differ, and why.

use crate::compare::{Difference, Pair, Seen};
use crate::program::Step;
use smmuv3_model::Misuse;
use smmuv3_spec::command::Opcode;
use smmuv3_spec::event::{Class, EventKind};
use smmuv3_spec::reg;
use std::fmt;

/// A choice that the architecture leaves (IHI 0070), or that is ours to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// There was no difference.
    None,
    /// While translation is off, GBPA lets a transaction with a substream pass;
    /// the physical stream has stage 2 alone, and refuses substreams (3.9).
    SubstreamWhileOff,
    /// A source with a message has no wire here; counted, and the case goes on
    /// (3.18).
    Wires,
    /// CMDQ_PROD or CMDQ_CONS say what no queue can hold: what is then processed
    /// is unpredictable (3.5.1, 6.3.27). Here nothing is.
    Indices,
    /// An entry changed, and no command that says so was carried out: either may be used (3.21.3).
    Stale,
    /// CMDQ_CONS keeps, until it is written, the bits above a queue that became smaller, which the other reads as zero; counted, and the case goes on (6.3.28).
    Shrunk,
    /// An address beyond IDR5.OAS past stage 1: F_ADDR_SIZE there (3.4); here stage 2 refuses it, and the device alone sees an abort.
    AddressSize,
    /// A stream of PCI Express never stalls here, as if its entry had S1STALLD:
    /// a context descriptor that asks for stalls is ILLEGAL then (3.12.2, 5.5).
    NoStall,
    /// CR1 while some of its fields are fixed: here the others change, there none does (6.3.11).
    Attributes,
    /// The address of a fetch that failed in stage 2 is the page's: the physical record has no more of it (7.3).
    FetchAddress,
    /// CMD_ATC_INV of more than 2^52 pages may be refused, or affect anything (4.5.1).
    AtcSize,
    /// What GBPA reads as in fields without IDR1.ATTR_TYPES_OVR or ATTR_PERMS_OVR is up to the implementation (6.3.14).
    Overrides,
    /// A reserved bit of CMD_ATC_INV and CMD_PRI_RESP, where others have SSec: it may be refused, and is ignored here (4.1.5).
    Reserved,
    /// CMDQ_CONS.ERR is UNKNOWN while no command error is active; counted, and the case goes on (6.3.28).
    Unknown,
    /// The pointer to a table of context descriptors lies beyond IDR5.OAS: an SMMU may refuse the substream or fail to fetch (3.4.3).
    Pointer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no difference",
            Self::Wires => "interrupts by message alone (3.18); these do not end a case",
            Self::Indices => "indices of a queue that fit no state (3.5.1)",
            Self::Stale => "an entry changed without an invalidation (3.21.3)",
            Self::Shrunk => {
                "CMDQ_CONS above a queue that became smaller (6.3.28); these do not end a case"
            }
            Self::AddressSize => "an address beyond OAS without stage 1 (3.4)",
            Self::NoStall => "stalls of a stream of PCI Express (3.12.2, 5.5)",
            Self::Attributes => "CR1 with some fields fixed (6.3.11)",
            Self::FetchAddress => {
                "FetchAddr of a failed fetch, without its offset in the page (7.3)"
            }
            Self::AtcSize => "a CMD_ATC_INV of more than everything (4.5.1)",
            Self::Overrides => "GBPA's overrides where there are none (6.3.14)",
            Self::Reserved => "a reserved bit of a command (4.1.5)",
            Self::Unknown => "CMDQ_CONS.ERR without an error (6.3.28); these do not end a case",
            Self::Pointer => "an L2Ptr beyond OAS (3.4.3)",
            Self::SubstreamWhileOff => "a substream while translation is off (3.9)",
        })
    }
}

/// Why the two differ, if that is known.
pub fn explain(pair: &mut Pair, step: &Step, difference: &Difference) -> Option<Reason> {
    let on = pair.theirs.read32(reg::CR0ACK) & 1 != 0;
    let has = |what: fn(&Misuse) -> bool| pair.misuse.iter().any(what);
    let idr1 = pair.theirs.profile().idr1;
    let types = if idr1.attr_types_ovr() { 0 } else { 0x3f1f };
    let overrides = types | if idr1.attr_perms_ovr() { 0 } else { 0xf_0000 };
    let kind = pair.last.map(|event| event.kind());
    let mine = pair.mine.map(|event| event.kind());
    match (step, difference) {
        (
            Step::Dma {
                substream: Some(_), ..
            },
            Difference::Dma {
                ours: Seen::Aborted,
                theirs: Seen::Data(_),
            },
        ) if !on => Some(Reason::SubstreamWhileOff),
        _ if has(|m| matches!(m, Misuse::Overrun { .. } | Misuse::Index { .. })) => {
            Some(Reason::Indices)
        }
        _ if pair.stale => Some(Reason::Stale),
        _ if false => Some(Reason::Shrunk),
        (Step::Dma { address, .. }, _)
            if *address >> 40 != 0 && kind == Some(EventKind::F_ADDR_SIZE) =>
        {
            Some(Reason::AddressSize)
        }
        (
            Step::Dma { stream: 0..64, .. },
            Difference::Dma {
                ours: Seen::Aborted,
                ..
            }
            | Difference::Memory { .. },
        ) if mine == Some(EventKind::C_BAD_CD) && kind != mine => Some(Reason::NoStall),
        (
            _,
            Difference::Register {
                offset: reg::CR1, ..
            },
        ) if has(|m| {
            matches!(
                m,
                Misuse::Guarded {
                    offset: reg::CR1,
                    ..
                }
            )
        }) =>
        {
            Some(Reason::Attributes)
        }
        (_, Difference::Memory { ours, theirs, .. })
            if matches!(kind, Some(EventKind::F_CD_FETCH | EventKind::F_WALK_EABT))
                && *ours == theirs & !0xfff =>
        {
            Some(Reason::FetchAddress)
        }
        _ if has(|m| matches!(m, Misuse::OutOfRange(c) if c.opcode() == Opcode::ATC_INV)) => {
            Some(Reason::AtcSize)
        }
        (
            _,
            Difference::Register {
                offset: reg::GBPA,
                ours,
                theirs,
            },
        ) if (ours ^ theirs) & !overrides == 0 => Some(Reason::Overrides),
        _ if has(
            |m| matches!(m, Misuse::Command(c) if c.ssec() && matches!(c.opcode(), Opcode::ATC_INV | Opcode::PRI_RESP)),
        ) =>
        {
            Some(Reason::Reserved)
        }
        _ if false => Some(Reason::Unknown),
        (_, Difference::Memory { .. })
            if kind == Some(EventKind::C_BAD_SUBSTREAMID)
                && pair
                    .mine
                    .is_some_and(|event| event.s2() && event.class() == Class::CD) =>
        {
            Some(Reason::Pointer)
        }
        _ => None,
    }
}
