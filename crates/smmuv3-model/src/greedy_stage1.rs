//! The worst the SMMU may do with stage 1: fetch every context descriptor and
//! every table that somebody else owns, at every moment.
//!
//! Whose stage 1 it is does not matter for what a stream may reach when stage 2
//! is underneath: there, whatever stage 2 gives counts as reachable (see
//! `Caches::combined`). What is held here says where stage 1 leads on its own,
//! and where the SMMU reads its tables from.

use crate::cache::Which;
use crate::cache_stage1::{CachedStage1, PIECE, Piece};
use crate::cd::Context;
use crate::context::{CdPlace, CdTable};
use crate::smmu::Smmu;
use crate::stage1::{Half, Limits, Stage1Leaf, Stage1Meaning};
use crate::stream::Plan;
use rustc_hash::{FxHashMap, FxHashSet};
use smmuv3_spec::StreamId;
use smmuv3_spec::cd::Cd;
use smmuv3_spec::control::Cr2;

/// Substreams that are looked at without being asked for.
const SUBSTREAMS: u32 = 4;
/// Tables can point to each other in circles: most places in the address space
/// where one table is looked at, per level.
const PLACES: u32 = 4;
/// Most pieces of tables of one half of an address space.
const PIECES: u32 = 256;
/// Most descriptors, addresses and context descriptors that are looked at in
/// one round. Owners of stage 1 have as many tables as they like, so that what
/// is left out is no part of what makes a stream safe.
const STEPS: u64 = 1 << 18;

/// What was looked at in one round.
#[derive(Default)]
struct Seen {
    places: FxHashMap<(Half, u32, u64), u32>,
    pieces: FxHashMap<Half, u32>,
    steps: u64,
}

impl Seen {
    /// Whether there is time for so many steps.
    fn step(&mut self, steps: u64) -> bool {
        self.steps = self.steps.saturating_add(steps);
        self.steps <= STEPS
    }

    /// Whether to look at a piece, too.
    fn take(&mut self, piece: &Piece) -> bool {
        let places = self
            .places
            .entry((piece.half, piece.level, piece.at))
            .or_default();
        let pieces = self.pieces.entry(piece.half).or_default();
        *places += 1;
        *pieces += 1;
        *places <= PLACES && *pieces <= PIECES && self.step(piece.entries)
    }
}

impl Smmu {
    /// Caches everything of stage 1 that can be reached now.
    pub(crate) fn soak_stage1(&mut self) {
        let mut seen = Seen::default();
        let mut work = Vec::new();
        for stream in self.streams.clone() {
            for plan in self.plans(stream, Which::Live) {
                let (cds, under) = match plan {
                    Plan::Stage1 { cds } => (cds, None),
                    Plan::Nested { cds, stage2 } => (cds, Some(stage2.vmid)),
                    _ => continue,
                };
                // A plan can have as many contexts as words were stored.
                if !seen.step(1 << 10) {
                    break;
                }
                self.fetch_contexts(stream, &cds, under);
                for context in self.contexts(stream, &cds, Which::Live) {
                    for half in [context.lower, context.upper].into_iter().flatten() {
                        self.enter(under, half, &mut work, &mut seen);
                    }
                }
            }
        }
        self.expand_stage1(work, false, &mut seen);
    }

    /// A CPU or device stored to `at`.
    pub(crate) fn observe_stage1_store(&mut self, at: u64) {
        if self.caches.stage1.pages.contains(&(at >> 12)) {
            self.soak_stage1();
        }
        let pieces = self.caches.stage1.tables.get(&(at >> 12)).cloned();
        let mut round = Seen::default();
        for piece in pieces.into_iter().flatten() {
            let index = at.wrapping_sub(piece.at) / 8;
            if index < piece.entries {
                let doomed = self.caches.stage1.pieces.get(&piece).copied();
                let doomed = doomed.unwrap_or(false);
                let mut work = Vec::new();
                self.look_at_stage1(&piece, index, doomed, &mut work, &mut round);
                self.expand_stage1(work, doomed, &mut round);
            }
        }
    }

    /// The contexts that `stream` may use: every mixture of held words of every
    /// context descriptor of this table.
    pub(crate) fn contexts(&self, stream: StreamId, cds: &CdTable, which: Which) -> Vec<Context> {
        let e2h = Cr2::from(self.regs.cr2).e2h();
        let held = &self.caches.stage1.cds;
        let mut contexts = Vec::new();
        let mut known = FxHashSet::default();
        for (_, entry) in held.range((stream, 0)..=(stream, u32::MAX)) {
            // The owner may store faster than anybody looks; what is left out
            // is no part of what makes a stream safe.
            for words in entry.mixtures(which).0 {
                if let Ok(context) = Context::of(&Cd(words), cds, e2h, &self.profile)
                    && known.insert(context)
                {
                    contexts.push(context);
                }
            }
        }
        contexts
    }

    /// Where `address` may lie: itself without a stage 2, else wherever that
    /// leads.
    fn places_of(&self, under: Option<u16>, address: u64) -> Vec<u64> {
        let Some(vmid) = under else {
            return vec![address];
        };
        self.caches.leads_to(vmid, address)
    }

    fn fetch_contexts(&mut self, stream: StreamId, cds: &CdTable, under: Option<u16>) {
        let held = &mut self.caches.stage1.cds;
        for (_, entry) in held.range_mut((stream, 0)..=(stream, u32::MAX)) {
            // Only what is read from now on is where descriptors are.
            if !entry.is_doomed() {
                entry.from.clear();
            }
        }
        let most = 1u32.checked_shl(cds.max).unwrap_or(u32::MAX);
        for index in 0..most.min(SUBSTREAMS) {
            for place in self.context_places(stream, cds, under, index) {
                self.caches.stage1.pages.insert(place >> 12);
                let key = (stream, index);
                let entry = self.caches.stage1.cds.entry(key).or_default();
                entry.from.insert(place);
                for (word, offset) in (0..8).zip((0..).step_by(8)) {
                    if let Some((seen, stored)) = self.ram.views(place + offset) {
                        entry.add(word, seen);
                        entry.add(word, stored);
                    }
                }
            }
        }
    }

