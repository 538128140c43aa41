//! What the SMMU may see of one stream table entry, looked at after every
//! store.

use super::Fake;
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use smmuv3_spec::StreamId;
use smmuv3_spec::control::StrtabBaseCfg;
use smmuv3_spec::reg;
use smmuv3_spec::ste::{L1Std, Ste};
use std::collections::BTreeSet;

pub struct Watch {
    pub(super) stream: StreamId,
    allowed: Vec<Ste>,
    /// For each word, every value that the SMMU may have fetched.
    seen: [BTreeSet<u64>; 8],
    pub checks: u32,
    /// Of all mixtures, those under which nothing passes.
    pub aborts: u32,
}

impl Watch {
    /// Every mixture of what the words may have been fetched as.
    fn check(&mut self) {
        self.checks += 1;
        let mut mixtures = vec![[0u64; 8]];
        for (w, seen) in self.seen.iter().enumerate() {
            mixtures = mixtures
                .iter()
                .flat_map(|m| {
                    seen.iter().map(move |v| {
                        let mut m = *m;
                        m[w] = *v;
                        m
                    })
                })
                .collect();
        }
        for mixture in mixtures {
            let Some(seen) = meaning(&Ste(mixture)) else {
                self.aborts += 1;
                continue;
            };
            assert!(
                self.allowed.iter().any(|e| meaning(e) == Some(seen)),
                "the device may see {mixture:#x?}"
            );
        }
    }
}

/// What an entry says without the bits that the SMMU ignores, by their numbers
/// in 5.2; `None` when nothing passes.
pub fn meaning(entry: &Ste) -> Option<[u64; 8]> {
    let mut words = entry.0;
    let config = words[0] >> 1 & 7;
    if words[0] & 1 == 0 || config & 4 == 0 {
        return None;
    }
    if config & 1 == 0 {
        // S1Fmt, S1ContextPtr, S1CDMax; S1DSS, S1CIR, S1COR, S1CSH; S1PIE,
        // S1MPAM, S1STALLD.
        words[0] &= 0xf;
        words[1] &= !(0xff | 1 << 24 | 1 << 26 | 1 << 27);
    } else if words[0] >> 59 == 0 {
        // S1Fmt, S1DSS.
        words[0] &= !0x30;
        words[1] &= !3;
    }
    Some(words)
}

impl Fake {
    /// From now on, checks at each store what the device may see of `stream`.
    pub fn watch(&self, stream: StreamId, allowed: &[Ste]) {
        self.state.borrow_mut().watch = Some(Watch {
            stream,
            allowed: allowed.to_vec(),
            seen: Default::default(),
            checks: 0,
            aborts: 0,
        });
        self.refetch();
    }

    /// The caches for the watched stream are empty; the device fetches anew,
    /// and what was stored but not published may or may not be seen.
    pub(super) fn refetch(&self) {
        let Some(stream) = self.state.borrow().watch.as_ref().map(|w| w.stream) else {
            return;
        };
        let Some(at) = self.entry_address(stream) else {
            return;
        };
        let mut state = self.state.borrow_mut();
        let watch = state.watch.as_mut().unwrap();
        for (w, seen) in watch.seen.iter_mut().enumerate() {
            let at = at + w as u64 * 8;
            *seen = [self.seen(at), self.arena.load(PhysAddr::new(at))].into();
        }
    }

    pub(super) fn check_watch(&self, at: u64, value: u64) {
        let Some(stream) = self.state.borrow().watch.as_ref().map(|w| w.stream) else {
            return;
        };
        let Some(base) = self.entry_address(stream) else {
            return;
        };
        if !(base..base + 64).contains(&at) {
            return;
        }
        let mut state = self.state.borrow_mut();
        let watch = state.watch.as_mut().unwrap();
        watch.seen[((at - base) / 8) as usize].insert(value);
        watch.check();
    }

    /// The descriptor at `at` becomes `l1`: what is cached of the watched entry
    /// may be partly from the table before and partly from that after.
    pub(super) fn check_descriptor(&self, at: u64, l1: L1Std) {
        let Some(stream) = self.state.borrow().watch.as_ref().map(|w| w.stream) else {
            return;
        };
        let split = StrtabBaseCfg::from(self.state.borrow().get32(reg::STRTAB_BASE_CFG)).split();
        let (index, base) = (u64::from(stream.0), self.first_level().start);
        if at != base + (index >> split) * 8 || l1.span() == 0 {
            return;
        }
        let entry = l1.l2ptr() + (index & ((1 << split) - 1)) * 64;
        let mut state = self.state.borrow_mut();
        let watch = state.watch.as_mut().unwrap();
        for (w, seen) in watch.seen.iter_mut().enumerate() {
            let at = entry + w as u64 * 8;
            seen.extend([self.seen(at), self.arena.load(PhysAddr::new(at))]);
        }
        watch.check();
    }
}
