//! LPIs in a redistributor: pending, their configuration, and its tables in
//! memory (IHI 0069, 5.1).

use crate::bus::Bus;
use crate::gic::Fault;
use crate::inner::Inner;
use crate::profile::Caching;
use crate::violation::Violation;

/// Words of the pending table that are the implementation's: the first KiB.
const OWN_WORDS: u64 = 128;
/// `GICR_PENDBASER.PTZ`.
pub(crate) const PTZ: u64 = 1 << 62;

impl<B: Bus> Inner<B> {
    /// Whether the redistributor has room for `lpi` in its tables.
    fn has_lpi(&self, cpu: usize, lpi: u32) -> bool {
        lpi >= 8192 && lpi >> self.lpi_bits(cpu) == 0
    }

    /// Makes an LPI pending; `false` if the redistributor does not take it.
    pub(crate) fn set_pending(&mut self, cpu: usize, lpi: u32) -> bool {
        let takes = self.rds[cpu].enabled && self.has_lpi(cpu, lpi);
        if takes {
            self.rds[cpu].pending.insert(lpi);
            self.counts.delivered += 1;
        }
        takes
    }

    /// Whether it was pending.
    pub(crate) fn clear_pending(&mut self, cpu: usize, lpi: u32) -> bool {
        self.rds[cpu].pending.remove(&lpi)
    }

    /// The configuration byte of an LPI, as the redistributor knows it.
    pub(crate) fn config(&mut self, cpu: usize, lpi: u32) -> u8 {
        if let Some(config) = self.rds[cpu].cached.get(&lpi) {
            return *config;
        }
        let config = self.fetch_config(cpu, lpi);
        if self.holds() {
            self.rds[cpu].cached.insert(lpi, config);
        }
        config
    }

    fn fetch_config(&mut self, cpu: usize, lpi: u32) -> u8 {
        let at = self.config_range(cpu).start + u64::from(lpi - 8192);
        self.read_bytes(at, 1, "LPI configuration")[0]
    }

    /// The LPI that a CPU would take: enabled, of the highest priority.
    pub(crate) fn highest(&mut self, cpu: usize) -> Option<u32> {
        if !self.rds[cpu].enabled {
            return None;
        }
        let pending: Vec<_> = self.rds[cpu].pending.iter().copied().collect();
        let mut best = None;
        for lpi in pending {
            let config = self.config(cpu, lpi);
            if config & 1 == 1 {
                let this = (config & 0xfc, lpi);
                best = Some(best.map_or(this, |best: (u8, u32)| best.min(this)));
            }
        }
        best.map(|(_, lpi)| lpi)
    }

    /// Configuration of these LPIs is invalidated, everywhere. It is done when a
    /// SYNC of this redistributor is; until then it may be one or the other.
    pub(crate) fn invalidate(&mut self, cpu: usize, lpis: impl IntoIterator<Item = u32>) {
        self.invalidated
            .extend(lpis.into_iter().map(|lpi| (cpu, lpi)));
        if self.profile.caching == Caching::None {
            self.finish_invalidations(cpu);
        }
    }

    /// What was invalidated before a SYNC of `of` is read again.
    pub(crate) fn finish_invalidations(&mut self, of: usize) {
        let done = self.invalidated.iter().filter(|(cpu, _)| *cpu == of);
        let done: Vec<_> = done.map(|(_, lpi)| *lpi).collect();
        self.invalidated.retain(|(cpu, _)| *cpu != of);
        for cpu in 0..self.rds.len() {
            for lpi in &done {
                let held = self.rds[cpu].cached.remove(lpi).is_some();
                if held && self.profile.caching == Caching::Greedy {
                    let config = self.fetch_config(cpu, *lpi);
                    self.rds[cpu].cached.insert(*lpi, config);
                }
            }
        }
    }

    /// `EnableLPIs` becomes 1.
    pub(crate) fn enable_lpis(&mut self, cpu: usize) {
        for (peer, rd) in self.rds.iter().enumerate() {
            // Cacheability and shareability may differ, the table may not.
            let table = 0x000f_ffff_ffff_f01f;
            let other = rd.propbaser;
            let value = self.rds[cpu].propbaser;
            if rd.enabled && (other ^ value) & table != 0 {
                self.violate(Violation::PropbaserDiffers {
                    cpu,
                    value,
                    peer,
                    other,
                });
                break;
            }
        }
        self.rds[cpu].enabled = true;
        self.rds[cpu].pending.clear();
        self.rds[cpu].stored.clear();
        self.rds[cpu].cached.clear();
        let lag = self.lag();
        self.rds[cpu].writing = (lag > 0).then_some(lag);
        let (config, pending) = (self.config_range(cpu), self.pending_range(cpu));
        self.check_overlap(&format!("LPI configuration table of RD {cpu}"), &config);
        self.check_overlap(&format!("LPI pending table of RD {cpu}"), &pending);
        self.load_pending(cpu);
        if self.profile.caching == Caching::Greedy && config.start < config.end {
            let bytes = config.end - config.start;
            let all = self.read_bytes(config.start, bytes, "LPI configuration");
            self.rds[cpu].cached = (8192..).zip(all).collect();
        }
    }

