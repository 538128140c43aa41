//! What endpoints hold of translations, and how they lose it (IHI 0070, 3.9,
//! 4.5.1).
//!
//! An endpoint may ask for any address at any time. In the modes that cache,
//! it has asked for everything: whatever the SMMU holds or held for its stream
//! is in its cache too, until a completed CMD_ATC_INV says otherwise.

use crate::cache::{Cached, Which};
use crate::context::{CdTable, DefaultSubstream};
use crate::smmu::{Mode, Smmu};
use crate::stream::Plan;
use rustc_hash::FxHashMap;
use smmuv3_spec::command::{Command, CommandError};
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, SubstreamId};

/// Entries that an endpoint's cache holds at most in [`Mode::Plain`], where
/// only what it asked for is there; more displace nothing.
const ENTRIES: usize = 1 << 16;

/// A translation that an endpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AtcEntry {
    /// The substream that it was asked for with.
    pub substream: Option<SubstreamId>,
    /// First untranslated address.
    pub input: u64,
    /// How many bytes it translates.
    pub size: u64,
    /// First translated address.
    pub output: u64,
    /// The endpoint may read.
    pub read: bool,
    /// The endpoint may write.
    pub write: bool,
    /// It may be held for any other address as well: stage 1 is somebody
    /// else's. Only an invalidation of every address covers it.
    pub any_input: bool,
    /// It may be held for any other substream as well. Only an invalidation
    /// with `Global` covers it.
    pub any_substream: bool,
}

/// An endpoint's cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct Atc {
    /// `true`: covered by an invalidation that is not complete.
    entries: FxHashMap<AtcEntry, bool>,
    /// Does not answer invalidations.
    silent: bool,
    /// Has an invalidation that it did not answer.
    unanswered: bool,
}

impl AtcEntry {
    /// What an endpoint without stage 1 of its own gets.
    fn of(leaf: &Cached) -> Self {
        Self {
            substream: None,
            input: leaf.input,
            size: leaf.size,
            output: leaf.output,
            read: leaf.read,
            write: leaf.write,
            any_input: false,
            any_substream: false,
        }
    }

    /// The same by a request with a substream, where the stream has some.
    fn of_any_substream(self, cds: &CdTable) -> Option<Self> {
        let with = Self {
            substream: Some(SubstreamId(0)),
            any_substream: true,
            ..self
        };
        (cds.max != 0).then_some(with)
    }
}

impl Atc {
    /// The SMMU no longer waits for anything.
    pub(crate) fn forget_invalidations(&mut self) {
        self.unanswered = false;
        for doomed in self.entries.values_mut() {
            *doomed = false;
        }
    }

    pub(crate) fn hold(&mut self, entry: AtcEntry) {
        if self.entries.len() < ENTRIES {
            self.entries.insert(entry, false);
        }
    }
}

impl Smmu {
    /// Whether the endpoint answers invalidations of its cache. One that does
    /// not makes the next CMD_SYNC fail (3.9.1.4).
    pub fn set_endpoint_silent(&mut self, stream: StreamId, silent: bool) {
        self.atcs.entry(stream).or_default().silent = silent;
    }

    /// The endpoint drops everything that it holds, as when it is reset.
    pub fn reset_endpoint(&mut self, stream: StreamId) {
        self.atcs.remove(&stream);
    }

    /// What the endpoint holds, in order. In the modes that cache that is all
    /// it could have asked for.
    pub fn atc(&mut self, stream: StreamId) -> Vec<AtcEntry> {
        self.fill_atcs();
        let atc = self.atcs.get(&stream);
        let mut entries: Vec<AtcEntry> = atc
            .map(|atc| atc.entries.keys().copied().collect())
            .unwrap_or_default();
        entries.sort_unstable();
        entries
    }

    /// Of what the endpoint holds, what it could still use with physical
    /// addresses: nothing while translation is off, and with `CR0.ATSCHK` only
    /// as long as some copy of the stream's entry allows it. What is stale in
    /// there is what an ATC invalidation is missing for.
    pub fn atc_reaches(&mut self, stream: StreamId) -> Vec<AtcEntry> {
        let enabled = self.enabled();
        if !enabled.smmuen() {
            return Vec::new();
        }
        let allowed = self.uses_ats(stream, 0b01);
        if enabled.atschk() && !allowed {
            return Vec::new();
        }
        self.atc(stream)
    }

    /// Whether some copy of the stream's entry says so in EATS.
    pub(crate) fn uses_ats(&self, stream: StreamId, eats: u8) -> bool {
        if self.mode == Mode::Plain {
            return self.entry(stream).is_ok_and(|ste| ste.eats() == eats);
        }
        let entry = self.caches.entries.get(&stream);
        entry.is_some_and(|entry| {
            let words = entry.values(1, Which::All);
            let says = |word: &u64| Ste([0, *word, 0, 0, 0, 0, 0, 0]).eats() == eats;
            words.iter().any(says)
        })
    }

