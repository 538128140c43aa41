//! All state, and the GIC's accesses to memory.

use crate::bus::{Access, Bus};
use crate::command::Refused;
use crate::draw::Draw;
use crate::gic::{Counts, Fault};
use crate::its::Its;
use crate::profile::{Caching, Profile};
use crate::redistributor::Rd;
use crate::violation::Violation;
use std::collections::BTreeSet;
use std::ops::Range;

/// Violations and refused commands that are kept; the first ones explain most.
const KEPT: usize = 256;

pub(crate) struct Inner<B> {
    pub(crate) bus: B,
    pub(crate) profile: Profile,
    pub(crate) units: Vec<Its>,
    pub(crate) rds: Vec<Rd>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) accesses: Vec<Access>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) counts: Counts,
    pub(crate) faults: Vec<Fault>,
    /// LPIs whose configuration is invalidated, and perhaps still cached, with the
    /// redistributor whose SYNC ends that.
    pub(crate) invalidated: BTreeSet<(usize, u32)>,
    pub(crate) draw: Draw,
}

impl<B: Bus> Inner<B> {
    pub(crate) fn new(bus: B, profile: Profile, seed: u64) -> Self {
        Self {
            bus,
            units: (0..profile.units).map(|_| Its::default()).collect(),
            rds: (0..profile.cpus).map(|_| Rd::default()).collect(),
            profile,
            violations: Vec::new(),
            accesses: Vec::new(),
            refused: Vec::new(),
            counts: Counts::default(),
            faults: Vec::new(),
            invalidated: BTreeSet::new(),
            draw: Draw::new(seed),
        }
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        if self.violations.len() < KEPT {
            self.violations.push(violation);
        }
    }

    pub(crate) fn refuse(&mut self, refused: Refused) {
        self.counts.refused += 1;
        if self.refused.len() < KEPT {
            self.refused.push(refused);
        }
    }

    pub(crate) fn has_fault(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether something that may be cached now is.
    pub(crate) fn holds(&mut self) -> bool {
        match self.profile.caching {
            Caching::None => false,
            Caching::Greedy => true,
            Caching::Random => self.draw.once_in(2),
        }
    }

    /// Polls until an update is in force.
    pub(crate) fn lag(&mut self) -> u32 {
        match self.profile.pace {
            crate::profile::Pace::AtOnce => 0,
            _ => 1 + self.draw.below(3) as u32,
        }
    }

    fn record(&mut self, access: Access) {
        if self.accesses.last() != Some(&access) {
            self.accesses.push(access);
        }
    }

    /// Reads bytes; those without memory read as ones.
    pub(crate) fn read_bytes(&mut self, at: u64, bytes: u64, what: &'static str) -> Vec<u8> {
        self.record(Access {
            at,
            bytes,
            write: false,
            what,
        });
        let mut out = Vec::with_capacity(bytes as usize);
        let (first, end) = (at & !7, at.saturating_add(bytes));
        let mut absent = None;
        let mut word = first;
        while word < end {
            let value = self.bus.read(word).unwrap_or_else(|| {
                absent.get_or_insert(word);
                u64::MAX
            });
            for (n, byte) in (0..).zip(value.to_le_bytes()) {
                if (at..end).contains(&(word + n)) {
                    out.push(byte);
                }
            }
            word += 8;
        }
        out.resize(bytes as usize, 0xff);
        if let Some(at) = absent {
            self.violate(Violation::NoMemory {
                what: format!("read of a {what}"),
                at,
            });
        }
        out
    }

    /// Writes bytes, each word once.
    pub(crate) fn write_bytes(&mut self, at: u64, bytes: &[u8], what: &'static str) {
        self.record(Access {
            at,
            bytes: bytes.len() as u64,
            write: true,
            what,
        });
        let end = at.saturating_add(bytes.len() as u64);
        let mut word = at & !7;
        let mut absent = None;
        while word < end {
            let old = self.bus.read(word);
            let mut value = old.unwrap_or(0).to_le_bytes();
            for (n, byte) in (0..).zip(value.iter_mut()) {
                let new = (word + n).checked_sub(at);
                if let Some(new) = new.and_then(|n| bytes.get(n as usize)) {
                    *byte = *new;
                }
            }
            if old.is_none() || !self.bus.write(word, u64::from_le_bytes(value)) {
                absent.get_or_insert(word);
            }
            word += 8;
        }
        if let Some(at) = absent {
            self.violate(Violation::NoMemory {
                what: format!("write of a {what}"),
                at,
            });
        }
    }

    /// Where behaviour is UNPREDICTABLE: a word of `range` is overwritten.
    pub(crate) fn garbage(&mut self, range: Range<u64>) {
        let words = range.end.saturating_sub(range.start) / 8;
        if !self.profile.wild || words == 0 {
            return;
        }
        let at = (range.start & !7).saturating_add(self.draw.below(words) * 8);
        let value = self.draw.word();
        self.write_bytes(at, &value.to_le_bytes(), "garbage");
    }
}
