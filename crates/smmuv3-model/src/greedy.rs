//! The worst the SMMU may do: fetch everything at every moment, keep it until
//! it must go.
//!
//! Each word of memory may be seen as it was published or as it was stored
//! last, independently of every other word; that is all the freedom that an
//! unordered observer has, together with looking after every single store.

use crate::cache::{Cached, Fate, Node, Which};
use crate::misuse::Misuse;
use crate::smmu::{Mode, Smmu};
use crate::stage2::{LeafEntry, Meaning, Regime};
use crate::stream::{Place, Plan};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::ste::Ste;
use std::collections::BTreeSet;

/// Most level 1 descriptors that are looked at for no stream's sake.
const DESCRIPTORS: u32 = 256;

impl Smmu {
    /// A CPU stored to `at`.
    pub(crate) fn observe_store(&mut self, at: u64) {
        if !self.may_translate() {
            return;
        }
        if self.caches.config_pages.contains(&(at >> 12)) {
            self.fetch_config();
        }
        let nodes = self.caches.tables.get(&(at >> 12)).cloned();
        for node in nodes.into_iter().flatten() {
            let offset = at.wrapping_sub(node.table);
            if offset < node.bytes() {
                let fate = self.caches.nodes.get(&node).copied();
                let fate = fate.unwrap_or(Fate::Live);
                let mut work = Vec::new();
                self.look_at(node, offset / 8, fate, &mut work);
                self.expand(work, fate);
            }
        }
        self.observe_stage1_store(at);
    }

    /// A command was consumed.
    pub(crate) fn observe_command(&mut self, command: &Command) {
        self.forget_some();
        self.look_for_conflict();
        if std::mem::take(&mut self.caches.overflowed) {
            self.misuse.push(Misuse::TooManyTables);
        }
        if command.opcode() == Opcode::SYNC {
            // What can be fetched again by now was, before the CMD_SYNC.
            self.soak_again();
            self.caches.settle();
            self.note_nesting();
            return;
        }
        let split = self.split();
        let ril = self.profile.idr3.ril();
        self.caches.doom(command, split, ril);
        self.caches.combine();
    }

    /// Which VMIDs some stream may use in two stages now.
    fn note_nesting(&mut self) {
        let nested = self
            .streams
            .clone()
            .into_iter()
            .flat_map(|stream| self.plans(stream, Which::All))
            .filter_map(|plan| match plan {
                Plan::Nested { stage2, .. } => Some(stage2.vmid),
                _ => None,
            })
            .collect();
        self.caches.set_nested(nested);
    }

    /// Caches everything that can be reached now, whatever was held before: the
    /// SMMU did not look while it was disabled.
    pub(crate) fn soak(&mut self) {
        self.fetch_config();
        self.soak_tables(true);
    }

    /// The same, without what is doomed. What is held without being doomed was
    /// looked at when it came and at every store since, so only what goes has
    /// to be looked at again, unless something was dropped for no reason.
    fn soak_again(&mut self) {
        if self.caches.config_doomed {
            self.fetch_config();
        }
        self.soak_tables(matches!(self.mode, Mode::Random { .. }));
    }

    fn soak_tables(&mut self, all: bool) {
        if !self.may_translate() {
            return;
        }
        let going = self.caches.going();
        // Which entries of a table to look at again.
        let again = |node: &Node| {
            let entries = node.regime.entries(node.level);
            if all {
                return Some(0..entries);
            }
            let (first, last) = *going.get(&node.regime.vmid)?;
            let shift = node.regime.shift(node.level);
            let index = |address: u64| address.checked_sub(node.input).map(|at| at >> shift);
            let (first, last) = (index(first).unwrap_or(0), index(last)?);
            (first < entries).then(|| first..(last + 1).min(entries))
        };
        let nodes = self.caches.nodes.iter();
        let live: Vec<_> = nodes
            .filter(|(_, fate)| **fate == Fate::Live)
            .filter_map(|(node, _)| Some((*node, again(node)?)))
            .collect();
        let roots = self.roots().into_iter();
        let mut fresh: Vec<Node> = roots
            .filter(|root| self.caches.add_node(*root, Fate::Live))
            .collect();
        for (node, entries) in live {
            for index in entries {
                self.look_at(node, index, Fate::Live, &mut fresh);
            }
        }
        self.expand(fresh, Fate::Live);
        self.caches.combine();
        self.soak_stage1();
    }

