//! What the SMMU holds: explicit entries, each live or about to go.
//!
//! An invalidation command dooms the entries that it covers: they can still be
//! used, since only a CMD_SYNC says that it completed (IHI 0070, 4.7.3). What
//! is fetched again after the command is live again, and survives the CMD_SYNC.

use crate::cache_stage1::Stage1Caches;
use crate::reach::Reach;
use crate::scope::Scope;
use crate::stage2::Regime;
use crate::stream::Plan;
use rustc_hash::FxHashMap;
use smmuv3_spec::StreamId;
use smmuv3_spec::command::{Command, Opcode};
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

/// A translation in the TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cached {
    /// VMID that it belongs to.
    pub vmid: u16,
    /// log2 of the granule of the table that it came from.
    pub granule: u32,
    /// Level of the descriptor.
    pub level: u32,
    /// The descriptor says that its neighbours are alike (DDI 0487, D8.7.1).
    pub hint: bool,
    /// First input address.
    pub input: u64,
    /// How many bytes it translates.
    pub size: u64,
    /// First output address.
    pub output: u64,
    /// Devices may read.
    pub read: bool,
    /// Devices may write.
    pub write: bool,
}

/// A table in the walk cache: which input addresses go through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    pub(crate) regime: Regime,
    pub(crate) level: u32,
    pub(crate) input: u64,
    pub(crate) table: u64,
}

impl Node {
    /// Bytes of the table.
    pub(crate) fn bytes(&self) -> u64 {
        self.regime.entries(self.level) * 8
    }

    /// Input bytes that go through it.
    pub(crate) fn span(&self) -> u64 {
        self.regime.entries(self.level) << self.regime.shift(self.level)
    }
}

/// Whether something that is held stays.
///
/// Ordered by how long it lasts: what is found twice has the better fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// No invalidation covers it.
    Live,
    /// An invalidation by IPA covers it. Until that completes, a walk may still
    /// combine it with stage 1, and the result does not match an IPA
    /// (4.4.3.1).
    Stage2Ends,
    /// An invalidation of both stages covers it, and whatever is made from it.
    Ends,
}

/// Values of a word that the SMMU may hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) live: BTreeSet<u64>,
    pub(crate) doomed: BTreeSet<u64>,
}

impl Held {
    /// Those that no invalidation covers, or all that could still be used.
    pub(crate) fn values(&self, which: Which) -> Vec<u64> {
        match which {
            Which::Live => self.live.iter().copied().collect(),
            Which::All => self.all().into_iter().collect(),
        }
    }

    pub(crate) fn add(&mut self, value: u64) -> bool {
        self.live.insert(value)
    }

    pub(crate) fn doom(&mut self) {
        self.doomed.append(&mut self.live);
    }

    pub(crate) fn all(&self) -> BTreeSet<u64> {
        self.live.union(&self.doomed).copied().collect()
    }
}

/// Which of the held words make up an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that no invalidation covers.
    Live,
    /// All that could still be used.
    All,
}

/// Most tables of stage 2 that are held; a table that leads to itself has no
/// end otherwise. Real ones have far fewer for what a rig maps.
const NODES: usize = 2048;

/// Most entries that those tables have together: a root of large pages can
/// have as many as 256 tables of small ones.
const ENTRIES: u64 = 1 << 18;

/// Most mixtures of one entry's words that are looked at.
const MIXTURES: usize = 256;

/// What is held of one stream's configuration: for each word of the entry the
/// values it may have been fetched with, since a fetch may straddle stores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    words: [Held; 8],
    /// Where entries of the stream were fetched from.
    pub(crate) from: BTreeSet<u64>,
    /// What was worked out from the words, until they change.
    pub(crate) plans: [Option<Vec<Plan>>; 2],
}

impl Entry {
    /// Notes a value that a word was seen with.
    pub(crate) fn add(&mut self, word: usize, value: u64) {
        if self.words.get_mut(word).is_some_and(|held| held.add(value)) {
            self.plans = [None, None];
        }
    }