    /// Where a context descriptor may be read from now.
    fn context_places(
        &mut self,
        stream: StreamId,
        cds: &CdTable,
        under: Option<u16>,
        index: u32,
    ) -> Vec<u64> {
        let reach = if under.is_some() {
            self.profile.input_bits()
        } else {
            self.profile.output_bits()
        };
        let l1 = match cds.place(index) {
            CdPlace::At(at) => return self.places_of(under, at),
            CdPlace::Behind(at) => at,
        };
        let split = cds.split();
        let key = (stream, u64::from(split) << 32 | u64::from(index >> split));
        for place in self.places_of(under, l1) {
            self.caches.stage1.pages.insert(place >> 12);
            let held = self.caches.stage1.l1.entry(key).or_default();
            if let Some((seen, stored)) = self.ram.views(place) {
                held.add(seen);
                held.add(stored);
            }
        }
        let held = self.caches.stage1.l1.get(&key);
        let words: Vec<u64> = held.map_or_else(Vec::new, |held| held.values(Which::Live));
        words
            .into_iter()
            .filter_map(|word| cds.behind(word, index, reach))
            .flat_map(|at| self.places_of(under, at))
            .collect()
    }

    /// The root of a half.
    fn enter(&self, under: Option<u16>, half: Half, work: &mut Vec<Piece>, seen: &mut Seen) {
        // Upper addresses are all ones above the input size.
        let input = if half.upper {
            u64::MAX << half.input_bits
        } else {
            0
        };
        let above = Piece {
            under,
            half,
            level: half.start,
            input,
            at: 0,
            entries: half.entries(half.start),
            limits: Limits::default(),
        };
        self.cut(&above, half.root, work, seen);
    }

    /// The pieces of a table, as `whole` is but for its place, at `address`.
    fn cut(&self, whole: &Piece, address: u64, work: &mut Vec<Piece>, seen: &mut Seen) {
        let (half, level) = (whole.half, whole.level);
        let mut done = 0;
        while done < whole.entries && seen.step(1) {
            let at = address + done * 8;
            let entries = (whole.entries - done).min((PIECE - at % PIECE) / 8);
            for place in self.places_of(whole.under, at) {
                work.push(Piece {
                    input: whole.input + (done << half.shift(level)),
                    at: place,
                    entries,
                    ..*whole
                });
            }
            done += entries;
        }
    }

    /// Looks at every entry of the tables in `work`, and of those they lead to.
    fn expand_stage1(&mut self, mut work: Vec<Piece>, doomed: bool, seen: &mut Seen) {
        while let Some(piece) = work.pop() {
            if seen.take(&piece) {
                self.caches.stage1.add_piece(piece, doomed);
                for index in 0..piece.entries {
                    self.look_at_stage1(&piece, index, doomed, &mut work, seen);
                }
            }
        }
    }

    fn look_at_stage1(
        &mut self,
        piece: &Piece,
        index: u64,
        doomed: bool,
        work: &mut Vec<Piece>,
        round: &mut Seen,
    ) {
        self.counts.descriptors += 1;
        let Some((seen, stored)) = self.ram.views(piece.at + index * 8) else {
            return;
        };
        self.look_at_stage1_value(piece, index, seen, doomed, work, round);
        if stored != seen {
            self.look_at_stage1_value(piece, index, stored, doomed, work, round);
        }
    }

    fn look_at_stage1_value(
        &mut self,
        piece: &Piece,
        index: u64,
        word: u64,
        doomed: bool,
        work: &mut Vec<Piece>,
        round: &mut Seen,
    ) {
        let half = piece.half;
        let input = piece.input + (index << half.shift(piece.level));
        match half.meaning(word, piece.level) {
            Stage1Meaning::Table { address, limits } => {
                let below = Piece {
                    level: piece.level + 1,
                    input,
                    entries: half.entries(piece.level + 1),
                    limits: piece.limits.and(limits),
                    ..*piece
                };
                self.cut(&below, address, work, round);
            }
            Stage1Meaning::Leaf(leaf) if leaf.accessed || half.ha => {
                self.keep_stage1(piece, input, &leaf, doomed);
            }
            _ => {}
        }
    }

    fn keep_stage1(&mut self, piece: &Piece, input: u64, leaf: &Stage1Leaf, doomed: bool) {
        let half = piece.half;
        let cached = CachedStage1 {
            world: half.world,
            vmid: half.vmid,
            asid: (!leaf.global).then_some(half.asid),
            granule: half.granule,
            level: piece.level,
            input,
            size: leaf.size,
            output: leaf.output,
            rights: half.rights(leaf, piece.limits),
        };
        self.caches.stage1.add_leaf(cached, doomed);
        if leaf.group > 1 {
            // One entry may stand for the whole group (DDI 0487, D8.7.1).
            let size = leaf.size * leaf.group;
            let merged = CachedStage1 {
                input: input & !(size - 1),
                output: leaf.output & !(size - 1),
                size,
                ..cached
            };
            self.caches.stage1.add_leaf(merged, doomed);
        }
    }

    /// The stage 1 translations held now, in order; in a mode that caches.
    #[must_use]
    pub fn held_stage1(&self) -> Vec<CachedStage1> {
        let mut leaves: Vec<_> = self.caches.stage1.leaves.keys().copied().collect();
        leaves.sort_unstable();
        leaves
    }
}