    /// Reads configuration for every stream, and walks from what is new.
    fn fetch_config(&mut self) {
        if !self.may_translate() {
            return;
        }
        self.fetch_descriptors();
        for stream in self.streams.clone() {
            for at in self.fetch_places(stream) {
                self.fetch_entry(stream, at);
            }
        }
        self.note_nesting();
        let mut work = Vec::new();
        for root in self.roots() {
            if self.caches.add_node(root, Fate::Live) {
                work.push(root);
            }
        }
        self.expand(work, Fate::Live);
        self.caches.combine();
        self.soak_stage1();
    }

    /// Reads the first level of the stream table, for streams that nobody asked
    /// about too: what it leads to may be prefetched (3.21.3).
    fn fetch_descriptors(&mut self) {
        let Some(split) = self.split() else { return };
        for index in 0..DESCRIPTORS {
            // Never more than 8 + 10 bits.
            let Place::Behind { index, at } = self.place(StreamId(index << split)) else {
                return;
            };
            // Without a span it leads nowhere.
            let Some(words) = self.ram.views(at).filter(|words| *words != (0, 0)) else {
                continue;
            };
            let held = self.caches.l1.entry(index).or_default();
            held.add(words.0);
            held.add(words.1);
        }
    }

    /// Where an entry of `stream` may be read from now.
    fn fetch_places(&mut self, stream: StreamId) -> Vec<u64> {
        match self.place(stream) {
            Place::Outside => Vec::new(),
            Place::At(at) => vec![at],
            Place::Behind { index, at } => {
                self.caches.config_pages.insert(at >> 12);
                let held = self.caches.l1.entry(index).or_default();
                if let Some((seen, stored)) = self.ram.views(at) {
                    held.add(seen);
                    held.add(stored);
                }
                let words: Vec<u64> = held.live.iter().copied().collect();
                let places = words.iter().filter_map(|word| self.behind(*word, stream));
                places.collect()
            }
        }
    }

    fn fetch_entry(&mut self, stream: StreamId, at: u64) {
        self.caches.config_pages.insert(at >> 12);
        let entry = self.caches.entries.entry(stream).or_default();
        entry.from.insert(at);
        for (word, offset) in (0..8).zip((0..).step_by(8)) {
            if let Some((seen, stored)) = self.ram.views(at + offset) {
                entry.add(word, seen);
                entry.add(word, stored);
            }
        }
    }

    /// The entries that the SMMU may use for `stream`: every mixture of held
    /// words.
    pub(crate) fn plans(&mut self, stream: StreamId, which: Which) -> Vec<Plan> {
        let Some(entry) = self.caches.entries.get_mut(&stream) else {
            return Vec::new();
        };
        if let Some(plans) = &entry.plans[which as usize] {
            return plans.clone();
        }
        let (mixtures, complete) = entry.mixtures(which);
        if !complete {
            self.misuse.push(Misuse::Mixtures { stream: stream.0 });
        }
        let mut plans: Vec<Plan> = Vec::new();
        for words in mixtures {
            let plan = Plan::of(&Ste(words), &self.profile);
            if !plans.contains(&plan) {
                plans.push(plan);
            }
        }
        entry.plans[which as usize] = Some(plans.clone());
        plans
    }

    fn roots(&mut self) -> BTreeSet<Node> {
        let mut roots = BTreeSet::new();
        for stream in self.streams.clone() {
            for plan in self.plans(stream, Which::Live) {
                if let Plan::Stage2(regime) | Plan::Nested { stage2: regime, .. } = plan {
                    roots.insert(Node {
                        regime,
                        level: regime.start,
                        input: 0,
                        table: regime.root,
                    });
                }
            }
        }
        roots
    }

    /// Looks at every entry of the tables in `work`, and of those that they
    /// newly lead to.
    fn expand(&mut self, mut work: Vec<Node>, fate: Fate) {
        while let Some(node) = work.pop() {
            for index in 0..node.regime.entries(node.level) {
                self.look_at(node, index, fate, &mut work);
            }
        }
    }

    /// Caches what one entry of a table may say. Tables that are new go to
    /// `work`.
    fn look_at(&mut self, node: Node, index: u64, fate: Fate, work: &mut Vec<Node>) {
        self.counts.descriptors += 1;
        let Some((seen, stored)) = self.ram.views(node.table + index * 8) else {
            return;
        };
        let input = node.input + (index << node.regime.shift(node.level));
        self.look_at_value(node, input, seen, fate, work);
        if stored != seen {
            self.look_at_value(node, input, stored, fate, work);
        }
    }