    /// The values that a word was seen with.
    pub(crate) fn values(&self, word: usize, which: Which) -> Vec<u64> {
        let held = self.words.get(word);
        held.map_or_else(Vec::new, |held| held.values(which))
    }

    pub(crate) fn doom(&mut self) {
        self.words.iter_mut().for_each(Held::doom);
        self.plans = [None, None];
    }

    pub(crate) fn settle(&mut self) {
        if self.is_doomed() {
            self.words.iter_mut().for_each(|held| held.doomed.clear());
            self.plans = [None, None];
        }
    }

    /// Whether some value of it goes with the next CMD_SYNC.
    pub(crate) fn is_doomed(&self) -> bool {
        self.words.iter().any(|held| !held.doomed.is_empty())
    }

    /// Whether it may be used before or after the next CMD_SYNC.
    pub(crate) fn is_held(&self, which: Which) -> bool {
        let [word, ..] = &self.words;
        !word.live.is_empty() || which == Which::All && !word.doomed.is_empty()
    }

    /// Every mixture of held words; `false` when there are more than are given.
    pub(crate) fn mixtures(&self, which: Which) -> (Vec<[u64; 8]>, bool) {
        let mut mixtures = vec![[0; 8]];
        for (word, held) in self.words.iter().enumerate() {
            let values = held.values(which);
            mixtures = mixtures
                .into_iter()
                .flat_map(|entry| {
                    values.iter().map(move |value| {
                        let mut entry = entry;
                        entry[word] = *value;
                        entry
                    })
                })
                .take(MIXTURES + 1)
                .collect();
        }
        let complete = mixtures.len() <= MIXTURES;
        (mixtures, complete)
    }
}

/// Everything held.
#[derive(Default)]
pub(crate) struct Caches {
    pub(crate) leaves: FxHashMap<Cached, Fate>,
    pub(crate) nodes: FxHashMap<Node, Fate>,
    /// A node did not fit.
    pub(crate) overflowed: bool,
    /// Entries of all nodes.
    node_entries: u64,
    /// Leaves of the VMIDs with two stages by VMID, size and first input
    /// address; some are not there any more.
    by_input: FxHashMap<(u16, u64, u64), Vec<Cached>>,
    /// Sizes that leaves have or had.
    sizes: BTreeSet<u64>,
    /// Stage 2 halves of translations that combine both stages; `true`: doomed.
    /// Stage 1 is whoever's, and may have led anywhere.
    pub(crate) combined: FxHashMap<Cached, bool>,
    /// VMIDs that streams use in two stages.
    pub(crate) nested: BTreeSet<u16>,
    pub(crate) stage1: Stage1Caches,
    /// Which tables lie in a 4 KiB page.
    pub(crate) tables: FxHashMap<u64, Vec<Node>>,
    pub(crate) entries: BTreeMap<StreamId, Entry>,
    pub(crate) l1: BTreeMap<u64, Held>,
    /// Pages that configuration was fetched from.
    pub(crate) config_pages: BTreeSet<u64>,
    /// What the leaves of each VMID lead to, unless `changed`.
    pub(crate) reach: BTreeMap<u16, Reach>,
    /// The same of what combines both stages.
    pub(crate) reach_combined: BTreeMap<u16, Reach>,
    /// Leaves were added or dropped since `reach` was worked out.
    pub(crate) changed: bool,
    /// Leaves were added since conflicts were looked for.
    pub(crate) conflicts: bool,
    /// Something goes with the next CMD_SYNC.
    doomed: bool,
    /// Part of that is configuration.
    pub(crate) config_doomed: bool,
}

impl Caches {
    /// Adds a node; `true` if it was not there, or would not have lasted as
    /// long.
    pub(crate) fn add_node(&mut self, node: Node, fate: Fate) -> bool {
        let entries = node.regime.entries(node.level);
        let full = self.nodes.len() >= NODES || self.node_entries + entries > ENTRIES;
        match self.nodes.get_mut(&node) {
            Some(was) if *was > fate => {
                *was = fate;
                true
            }
            Some(_) => false,
            None if full => {
                self.overflowed = true;
                false
            }
            None => {
                self.nodes.insert(node, fate);
                self.node_entries += entries;
                let last = (node.table + node.bytes() - 1) >> 12;
                for page in node.table >> 12..=last {
                    self.tables.entry(page).or_default().push(node);
                }
                true
            }
        }
    }