    /// Every endpoint asks for everything.
    fn fill_atcs(&mut self) {
        let off = !self.profile.idr0.ats() || !self.enabled().smmuen();
        if off || self.mode == Mode::Plain {
            return;
        }
        for stream in self.streams.clone() {
            if !self.uses_ats(stream, 0b01) {
                continue;
            }
            let mut found = Vec::new();
            for plan in self.plans(stream, Which::All) {
                match plan {
                    Plan::Stage2(regime) => {
                        let leaves = self.caches.leaves.keys();
                        let own = leaves.filter(|leaf| leaf.vmid == regime.vmid);
                        found.extend(own.map(AtcEntry::of));
                    }
                    Plan::Nested { cds, stage2 } => self.fill_nested(&cds, stage2.vmid, &mut found),
                    Plan::Stage1 { cds } => self.fill_stage1(stream, &cds, &mut found),
                    Plan::Abort | Plan::Bad | Plan::Bypass | Plan::NotModelled => {}
                }
            }
            let atc = self.atcs.entry(stream).or_default();
            atc.entries
                .extend(found.into_iter().map(|entry| (entry, false)));
        }
    }

    /// Stage 1 may lead to any IPA from any address.
    fn fill_nested(&self, cds: &CdTable, vmid: u16, found: &mut Vec<AtcEntry>) {
        let leaves = self.caches.leaves.keys().chain(self.caches.combined.keys());
        for leaf in leaves.filter(|leaf| leaf.vmid == vmid) {
            let entry = AtcEntry {
                any_input: true,
                ..AtcEntry::of(leaf)
            };
            found.push(entry);
            found.extend(entry.of_any_substream(cds));
        }
    }

    fn fill_stage1(&mut self, stream: StreamId, cds: &CdTable, found: &mut Vec<AtcEntry>) {
        if cds.max != 0 && cds.default == DefaultSubstream::Bypass {
            // Without a substream, input is output (13.6.4).
            found.push(AtcEntry {
                substream: None,
                input: 0,
                size: 1 << self.profile.output_bits(),
                output: 0,
                read: true,
                write: true,
                any_input: false,
                any_substream: false,
            });
        }
        let contexts = self.contexts(stream, cds, Which::All);
        let halves = contexts.into_iter().map(|c| [c.lower, c.upper]);
        let halves: Vec<_> = halves.flatten().flatten().collect();
        for leaf in self.held_stage1() {
            let own = halves.iter().any(|half| {
                half.world == leaf.world
                    && half.vmid == leaf.vmid
                    && leaf.asid.is_none_or(|asid| asid == half.asid)
            });
            if own {
                let rights = leaf.rights;
                let entry = AtcEntry {
                    substream: None,
                    input: leaf.input,
                    size: leaf.size,
                    output: leaf.output,
                    read: rights.read || rights.read_privileged,
                    write: rights.write || rights.write_privileged,
                    any_input: false,
                    any_substream: false,
                };
                found.push(entry);
                found.extend(entry.of_any_substream(cds));
            }
        }
    }

    /// CMD_ATC_INV. What it covers goes when a CMD_SYNC completes (4.5.1).
    pub(crate) fn invalidate_atc(&mut self, command: &Command) {
        // What could be asked for up to now, was.
        self.fill_atcs();
        let Some(atc) = self.atcs.get_mut(&command.stream()) else {
            return;
        };
        if atc.silent {
            atc.unanswered = true;
            return;
        }
        // 52 is everything; more did not get here.
        let bits = u32::from(command.atc_size()) + 12;
        let above = |address: u64| address.checked_shr(bits).unwrap_or(0);
        let (first, substream) = (above(command.address()), command.substream());
        for (entry, doomed) in &mut atc.entries {
            let last = entry.input.saturating_add(entry.size.saturating_sub(1));
            let inside = above(entry.input) <= first && first <= above(last);
            let inside = inside && (!entry.any_input || bits >= 64);
            let every = command.ssv() && command.global() && entry.substream.is_some();
            let its = entry.substream == substream && !entry.any_substream;
            *doomed |= inside && (every || its);
        }
    }

    /// A CMD_SYNC waits for the invalidations before it (4.7.3).
    ///
    /// # Errors
    /// `ATC_INV_SYNC` when an endpoint did not answer one. It is given up then:
    /// the CMD_SYNC works once the error is acknowledged, although what it
    /// waited for did not happen.
    pub(crate) fn complete_atc_invalidations(&mut self) -> Result<(), CommandError> {
        let mut failed = false;
        for atc in self.atcs.values_mut() {
            failed |= std::mem::take(&mut atc.unanswered);
        }
        if failed {
            return Err(CommandError::ATC_INV_SYNC);
        }
        for atc in self.atcs.values_mut() {
            atc.entries.retain(|_, doomed| !*doomed);
        }
        // Until now the SMMU could answer from what only this CMD_SYNC drops
        // from its own caches, so that an endpoint asked again (3.9.1).
        self.fill_atcs();
        Ok(())
    }
}