    fn look_at_value(
        &mut self,
        node: Node,
        input: u64,
        descriptor: u64,
        fate: Fate,
        work: &mut Vec<Node>,
    ) {
        match node.regime.meaning(descriptor, node.level) {
            Meaning::Table(table) => {
                let below = Node {
                    regime: node.regime,
                    level: node.level + 1,
                    input,
                    table,
                };
                if self.caches.add_node(below, fate) {
                    work.push(below);
                }
            }
            // An entry whose use would fault may not be cached (DDI 0487,
            // D8.16.1: access flag) or grants nothing; but the SMMU may set
            // the flag itself.
            Meaning::Leaf(leaf)
                if (leaf.accessed || node.regime.ha) && (leaf.read || leaf.write || leaf.clean) =>
            {
                self.keep(&node, input, &leaf, fate);
            }
            _ => {}
        }
    }

    fn keep(&mut self, node: &Node, input: u64, leaf: &LeafEntry, fate: Fate) {
        let cached = Cached {
            vmid: node.regime.vmid,
            granule: node.regime.granule,
            level: node.level,
            hint: leaf.group > 1,
            input,
            size: leaf.size,
            output: leaf.output,
            read: leaf.read,
            // The SMMU sets the dirty state itself.
            write: leaf.write || leaf.clean,
        };
        self.caches.add_leaf(cached, fate);
        if leaf.group > 1 {
            // One entry may stand for the whole group (D8.7.1).
            let size = leaf.size * leaf.group;
            let merged = Cached {
                input: input & !(size - 1),
                output: leaf.output & !(size - 1),
                size,
                ..cached
            };
            self.caches.add_leaf(merged, fate);
        }
    }

    /// Overlapping translations may differ in size alone, and that only where
    /// the SMMU says so (IDR3.BBML of 2).
    fn look_for_conflict(&mut self) {
        if !std::mem::take(&mut self.caches.conflicts) {
            return;
        }
        let mut leaves: Vec<&Cached> = self.caches.leaves.keys().collect();
        leaves.sort_by_key(|leaf| (leaf.vmid, leaf.input, u64::MAX - leaf.size));
        let sizes_may_differ = self.profile.idr3.bbml() >= 2;
        let mut open: Vec<&Cached> = Vec::new();
        let mut found = None;
        for leaf in leaves {
            open.retain(|o| o.vmid == leaf.vmid && o.input + (o.size - 1) >= leaf.input);
            let other = open.iter().find(|o| {
                let moved = o.output.wrapping_sub(o.input) != leaf.output.wrapping_sub(leaf.input);
                // The hint stands for a size, too.
                let sizes = o.level != leaf.level || o.hint != leaf.hint;
                moved || sizes && !sizes_may_differ
            });
            if let Some(other) = other {
                found = Some(Misuse::Conflict {
                    vmid: leaf.vmid,
                    input: leaf.input,
                    levels: (other.level, leaf.level),
                });
                break;
            }
            open.push(leaf);
        }
        self.misuse.extend(found);
    }

    /// The stage 2 that every copy of the stream's configuration leads to, the
    /// cached ones included; `None` when some copy says something else or that
    /// the stream aborts.
    pub fn agreed(&mut self, stream: StreamId) -> Option<Regime> {
        if let Place::Behind { index, .. } = self.place(stream) {
            let words = self.caches.l1.get(&index)?.all();
            if words
                .iter()
                .any(|word| self.behind(*word, stream).is_none())
            {
                return None;
            }
        }
        match self.plans(stream, Which::All).as_slice() {
            [Plan::Stage2(regime)] | [Plan::Nested { stage2: regime, .. }] => Some(*regime),
            _ => None,
        }
    }

    /// In random mode, drops entries for no reason.
    fn forget_some(&mut self) {
        if !matches!(self.mode, Mode::Random { .. }) {
            return;
        }
        // Hash order must not matter: what goes depends on the entry alone.
        let salt = u64::from(self.draw(u32::MAX));
        let goes = |a: u64, b: u64| {
            let mixed = (a ^ b.rotate_left(17) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed >> 61 == 0
        };
        let caches = &mut self.caches;
        caches
            .leaves
            .retain(|leaf, _| !goes(leaf.input, leaf.output));
        caches.nodes.retain(|node, _| !goes(node.input, node.table));
        caches
            .combined
            .retain(|leaf, _| !goes(leaf.input, leaf.output));
        caches.reindex();
        caches.changed = true;
        caches.stage1.forget(goes);
    }
}