    pub(crate) fn add_leaf(&mut self, leaf: Cached, fate: Fate) {
        match self.leaves.entry(leaf) {
            Slot::Occupied(mut slot) => {
                let was = slot.get_mut();
                *was = fate.min(*was);
            }
            Slot::Vacant(slot) => {
                slot.insert(fate);
                self.conflicts = true;
                if !self.changed {
                    self.reach.entry(leaf.vmid).or_default().add(&leaf);
                }
                if self.nested.contains(&leaf.vmid) {
                    self.index(leaf);
                }
            }
        }
        self.doomed |= fate != Fate::Live;
        let combines = fate != Fate::Ends && self.nested.contains(&leaf.vmid);
        if combines && self.combined.insert(leaf, false).is_none() && !self.changed {
            let reach = self.reach_combined.entry(leaf.vmid).or_default();
            reach.add(&leaf);
        }
    }

    fn index(&mut self, leaf: Cached) {
        let key = (leaf.vmid, leaf.size, leaf.input);
        self.by_input.entry(key).or_default().push(leaf);
        self.sizes.insert(leaf.size);
    }

    /// These VMIDs are used in two stages from now on, and no others.
    pub(crate) fn set_nested(&mut self, nested: BTreeSet<u16>) {
        if self.nested == nested {
            return;
        }
        self.nested = nested;
        self.by_input.clear();
        let leaves = self.leaves.keys().copied();
        let indexed: Vec<Cached> = leaves
            .filter(|leaf| self.nested.contains(&leaf.vmid))
            .collect();
        for leaf in indexed {
            self.index(leaf);
        }
    }

    /// The input addresses of each VMID around everything that goes.
    pub(crate) fn going(&self) -> BTreeMap<u16, (u64, u64)> {
        let mut hull: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        let mut add = |vmid, first: u64, size: u64| {
            let last = first + (size - 1);
            let hull = hull.entry(vmid).or_insert((first, last));
            *hull = (hull.0.min(first), hull.1.max(last));
        };
        for (leaf, fate) in &self.leaves {
            if *fate != Fate::Live {
                add(leaf.vmid, leaf.input, leaf.size);
            }
        }
        for (node, fate) in &self.nodes {
            if *fate != Fate::Live {
                add(node.regime.vmid, node.input, node.span());
            }
        }
        hull
    }

