//! What QEMU does otherwise than the architecture says.
//!
//! Each entry is as narrow as it can be made: it looks at the case and at what
//! both sides did, and explains nothing else.

mod commands;
mod nested;
mod records;
mod second;
mod streams;
mod tables;

use crate::case::{Case, Seen, Step};
use crate::facts::Facts;
use crate::model::Outcome;

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
    /// The number of the event that the model recorded, or had no room for, in
    /// this step; 0 without.
    fn ours(&self) -> u64 {
        let kind = self.model.refusal.and_then(|refusal| refusal.kind());
        kind.map_or(0, |kind| kind.0.into())
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

/// All known differences, those first that only change a record.
pub fn known() -> impl Iterator<Item = &'static Deviation> {
    let groups = [
        commands::KNOWN,
        records::KNOWN,
        streams::KNOWN,
        second::KNOWN,
        tables::KNOWN,
        nested::KNOWN,
    ];
    groups.into_iter().flatten()
}

/// The first that explains what was seen.
#[must_use]
pub fn find(context: &Context<'_>) -> Option<&'static Deviation> {
    known().find(|deviation| (deviation.explains)(context))
}
