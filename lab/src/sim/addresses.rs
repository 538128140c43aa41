//! Where buffers lie, in memory and for devices.

use crate::scenario::{Iovas, Placement, Scenario};
use portcullis_addr::{Ipa, Range};
use std::collections::{BTreeMap, VecDeque};

const PAGE: u64 = 4096;
/// Devices that take 32 bits get addresses below; Linux tries that first.
const LOW: u64 = 1 << 32;
/// Below are none.
const BOTTOM: u64 = 1 << 20;

/// Addresses of one domain.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    fresh: bool,
    next: u64,
    /// The end of the addresses above 4 GiB, until these are in use.
    high: Option<u64>,
    bottom: u64,
    free: BTreeMap<u64, VecDeque<u64>>,
}

impl Space {
    /// Of addresses with so many bits.
    pub(crate) fn new(kind: Iovas, bits: u64) -> Self {
        Self {
            fresh: kind == Iovas::Fresh,
            next: LOW,
            high: Some(1 << bits),
            bottom: BOTTOM,
            free: BTreeMap::new(),
        }
    }

    /// Linux aligns to the next power of two.
    fn rounded(bytes: u64) -> u64 {
        bytes.next_power_of_two().max(PAGE)
    }

    /// An address for `bytes`.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let size = Self::rounded(bytes);
        if !self.fresh
            && let Some(at) = self.free.get_mut(&size).and_then(VecDeque::pop_back)
        {
            return Some(at);
        }
        let at = self.next.checked_sub(size).map(|at| at & !(size - 1));
        if let Some(at) = at.filter(|at| *at >= self.bottom) {
            self.next = at;
            return Some(at);
        }
        if let Some(high) = self.high.take() {
            (self.next, self.bottom) = (high, LOW);
            return self.take(bytes);
        }
        self.free.get_mut(&size).and_then(VecDeque::pop_front)
    }

    /// Gives one back.
    pub(crate) fn put(&mut self, at: u64, bytes: u64) {
        self.free
            .entry(Self::rounded(bytes))
            .or_default()
            .push_back(at);
    }
}

/// Where the pages of all buffers lie.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    base: u64,
    bytes: u64,
    scattered: bool,
    /// Pages of all buffers, and the step from one to the next.
    pages: u64,
    step: u64,
}

impl Layout {
    pub(super) fn new(scenario: &Scenario, base: u64) -> Self {
        let pages = (scenario.working_set() / PAGE).max(1);
        // About the golden ratio, so that neighbours are far from each other.
        let mut step = (pages as f64 * 0.618) as u64 | 1;
        while gcd(step, pages) != 1 {
            step += 1;
        }
        Self {
            base,
            bytes: scenario.buffers.bytes.get_ref().get(),
            scattered: scenario.buffers.memory == Placement::Scattered,
            pages,
            step,
        }
    }

    /// Where the byte at `offset` of a buffer lies.
    pub(super) fn physical(&self, buffer: u64, offset: u64) -> u64 {
        let at = buffer * self.bytes + offset;
        if !self.scattered {
            return self.base + at;
        }
        let page = u128::from(at / PAGE) * u128::from(self.step) % u128::from(self.pages);
        self.base + page as u64 * PAGE + at % PAGE
    }

    /// Bytes of each run of memory that a buffer consists of.
    fn piece(&self) -> u64 {
        if self.scattered { PAGE } else { self.bytes }
    }

    /// How many of them there are.
    pub(super) fn pieces(&self) -> u64 {
        self.bytes / self.piece()
    }

    /// The runs of memory that a buffer consists of.
    pub(super) fn runs(&self, buffer: u64) -> Vec<Range<Ipa>> {
        let piece = self.piece();
        let all = (0..self.bytes).step_by(piece as usize);
        all.filter_map(|offset| {
            Range::from_size(Ipa::new(self.physical(buffer, offset)), piece).ok()
        })
        .collect()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_down_and_come_back() {
        let mut space = Space::new(Iovas::Recycled, 40);
        let (a, b) = (space.take(4096), space.take(0x3000));
        assert_eq!((a, b), (Some(0xffff_f000), Some(0xffff_8000)));
        space.put(0xffff_f000, 4096);
        assert_eq!(space.take(4096), Some(0xffff_f000));
        let mut fresh = Space::new(Iovas::Fresh, 40);
        assert_eq!(fresh.take(4096), Some(0xffff_f000));
        fresh.put(0xffff_f000, 4096);
        assert_eq!(fresh.take(4096), Some(0xffff_e000));
    }

    #[test]
    fn what_does_not_fit_below_4_gib_goes_above_and_then_nowhere() {
        let mut space = Space::new(Iovas::Recycled, 33);
        let all: Vec<_> = std::iter::from_fn(|| space.take(1 << 30)).collect();
        let gib = |n: u64| n << 30;
        assert_eq!(all, [3, 2, 1, 7, 6, 5, 4].map(gib));
        space.put(gib(2), 1 << 30);
        assert_eq!(space.take(1 << 30), Some(gib(2)));
    }
}