    /// Works out where translations lead, if that changed.
    pub(crate) fn measure(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.reach = Reach::of(self.leaves.keys());
            self.reach_combined = Reach::of(self.combined.keys());
        }
    }

    /// Combines with stage 1 whatever stage 2 can give.
    pub(crate) fn combine(&mut self) {
        if self.nested.is_empty() {
            return;
        }
        for (leaf, fate) in &self.leaves {
            if *fate != Fate::Ends && self.nested.contains(&leaf.vmid) {
                self.changed |= self.combined.insert(*leaf, false).is_none();
            }
        }
    }

    /// Where an address of a VMID may lead by stage 2, to read.
    pub(crate) fn leads_to(&self, vmid: u16, address: u64) -> Vec<u64> {
        let keys = self
            .sizes
            .iter()
            .map(|size| (vmid, *size, address & !(size - 1)));
        let leaves = keys.filter_map(|key| self.by_input.get(&key)).flatten();
        let mut places: Vec<u64> = leaves
            .filter(|leaf| leaf.read && self.leaves.get(leaf).is_some_and(|f| *f != Fate::Ends))
            .map(|leaf| leaf.output + (address - leaf.input))
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Drops what is gone from the indices too.
    pub(crate) fn reindex(&mut self) {
        let (nodes, leaves) = (&self.nodes, &self.leaves);
        self.node_entries = nodes
            .keys()
            .map(|node| node.regime.entries(node.level))
            .sum();
        self.by_input.retain(|_, list| {
            list.retain(|leaf| leaves.contains_key(leaf));
            !list.is_empty()
        });
        self.tables.retain(|_, list| {
            list.retain(|node| nodes.contains_key(node));
            !list.is_empty()
        });
    }

    /// Dooms what a command covers. `split`: StreamID bits of the second level.
    pub(crate) fn doom(&mut self, command: &Command, split: Option<u8>, ril: bool) {
        self.doomed = true;
        match command.opcode() {
            Opcode::CFGI_STE => {
                self.doom_config(command.stream(), 0, split, command.leaf());
            }
            Opcode::CFGI_STE_RANGE => {
                self.doom_config(command.stream(), command.range() + 1, split, false);
            }
            Opcode::TLBI_NSNH_ALL => {
                self.doom_tlb(Fate::Ends, |_| true, |_| true);
                self.combined.values_mut().for_each(|doomed| *doomed = true);
            }
            Opcode::TLBI_S12_VMALL => {
                let vmid = command.vmid().0;
                let node = |node: &Node| node.regime.vmid == vmid;
                self.doom_tlb(Fate::Ends, |leaf| leaf.vmid == vmid, node);
                self.doom_combined(vmid);
            }
            Opcode::TLBI_S2_IPA => {
                let (scope, vmid) = (Scope::of(command, ril), command.vmid().0);
                let leaf = |leaf: &Cached| {
                    leaf.vmid == vmid
                        && scope.hits_leaf(leaf.granule, leaf.level, leaf.input, leaf.size)
                };
                let node = |node: &Node| {
                    let granule = node.regime.granule;
                    node.regime.vmid == vmid
                        && scope.hits_table(granule, node.level, node.input, node.span())
                };
                self.doom_tlb(Fate::Stage2Ends, leaf, node);
            }
            // By ASID or address, some other stage 1 entry keeps it.
            Opcode::TLBI_NH_ALL => self.doom_combined(command.vmid().0),
            _ => {}
        }
        self.stage1.doom(command, ril);
    }

    fn doom_combined(&mut self, vmid: u16) {
        for (entry, doomed) in &mut self.combined {
            *doomed |= entry.vmid == vmid;
        }
    }

    fn doom_tlb(
        &mut self,
        fate: Fate,
        leaf: impl Fn(&Cached) -> bool,
        node: impl Fn(&Node) -> bool,
    ) {
        for (entry, was) in &mut self.leaves {
            if leaf(entry) {
                *was = fate.max(*was);
            }
        }
        for (entry, was) in &mut self.nodes {
            if node(entry) {
                *was = fate.max(*was);
            }
        }
    }

    /// 4.3.1, 4.3.2: the 2^`log2` aligned streams around `stream`.
    fn doom_config(&mut self, stream: StreamId, log2: u8, split: Option<u8>, leaf: bool) {
        self.config_doomed = true;
        let same = |a: u64, b: u64, bits: u8| bits >= 32 || a >> bits == b >> bits;
        let stream = u64::from(stream.0);
        for (at, entry) in &mut self.entries {
            if same(u64::from(at.0), stream, log2) {
                entry.doom();
            }
        }
        self.stage1
            .doom_streams(|at| same(u64::from(at.0), stream, log2));
        let Some(split) = split.filter(|_| !leaf) else {
            return;
        };
        for (index, held) in &mut self.l1 {
            // A range smaller than a descriptor's still drops it.
            if same(index << split, stream, log2.max(split)) {
                held.doom();
            }
        }
    }

    /// A CMD_SYNC completed: what is doomed goes.
    pub(crate) fn settle(&mut self) {
        if !std::mem::take(&mut self.doomed) {
            return;
        }
        self.config_doomed = false;
        self.changed = true;
        self.leaves.retain(|_, fate| *fate == Fate::Live);
        let before = self.nodes.len();
        self.nodes.retain(|_, fate| *fate == Fate::Live);
        self.combined.retain(|_, doomed| !*doomed);
        if self.nodes.len() != before || !self.nested.is_empty() {
            self.reindex();
        }
        self.stage1.settle();
        for held in self.l1.values_mut() {
            held.doomed.clear();
        }
        self.entries.values_mut().for_each(Entry::settle);
    }
}