    fn load_pending(&mut self, cpu: usize) {
        let range = self.pending_range(cpu);
        let zero = self.rds[cpu].pendbaser & PTZ != 0;
        if zero && self.profile.caching == Caching::None {
            return;
        }
        let bytes = self.read_bytes(range.start, range.end - range.start, "LPI pending table");
        for (index, word) in (0..).zip(bytes.chunks_exact(8)) {
            let value = word
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
            if value == 0 {
                continue;
            }
            if zero {
                self.violate(Violation::NotZero {
                    what: format!("LPI pending table of RD {cpu}, said to be zero"),
                    at: range.start + index * 8,
                    found: value,
                });
                return;
            }
            self.rds[cpu].stored.insert(index, value);
            if index >= OWN_WORDS {
                let lpis = (0..64u32).filter(|bit| value >> bit & 1 == 1);
                let lpis = lpis.map(|bit| index as u32 * 64 + bit);
                self.rds[cpu].pending.extend(lpis);
            }
        }
    }

    /// The word of the pending table as it should be in memory.
    fn pending_word(&self, cpu: usize, index: u64) -> u64 {
        let first = index as u32 * 64;
        let pending = self.rds[cpu].pending.range(first..first + 64);
        pending.fold(0, |word, lpi| word | 1 << (lpi - first))
    }

    /// Reads a word of the pending table, which must be as it was left, and
    /// writes what it should be.
    fn store_pending(&mut self, cpu: usize, index: u64) {
        let at = self.pending_range(cpu).start + index * 8;
        let bytes = self.read_bytes(at, 8, "LPI pending table");
        let found = bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        let expected = self.rds[cpu].stored.get(&index).copied().unwrap_or(0);
        if found != expected {
            self.violate(Violation::Changed {
                what: format!("LPI pending table of RD {cpu}"),
                at,
                found,
                expected,
            });
        }
        let value = if index < OWN_WORDS {
            self.draw.word()
        } else {
            self.pending_word(cpu, index)
        };
        self.write_bytes(at, &value.to_le_bytes(), "LPI pending table");
        self.rds[cpu].stored.insert(index, value);
    }

    /// Something that a redistributor may do at any time while LPIs are enabled.
    pub(crate) fn stir_lpis(&mut self, cpu: usize) {
        if !self.rds[cpu].enabled || self.profile.caching == Caching::None {
            return;
        }
        let words = (1u64 << self.lpi_bits(cpu)) / 64;
        match self.draw.below(5) {
            0 => {
                let index = self.draw.below(words);
                self.store_pending(cpu, index);
            }
            1 => {
                let count = self.rds[cpu].pending.len() as u64;
                let nth = self.draw.below(count) as usize;
                if let Some(lpi) = self.rds[cpu].pending.iter().nth(nth).copied() {
                    self.store_pending(cpu, u64::from(lpi / 64));
                }
            }
            2 if words > OWN_WORDS => {
                let lpi = 8192 + self.draw.below((words - OWN_WORDS) * 64) as u32;
                self.config(cpu, lpi);
            }
            3 if self.profile.caching == Caching::Random => {
                let count = self.rds[cpu].cached.len() as u64;
                let nth = self.draw.below(count) as usize;
                let lpi = self.rds[cpu].cached.keys().nth(nth).copied();
                if let Some(lpi) = lpi {
                    self.rds[cpu].cached.remove(&lpi);
                }
            }
            _ => {}
        }
    }

    /// `EnableLPIs` was cleared: once RWP is 0, memory has all that is pending.
    pub(crate) fn disable_lpis(&mut self, cpu: usize) {
        self.rds[cpu].enabled = false;
        let lag = self.lag();
        self.rds[cpu].writing = Some(lag);
        if lag == 0 {
            self.poll_writing(cpu);
        }
    }

    /// One poll of a redistributor whose `RWP` is 1.
    pub(crate) fn poll_writing(&mut self, cpu: usize) {
        match self.rds[cpu].writing {
            Some(0 | 1) if self.has_fault(Fault::WritePending { cpu }) => {}
            Some(0 | 1) => {
                if !self.rds[cpu].enabled {
                    let pending = self.rds[cpu].pending.iter();
                    let mut words: Vec<_> = pending.map(|lpi| u64::from(lpi / 64)).collect();
                    let stored = self.rds[cpu].stored.keys();
                    words.extend(stored.filter(|index| **index >= OWN_WORDS));
                    words.sort_unstable();
                    words.dedup();
                    for index in words {
                        self.store_pending(cpu, index);
                    }
                    self.rds[cpu].pending.clear();
                    self.rds[cpu].stored.clear();
                    self.rds[cpu].cached.clear();
                }
                self.rds[cpu].writing = None;
            }
            Some(polls) => self.rds[cpu].writing = Some(polls - 1),
            None => {}
        }
    }

    /// One poll of a redistributor that is busy with an invalidation.
    pub(crate) fn poll_busy(&mut self, cpu: usize) {
        match self.rds[cpu].busy {
            Some(0) if self.has_fault(Fault::SyncBusy { cpu }) => {}
            Some(0) => {
                self.finish_invalidations(cpu);
                self.rds[cpu].busy = None;
            }
            Some(polls) => self.rds[cpu].busy = Some(polls - 1),
            None => {}
        }
    }
}
