//! What QEMU's virtio-iommu does otherwise than the specification says, or than
//! our device where the specification leaves it open.

use super::ask::{Ask, LAST};
use super::driver::Answer;

/// A difference that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name, as in the README.
    pub name: &'static str,
    /// Both sides are in the same state afterwards.
    pub same_state: bool,
}

const fn known(name: &'static str, same_state: bool) -> Known {
    Known { name, same_state }
}

const OK: u8 = 0;
const UNSUPP: u8 = 2;
const INVAL: u8 = 4;
const RANGE: u8 = 5;
const NOENT: u8 = 6;
const FAULT: u8 = 7;

/// What is mapped and attached, as far as the answers say.
#[derive(Clone, Debug, Default)]
pub struct State {
    attached: Vec<(u32, u32)>,
    mappings: Vec<(u32, u64, u64)>,
}

impl State {
    /// Takes in what our device answered.
    pub fn after(&mut self, ask: &Ask, answer: &Answer) {
        if answer.status != Some(OK) {
            return;
        }
        match *ask {
            Ask::Attach {
                domain, endpoint, ..
            } => {
                self.leave(endpoint, domain);
                self.attached.push((endpoint, domain));
            }
            Ask::Detach { endpoint, domain } => self.leave(endpoint, !domain),
            Ask::Map {
                domain,
                first,
                last,
                ..
            } => self.mappings.push((domain, first, last)),
            Ask::Unmap {
                domain,
                first,
                last,
            } => self
                .mappings
                .retain(|(of, from, to)| *of != domain || *from < first || *to > last),
            _ => {}
        }
    }

    /// Takes an endpoint out of its domain unless that is `unless`.
    fn leave(&mut self, endpoint: u32, unless: u32) {
        let before = self.attached.iter().find(|(of, _)| *of == endpoint);
        let Some((_, domain)) = before.copied() else {
            return;
        };
        self.attached.retain(|(of, _)| *of != endpoint);
        if domain != unless && !self.attached.iter().any(|(_, other)| *other == domain) {
            self.mappings.retain(|(of, ..)| *of != domain);
        }
    }

    /// `endpoint` is the only one in `domain`, in which something is mapped.
    fn holds_alone(&self, endpoint: u32, domain: u32) -> bool {
        let inside = self.attached.iter().filter(|(_, of)| *of == domain);
        inside.eq([&(endpoint, domain)]) && self.mappings.iter().any(|(of, ..)| *of == domain)
    }

    /// What QEMU says to an UNMAP that ends before it begins: it looks for
    /// mappings that reach from one end to the other, finds one at most, and
    /// removes nothing.
    fn unmap_of_nothing(&self, domain: u32, first: u64, last: u64) -> u8 {
        let mut mappings = self.mappings.iter();
        if !self.attached.iter().any(|(_, of)| *of == domain) {
            NOENT
        } else if mappings.any(|(of, from, to)| *of == domain && *from <= last && first <= *to) {
            RANGE
        } else {
            OK
        }
    }

    /// An UNMAP that covers a mapping and cuts another.
    fn covers_and_cuts(&self, domain: u32, first: u64, last: u64) -> bool {
        let ours = || {
            let mappings = self.mappings.iter();
            mappings.filter(move |(of, from, to)| *of == domain && *from <= last && first <= *to)
        };
        let whole = |(_, from, to): &&(u32, u64, u64)| first <= *from && *to <= last;
        ours().any(|mapping| whole(&mapping)) && !ours().all(|mapping| whole(&mapping))
    }
}

fn misaligned(at: u64) -> bool {
    !at.is_multiple_of(0x1000)
}

/// Explains a difference, or that both sides will differ after what looks the
/// same. `None`: nothing is to be explained, or nothing explains it.
#[must_use]
pub fn explain(state: &State, ask: &Ask, ours: &Answer, theirs: &Answer) -> Option<Known> {
    let differ = ours != theirs;
    let statuses = (ours.status, theirs.status);
    let accepted = matches!(theirs.status, Some(OK | INVAL | NOENT));
    match *ask {
        Ask::Unknown(_) => (statuses == (None, Some(UNSUPP)) && ours.len == 0 && theirs.len == 4)
            .then_some(known("unknown-type", true)),
        Ask::Attach {
            domain,
            endpoint,
            flags,
            reserved,
        } => {
            if flags == 1 && ours.status == Some(INVAL) {
                // Also where it says INVAL: it has left its domain by then.
                accepted.then_some(known("attach-bypass", false))
            } else if !differ {
                let again = ours.status == Some(OK) && state.holds_alone(endpoint, domain);
                again.then_some(known("attach-again", false))
            } else {
                let reserved = ours.status == Some(INVAL) && flags == 0 && reserved != 0;
                (reserved && accepted).then_some(known("attach-reserved", false))
            }
        }
        Ask::Map {
            first, last, to, ..
        } => {
            if !differ || !accepted {
                None
            } else if ours.status == Some(FAULT) {
                let beyond = to.checked_add(last.wrapping_sub(first)).is_none();
                beyond.then_some(known("map-output", false))
            } else if ours.status != Some(RANGE) {
                None
            } else if misaligned(first) || misaligned(last.wrapping_add(1)) || misaligned(to) {
                Some(known("map-alignment", false))
            } else {
                (first > last || last > LAST).then_some(known("map-input", false))
            }
        }
        Ask::Unmap {
            domain,
            first,
            last,
        } => {
            if differ {
                let nothing = first > last && ours.status == Some(RANGE);
                let theirs_is = theirs.status == Some(state.unmap_of_nothing(domain, first, last));
                (nothing && theirs_is).then_some(known("unmap-nothing", true))
            } else {
                let half = ours.status == Some(RANGE) && state.covers_and_cuts(domain, first, last);
                half.then_some(known("unmap-half", false))
            }
        }
        Ask::Detach { endpoint, .. } => {
            let attached = state.attached.iter().any(|(of, _)| *of == endpoint);
            let forgot = !attached && statuses == (Some(INVAL), Some(NOENT));
            forgot.then_some(known("detach-unattached", true))
        }
        Ask::Probe { .. } | Ask::Short { .. } => None,
    }
}
